"""Raw data of MRI: real k-space in ISMRMRD and fastMRI files, against the arrays that they hold.

    python benchmarks/mri_files.py [--iterations 20]

* brain: 8 coils, 12 % of two phase encodings (Poisson disc). The ISMRMRD file, by the writer
  `ismrmrd`, has one readout of one sample per frequency; fastMRI's layout, by h5py with a header of
  `ismrmrd`, has zeros and no mask.
* knee: one coil, a quarter of the lines. The readout is oversampled twofold: the image is surrounded
  by zeros, and its k-space written.

The present path builds mask, coil maps and operator from the arrays by hand. Compared are the
zero-filled image and the one of ``it.reconstruct(y, A, prior="tv")``, as the largest difference over
the largest modulus. Then: a spot in oblique slices, written by ``invtoolbox mri`` as NIfTI and DICOM
and located by nibabel and SimpleITK; virtual coils of the brain; and noise of known covariance after
whitening by a noise scan.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from mri import knee_samples
from torch import Tensor

import invtoolbox as it
from invtoolbox.cli import main as command
from invtoolbox.operators import CartesianMRI, LinearOperator, estimate_coil_maps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.datasets import mri_sets as sets
from tests.jobs.mri import test_mri_command as spots

#: Largest difference that is accepted.
BAR = 1e-6


def images(y: Tensor, A: LinearOperator, iterations: int) -> tuple[Tensor, Tensor]:
    """Return the zero-filled image and the one of the one-liner, ``(row, column)``."""
    solution = it.reconstruct(y, A, prior="tv", max_iterations=iterations, progress=False)
    return A.pseudo_inverse(y)[0, 0], solution.x[0, 0]


def compare(name: str, path: Path, present: tuple[Tensor, Tensor], iterations: int) -> None:
    """Open a file by its path alone, and compare its images with those of the present path."""
    began = time.perf_counter()
    item: Any = it.datasets.open(path)[0]
    seconds = time.perf_counter() - began
    A = item.geometry.operator()
    differences = []
    for image, before in zip(images(item.y, A, iterations), present):
        shown = item.geometry.crop(image)
        differences.append(float((shown - before).abs().max() / before.abs().max()))
    zero_filled, solved = differences
    print(
        f"{name}: {item.y.shape[1]} coils of {A.domain_shape[-2]} x {A.domain_shape[-1]}, "
        f"{float(item.geometry.mask.double().mean()):.1%} sampled, read in {seconds:.1f} s; "
        f"zero-filled image differs by {zero_filled:.1e}, TV by {solved:.1e} "
        f"{verdict(max(differences) <= BAR, f'{BAR:.0e}')}",
        flush=True,
    )


def brain(folder: Path, place: Path, iterations: int) -> None:
    y = torch.from_numpy(np.load(folder / "mri_cartesian_8coil" / "cartesian_ksp.npy"))[None]
    mask = y.abs().sum((0, 1)) > 0
    maps = estimate_coil_maps(y, calibration=24)
    A = CartesianMRI(mask, tuple(y.shape[2:]), maps)
    present = images(y, A, iterations)
    rows, columns = mask.shape
    xml = sets.header((1, columns, rows), (1, columns, rows))
    made = (
        sets.acquisition(y[0, :, row, column].numpy()[:, None], column, row)
        for row, column in mask.nonzero().tolist()
    )
    path = sets.write_ismrmrd(place / "brain.h5", xml, made)
    compare("brain, ISMRMRD", path, present, iterations)
    xml = sets.header((rows, columns, 1), (rows, columns, 5))
    path = sets.write_fastmri(place / "brain_fastmri.h5", y.numpy(), xml)
    compare("brain, fastMRI's layout without mask", path, present, iterations)
    virtual_coils(it.datasets.open(path)[0])


def virtual_coils(item: Any) -> None:
    """Print the energy of virtual coils, and what they change in the combined image."""
    before = item.geometry.operator().pseudo_inverse(item.y).abs()
    for coils in (8, 7, 6, 5, 4, 3):
        few = it.processing.compress_coils(item, coils)
        energy = float(few.y.abs().square().sum() / item.y.abs().square().sum())
        image = few.geometry.operator().pseudo_inverse(few.y).abs()
        change = float((image - before).norm() / before.norm())
        print(f"  {coils} virtual coils: {energy:.2%} of the energy, image changes by {change:.2%}")
    for share in (0.9, 0.95, 0.99):
        few = it.processing.compress_coils(item, share=share)
        print(f"  a share of {share:.0%} of the energy: {few.y.shape[1]} virtual coils")


def knee(folder: Path, place: Path, iterations: int) -> None:
    y, mask = knee_samples(folder)  # (1, 1, line, readout)
    rows, columns = y.shape[-2:]
    A = CartesianMRI(mask, (rows, columns))
    present = images(y * mask, A, iterations)
    wide = np.zeros((rows, 2 * columns), np.complex128)
    wide[:, columns // 2 : columns // 2 + columns] = A.adjoint(y * mask)[0, 0].numpy()
    oversampled = sets.centred_fft(wide)
    lines = mask[:, 0].nonzero().flatten().tolist()
    sizes, fovs = ((2 * columns, rows, 1), (320, 166, 3)), ((columns, rows, 1), (160, 166, 3))
    xml = sets.header(*sizes, *fovs)
    made = (sets.acquisition(oversampled[None, row], row) for row in lines)
    path = sets.write_ismrmrd(place / "knee.h5", xml, made)
    compare("knee, ISMRMRD, twofold oversampled readout", path, present, iterations)
    # fastMRI has rows along the readout.
    A = CartesianMRI(mask.T, (columns, rows))
    present = images((y * mask).transpose(-1, -2).contiguous(), A, iterations)
    taken = mask[:, 0].numpy().astype(np.float32)
    kspace = (oversampled * taken[:, None]).T[None]
    path = sets.write_fastmri(place / "knee_fastmri.h5", kspace, xml, mask=taken)
    compare("knee, fastMRI's layout of one coil, with mask", path, present, iterations)
    path = sets.write_fastmri(place / "knee_bare.h5", kspace, xml)
    compare("knee, fastMRI's layout of one coil, without mask", path, present, iterations)


def orientation(place: Path) -> None:
    """Locate a spot in oblique slices by the readers of others."""
    import nibabel
    import SimpleITK as sitk

    raw = spots.oblique(place / "oblique.h5")
    outputs = [str(place / name) for name in ("oblique.nii.gz", "oblique.dcm")]
    words = ["mri", str(raw), "--prior", "none", "--max-iterations", "1", "-q", "-o", *outputs]
    with contextlib.redirect_stdout(io.StringIO()):
        assert command(words) == 0
    nifti = nibabel.load(outputs[0])
    values = nifti.get_fdata()
    # The middle of the spot, between voxels: the mean position of the brightest slice.
    slice_ = int(values.max((0, 1)).argmax())
    index = np.array([*centre_of(values[..., slice_]), slice_, 1.0])
    by_nibabel = (nifti.affine @ index)[:3] * (-1, -1, 1)
    series = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(outputs[1]))
    stored = sitk.GetArrayFromImage(series).astype(np.float64)
    number = int(stored.max((1, 2)).argmax())
    row, column = centre_of(stored[number])
    by_itk = series.TransformContinuousIndexToPhysicalPoint((column, row, float(number)))
    for name, point in (("NIfTI by nibabel", by_nibabel), ("DICOM by SimpleITK", by_itk)):
        away = float(np.linalg.norm(np.array(point) - spots.SPOT))
        bar = verdict(away <= 0.5, "0.5 mm, voxels of 5 x 8 x 8 mm")
        print(f"oblique slices, {name}: the spot is {away:.2f} mm from its place {bar}")


def centre_of(image: np.ndarray) -> Iterable[float]:
    """Return the centre of mass of the bright part of an image, in pixels."""
    weights = np.where(image > 0.05 * image.max(), image, 0)
    axes = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
    return [float((axis * weights).sum() / weights.sum()) for axis in axes]


def whitening(place: Path) -> None:
    """Whiten noise of five random covariances by noise scans of half the dwell time."""
    errors = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        mixture = draw.standard_normal((8, 8)) + 1j * draw.standard_normal((8, 8))

        def noise(count: int, draw: Any = draw, mixture: Any = mixture) -> np.ndarray:
            parts = draw.standard_normal((2, 8, count))
            return mixture @ (parts[0] + 1j * parts[1])

        scans = [
            sets.acquisition((2 * 0.8) ** 0.5 * noise(4096), flags=[sets.NOISE], sample_time_us=5.0)
            for _ in range(8)
        ]
        lines = [sets.acquisition(noise(128), row, sample_time_us=10.0) for row in range(96)]
        xml = sets.header((128, 96, 1), (256, 192, 5), bandwidth=0.8)
        path = sets.write_ismrmrd(place / f"noise{seed}.h5", xml, [*scans, *lines])
        values = it.datasets.open(path)[0].y[0].flatten(1)
        covariance = values @ values.conj().T / (2 * values.shape[1])
        errors.append(float((covariance - torch.eye(8)).abs().max()))
    print(
        f"noise of 8 coils after whitening, 5 covariances: largest entry of covariance minus identity "
        f"{max(errors):.3f}, {12288**-0.5:.3f} is the standard deviation of an estimate from the samples "
        f"{verdict(max(errors) <= 5 * 12288**-0.5, 'five standard deviations')}"
    )


def main(iterations: int = 20, threads: int = 1) -> None:
    """Print one row per file.

    Args:
        iterations: largest number of iterations of a reconstruction
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        orientation(place)
        whitening(place)
        knee(data_folder(), place, iterations)
        brain(data_folder(), place, iterations)


if __name__ == "__main__":
    run_script(main)
