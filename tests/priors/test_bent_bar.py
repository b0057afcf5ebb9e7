"""A bent and twisted bar out of 5 % of its points: rigidity finds the rest to the noise, isometry needs many neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import ARAP, ExplicitPrior, Isometry


def test_a_bent_bar_is_recovered_from_one_point_in_twenty() -> None:
    unit = torch.cartesian_prod(
        *[(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (40, 5, 5)]
    )
    rest = (unit - torch.tensor([0.0, 0.5, 0.5])) * torch.tensor([4.0, 0.5, 0.5])
    turn = torch.pi / 2 * unit[:, 0]
    y, z = (
        turn.cos() * rest[:, 1] - turn.sin() * rest[:, 2],
        turn.sin() * rest[:, 1] + turn.cos() * rest[:, 2],
    )
    radius = 8 / torch.pi
    bent = torch.stack([(radius - z) * turn.sin(), y, radius - (radius - z) * turn.cos()], 1)
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(1000, generator=generator)[:50]
    A = it.operators.ObservedPoints(rest[None], index)
    seen = bent[index] + 0.01 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    problem = it.Problem(A.displacements(seen[None]), A, it.data_terms.LeastSquares(0.01))
    unseen = torch.ones(1000, dtype=torch.bool).index_fill(0, index, False)

    def error(x: Tensor) -> float:
        return float((rest + x[0] - bent).norm(dim=1)[unseen].mean())

    def solved(prior: ExplicitPrior, weight: float) -> float:
        start = it.solve(
            problem,
            ARAP(10),
            it.solvers.LocalGlobal(memory=0),
            regularization=1e4,
            max_iterations=1,
            tolerance=0.0,
            progress=False,
        ).x
        return error(
            it.solve(
                problem,
                prior,
                it.solvers.LocalGlobal(),
                regularization=weight,
                initial=start,
                max_iterations=150,
                tolerance=1e-6,
                progress=False,
            ).x
        )

    none, arap = error(A.pseudo_inverse(problem.y)), solved(ARAP(10, symmetric=True), 1e6)
    few, many = solved(Isometry(5), 1e6), solved(Isometry(20), 1e6)
    assert arap < 0.014 and none > 20 * arap
    assert many < 0.25 * few
