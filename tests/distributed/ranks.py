"""The scan of the tests of ranks, and the jobs of two processes, which a test starts once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.ranks import summing_over

SIZE = 16
TV = it.priors.TotalVariation(tolerance=1e-3) + it.priors.NonNegative()


def scan() -> it.operators.ConeBeam:
    """Create a cone beam whose bands of rows overlap by several rows."""
    return it.operators.ConeBeam(
        (SIZE,) * 3,
        torch.arange(10, dtype=torch.float64) * 2 * math.pi / 10,
        (20, 24),
        2.5 * SIZE,
        4.0 * SIZE,
        detector_spacing=1.6,
        detector_shift=(0.3, 2.0),  # the slabs see different numbers of rows
    )


def volume() -> Tensor:
    x = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    x[:, :, 3:13, 4:12, 5:12] = 1.0
    return x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


def measurements(A: it.operators.ConeBeam) -> Tensor:
    y = A(volume())
    return y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))


def mean_of_neighbours(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool3d(x, 3, 1, 1)


def tiled(margin: int = 1) -> it.priors.Tiled:
    return it.priors.Tiled(it.priors.Denoiser(mean_of_neighbours, sigma=0.1), (5, 9, 16), margin)


def answers(A: Any, y: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Compute what ranks and one process must agree on; volumes and rows may be parts."""
    problem = it.Problem(y, A)
    settings: dict[str, Any] = {"progress": False, "check": False, "max_iterations": 3}
    variation = it.solve(problem, TV, "fista", 0.2, **settings)
    dense = it.solve(problem, it.priors.L1(), "fista", 0.2, **settings)
    smooth = it.solve(
        problem,
        tiled(),
        it.solvers.ProximalGradient(step_size=1e-3),
        1.0,
        initial=torch.zeros_like(x),
        **settings,
    )
    return {
        "projection": A(x),
        "back-projection": A.adjoint(y),
        "fdk": A.pseudo_inverse(y),
        "tv": variation.x,
        "l1": dense.x,
        "tiled": smooth.x,
        "history": torch.stack([variation.history["objective"], dense.history["certificate"]]),
    }


def run_rank(rank: int, size: int, meeting: str, folder: str) -> None:
    """Do the jobs as one rank; rank 0 saves the answers of all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    whole = scan()
    A = it.distributed.Slabs(whole)
    y, x = A.share(measurements(whole)).contiguous(), volume()[:, :, A.planes].contiguous()
    with torch.no_grad():
        mine = answers(A, y, x)
    periodic = it.priors.TotalVariation(periodic=True, tolerance=1e-5)
    with summing_over(A.ranks):
        energy = periodic.energy(x)
        mine["periodic"] = periodic.prox(x, 0.2)
    front = A.ranks.shift(x.narrow(2, 0, 1), -1, wraps=True)
    behind = (rank + 1) % size * x.shape[2]
    assert torch.equal(front, volume()[:, :, behind : behind + 1])
    gathered: dict[str, Any] = {"energy": energy, "norm": A.norm()}
    for name, value in mine.items():
        if name == "projection":
            gathered[name] = torch.cat(A.ranks.gather(value), 3)
        elif name == "history":
            gathered[name] = A.ranks.gather(value)
        else:
            gathered[name] = A.gather(value)
    # 3 of 6 iterations, and the set of an older iteration that lacks the file of a rank.
    checkpoint = it.Checkpoint(Path(folder) / "run.ckpt", every=0)
    it.solve(
        it.Problem(y, A), TV, "fista", 0.2, max_iterations=3, checkpoint=checkpoint, progress=False
    )
    try:
        it.solve(
            it.Problem(y, A),
            tiled(margin=9),
            it.solvers.ProximalGradient(step_size=1e-3),
            1.0,
            progress=False,
        )
    except it.InputError as error:
        gathered["thin slabs"] = str(error)
    try:
        it.distributed.Slabs(whole.subset(slice(0, 9 + rank)))
    except it.InputError as error:
        gathered["two scans"] = str(error)
    if rank == 0:
        torch.save(gathered, Path(folder) / "answers.pt")
    dist.destroy_process_group()
