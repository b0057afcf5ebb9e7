"""Small jobs of every kind on a device, for the tests and for benchmarks/device_jobs.py.

A job is a function of the device and the number of steps that returns a tensor to compare. Its
counts per step are the difference of two runs, so that preparation and ending do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.geometry import Splats, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.loop.capture import CapturedSteps
from invtoolbox.operators import GaussianRenderer, PointWarp, VoxelRenderer
from invtoolbox.priors import CoordinateNetwork, DnCNN, FreeFlow, Gaussians, VoxelGrid
from invtoolbox.training import L2, NoisyPairs, Stage, train
from tests.emulated_cuda import emulate_cuda

Job = Callable[[str, int], Tensor]

#: Number of pixels of an edge; larger for a real GPU.
SIZE = 24
#: Further arguments of every `solve`.
FURTHER: dict[str, Any] = {}


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Choose algorithms whose sums have a fixed order."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def solve(problem: Any, prior: Any, solver: Any, device: str, steps: int, **how: Any) -> Tensor:
    how = {"regularization": 0.05, "seed": 0, "tolerance": 0.0, **FURTHER, **how}
    found = it.solve(
        problem, prior, solver, device=device, max_iterations=steps, progress=False, **how
    )
    # Of an implicit prior, the decoded image may be an object.
    return (
        found.x
        if isinstance(found.x, Tensor)
        else torch.cat([t.flatten(1) for t in found.parameters.values()], 1)
    )


def measured(A: Any, x: Tensor, std: float = 0.5) -> Any:
    return it.Problem(A.simulate(x, std, seed=0), A, it.data_terms.LeastSquares(noise_std=std))


def _fan() -> Any:
    return it.operators.FanBeam(
        (SIZE, SIZE),
        torch.linspace(0, 6, 30),
        2 * SIZE,
        3.0 * SIZE,
        5.0 * SIZE,
        detector_spacing=2.0,
    )


def ct_2d(device: str, steps: int) -> Tensor:
    problem = measured(_fan(), picture(2, 1, SIZE, SIZE))
    return solve(problem, it.priors.TotalVariation(), it.solvers.PDHG(), device, steps)


def ct_fista(device: str, steps: int) -> Tensor:
    problem = measured(_fan(), picture(2, 1, SIZE, SIZE))
    return solve(problem, it.priors.TotalVariation(), it.solvers.FISTA(), device, steps)


def ct_3d(device: str, steps: int) -> Tensor:
    n = SIZE // 2
    A = it.operators.ConeBeam((n, n, n), torch.linspace(0, 6, 12), (2 * n, 2 * n), 4.0 * n, 6.0 * n)
    problem = measured(A, picture(1, 1, n, n, n))
    return solve(problem, it.priors.Tikhonov(), it.solvers.ConjugateGradient(), device, steps)


def blur(device: str, steps: int) -> Tensor:
    kernel = torch.ones(3, 5) / 15
    problem = measured(it.operators.Blur(kernel, (SIZE, SIZE)), picture(2, 1, SIZE, SIZE))
    return solve(problem, it.priors.TotalVariation(), it.solvers.ADMM(), device, steps)


def mri(device: str, steps: int) -> Tensor:
    mask = picture(1, SIZE) > 0.4
    maps = torch.complex(picture(2, SIZE, SIZE, seed=1), picture(2, SIZE, SIZE, seed=2))
    A = it.operators.CartesianMRI(mask, (SIZE, SIZE), maps)
    x = torch.complex(picture(1, 1, SIZE, SIZE), picture(1, 1, SIZE, SIZE, seed=3))
    prior = it.priors.WaveletL1()
    return solve(measured(A, x), prior, it.solvers.ProximalGradient(), device, steps)


def lpn(device: str, steps: int) -> Tensor:
    problem = measured(
        it.operators.Blur(torch.ones(3, 3) / 9, (SIZE, SIZE)), picture(1, 1, SIZE, SIZE)
    )
    prior = it.priors.load("lpn-natural")
    return solve(problem, prior, it.solvers.ADMM(), device, steps, regularization=1.0)


def vble(device: str, steps: int) -> Tensor:
    problem = measured(it.operators.Blur(torch.ones(3, 3) / 9, (32, 32)), picture(1, 1, 32, 32))
    prior = it.priors.load("cae-natural")
    solver = it.solvers.VariationalLatent(number=2)
    return solve(problem, prior, solver, device, steps, regularization="auto")


def sampler(device: str, steps: int) -> Tensor:
    problem = measured(
        it.operators.Inpainting(picture(1, 8, 8) > 0.4, (1, 8, 8)), picture(2, 1, 8, 8)
    )
    solver = it.solvers.UnadjustedLangevin(burn_in=1)
    return solve(problem, it.priors.Tikhonov(), solver, device, steps)


def diffusion(device: str, steps: int) -> Tensor:
    problem = measured(
        it.operators.Inpainting(picture(1, 8, 8) > 0.4, (1, 8, 8)), picture(1, 1, 8, 8)
    )
    row = torch.exp(-(torch.arange(8.0)[:, None] - torch.arange(8.0)[None]).abs() / 3)
    prior = it.priors.Gaussian(torch.full((1, 8, 8), 0.5), 0.01 * torch.kron(row, row))
    solver = it.solvers.DPS(steps=5, at_once=2)
    return solve(problem, prior, solver, device, max(1, steps // 8), regularization="auto")


def _clouds(count: int) -> tuple[Tensor, Tensor]:
    source = 4 * picture(1, count, 3)
    return source, source + torch.tensor([0.1, 0.0, 0.05])


def scene_flow(device: str, steps: int) -> Tensor:
    source, target = _clouds(200)
    problem = it.Problem(target, PointWarp(source), it.data_terms.Chamfer())
    return solve(
        problem, it.priors.NeuralSceneFlow(width=16, depth=3), it.solvers.Adam(), device, steps
    )


def flow_of_points(device: str, steps: int) -> Tensor:
    source, target = _clouds(100)
    problem = it.Problem(target, PointWarp(source), it.data_terms.Chamfer())
    return solve(
        problem, FreeFlow() + 0.1 * it.priors.LocalRigidity(), it.solvers.Adam(), device, steps
    )


@cache
def _street() -> Any:
    return it.simulation.street(sweeps=2, points=3000, seed=0)


def street(device: str, steps: int) -> Tensor:
    first, second = _street()
    found: Tensor = it.scene_flow(first, second, device=device)
    return found


def _ring(count: int = 6) -> Any:
    angle = torch.arange(count) * (2 * math.pi / count)
    centres = torch.stack([4 * angle.cos(), torch.linspace(-1.5, 1.5, count), 4 * angle.sin()], 1)
    return look_at(centres, size=(SIZE, SIZE), field_of_view=40.0)


def voxels(device: str, steps: int) -> Tensor:
    A = VoxelRenderer(_ring(), outputs=("color", "alpha"), background=1.0)
    space = VoxelSpace.box(9, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    places = space.places() / 8 * 2 - 1
    density = torch.where(places.norm(dim=1) < 0.6, 4.0, -8.0)
    y = A(Voxels(density[None], picture(1, len(density), 1, 3) - 0.5, space))
    prior = VoxelGrid(space)
    solver = it.solvers.Adam(learning_rate=0.2, subset_size=200)
    return solve(it.Problem(y, A), prior, solver, device, steps)


def _pictures_of_gaussians() -> tuple[GaussianRenderer, Tensor]:
    A = GaussianRenderer(_ring(), background=1.0)
    points = 0.4 * torch.randn(1, 20, 3, generator=Generator().manual_seed(1))
    return A, A(Splats.of_points(points, picture(1, 20, 3), 0.25, 0.95))


def gaussians(device: str, steps: int) -> Tensor:
    A, y = _pictures_of_gaussians()
    prior = Gaussians.random(200, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), degree=1, degree_every=5)
    solver = it.solvers.Adam(subset_size=1)
    return solve(it.Problem(y, A, it.data_terms.Photometric()), prior, solver, device, steps)


def gaussians_that_split(device: str, steps: int) -> Tensor:
    A, y = _pictures_of_gaussians()
    strategy = it.priors.MCMCStrategy(start=2, every=5, growth=0.3, most=300)
    prior = Gaussians.random(100, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), strategy=strategy)
    solver = it.solvers.Adam(subset_size=1)
    return solve(it.Problem(y, A, it.data_terms.Photometric()), prior, solver, device, steps)


def arap(device: str, steps: int) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).view(-1, 3)
    shape = grid.to(device)
    moved = shape[torch.tensor([0, 3, 60, 63]).to(device)] + torch.tensor([0.0, 0.0, 0.5]).to(
        device
    )
    handles = (torch.tensor([0, 3, 60, 63]), moved)
    deformed: Tensor = it.deform(shape, handles, neighbours=6, max_iterations=steps, tolerance=0.0)
    return deformed


def coordinates(device: str, steps: int) -> Tensor:
    problem = measured(
        it.operators.Blur(torch.ones(3, 3) / 9, (SIZE, SIZE)), picture(1, 1, SIZE, SIZE)
    )
    return solve(problem, CoordinateNetwork(width=16, depth=2), it.solvers.Adam(), device, steps)


def training(device: str, steps: int) -> Tensor:
    pairs = NoisyPairs([picture(1, 1, SIZE, SIZE)], noise_std=0.1, crop=8)
    torch.manual_seed(0)
    network = DnCNN(depth=3, width=8)
    made = train(network, pairs, [Stage(L2(), steps, count=4)], device=device, progress=False)
    return torch.cat([p.detach().flatten() for p in made.network.parameters()])


#: Jobs by their names.
JOBS: dict[str, Job] = {
    "CT, fan beam, TV, PDHG": ct_2d,
    "CT, fan beam, TV, FISTA": ct_fista,
    "CT, cone beam, Tikhonov, CG": ct_3d,
    "deblurring, TV, ADMM": blur,
    "MRI, wavelets, FISTA": mri,
    "deblurring, LPN, ADMM": lpn,
    "deblurring, VBLE": vble,
    "sampling, Langevin": sampler,
    "sampling, DPS": diffusion,
    "scene flow, NSFP": scene_flow,
    "scene flow, rigidity": flow_of_points,
    "scene flow of a street": street,
    "voxels": voxels,
    "Gaussians": gaussians,
    "Gaussians that split": gaussians_that_split,
    "deformation, ARAP": arap,
    "coordinate network": coordinates,
    "training of a denoiser": training,
}
#: Jobs whose results depend on draws, which CUDA's generators make in another way than the CPU's.
DRAWS = {
    "sampling, Langevin",
    "sampling, DPS",
    "training of a denoiser",
    "deblurring, VBLE",
    "voxels",
    "Gaussians",
    "Gaussians that split",
}


def count_per_step(job: Job, first: int, last: int) -> dict[str, float]:
    """Return the counts of an emulated GPU per step between two numbers of steps.

    Args:
        job: job to run.
        first: number of steps of the first run, a multiple of 10.
        last: number of steps of the second run, a multiple of 10.
    """
    totals = []
    for steps in (first, last):
        with emulate_cuda() as tally:
            job("cuda", steps)
        totals.append(tally.totals())
    before, after = totals
    return {name: (after[name] - before[name]) / (last - first) for name in after}


@dataclass(frozen=True)
class Steady:
    """Counts of a run between two steps.

    Attributes:
        counts: counts of the device, as `Tally.totals` returns them.
        places: number of different sets of addresses that the buffers of the state had.
        captured: whether the steps were a graph.
    """

    counts: dict[str, int]
    places: int
    captured: bool


#: Jobs whose steps are counted between the 20th and the 120th, without a reading in between.
STEADY = ("CT, fan beam, TV, FISTA", "Gaussians", "sampling, Langevin")


def count_steady(name: str, first: int = 20, last: int = 120, capture: bool = True) -> Steady:
    """Count the work between two steps of a job whose host reads at the tenth and the last step.

    Args:
        name: a name of `JOBS` that calls `solve`.
        first: number of steps of a shorter run, which is subtracted.
        last: number of steps of the run.
        capture: whether steps are recorded as a graph.
    """
    places: list[tuple[int, ...]] = []
    graphs: list[bool] = []
    step = CapturedSteps.__call__

    def watch(self: CapturedSteps, objective: Any, state: Any) -> Any:
        after = step(self, objective, state)
        own = self.addresses()
        graphs.append(bool(own))
        places.append(own or tuple(leaf.data_ptr() for _, leaf in tree_leaves(after)))
        return after

    totals = []
    with (
        patch.object(CapturedSteps, "__call__", watch),
        patch.dict(FURTHER, {"check_every": last + 1, "capture": capture}),
    ):
        for steps in (first, last):
            places.clear()
            graphs.clear()
            with emulate_cuda() as tally:
                JOBS[name]("cuda", steps)
            totals.append(tally.totals())
    counts = {key: totals[1][key] - totals[0][key] for key in totals[0]}
    return Steady(counts, len(set(places[first:])), bool(graphs) and all(graphs[first:]))
