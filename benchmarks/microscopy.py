"""Deconvolution of microscopy: point spread functions, Richardson-Lucy, total variation, stacks on disk.

    python benchmarks/microscopy.py [models | recursion | bars | disk] [--peer PYTHON]

`bars`: the truth of the bars of DeconvolutionLab2, at a quarter of its size (32 x 64 x 64), is
convolved with its kernel (periodic), and Poisson noise is drawn for three peaks of the blurred
stack. The best iterate of Richardson-Lucy is chosen with the truth, of 2,000 plain and of 300
accelerated ones. PSNR refers to the largest value of the truth.

`models`: the point spread functions against ``scipy.integrate.quad`` in float64, and against
psfmodels, which is imported by another interpreter, ``--peer``. psfmodels averages over voxels and
interpolates between radii, so both average 9 x 9 points per voxel.

`recursion`: Richardson-Lucy against its recursion in float64, and against scikit-image.

`disk`: a stack of 128 x 512 x 512 from OME-Zarr to OME-Zarr in tiles, in a process of its own: its
memory; killed and resumed, its bits. The seams, on a stack that is also deconvolved as a whole.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.ndimage
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.volumes.stacks import Metadata, Stack, open_stack, write_stack
from invtoolbox.jobs.images.stacks import Method, deconvolve_stack
from invtoolbox.operators.imaging.point_spread import Pupil, on_grid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.operators.test_microscope import by_angle

PEAKS = (20, 200, 2000)
#: Aperture, immersion and sample.
OBJECTIVES = {"air": (0.5, 1.0, 1.33), "water": (1.1, 1.333, 1.38), "oil": (1.4, 1.515, 1.47)}
#: Planes, pixels, spacings and points per voxel of the comparison with psfmodels.
PLANES, SIDE, SPACING, FINER = 41, 65, (0.15, 0.05), 9


def bars() -> tuple[Tensor, it.operators.Blur3D]:
    """Return the truth ``(1, 1, slice, row, column)``, and the blur."""
    from skimage.io import imread

    folder = data_folder() / "microscopy_flowdec"
    truth, kernel = (
        torch.from_numpy(imread(folder / f"bars-25pct_{name}.tif").astype(np.float32))
        for name in ("actual", "kernel")
    )
    return truth[None, None], it.operators.Blur3D(kernel / kernel.sum(), truth.shape, "periodic")


def compare_bars(peaks: Sequence[int], seeds: int) -> None:
    """Compare TV, whose weight is chosen without the truth, with iterates of Richardson-Lucy."""
    truth, A = bars()
    blurred = A(truth)
    names = ("best iterate", "best accelerated iterate", "stopped by itself", "TV without truth")
    print(
        f"bars 32 x 64 x 64, PSNR in dB, mean (least) of {seeds} seeds; TV is nonnegative by itself"
    )
    print(f"| peak | {' | '.join(names)} | seconds of TV |\n|---|---|---|---|---|---|")
    everything = []
    for peak in peaks:
        x = truth * (peak / float(blurred.max()))
        rows = []
        for seed in range(2, 2 + seeds):
            generator = torch.Generator().manual_seed(seed)
            y = torch.poisson(A(x).clamp_min(0), generator=generator)
            problem = it.Problem(y, A, it.data_terms.Poisson())

            def psnr(image: Tensor, x: Tensor = x) -> float:
                return float(it.metrics.psnr(image, x, data_range=float(x.max())))

            settings: dict[str, Any] = {"progress": False, "check": False}
            own = it.solve(problem, solver=it.solvers.RichardsonLucy(), **settings)
            scores = [best_iterate(problem, psnr, accelerated) for accelerated in (False, True)]
            began = time.perf_counter()
            prior = it.priors.TotalVariation(periodic=True) + it.priors.NonNegative()
            tv = it.solve(problem, prior, **settings)
            seconds = time.perf_counter() - began
            rows.append((*scores, psnr(own.x), psnr(tv.x), seconds))
        columns = torch.tensor(rows).T
        cells = [f"{c.mean():.2f} ({c.min():.2f})" for c in columns[:4]]
        print(f"| {peak} | {' | '.join(cells)} | {columns[4].mean():.0f} |", flush=True)
        everything += rows
    best, accelerated, own_rule, ours, _ = torch.tensor(everything).T
    for name, other, bar in (
        (names[0], best, 0.0), (names[1], accelerated, 0.0), (names[2], own_rule, 1.0)
    ):  # fmt: skip
        gain = ours - other
        words = f"mean {gain.mean():+.2f} dB, worst {gain.min():+.2f} dB"
        print(
            f"TV over Richardson-Lucy, {name}: {words} {verdict(bool(gain.mean() >= bar), f'mean at least {bar:g} dB')}"
        )


def best_iterate(problem: it.Problem, psnr: Any, accelerated: bool) -> float:
    """Return the largest PSNR of 300 accelerated iterates, or of 2,000 plain ones."""
    scores: list[float] = []

    def note(progress: Any) -> None:
        if accelerated or progress.iteration % 5 == 0:
            scores.append(psnr(progress.x))

    solver = it.solvers.RichardsonLucy(tau=0, accelerated=accelerated)
    it.solve(
        problem, solver=solver, max_iterations=300 if accelerated else 2000, tolerance=0.0,
        callbacks=[note], progress=False, check=False,
    )  # fmt: skip
    return max(scores)


#: Planes and distances from the axis of the comparison with adaptive quadrature.
PLACES = (0.0, 0.7, -1.5), (0.0, 0.3, 1.2)


def pupil_of(name: str, depth: float, vectorial: bool) -> Pupil:
    na, immersion, sample = OBJECTIVES[name]
    values = (torch.tensor(v, dtype=torch.float64) for v in (na, 0.5, immersion, sample, depth))
    return Pupil(*values, vectorial=vectorial)


def compare_models(peer: str | None) -> None:
    """Compare point spread functions with adaptive quadrature, and with psfmodels."""
    print("point spread functions, largest difference over the peak")
    worst = {"quadrature": 0.0, "psfmodels": 0.0}
    for name, depth, vectorial in itertools.product(OBJECTIVES, (0.0, 10.0), (False, True)):
        pupil = pupil_of(name, depth, vectorial)
        z, r = (torch.tensor(v, dtype=torch.float64) for v in PLACES)
        ours = pupil.intensity(z + depth, r)
        theirs = torch.tensor(
            [[by_angle(name, depth, float(a), float(b), vectorial) for b in r] for a in z + depth],
            dtype=torch.float64,
        )
        peak = on_grid(pupil, (41, 1, 1), (0.1, 1.0, 1.0)).max()
        errors = {
            "quadrature": float((ours - ours[0, 0] / theirs[0, 0] * theirs).abs().max() / peak)
        }
        if peer is not None:
            errors["psfmodels"] = _difference(peer, name, depth, vectorial)
        for key, error in errors.items():
            worst[key] = max(worst[key], error)
        words = ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
        model = "vectorial" if vectorial else "scalar"
        print(f"{name} {OBJECTIVES[name][0]}, depth {depth:g}, {model}: {words}", flush=True)
    print(
        f"quadrature {worst['quadrature']:.1e} {verdict(worst['quadrature'] <= 1e-5, 'at most 1e-5')}"
    )
    if peer is not None:
        holds = worst["psfmodels"] <= 1e-3
        print(f"psfmodels {worst['psfmodels']:.1e} {verdict(holds, 'at most 1e-3')}")


def _difference(peer: str, name: str, depth: float, vectorial: bool) -> float:
    """Return the largest difference from psfmodels, of voxels that are averaged over points."""
    na, immersion, sample = OBJECTIVES[name]
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        planes = f"{depth} + (np.arange({PLANES}) - {PLANES // 2}) * {SPACING[0]}"
        script = (
            f"import numpy as np, psfmodels; np.save({file.name!r}, psfmodels.make_psf({planes}, "
            f"{SIDE}, dxy={SPACING[1]}, pz={depth}, NA={na}, wvl=0.5, ns={sample}, ni={immersion}, "
            f"ni0={immersion}, oversample_factor={FINER}, "
            f"model={'vectorial' if vectorial else 'scalar'!r}))"
        )
        subprocess.run([peer, "-c", script], check=True)
        theirs = torch.from_numpy(np.load(file.name))
    shape, step = (PLANES, SIDE * FINER, SIDE * FINER), SPACING[1] / FINER
    fine = on_grid(pupil_of(name, depth, vectorial), shape, (SPACING[0], step, step))
    ours = fine.unflatten(1, (SIDE, FINER)).unflatten(3, (SIDE, FINER)).mean((2, 4))
    return float((ours / ours.max() - theirs / theirs.max()).abs().max())


def compare_recursion() -> None:
    """Compare Richardson-Lucy with its recursion, and with scikit-image far from the border."""
    from skimage.restoration import richardson_lucy

    line = torch.arange(-4, 5).double()
    kernel = torch.exp(-(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / 8)
    kernel /= kernel.sum()
    generator = torch.Generator().manual_seed(0)
    y = torch.poisson(
        20 * torch.rand(1, 1, 64, 64, 64, generator=generator) + 1, generator=generator
    )
    start, A = torch.full_like(y, 0.5), it.operators.Blur3D(kernel.float(), (64, 64, 64), "zero")
    problem = it.Problem(y, A, it.data_terms.Poisson())
    solver = it.solvers.RichardsonLucy(tau=0)
    ours = it.solve(
        problem, solver=solver, initial=start, max_iterations=10, tolerance=0.0, progress=False,
        check=False,
    ).x  # fmt: skip
    x, exact = start.double(), A.to(torch.float64)
    sensitivity = exact.adjoint(torch.ones_like(x))
    for _ in range(10):
        x = x * exact.adjoint(y / exact(x)) / sensitivity
    error = float((ours - x).abs().max() / x.max())
    print(
        f"own recursion in float64, 10 iterations: {error:.1e} {verdict(error <= 1e-5, 'at most 1e-5')}"
    )
    theirs = richardson_lucy(y[0, 0].numpy(), kernel.float().numpy(), num_iter=10, clip=False)
    inner = (slice(27, -27),) * 3
    gap = np.abs(ours[0, 0].numpy() - theirs)[inner].max() / theirs[inner].max()
    print(
        f"scikit-image, 10 iterations, 27 voxels inside: {gap:.1e} {verdict(gap <= 1e-4, 'at most 1e-4')}"
    )


def write_cells(path: Path, shape: tuple[int, int, int]) -> None:
    """Write readings of cells as OME-Zarr, plane by plane, without the memory of a blur."""
    rng = np.random.default_rng(0)
    data = np.empty(shape, np.uint16)
    texture = scipy.ndimage.gaussian_filter(rng.random(shape[1:]), 3)
    texture = (texture - texture.min()) / np.ptp(texture)
    for k in range(shape[0]):
        photons = 200 * np.roll(texture, 3 * k, 0) ** 4 + 5
        data[k] = 2 * rng.poisson(photons) + 100

    class InMemory(Stack):
        def read(self, time: int, channel: int, part: tuple[slice, slice, slice]) -> np.ndarray:
            return data[part]

    write_stack(path, InMemory(path, (1, 1, *shape), np.uint16, Metadata((0.3, 0.12, 0.12))))


def measure_disk() -> None:
    """Measure the memory of a large stack, the bits of a resumed run, and the seams of a small one."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_cells(folder / "small.zarr", (40, 128, 128))
        small = open_stack(folder / "small.zarr")
        kernel = it.operators.Microscope(
            small.shape[2:], 1.1, 0.52, "water", (0.3, 0.12, 0.12), kernel_shape=(15, 31, 31)
        ).kernel[0, 0].float()  # fmt: skip
        for prior in ("tv", "none"):
            images = []
            for name, tile in (("whole", (999,) * 3), ("tiles", (64, 64, 64))):
                state = folder / f"{prior}-{name}"
                state.mkdir()
                method = Method(prior, 0.01, 20, tile, 2.0, 100.0, 5.0)
                result, _ = deconvolve_stack(small, [kernel], method, state, False)
                images.append(result.read(0, 0, (slice(None),) * 3))
            seam = np.abs(images[0] - images[1]).max() / np.ptp(images[0])
            print(
                f"seams, 40 x 128 x 128, prior {prior}, 20 iterations: {seam:.1e} of the range",
                end=" ",
            )
            print(verdict(seam <= 1e-3, "at most 1e-3"), flush=True)
        write_cells(folder / "large.zarr", (128, 512, 512))
        peak, seconds = run_command(folder, "a.zarr")
        print(
            f"128 x 512 x 512, OME-Zarr to OME-Zarr, 2 iterations: {peak:.2f} GB, {seconds:.0f} s "
            f"{verdict(peak <= 3, 'at most 3 GB')}",
            flush=True,
        )
        process = start_command(folder, "b.zarr")
        while len(list((folder / "b.zarr.tiles").glob("tile_*.npy"))) < 7:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = len(list((folder / "b.zarr.tiles").glob("tile_*.npy")))
        run_command(folder, "b.zarr", "--resume")
        pairs = [open_stack(folder / name) for name in ("a.zarr", "b.zarr")]
        every = slice(None)
        same = all(
            np.array_equal(*(s.read(0, 0, (slice(k, k + 8), every, every)) for s in pairs))
            for k in range(0, 128, 8)
        )
        print(f"killed after {done} of 18 tiles and resumed {verdict(same, 'the same bits')}")


def start_command(folder: Path, output: str, *options: str) -> subprocess.Popen[bytes]:
    line = "--na 1.1 --wavelength 0.52 --immersion water --psf-size 15 31 31 --prior none --iterations 2"
    command = ["deconvolve", "large.zarr", *line.split(), "--quiet", "--output", output, *options]
    return subprocess.Popen([sys.executable, "-m", "invtoolbox", *command], cwd=folder)


def run_command(folder: Path, output: str, *options: str) -> tuple[float, float]:
    """Return the largest memory in GB and the seconds of a command."""
    began = time.perf_counter()
    _, status, usage = os.wait4(start_command(folder, output, *options).pid, 0)
    if status:
        raise SystemExit(f"invtoolbox deconvolve ended with status {status}")
    return usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - began


def main(
    part: Annotated[str, ("all", "models", "recursion", "bars", "disk")] = "all",
    /,
    peer: str | None = None,
    peak: int | None = None,
    seeds: int = 5,
) -> None:
    """Run the benchmark.

    Args:
        part: part to run.
        peer: interpreter of an environment with psfmodels.
        peak: peak of the bars; 20, 200 and 2000 by default.
        seeds: number of seeds of the bars.
    """
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    if part in ("all", "models"):
        compare_models(peer)
    if part in ("all", "recursion"):
        compare_recursion()
    if part in ("all", "disk"):
        measure_disk()
    if part in ("all", "bars"):
        compare_bars(PEAKS if peak is None else (peak,), seeds)


if __name__ == "__main__":
    run_script(main)
