"""Three pictures of a wall and three balls: the gain of the priors of a voxel grid on other views.

    python benchmarks/forward_facing.py [--iterations 300] [--scenes 2] [--threads 1]

The pictures are taken side by side; held-out views lie in between and beyond. A textured wall and
three textured balls, 28 x 28 pixels, noise of 0.02; cameras turn by -0.22, 0 and 0.22 radians about
the middle of the scene, and the held-out cameras by -0.33, -0.11, 0.11 and 0.33. A grid of 24^3
nodes, Adam, colors independent of the direction. Weights are relative to the mean squared error.
Printed: PSNR of the three pictures and of the held-out ones, the mean error of the held-out depths,
and the mean optical thickness right in front of the cameras.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from common import machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.priors import (
    DepthSmoothness,
    OcclusionPenalty,
    Prior,
    ThroughOperator,
    VoxelGrid,
    VoxelSparsity,
    VoxelVariation,
)

LOW, HIGH = (-1.0, -1.0, -1.4), (1.0, 1.0, 1.0)
MIDDLE, DISTANCE, SIZE, NOISE = (0.0, 0.0, 0.5), 2.0, (28, 28), 0.02
SEEN, HELD = (-0.22, 0.0, 0.22), (-0.33, -0.11, 0.11, 0.33)
#: Distance from a camera up to which space is right in front of it.
NEAR = 1.0


def scene(seed: int, n: int = 64) -> Voxels:
    """Create the wall and the balls, on a finer grid than the grid of the reconstruction."""
    g = torch.Generator().manual_seed(seed)
    space = VoxelSpace.box(n, LOW, HIGH, scale=30.0)
    p = torch.tensor(space.low) + space.places() * torch.tensor(space.cell)
    wall = p[:, 2] > 0.8
    inside, color = wall, _texture(p, g)
    for k in range(3):
        centre = torch.tensor([0.35 * (k - 1), 0.0, 0.15]) + 0.3 * (
            torch.rand(3, generator=g) - 0.5
        )
        ball = (p - centre).norm(dim=1) < 0.15 + 0.07 * float(torch.rand(1, generator=g))
        color = torch.where(ball[:, None], _texture(p, g), color)
        inside = inside | ball
    return Voxels(torch.where(inside, 3.0, -12.0)[None], color[None, :, None], space)


def _texture(p: Tensor, g: torch.Generator) -> Tensor:
    """Create waves of a random direction in each of the three channels, before the sigmoid."""
    directions = torch.randn(3, 3, generator=g) * 5.0
    return 2.0 * torch.sin(p @ directions.T + 6.28 * torch.rand(3, generator=g)) + torch.randn(
        3, generator=g
    )


def cameras(turns: tuple[float, ...] | Tensor, height: Tensor | float = 0.0) -> Cameras:
    turn = torch.as_tensor(turns)
    where = (
        torch.stack([turn.sin(), torch.as_tensor(height).expand_as(turn), -turn.cos()], dim=1)
        * DISTANCE
    )
    return look_at(torch.tensor(MIDDLE) + where, MIDDLE, size=SIZE, field_of_view=32.0)


def rows(one: float) -> dict[str, Prior | None]:
    """List priors with weights; ``one`` times a weight is relative to the mean squared error."""
    A = it.operators.VoxelRenderer(cameras(SEEN))
    g = torch.Generator().manual_seed(99)
    unseen = cameras(
        0.8 * torch.rand(40, generator=g) - 0.4, 0.2 * torch.rand(40, generator=g) - 0.1
    )
    depths = it.operators.VoxelRenderer(unseen, outputs=("depth",), block=7)
    density, color = (0.5 * one * VoxelVariation(of) for of in ("density", "color"))  # type: ignore[arg-type]
    nothing_near = 0.5 * one * OcclusionPenalty(A, NEAR)
    return {
        "none": None,
        "TV of density": 1e-3 * density,
        "TV of density and color": 1e-3 * density + 1e-3 * color,
        "sparsity of density": 0.5 * one * 1e-2 * VoxelSparsity(),
        "smooth depth of unseen views": 0.5
        * one
        * 3e-3
        * ThroughOperator(DepthSmoothness(), depths, subset_size=48),
        "occlusion penalty": 1e-2 * nothing_near,
        "TV of both, occlusion penalty": 1e-3 * density + 1e-3 * color + 1e-2 * nothing_near,
    }


def run(seed: int, prior: Prior | None, iterations: int) -> list[float]:
    truth = scene(seed)
    A, held = (
        it.operators.VoxelRenderer(cameras(turns), step=0.09, stop=1e-3, least_alpha=1e-4)
        for turns in (SEEN, HELD)
    )
    depth = it.operators.VoxelRenderer(cameras(HELD), outputs=("depth",))
    fine = [it.operators.VoxelRenderer(cameras(turns)) for turns in (SEEN, HELD)]
    clean = fine[0](truth)
    y = clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    grid = VoxelGrid(VoxelSpace.box(24, LOW, HIGH), alpha=0.02)
    solver = it.solvers.Adam(learning_rate=0.15, beta_square=0.99, tolerance=0.0)
    found = it.solve(
        it.Problem(y, A),
        grid if prior is None else grid + prior,
        solver,
        max_iterations=iterations,
        progress=False,
    ).x
    quality = [
        10 * math.log10(1 / float((B(found) - C(truth)).square().mean()))
        for B, C in ((A, fine[0]), (held, fine[1]))
    ]
    return [
        *quality,
        float((depth(found) - depth(truth)).abs().mean()),
        float(OcclusionPenalty(A, NEAR).energy(found)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), flush=True)
    print(
        f"{'':32}{'3 views':>10}{'held out':>10}{'depth':>10}{'near':>10}   dB, dB, mean error, "
        "thickness in front of the cameras"
    )
    quality = {}
    for name, prior in rows(3 * 3 * math.prod(SIZE)).items():
        began = time.monotonic()
        figures = (
            torch.tensor(
                [run(seed, prior, arguments.iterations) for seed in range(arguments.scenes)]
            )
            .mean(0)
            .tolist()
        )
        quality[name] = figures[1]
        print(
            f"{name:32}{figures[0]:10.2f}{figures[1]:10.2f}{figures[2]:10.3f}{figures[3]:10.3f}"
            f"   {(time.monotonic() - began) / arguments.scenes:.1f} s a scene",
            flush=True,
        )
    gain = quality["TV of both, occlusion penalty"] - quality["none"]
    print(
        f"TV of density and color with the occlusion penalty over none: {gain:.2f} dB",
        verdict(gain >= 5, "5 dB"),
    )


if __name__ == "__main__":
    main()
