"""Three pictures of a wall and three balls: the gain of the priors of a voxel grid on other views.

    python benchmarks/forward_facing.py [--iterations 300] [--scenes 2] [--threads 1] [--search]

The pictures are taken side by side; held-out views lie in between and beyond. A textured wall and
three textured balls, 28 x 28 pixels, noise of 0.02; cameras turn by -0.22, 0 and 0.22 radians about
the middle of the scene, and the held-out cameras by -0.33, -0.11, 0.11 and 0.33. A grid of 24^3
nodes, Adam, colors independent of the direction. Weights are relative to the mean squared error.
Printed: PSNR of the three pictures and of the held-out ones, the mean error of the held-out depths,
and the mean optical thickness right in front of the cameras.

``--search`` compares weights of the priors of `SEARCHED` next to the occlusion penalty, by the
held-out views of two other scenes (seeds 10 and 11). `WEIGHTS` holds the best ones. "low frequencies first" solves on a grid of 12^3
nodes for the first half of the iterations, and is the counterpart of the frequency annealing of
coordinate networks (FreeNeRF).
"""

from __future__ import annotations

import math
import time

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.priors import (
    DepthSmoothness,
    OcclusionPenalty,
    Prior,
    RaySpread,
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
#: Weights of priors of unseen views from ``--search``, and the weights that it compares.
WEIGHTS = {"smooth depth": 1e-6, "ray entropy": 1e-6, "distortion": 1e-5}
SEARCHED = {
    "smooth depth": (1e-6, 1e-5, 1e-4),
    "ray entropy": (1e-6, 1e-5, 1e-4),
    "distortion": (1e-5, 1e-4, 1e-3),
}
SEARCH_SEEDS = (10, 11)
COARSE = "low frequencies first"
#: Times a weight, the weight is relative to the mean squared error of a value.
ONE = 0.5 * 3 * 3 * math.prod(SIZE)


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


def of_unseen_views(name: str, weight: float) -> Prior:
    """Create a prior of 40 random views without pictures, with a weight relative to the error."""
    g = torch.Generator().manual_seed(99)
    unseen = cameras(
        0.8 * torch.rand(40, generator=g) - 0.4, 0.2 * torch.rand(40, generator=g) - 0.1
    )
    if name == "smooth depth":
        depths = it.operators.VoxelRenderer(unseen, outputs=("depth",), block=7)
        return ONE * weight * ThroughOperator(DepthSmoothness(), depths, subset_size=48)
    spread = "entropy" if name == "ray entropy" else "distortion"
    rays = it.operators.VoxelRenderer(unseen, outputs=("alpha", spread))
    return ONE * weight * ThroughOperator(RaySpread(), rays, subset_size=48 * 49)


def rows() -> dict[str, Prior | None]:
    """List priors with weights."""
    A = it.operators.VoxelRenderer(cameras(SEEN))
    density, color = (ONE * VoxelVariation(of) for of in ("density", "color"))  # type: ignore[arg-type]
    nothing_near = ONE * OcclusionPenalty(A, NEAR)
    unseen = {name: of_unseen_views(name, weight) for name, weight in WEIGHTS.items()}
    return {
        "none": None,
        "TV of density": 1e-3 * density,
        "TV of density and color": 1e-3 * density + 1e-3 * color,
        "sparsity of density": ONE * 1e-2 * VoxelSparsity(),
        **{f"{name} of unseen views": prior for name, prior in unseen.items()},
        COARSE: None,
        "occlusion penalty": 1e-2 * nothing_near,
        **{
            f"{name}, occlusion penalty": prior + 1e-2 * nothing_near
            for name, prior in unseen.items()
        },
        f"{COARSE}, occlusion penalty": 1e-2 * nothing_near,
        "TV of both, occlusion penalty": 1e-3 * density + 1e-3 * color + 1e-2 * nothing_near,
    }


def run(seed: int, prior: Prior | None, iterations: int, coarse: bool = False) -> list[float]:
    truth = scene(seed)
    A, held = (
        it.operators.VoxelRenderer(cameras(turns), step=0.09, stop=1e-3, least_alpha=1e-4)
        for turns in (SEEN, HELD)
    )
    depth = it.operators.VoxelRenderer(cameras(HELD), outputs=("depth",))
    fine = [it.operators.VoxelRenderer(cameras(turns)) for turns in (SEEN, HELD)]
    clean = fine[0](truth)
    y = clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    solver = it.solvers.Adam(learning_rate=0.15, beta_square=0.99, tolerance=0.0)

    stages = [(12, iterations // 2), (24, iterations - iterations // 2)]
    grid, start = VoxelGrid(VoxelSpace.box(12 if coarse else 24, LOW, HIGH), alpha=0.02), None
    for nodes, count in stages if coarse else [(24, iterations)]:
        if start is not None:
            grid, start = grid.refine(start, nodes, least_alpha=0.0)
        solution = it.solve(
            it.Problem(y, A),
            grid if prior is None else grid + prior,
            solver,
            initial=start,
            max_iterations=count,
            progress=False,
        )
        found, start = solution.x, solution.parameters
    quality = [
        10 * math.log10(1 / float((B(found) - C(truth)).square().mean()))
        for B, C in ((A, fine[0]), (held, fine[1]))
    ]
    return [
        *quality,
        float((depth(found) - depth(truth)).abs().mean()),
        float(OcclusionPenalty(A, NEAR).energy(found)),
    ]


def main(iterations: int = 300, scenes: int = 2, threads: int = 1, search_: bool = False) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    if search_:
        search(iterations)
        return
    print(
        f"{'':40}{'3 views':>10}{'held out':>10}{'depth':>10}{'near':>10}   dB, dB, mean error, "
        "thickness in front of the cameras"
    )
    quality = {}
    for name, prior in rows().items():
        began = time.monotonic()
        figures = (
            torch.tensor(
                [run(seed, prior, iterations, name.startswith(COARSE)) for seed in range(scenes)]
            )
            .mean(0)
            .tolist()
        )
        quality[name] = figures[1]
        print(
            f"{name:40}{figures[0]:10.2f}{figures[1]:10.2f}{figures[2]:10.3f}{figures[3]:10.3f}"
            f"   {(time.monotonic() - began) / scenes:.1f} s a scene",
            flush=True,
        )
    gain = quality["TV of both, occlusion penalty"] - quality["none"]
    print(
        f"TV of density and color with the occlusion penalty over none: {gain:.2f} dB",
        verdict(gain >= 5, "5 dB"),
    )
    for name in (*(f"{name} of unseen views" for name in WEIGHTS), COARSE):
        gain = quality[name] - quality["none"]
        print(f"{name} over none: {gain:+.2f} dB", verdict(gain >= 0.5, "0.5 dB"))
    for name in (*WEIGHTS, COARSE):
        gain = quality[f"{name}, occlusion penalty"] - quality["occlusion penalty"]
        print(f"{name} over the occlusion penalty alone: {gain:+.2f} dB")


def search(iterations: int) -> None:
    """Print the PSNR of the held-out views of other scenes for several weights.

    The occlusion penalty is on, because fog right in front of the cameras makes depths meaningless.
    """
    nothing_near = 1e-2 * ONE * OcclusionPenalty(it.operators.VoxelRenderer(cameras(SEEN)), NEAR)
    tried = [("none", 0.0), *((name, w) for name, some in SEARCHED.items() for w in some)]
    for name, weight in tried:
        prior = nothing_near + of_unseen_views(name, weight) if weight else nothing_near
        found = [run(seed, prior, iterations)[1] for seed in SEARCH_SEEDS]
        print(f"{name} {weight:g}: {sum(found) / len(found):.2f} dB", flush=True)


if __name__ == "__main__":
    run_script(main)
