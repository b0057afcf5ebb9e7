"""Learned priors of CT by their names on unseen patients, over total variation by its name.

    python benchmarks/learned_ct.py [--sizes 128,256] [--units HU,1/mm] [--priors auto,lpn-ct]
                                    [--patients training]

Two slices of each of the four patients that no recipe used (lpn_ct.py), of 128 and 256 pixels, and
the one DICOM file of these patients, of 512. 30 and 60 views in parallel beam over 180 degrees, a
detector of 1.5 times the width in pixels, noise of 1 % of the largest measurement. The image is
in Hounsfield units or in 1/mm, and the call is ``it.reconstruct(y, A, prior=NAME)``, with nothing
else: no level of the noise, no range, no solver. Gain: PSNR over that of ``prior="tv"``, in dB,
with the range of the slice as the peak. ``--patients training`` takes the two slices of the
recipes' validation, on which rules are chosen.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script, verdict
from lpn_ct import PATIENTS
from torch import Tensor

import invtoolbox as it

#: Attenuation of water in 1/mm at about 70 keV.
WATER = 0.0193


def main(
    sizes: str = "128,256",
    units: str = "HU,1/mm",
    views: str = "30,60",
    priors: str = "lpn-ct,diffusion-ct,auto",
    patients: str = "unseen",
    threads: int = 1,
) -> None:
    """Print one row per problem, and one summary per prior and size.

    Args:
        sizes: numbers of pixels, of 128, 256 and 512, separated by commas
        units: units of the image, separated by commas
        views: numbers of views, separated by commas
        priors: names of priors, separated by commas
        patients: "unseen", or "training" for the slices on which rules are chosen
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; {threads} thread; {patients} slices")
    names, gains = priors.split(","), {}
    for size in map(int, sizes.split(",")):
        for label, hu, pixel in slices(size, patients):
            for unit in units.split(","):
                for count in map(int, views.split(",")):
                    cells = []
                    truth, y, A = problem(hu, pixel, unit, count)
                    base, _, seconds = quality(truth, y, A, "tv")
                    cells.append(f"tv {base:.2f} dB in {seconds:.0f} s")
                    for name in names:
                        value, solution, seconds = quality(truth, y, A, name)
                        gains.setdefault((name, size), []).append(
                            (value - base, has_note(solution))
                        )
                        mark = " with a note" if has_note(solution) else ""
                        cells.append(f"{name} {value - base:+.2f}{mark} in {seconds:.0f} s")
                    print(f"{label}, {size} pixels, {count} views, {unit}: {', '.join(cells)}")
    for (name, size), rows in gains.items():
        values = [gain for gain, _ in rows]
        unmarked = min((gain for gain, noted in rows if not noted), default=math.nan)
        mean, worst = statistics.mean(values), min(values)
        holds = worst >= -0.2 and (name == "lpn-ct" or mean >= 0.5)
        bar = "worst -0.2" if name == "lpn-ct" else "mean 0.5, worst -0.2"
        print(
            f"{name} over tv, {size} pixels, {len(values)} problems: {mean:+.2f} dB in the mean, "
            f"{worst:+.2f} at worst, {unmarked:+.2f} without a note {verdict(holds, bar)}"
        )


def slices(size: int, patients: str) -> list[tuple[str, Tensor, float]]:
    """Return labels, slices in Hounsfield units ``(1, 1, size, size)``, and pixel sizes in mm."""
    folder = data_folder() / "ct_slices"
    if size == 512:
        opened = it.datasets.open(folder / "dicom" / "A056642_19001229-053.dcm")[0]
        return [("A056642", opened.y.clamp(-1024, 3071), opened.meta["pixel_size"][0])]
    with np.load(folder / "ct_hu_256.npz") as file:
        everything, patient, pixel = file["hu"], list(file["patient"]), file["pixel_mm"]
    places = [patient.index(name) + k for name in PATIENTS for k in range(2)]
    if patients == "training":
        places = [49, 50]
    chosen = []
    for place in places:
        hu = torch.from_numpy(everything[place].astype(np.float32))[None, None]
        factor = 256 // size
        label = f"{patient[place]} slice {place}"
        chosen.append((label, F.avg_pool2d(hu, factor), float(pixel[place]) * factor))
    return chosen


def problem(hu: Tensor, pixel: float, unit: str, views: int) -> tuple[Tensor, Tensor, Any]:
    """Return the image in the unit, its measurements, and the operator in mm."""
    truth = hu if unit == "HU" else (hu / 1000 + 1).clamp_min(0) * WATER
    size = hu.shape[-1]
    angles = torch.linspace(0, math.pi, views + 1)[:-1]
    A = it.operators.ParallelBeam(
        (size, size), angles, int(1.5 * size), pixel_size=pixel, detector_spacing=pixel
    )
    y = A(truth)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return truth, y + 0.01 * y.abs().max() * noise, A


def quality(truth: Tensor, y: Tensor, A: Any, name: str) -> tuple[float, Any, float]:
    """Return the PSNR in dB of a prior by its name, the solution, and the seconds."""
    began = time.perf_counter()
    solution = it.reconstruct(y, A, prior=name, progress=False)
    seconds = time.perf_counter() - began
    span = float(truth.max() - truth.min())
    return float(it.metrics.psnr(solution.x, truth, data_range=span)), solution, seconds


def has_note(solution: Any) -> bool:
    """Return whether a note says that the prior was not trained for this image, or is below tv."""
    return any("trained" in note for note in solution.notes)


if __name__ == "__main__":
    run_script(main)
