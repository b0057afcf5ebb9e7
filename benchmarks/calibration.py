"""Geometry estimated together with the image: the axis of a real scan, and one pose of a cone beam.

    python benchmarks/calibration.py [--quick]

The axis is off by 3 pixels, the pose of the simulated cone by 1 degree. Each problem is solved
twice by `it.solve(Problem(..., unknown=...))`, from the true geometry and from the perturbed one;
the distance between the two answers counts. The data are TomoPy's tooth (real, parallel beam) and a
cone beam of balls with 1 % noise.
"""

from __future__ import annotations

import math
import os
import time
import warnings

import torch
from common import machine, run_script, verdict

import invtoolbox as it


def tooth(size: int) -> None:
    """Estimate the detector's shift of one slice of the tooth from two starts.

    The starts are 295.8 columns, and 3 columns off.
    """
    item = it.datasets.open_named("tooth")[0]
    y = item.y.float()
    columns = y.shape[-1]
    found = []
    for offset in (0.0, 3.0):
        shift = (columns - 1) / 2 - item.meta["center_column"] + offset
        warnings.simplefilter("ignore")  # the tooth's holder is wider than the field of view
        A = it.operators.ParallelBeam(
            (size, size),
            item.geometry.angles,
            columns,
            pixel_size=columns / size,
            detector_shift=shift,
        )
        problem = it.Problem(y, A, unknown={"detector_shift": None})
        began = time.perf_counter()
        solution = it.solve(
            problem,
            smoothness(size),
            regularization=3e3,
            max_iterations=60,
            tolerance=1e-4,
            progress=False,
        )
        seconds = time.perf_counter() - began
        column = (columns - 1) / 2 - float(solution.parameters["detector_shift"])
        found.append(column)
        print(
            f"tooth, image {size}x{size}: from column {(columns - 1) / 2 - shift:.2f} to "
            f"{column:.3f} in {seconds:.0f} s, {int(solution.iterations[0])} steps, "
            f"{solution.status[0]}",
            flush=True,
        )
    apart = abs(found[0] - found[1])
    print(
        f"tooth: the two starts end {apart:.3f} pixels apart {verdict(apart <= 0.1, '0.1 pixel')}"
    )


def smoothness(size: int) -> it.priors.ExplicitPrior:
    return it.priors.Tikhonov() @ it.operators.FiniteDifference((1, size, size))


def balls(size: int) -> torch.Tensor:
    """Create eight balls of different sizes and densities without any symmetry."""
    line = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    generator = torch.Generator().manual_seed(3)
    volume = torch.zeros(size, size, size)
    for _ in range(8):
        centre = 1.0 * (torch.rand(3, generator=generator) - 0.5)
        radius, density = (
            0.1 + 0.15 * float(torch.rand((), generator=generator)),
            0.5 + float(torch.rand((), generator=generator)),
        )
        distance = ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2).sqrt()
        volume += density * ((radius - distance) * size / 2 + 0.5).clamp(0, 1)
    return volume[None, None]


def cone(size: int) -> None:
    """Estimate the angles of all views, from the true angles and with one angle off by 1 degree."""
    views, wrong = 60, 17
    angles = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    panel = (size, 3 * size // 2)

    def scan(theta: torch.Tensor) -> it.operators.ConeBeam:
        return it.operators.ConeBeam(
            (size, size, size),
            theta,
            panel,
            source_origin=4.0 * size,
            source_detector=6.0 * size,
            detector_spacing=1.5,
        )

    clean = scan(angles)(balls(size))
    noise = 0.01 * float(clean.max())
    y = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for error in (0.0, math.radians(1.0)):
        start = angles.clone()
        start[wrong] += error
        problem = it.Problem(
            y, scan(start), it.data_terms.LeastSquares(noise_std=noise), unknown={"angles": None}
        )
        began = time.perf_counter()
        prior = it.priors.Tikhonov() @ it.operators.FiniteDifference((1, size, size, size))
        solution = it.solve(
            problem, prior, regularization=300.0, max_iterations=60, tolerance=1e-4, progress=False
        )
        seconds = time.perf_counter() - began
        found.append(solution.parameters["angles"][0])
        # A rotation of all views is a rotation of the volume, which the data do not determine.
        off = torch.rad2deg(found[-1] - angles)
        off = off - off.median()
        print(
            f"cone {size}^3, {views} views, view {wrong} off by {math.degrees(error):.0f} degree: "
            f"found within {float(off[wrong].abs()):.4f}, all views within "
            f"{float(off.abs().max()):.4f} degrees of the truth, {seconds:.0f} s, "
            f"{int(solution.iterations[0])} steps",
            flush=True,
        )
    apart = float(torch.rad2deg(found[0] - found[1]).abs().max())
    print(
        f"cone: the two starts end at most {apart:.4f} degrees apart "
        f"{verdict(apart <= 0.05, '0.05 degree')}"
    )


def main(quick: bool = False) -> None:
    """Run the benchmark.

    Args:
        quick: smaller images
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    print(machine())
    tooth(128 if quick else 256)
    cone(24 if quick else 32)


if __name__ == "__main__":
    run_script(main)
