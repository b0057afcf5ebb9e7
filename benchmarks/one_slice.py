"""Compare the FBP of 2D scans with the one-slice case of the Feldkamp code: PSNR and seconds.

    python benchmarks/one_slice.py

A photograph of 256 x 256 pixels inside a disc is projected by a fan beam (flat and curved, full
turn and short scan) and by a parallel beam. The same sinogram is inverted by the 2D operator and by
a 3D operator with one slice and one row.
"""

from __future__ import annotations

import math

import torch
from common import alternating, machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D

SIZE = 256


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(it.metrics.psnr(x, truth, data_range=float(truth.max() - truth.min())))


def compare(name: str, flat: FanBeam | ParallelBeam, solid: ConeBeam | ParallelBeam3D) -> None:
    across = torch.arange(SIZE) - (SIZE - 1) / 2
    disc = across[:, None] ** 2 + across[None] ** 2 < (0.48 * SIZE) ** 2
    truth = it.datasets.photograph("camera")[..., ::2, ::2] * disc
    y = flat(truth)
    one_slice = y[:, :, :, None]
    x, slice_ = flat.pseudo_inverse(y), solid.pseudo_inverse(one_slice)[:, :, 0].flip(-2)
    seconds = alternating(
        {
            "2D": lambda: flat.pseudo_inverse(y),
            "one slice": lambda: solid.pseudo_inverse(one_slice),
        },
        repeats=3,
    )
    apart = float((x - slice_).abs().max() / x.abs().max())
    print(
        f"{name}: 2D {psnr(x, truth):.3f} dB in {seconds['2D']:.3f} s, one slice "
        f"{psnr(slice_, truth):.3f} dB in {seconds['one slice']:.3f} s, ratio "
        f"{seconds['one slice'] / seconds['2D']:.1f}, apart {apart:.1e} "
        f"{verdict(seconds['one slice'] <= seconds['2D'], 'the one-slice case is not slower')}",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    shape, distances = (SIZE, SIZE), {"source_origin": 3.0 * SIZE, "source_detector": 5.0 * SIZE}
    for curved in (False, True):
        for views, turn in ((360, 2 * math.pi), (240, 1.25 * math.pi)):
            angles = torch.arange(views, dtype=torch.float64) * (turn / views)
            spacing = {"detector_spacing": 1.2, "curved": curved}
            compare(
                f"fan beam, {'curved' if curved else 'flat'}, {views} views",
                FanBeam(shape, angles, 2 * SIZE, **distances, **spacing),
                ConeBeam((1, *shape), angles, (1, 2 * SIZE), **distances, **spacing),
            )
    angles = torch.arange(256, dtype=torch.float64) * (math.pi / 256)
    cells = 3 * SIZE // 2
    flat = ParallelBeam(shape, angles, cells)
    compare("parallel beam, 256 views", flat, ParallelBeam3D((1, *shape), angles, (1, cells)))


if __name__ == "__main__":
    main()
