"""The unadjusted Langevin algorithm: a chain whose states are draws from the posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.solvers.base import missing_density_reason
from invtoolbox.solvers.langevin import (
    LangevinSampler,
    smooth_potential,
)


@dataclass(frozen=True)
class UnadjustedLangevin(LangevinSampler):
    r"""``x <- x - t grad U(x) + sqrt(2 t) n``, n of standard normal numbers.

    With ``U = D + regularization * sum_i w_i R_i`` the states are draws from a density close to
    ``exp(-U)``, and the solution is their mean. A prior with an energy enters by its gradient. A
    denoiser enters by Tweedie's identity, ``grad R(x) = (x - denoise(x, sigma)) / sigma^2``, which
    makes it PnP-ULA (Laumont, De Bortoli, Almansa, Delon, Durmus and Pereyra, SIAM J. Imaging Sci.
    15, 2022, algorithm 1; with ``bounds``, algorithm 2); sigma is the amount by which the prior
    density is smoothed. A weight that the user leaves out is 1, and that of squares 1.5 times the
    minimizer's. PnP-ULA of photographs is below total variation after a limited time
    (benchmarks/samplers_by_name.py).

    `Solution.posterior` holds mean and standard deviation of all states after the burn-in,
    streamed, and up to ``blocks`` of the states. Certificate: the Monte-Carlo standard error of the
    standard deviation, relative (root mean square over the pixels), estimated from the spread of
    blocks of the chain. It does not include the bias of a step of finite size. Along a direction in
    which U has the curvature L the variance comes out larger by ``1 / (1 - t L / 2)``, by a fifth
    in the stiffest direction at the default step. Nor does it include modes that the chain has not
    visited.

    Args:
        burn_in, bounds, blocks, chains: as in `LangevinSampler`.
        step_size: t; by default ``1 / (3 L)``, L the largest curvature of U at the start, by a
            power method on its gradient.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.ones(1, 1, 400),
    ...     it.operators.Identity((1, 400)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> prior = it.priors.Gaussian(torch.zeros(1, 400), 0.25)
    >>> solution = it.solve(
    ...     problem, prior, UnadjustedLangevin(burn_in=50, max_iterations=1000), progress=False
    ... )
    >>> [
    ...     round(float(value.mean()), 1) for value in (solution.x, solution.posterior.std)
    ... ]  # exactly 0.5 and 0.35
    [0.5, 0.4]
    """

    mark: ClassVar[str] = "by its name alone below total variation on photographs"

    def unsupported_reason(self, objective: Objective) -> str | None:
        return super().unsupported_reason(objective) or next(
            (
                reason
                for prior in objective.explicit_priors
                if (reason := missing_density_reason(prior, "UnadjustedLangevin")) is not None
            ),
            None,
        )

    def potential(
        self, objective: Objective, x: Tensor, smoothing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return smooth_potential(objective, x)

    def choose_step(self, objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.step_size is None:
            step_size = 1 / (3 * self.stiffness(objective, x))
        else:
            step_size = torch.full_like(objective.regularization, self.step_size)
        return step_size, torch.zeros_like(step_size)
