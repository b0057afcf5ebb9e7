"""The one-liner for MRI: the weight it chooses against the best weight of a sweep.

    python benchmarks/mri_one_liner.py [--cases knee,brain,axial,coronal,heart] [--accelerations 4,8]

``it.reconstruct(y, A, prior="tv")`` gets k-space with 0 at the samples that were not taken, and
neither a noise level nor a weight. The cases, each at 4x and 8x:

* knee: measured lines, one coil. The full k-space has noise, so the squared error against the image
  without noise is estimated without bias (Stein, Ann. Stat. 9, 1981; see benchmarks/mri.py).
* brain: points of a plane across the readout with a full middle, 8 coils. The measured scan was
  undersampled, so the truth is its reconstruction by wavelets (`WaveletL1`), with the coil maps of
  ESPIRiT and with new noise of the measured level.
* axial (`ch2`) and coronal (`mni`) slices of two T1 heads, and a short-axis slice of a heart
  (ACDC), with a smooth phase, white noise, and one or four simulated coils; random lines with a
  full middle, 8 % of the lines at 4x and 4 % at 8x (the fractions of fastMRI).

All images are reduced to at most 166 rows and columns by leaving out high frequencies.

With ``--tuning`` the cases are four other pictures and the even items of the zoo, on which rules
may be chosen. The sweep goes from the chosen weight in both directions by factors of 10^(1/4), as
long as the error falls. Loss: PSNR of the best weight minus that of
the one call, in dB.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor
from zoo import item

import invtoolbox as it
from invtoolbox.jobs.benchmark.systems.mri import random_lines as lines
from invtoolbox.jobs.benchmark.systems.mri import ring_of_coils, with_phase
from invtoolbox.operators import CartesianMRI, estimate_coil_maps, outer_noise_std
from invtoolbox.operators.mri.fourier import centred_fft, centred_ifft

CASES, TUNING = "knee,brain,axial,coronal,heart", "head-16,head-27,heart-2,noisy,zoo"
STEP = 10**0.25
SIZE = 96


class Case(NamedTuple):
    """Measurements, their operator, and the PSNR of a reconstruction, in dB."""

    y: Tensor
    A: CartesianMRI
    psnr: Callable[[Callable[[Tensor], Tensor]], float]


def main(
    cases: str = CASES, accelerations: str = "4,8", tuning: bool = False, threads: int = 1
) -> None:
    """Print one row per case and acceleration, and the summary.

    Args:
        cases: names of cases, separated by commas
        accelerations: ratios of all samples to those that are taken, separated by commas
        tuning: take the cases on which rules may be chosen
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(machine())
    losses, gains = [], []
    for name in (TUNING if tuning and cases == CASES else cases).split(","):
        for label, case in CASES_BY_NAME[name]([int(r) for r in accelerations.split(",")]):
            loss, gain = measure(f"{name}, {label}", case)
            losses.append(loss)
            gains.append(gain)
    middle, worst, least = statistics.mean(losses), max(losses), min(gains)
    print(
        f"loss against the best weight: {middle:.2f} dB in the mean, {worst:.2f} at worst "
        + verdict(middle <= 0.3 and worst <= 1, "0.3 dB mean, 1 dB worst")
    )
    print(f"least gain over zero filling: {least:+.2f} dB " + verdict(least >= 0, "not below 0"))


def measure(name: str, case: Case) -> tuple[float, float]:
    """Print the row of one case; return its loss and the gain over zero filling, in dB."""
    began = time.perf_counter()
    solution = it.reconstruct(case.y, case.A, prior="tv", progress=False)
    seconds = time.perf_counter() - began
    first = float(solution.regularization[0])

    def solve(weight: float) -> Callable[[Tensor], Tensor]:
        return lambda y: (
            it.reconstruct(y, case.A, prior="tv", regularization=weight, progress=False).x
        )

    is_simple = any("zero-filled image" in note for note in solution.notes)
    zero = case.psnr(case.A.pseudo_inverse)
    scores = {0: case.psnr(solve(first))}
    for direction in (-1, 1):
        best, k = 0, direction
        while abs(k) <= abs(best) + 1 and abs(k) <= 16:
            scores[k] = case.psnr(solve(first * STEP**k))
            best = k if scores[k] > scores[best] else best
            k += direction
    place = max(scores, key=scores.__getitem__)
    one_call = zero if is_simple else scores[0]
    loss, gain = scores[place] - one_call, one_call - zero
    rule = next((note for note in solution.notes if "chooses the weight" in note), "")
    print(
        f"{name}: zero filling {zero:.2f} dB, one call {one_call:.2f}"
        f"{' (zero filling)' if is_simple else ''}, best weight {scores[place]:.2f} at "
        f"{STEP**place:.2f} of the chosen one, loss {loss:.2f}; {seconds:.1f} s, "
        f"{solution.status[0]}; {rule}",
        flush=True,
    )
    return loss, gain


def decibels(squared: float, peak: float, count: int) -> float:
    """Return the PSNR of a sum of squared complex errors."""
    return 10 * math.log10(peak**2 * count / max(squared, 1e-300))


def simulated(truth: Tensor, A: CartesianMRI, level: float, seed: int) -> Case:
    """Return k-space of a known image ``(row, column)``; the level is relative to its peak."""
    peak = float(truth.abs().max())
    draw = torch.Generator().manual_seed(seed)
    x = truth[None, None].to(torch.complex64)
    noise = torch.randn((2, *A.range_shape), generator=draw) * level * peak
    y = A(x) + torch.complex(noise[0], noise[1])[None] * A.sampled

    def psnr(reconstruct: Callable[[Tensor], Tensor]) -> float:
        squared = float((reconstruct(y) - x).abs().square().sum())
        return decibels(squared, peak, x.numel())

    return Case(y, A, psnr)


def points(shape: tuple[int, int], acceleration: int, seed: int) -> Tensor:
    """Return a mask of random points, denser in the middle, with all points of 24 x 24."""
    rows, columns = (torch.arange(n) - n // 2 for n in shape)
    is_middle = (rows[:, None].abs() <= 12) & (columns.abs() <= 12)
    radius = torch.hypot(2 * rows[:, None] / shape[0], 2 * columns / shape[1])
    density = torch.where(is_middle, 0.0, (1 - radius / 1.5).clamp_min(0.02) ** 2).flatten()
    count = rows.numel() * columns.numel() // acceleration - int(is_middle.sum())
    draw = torch.Generator().manual_seed(seed)
    mask = is_middle.flatten().clone()
    mask[torch.multinomial(density, count, generator=draw)] = True
    return mask.view(shape)


def middle_of(k_space: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the lowest frequencies of k-space."""
    first = [n // 2 - m // 2 for n, m in zip(k_space.shape[-2:], shape)]
    return k_space[..., first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]


def volume(name: str) -> np.ndarray:
    """Return a NIfTI volume of the data folder."""
    import nibabel

    return np.asarray(nibabel.load(data_folder() / name).dataobj, dtype=np.float32)


def picture(name: str) -> np.ndarray:
    """Return a grey picture of the data folder."""
    from skimage.io import imread

    return np.asarray(imread(data_folder() / name, as_gray=True), dtype=np.float32)


def _simulation(
    modulus: Callable[[], np.ndarray], coils: int, level: float, seed: int
) -> Callable[[list[int]], list[tuple[str, Case]]]:
    """Return a function of accelerations that returns cases of a slice, by their labels."""

    def cases(accelerations: list[int]) -> list[tuple[str, Case]]:
        truth = with_phase(modulus(), SIZE, seed)
        shape = (truth.shape[0], truth.shape[1])
        maps = None if coils == 1 else ring_of_coils(shape, coils)
        noise = f"{coils} coil{'s' * (coils > 1)}, noise {level:.1%}"
        return [
            (
                f"{r}x, {noise}",
                simulated(truth, CartesianMRI(lines(shape, r, seed + r), shape, maps), level, seed),
            )
            for r in accelerations
        ]

    return cases


def knee(accelerations: list[int]) -> list[tuple[str, Case]]:
    """Return the measured knee at half its resolution, without the oversampling of the readout."""
    from scipy.io import loadmat

    path: Path = data_folder() / "mri_singlecoil_full" / "coronal_fatsat_2D_knee.mat"
    full = torch.from_numpy(loadmat(path)["kdata"]).to(torch.complex64)[None, None]
    readout = centred_ifft(full, 1)
    quarter = full.shape[-1] // 4
    full = centred_fft(readout[..., quarter : full.shape[-1] - quarter], 1)
    full = middle_of(full, (full.shape[-2] // 2, full.shape[-1] // 2))
    full = full / full.abs().max()
    shape = (full.shape[-2], full.shape[-1])
    std, reference = float(outer_noise_std(full)), centred_ifft(full, 2)

    def case(r: int) -> Case:
        mask = lines(shape, r, r)
        A = CartesianMRI(mask, shape)
        y = full * mask
        draw, size = torch.Generator().manual_seed(1), 0.1 * std
        signs = 2.0 * torch.randint(0, 2, (2, *y.shape), generator=draw) - 1
        probe = torch.complex(signs[0], signs[1]) * mask

        def psnr(reconstruct: Callable[[Tensor], Tensor]) -> float:
            x, changed = reconstruct(y), reconstruct(y + size * probe)
            divergence = float((A(changed - x) / size * probe.conj()).real.sum())
            squared = float((x - reference).abs().square().sum())
            squared += 2 * std**2 * (divergence - y.numel())
            return decibels(squared, float(reference.abs().max()), y.numel())

        return Case(y, A, psnr)

    return [(f"{r}x, 1 coil, measured", case(r)) for r in accelerations]


def brain(accelerations: list[int]) -> list[tuple[str, Case]]:
    """Return new scans of the reconstruction of the measured brain."""
    path = data_folder() / "mri_cartesian_8coil" / "cartesian_ksp.npy"
    y = middle_of(torch.from_numpy(np.load(path))[None], (120, SIZE))
    mask, maps = y.abs().sum((0, 1)) > 0, estimate_coil_maps(y)
    shape = (y.shape[-2], y.shape[-1])
    std = float(outer_noise_std(y, mask))
    truth = it.reconstruct(
        y,
        CartesianMRI(mask, shape, maps),
        prior="orthogonal-wavelet",
        noise_std=std,
        progress=False,
    ).x[0, 0]
    level = std / float(truth.abs().max())
    return [
        (
            f"{r}x, 8 coils, noise {level:.1%}",
            simulated(truth, CartesianMRI(points(shape, r, r), shape, maps), level, r),
        )
        for r in accelerations
    ]


def zoo(accelerations: list[int]) -> list[tuple[str, Case]]:
    """Return the even items of the zoo up to 14, whatever the accelerations are."""

    def case(index: int) -> Case:
        some = item("mri", index)

        def psnr(reconstruct: Callable[[Tensor], Tensor]) -> float:
            error = max(some.error(reconstruct(some.y)), some.finest)
            return 20 * math.log10(float(some.truth.abs().amax()) / error)

        return Case(some.y, some.A, psnr)

    return [(f"item {k}, {item('mri', k).about}", case(k)) for k in range(0, 15, 2)]


HEADS, HEARTS = "brains_two_grids", "cine_acdc_demo"
CASES_BY_NAME: dict[str, Callable[[list[int]], list[tuple[str, Case]]]] = {
    "knee": knee,
    "brain": brain,
    "axial": _simulation(lambda: volume(f"{HEADS}/ch2.nii.gz")[:, :, 90], 1, 0.01, 1),
    "coronal": _simulation(lambda: volume(f"{HEADS}/mni.nii.gz")[:, 100, :], 4, 0.02, 2),
    "heart": _simulation(lambda: volume(f"{HEARTS}/train_001_sa_ED.nii.gz")[:, :, 4], 4, 0.01, 3),
    "head-16": _simulation(lambda: picture(f"{HEADS}/r16slice.jpg"), 1, 0.01, 4),
    "head-27": _simulation(lambda: picture(f"{HEADS}/r27slice.jpg"), 4, 0.02, 5),
    "heart-2": _simulation(lambda: volume(f"{HEARTS}/val_002_sa_ED.nii.gz")[:, :, 4], 1, 0.02, 6),
    "noisy": _simulation(lambda: volume(f"{HEARTS}/val_002_sa_ED.nii.gz")[:, :, 6], 1, 0.08, 7),
    "zoo": zoo,
}


if __name__ == "__main__":
    run_script(main)
