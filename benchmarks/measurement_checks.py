"""Mistakes in measurements that are named before a solve, and real data that raise no alarm.

    python benchmarks/measurement_checks.py

* Mistakes: a slice of a real CT volume (and a photograph, and an MRI slice) is measured correctly,
  with 1 % noise, and then handed over with one mistake. A row gives the sentence that names it. deepinv, ODL, CIL and ASTRA have no such check.
* Real data: the measurements of the data folder, as they are and in parts. No finding is right.
* Seconds of the check, compared with a solve by ``it.reconstruct(y, A, prior="tv")``.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common import data_folder, kernels, machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.measurements import check_measurements, report_unused_pages
from invtoolbox.operators import CartesianMRI, ConeBeam, FanBeam, Identity, Operator, ParallelBeam
from invtoolbox.operators.noise import RelativeGaussian

SIZE = 128
OPEN = torch.arange(120, dtype=torch.float64) * (2 * math.pi / 120)
CLOSED = torch.linspace(0, 2 * math.pi, 120, dtype=torch.float64)
Case = tuple[str, Tensor, Operator, float | None]


def slices(folder: Path) -> Tensor:
    """Return real CT slices as attenuation per pixel, ``(slice, 1, SIZE, SIZE)``."""
    hu = torch.from_numpy(np.load(folder / "ct_slices" / "ct_hu_256.npz")["hu"].astype(np.float32))
    binned = hu.unflatten(1, (SIZE, 2)).unflatten(3, (SIZE, 2)).mean((2, 4))
    return 0.02 * (binned / 1000 + 1).clamp_min(0)[:, None]


def parallel(angles: Tensor = OPEN / 2, cells: int = 192, **settings: float) -> ParallelBeam:
    return ParallelBeam((SIZE, SIZE), angles, cells, **settings)


def fan(angles: Tensor = OPEN, cells: int = 192, **settings: float) -> FanBeam:
    return FanBeam(
        (SIZE, SIZE),
        angles,
        cells,
        250.0,
        **{"source_detector": 400.0, "detector_spacing": 1.4, **settings},
    )


def cone(shift: float = 0.0) -> ConeBeam:
    return ConeBeam(
        (16, SIZE, SIZE), OPEN, (24, 192), 250.0, 400.0, 1.0, 1.4, detector_shift=(shift, 0.0)
    )


def mistakes(folder: Path) -> Iterator[Case]:
    """Yield a name, measurements, the operator that is claimed, and the stated noise level."""
    images = slices(folder)
    x = images[30:31]

    def measured(A: Operator, image: Tensor = x) -> Tensor:
        return A.simulate(image, RelativeGaussian(0.01), seed=1)

    generator = torch.Generator().manual_seed(0)
    for name, A in (("parallel beam", parallel()), ("fan beam", fan())):
        counts = torch.poisson(5000 * torch.exp(-A(x)), generator=generator)
        yield f"counts, {name}", counts, A, None
        yield f"transmission, {name}", counts / 5000, A, None
    yield "noise_std = 2.55, fan beam", measured(fan()), fan(), 2.55
    blur = it.operators.Blur(kernels(folder, [1])[0], (256, 256), boundary="periodic")
    picture = it.datasets.open(folder / "set12" / "01.png")[0].y
    y = blur.simulate(picture, noise=0.01, seed=0)
    yield "noise_std = 2.55, picture in [0, 1]", y, blur, 2.55
    yield "noise_std = 0.01, picture in [0, 255]", 255 * y, blur, 0.01
    yield "noise_std ten times too large", y, blur, 0.1
    mri = CartesianMRI(torch.ones(1, 1), (SIZE, SIZE))
    lines = (torch.rand(SIZE, 1, generator=generator) < 0.3).expand(SIZE, SIZE)
    yield "unsampled k-space zeros as data", measured(mri, x.to(torch.complex64)) * lines, mri, None
    for name, make in (("parallel beam", lambda a: parallel(a)), ("fan beam", lambda a: fan(a))):
        yield f"angles with a double end, {name}", measured(make(OPEN)), make(CLOSED), None
        yield f"double end view, {name}", measured(make(CLOSED)), make(OPEN), None
        right = make(OPEN)
        yield (
            f"radians converted twice, {name}",
            measured(right),
            make(torch.deg2rad(right.angles)),
            None,
        )
        few = torch.linspace(-6, 6, 40)
        yield f"degrees as radians, {name}", measured(make(torch.deg2rad(few))), make(few), None
    for name, A, B in (
        ("parallel beam", parallel(cells=120, detector_spacing=1.6), parallel()),
        ("fan beam", fan(cells=120, detector_spacing=2.24), fan()),
    ):
        yield f"transposed sinogram, {name}", measured(A).transpose(-1, -2), A, None
        for shift in (-2.0, 4.0):
            shifted = type(B).with_parameters(B, detector_shift=torch.tensor([shift]))
            yield f"axis shifted by {shift:g}, {name}", measured(shifted), B, None
    volume = images[28:44, 0][None, None]
    yield "axis shifted by 5, cone beam", measured(cone(5.0), volume), cone(), None
    yield "flipped sinogram, fan beam", measured(fan()).flip(-1), fan(), None
    off = parallel(detector_shift=4.0)
    yield "flipped sinogram, parallel beam off centre", measured(off).flip(-1), off, None
    for factor in (1.6, 1 / 1.6, 2.0):
        wrong = fan(detector_spacing=1.4 * factor)
        yield f"detector spacing times {factor:.3g}, fan beam", measured(fan()), wrong, None
    yield (
        "detector spacing times 3, parallel beam",
        measured(parallel()),
        parallel(detector_spacing=3.0),
        None,
    )


def right_data(folder: Path) -> Iterator[Case]:
    """Yield real data, as they are and in parts; a comma separates a data set from its part."""
    from scipy.io import loadmat

    for disc in ("ta", "tb", "solid_disc", "01a"):
        item = it.datasets.open(folder / "htc2022" / f"htc2022_{disc}_full.mat")[0]
        A = item.geometry.operator()
        for step, count in ((1, 721), (2, 361), (12, 60), (24, 30), (1, 181), (1, 121), (1, 61)):
            views = step * torch.arange(count)
            name = f"htc2022, {disc}, {count} views of step {step / 2:g}"
            yield name, item.y[:, :, views], A.subset(views), None
    item = it.datasets.open(folder / "htc2022" / "htc2022_01a_limited.mat")[0]
    yield "htc2022, 01a limited", item.y, item.geometry.operator(), None
    for row in (0, 1):
        item = it.datasets.open(folder / "tomopy_tooth" / "tooth.h5")[row]
        A = item.geometry.operator()
        for step, count in ((1, 181), (4, 45), (1, 91)):
            views = step * torch.arange(count)
            name = f"tomopy_tooth, row {row}, {count} views"
            yield name, item.y[:, :, views], A.subset(views), None
    y = torch.from_numpy(np.load(folder / "mri_cartesian_8coil" / "cartesian_ksp.npy"))[None]
    mask = y.abs().sum((0, 1)) > 0
    brain = CartesianMRI(mask, tuple(y.shape[2:]), it.operators.estimate_coil_maps(y))
    yield "mri_cartesian_8coil, brain", y, brain, float(it.operators.outer_noise_std(y, mask))
    knee = loadmat(folder / "mri_singlecoil_full" / "coronal_fatsat_2D_knee.mat")["kdata"]
    y = torch.from_numpy(knee)[None, None]
    yield "mri_singlecoil_full, knee", y, CartesianMRI(torch.ones(1, 1), tuple(y.shape[2:])), None
    phases = torch.from_numpy(loadmat(folder / "mri_fieldmap" / "phfit.mat")["m1"])[None, None]
    yield "mri_fieldmap, complex image", phases, Identity((1, *phases.shape[2:])), None
    demo = folder / "cine_acdc_demo"
    frames = torch.from_numpy(loadmat(demo / "demo_data.mat")["demo_data"]).movedim(-1, 0)[1:]
    masks = torch.from_numpy(loadmat(demo / "mask_seq.mat")["sampling_mask_seq"]).movedim(-1, 0)
    x = (frames / 255).to(torch.complex64)[None, None]
    cine = CartesianMRI(masks, tuple(x.shape[1:]), axes=2)
    yield "cine_acdc_demo, masked", cine(x), cine, None
    for number in (1, 4):
        kernel = kernels(folder, [number])[0]
        for path in [
            *sorted((folder / "set12").glob("*.png"))[:4],
            *sorted((folder / "gb82_cc0").glob("*.png"))[:2],
        ]:
            picture = it.datasets.open(path)[0].y
            blur = it.operators.Blur(kernel, tuple(picture.shape[2:]), boundary="periodic")
            y = blur.simulate(picture, noise=7.65 / 255, seed=0)
            yield f"{path.parent.name}, {path.stem}, kernel {number}", y, blur, 7.65 / 255
    stack = it.datasets.open(folder / "microscopy_flowdec" / "bars-25pct_data.tif").volume().y
    kernel = it.datasets.open(folder / "microscopy_flowdec" / "bars-25pct_kernel.tif").volume().y
    blur = it.operators.Blur3D(kernel[0, 0] / kernel.sum(), tuple(stack.shape[2:]))
    yield "microscopy_flowdec, bars", stack, blur, None
    for path in sorted((folder / "coule" / "COULE_test").glob("*.mat"))[:3]:
        x = torch.from_numpy(loadmat(path)["x"].astype(np.float32))[None, None]
        A = ParallelBeam((256, 256), torch.arange(60) * (math.pi / 60), 364)
        y = A.simulate(x, RelativeGaussian(0.02), seed=0)
        yield f"coule, {path.stem}", y, A, float((y - A(x)).std())
    for k, x in enumerate(slices(folder)[::6]):
        for A in (parallel(), fan(OPEN[::2])):
            y = A.simulate(x[None], RelativeGaussian(0.02), seed=k)
            yield f"ct_slices, {6 * k}, {A}", y, A, float((y - A(x[None])).std())
    for path in sorted((folder / "ct_slices" / "dicom").iterdir())[:3]:
        y = it.datasets.open(path)[0].y
        yield f"ct_slices, {path.name}", y, Identity(tuple(y.shape[1:])), None
    head = it.datasets.open(folder / "vtk_head_ct" / "head.mha", reader="metaimage").volume().y
    x = 2e-5 * head.float().clamp_min(0)
    A = ConeBeam(tuple(x.shape[2:]), OPEN[::2], (80, 128), 500.0, 800.0, (1.5, 3.2, 3.2), 4.0)
    yield "vtk_head_ct, cone beam", A.simulate(x, RelativeGaussian(0.02), seed=0), A, None


def findings(y: Tensor, A: Operator, noise_std: float | None) -> tuple[list[str], float]:
    """Return the sentences of the check, and its seconds."""
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))
    began = time.perf_counter()
    found = check_measurements(problem)
    return [f"{f.sentence}{' (refused)' if f.is_fatal else ''}" for f in found], (
        time.perf_counter() - began
    )


def unused_pages(folder: Path) -> list[str]:
    path = folder / "microscopy_flowdec" / "bars-25pct_data.tif"
    opened = it.datasets.open(path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        report_unused_pages(opened, path.name, "choose one with --item")
    return [str(w.message) for w in seen]


def share_of_a_solve(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield a name, the seconds of the check, and the seconds of the one-liner with it."""
    x = slices(folder)[30:31]
    cases: dict[str, tuple[Operator, Callable[[Operator], Tensor]]] = {
        "parallel beam, 128x128, 120 views": (parallel(), lambda A: A.simulate(x, 0.02, 0)),
        "fan beam, 128x128, 120 views": (fan(), lambda A: A.simulate(x, 0.02, 0)),
    }
    for name, (A, measure) in cases.items():
        y = measure(A)
        findings(y, A, None)
        seconds = float(np.median([findings(y, A, None)[1] for _ in range(5)]))
        began = time.perf_counter()
        it.reconstruct(y, A, prior="tv", progress=False)
        yield name, seconds, time.perf_counter() - began


def main() -> None:
    folder = data_folder()
    print(machine())
    warnings.simplefilter("ignore")
    print("\nmistakes")
    missed = 0
    for name, y, A, noise_std in mistakes(folder):
        found, seconds = findings(y, A, noise_std)
        missed += not found
        print(f"  {name} ({1e3 * seconds:.0f} ms): {' | '.join(found) or 'NOT NAMED'}")
    pages = unused_pages(folder)
    missed += not pages
    print(f"  first page of a stack: {' | '.join(pages) or 'NOT NAMED'}")
    print("  " + verdict(missed == 0, f"every mistake is named; {missed} are not"))
    print("\nreal data")
    checked: dict[str, int] = {}
    alarms = 0
    for name, y, A, noise_std in right_data(folder):
        found, _ = findings(y, A, noise_std)
        data_set = name.split(",")[0]
        checked[data_set] = checked.get(data_set, 0) + 1
        alarms += bool(found)
        for text in found:
            print(f"  {name}: {text}")
    for data_set, count in checked.items():
        print(f"  {data_set}: {count} checked")
    print("  " + verdict(alarms == 0, f"no false alarm; {alarms} here, {len(checked)} data sets"))
    print("\ncost")
    for name, check, solve in share_of_a_solve(folder):
        print(f"  {name}: {1e3 * check:.0f} ms of {solve:.1f} s, {check / solve:.1%}")


if __name__ == "__main__":
    main()
