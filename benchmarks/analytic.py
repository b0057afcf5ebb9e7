"""Errors of the projectors compared with closed forms: discs next to ASTRA, balls, and the axis.

    python benchmarks/analytic.py

Discs and balls of density 1, off the centre, are averaged over pixels or voxels (8-fold
supersampling). The error is relative to the true sinogram, in the Euclidean norm. ASTRA's CPU has
no 3D projector, so balls have no peer; their error must fall as the voxels shrink.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from common import machine, verdict

import invtoolbox as it

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.operators import scan_3d_helpers as solid
from tests.operators.scan_helpers import (
    cells,
    chords,
    disc,
    fan_distance,
    parallel_distance,
    relative,
    spot,
    turn,
)


def astra_error(
    kind: str,
    shape: tuple[int, int],
    pixel: tuple[float, float],
    angles: torch.Tensor,
    detectors: int,
    lengths: tuple[float, ...],
    image: torch.Tensor,
    truth: torch.Tensor,
) -> float:
    import astra

    (height, width), (size_y, size_x) = shape, pixel
    volume = astra.create_vol_geom(
        height,
        width,
        -width * size_x / 2,
        width * size_x / 2,
        -height * size_y / 2,
        height * size_y / 2,
    )
    geometry = astra.create_proj_geom(
        "fanflat" if lengths else "parallel", 1.0, detectors, angles.numpy(), *lengths
    )
    identifier, sinogram = astra.create_sino(
        image[0, 0].numpy().astype(np.float32), astra.create_projector(kind, geometry, volume)
    )
    astra.data2d.delete(identifier)
    return relative(torch.from_numpy(sinogram), truth[0, 0])


def discs(shape: tuple[int, int], pixel: tuple[float, float], views: int) -> None:
    extent = min(shape[0] * pixel[0], shape[1] * pixel[1])
    centre, radius = (0.11 * extent, -0.07 * extent), 0.3 * extent
    detectors = math.ceil(math.hypot(shape[0] * pixel[0], shape[1] * pixel[1]))
    name = f"{shape[0]}x{shape[1]}, pixels {pixel[0]:g}x{pixel[1]:g}"

    angles = turn(views, length=math.pi)
    A = it.operators.ParallelBeam(shape, angles, detectors, pixel_size=pixel)
    image = disc(A, centre, radius)
    truth = chords(parallel_distance(angles, cells(detectors, 1.0, 0.0), centre), radius)[
        None, None
    ]
    mine = relative(A(image.float()), truth)
    # ASTRA's CPU takes square pixels only.
    theirs = (
        min(
            astra_error(kind, shape, pixel, angles, detectors, (), image, truth)
            for kind in ("linear", "line")
        )
        if pixel[0] == pixel[1]
        else math.nan
    )
    tell(f"parallel beam {name}", mine, theirs)

    # The fan's cells are as far apart at the axis as the parallel beam's.
    source = 3.0 * extent
    fan = it.operators.FanBeam(
        shape, turn(views), 2 * detectors, source, 2 * source, pixel_size=pixel
    )
    gamma = torch.atan(cells(2 * detectors, 1.0, 0.0) / (2 * source))
    truth = chords(fan_distance(turn(views), gamma, source, centre), radius)[None, None]
    mine = relative(fan(image.float()), truth)
    theirs = (
        astra_error(
            "line_fanflat", shape, pixel, turn(views), 2 * detectors, (source, source), image, truth
        )
        if pixel[0] == pixel[1]
        else math.nan
    )
    tell(f"fan beam      {name}", mine, theirs)


def tell(name: str, mine: float, theirs: float) -> None:
    comparison = (
        ""
        if math.isnan(theirs)
        else f", ASTRA's best {theirs:.2e} {verdict(mine <= 1.001 * theirs, 'at most that, to 1e-3 of it')}"
    )
    print(f"disc, {name}: ours {mine:.2e}{comparison}", flush=True)


def balls(size: int) -> None:
    angles, panel = solid.turn(24), (math.ceil(1.6 * size), math.ceil(1.6 * size))
    centre, radius = (0.1 * size, -0.06 * size, 0.05 * size), 0.25 * size
    for A in (
        it.operators.ConeBeam(
            (size, size, size), angles, panel, 4.0 * size, 6.0 * size, detector_spacing=1.5
        ),
        it.operators.ParallelBeam3D((size, size, size), angles, panel),
    ):
        error = relative(A(solid.ball(A, centre, radius).float()), solid.chords(A, centre, radius))
        print(f"ball, {type(A).__name__} {size}^3: {error:.2e}", flush=True)


def axis() -> None:
    """Check the centre of mass of a small spot's sinogram, for odd and even sizes."""
    worst = 0.0
    for n in (32, 33):
        for detectors in (47, 48):
            for shift in (0.0, 1.3):
                A = it.operators.ParallelBeam(
                    (n, n), turn(40, length=math.pi), detectors, detector_shift=shift
                )
                at = (5.2, 3.7)
                y = A(spot(A, at, 2.0))[0, 0]
                s = cells(detectors, 1.0, shift)
                found = (y * s).sum(1) / y.sum(1)
                angles = turn(40, length=math.pi)
                worst = max(
                    worst, float((found - at[0] * angles.cos() - at[1] * angles.sin()).abs().max())
                )
    print(
        f"axis of rotation: the centre of mass of a smooth spot is at most {worst:.1e} cells from "
        f"the convention's, odd and even sizes {verdict(worst < 0.01, '0.01')}"
    )


def main() -> None:
    print(machine())
    for shape, pixel, views in (
        ((256, 256), (1.0, 1.0), 180),
        ((257, 257), (1.0, 1.0), 180),
        ((512, 512), (1.0, 1.0), 360),
        ((200, 300), (1.0, 1.0), 180),
        ((256, 256), (1.0, 0.7), 180),
    ):
        discs(shape, pixel, views)
    for size in (32, 64, 128):
        balls(size)
    axis()


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
