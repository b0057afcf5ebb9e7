"""Chains for priors that are not smooth, by their Moreau-Yosida envelope: MYULA and SK-ROCK."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.solvers.base import missing_density_reason
from invtoolbox.solvers.langevin import (
    LangevinSampler,
    LangevinState,
    largest_curvature,
    smooth_potential,
    takes_envelope,
)


@dataclass(frozen=True)
class MYULA(LangevinSampler):
    r"""``x <- x - t grad U_l(x) + sqrt(2 t) n`` with the Moreau-Yosida envelope of rough priors.

    A prior R that is not smooth (total variation, l1, a constraint) is replaced by its envelope,
    whose gradient is ``(x - prox_{l w R}(x)) / l``. Smooth priors and denoisers enter as in
    `UnadjustedLangevin`. Durmus, Moulines and Pereyra, "Efficient Bayesian computation by proximal
    Markov chain Monte Carlo", SIAM J. Imaging Sci. 11, 2018.

    Two biases remain. The envelope spreads what R confines to a kink or to a border over the length
    ``sqrt(l)``, by default one standard deviation of the noise, and it vanishes with l. A step of
    finite size adds that of `UnadjustedLangevin`: the factor ``1 / (1 - t c / 2)`` of the variance
    along a direction of curvature c of U_l, at most 6/5 at the default step. Smaller values have
    less bias, and need longer chains.

    Args:
        burn_in, bounds, blocks, chains: as in `LangevinSampler`.
        step_size: t; by default ``1 / (3 (L + 1 / l))``.
        smoothing: l; by default ``1 / L``, L the largest curvature of the smooth part of U at the
            start, by a power method on its gradient.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.full((1, 1, 400), 0.6),
    ...     it.operators.Identity((1, 400)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> sampler = MYULA(burn_in=200, max_iterations=1500, smoothing=0.02)
    >>> solution = it.solve(problem, it.priors.NonNegative(), sampler, progress=False)
    >>> 0.64 < float(solution.x.mean()) < 0.69  # 0.71 if l were 0
    True
    """

    smoothing: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "(0, inf)", "smoothing")

    def unsupported_reason(self, objective: Objective) -> str | None:
        name = type(self).__name__
        return super().unsupported_reason(objective) or next(
            (
                reason
                for prior in objective.explicit_priors
                if not takes_envelope(prior)
                and (reason := missing_density_reason(prior, name)) is not None
            ),
            None,
        )

    def potential(
        self, objective: Objective, x: Tensor, smoothing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, slope, discrepancy = smooth_potential(objective, x, leave_out=takes_envelope)
        for weight, prior in objective.terms:
            if takes_envelope(prior):
                # The envelope of w R is min_u w R(u) + |x - u|^2 / (2 l), at u = prox_{l w R}(x).
                u = prior.prox(x, smoothing * weight)
                away = x - u
                slope = slope + away / expand(smoothing, x)
                value = value + item_norm(away).square() / (2 * smoothing)
                if not prior.is_constraint:
                    value = value + weight * prior.energy(u)
        return value, slope, discrepancy

    def choose_step(self, objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
        smooth = self._curvature(objective, x)
        smoothing = self._smoothing(smooth)
        if self.step_size is None:
            return self.default_step(self._stiffest(objective, smooth)), smoothing
        return torch.full_like(smooth, self.step_size), smoothing

    def stiffness(self, objective: Objective, x: Tensor) -> Tensor:
        return self._stiffest(objective, self._curvature(objective, x))

    def _smoothing(self, smooth: Tensor) -> Tensor:
        """Return l for the largest curvature of the smooth part of U, ``(batch,)``."""
        return 1 / smooth if self.smoothing is None else torch.full_like(smooth, self.smoothing)

    def _stiffest(self, objective: Objective, smooth: Tensor) -> Tensor:
        """Return the largest curvature of U_l for that of its smooth part, ``(batch,)``."""
        rough = any(takes_envelope(prior) for prior in objective.explicit_priors)
        return smooth + 1 / self._smoothing(smooth) if rough else smooth

    def default_step(self, stiffest: Tensor) -> Tensor:
        """Return the step for the largest curvature of U_l, ``(batch,)``.

        Args:
            stiffest: bound of the largest curvature, ``(batch,)``.
        """
        return 1 / (3 * stiffest)

    def _curvature(self, objective: Objective, x: Tensor) -> Tensor:
        """Return the largest curvature of the smooth part of U at the start, ``(batch,)``."""
        _, slope, _ = smooth_potential(objective, x, leave_out=takes_envelope)
        return largest_curvature(objective, x, slope, leave_out=takes_envelope)


@dataclass(frozen=True)
class SKROCK(MYULA):
    r"""The stabilized explicit chain with s stages per step, for long steps.

    The stages follow the Chebyshev recursion ``K_1 = x - mu_1 t grad U_l(x + nu_1 q) + k_1 q``,
    ``K_j = nu_j K_(j-1) + (1 - nu_j) K_(j-2) - mu_j t grad U_l(K_(j-1))``, with
    ``q = sqrt(2 t) n``, and are stable for ``t L <= (s - 1/2)^2 (2 - 4/3 eta) - 3/2``, eta = 0.05.
    The priors and their envelope are those of `MYULA`. Pereyra, Vargas Mieles and Zygalakis,
    "Accelerating proximal Markov chain Monte Carlo by using an explicit stabilized method", SIAM J.
    Imaging Sci. 13, 2020, algorithm 3.1.

    A direction of curvature c keeps its variance if t c is well below 1. In stiff directions, whose t c
    is larger, the variance comes out too small, of some of them close to 0 at the longest stable
    steps. At 5 stages and 40 times MYULA's default step the mean squares along the 20 slowest
    directions of a deblurring are those of MYULA to 0.6 %, and the deviation of a pixel is 0.87
    times MYULA's (`benchmarks/chain_speed.py`). The bias of the envelope is that of `MYULA`. A step
    costs s + 1 gradients.

    Args:
        burn_in, bounds, blocks, chains: as in `LangevinSampler`.
        step_size: t; by default the longest stable one, times 0.8.
        smoothing: l, as in `MYULA`.
        stages: s.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.ones(1, 1, 400),
    ...     it.operators.Identity((1, 400)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> prior = it.priors.Gaussian(torch.zeros(1, 400), 0.25)
    >>> solution = it.solve(problem, prior, SKROCK(burn_in=20, max_iterations=400), progress=False)
    >>> round(float(solution.x.mean()), 1)  # exactly 0.5
    0.5
    """

    max_iterations: int = 4000
    burn_in: int = 200
    stages: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[2, inf)", "stages")

    def describe_bias(self, objective: Objective, x: Tensor) -> str:
        return ""  # a long step narrows the stiff directions, as the docstring says

    def default_step(self, stiffest: Tensor) -> Tensor:
        return 0.8 * chebyshev(self.stages).longest / stiffest

    def advance(
        self, objective: Objective, x: Tensor, noise: Tensor, state: LangevinState
    ) -> Tensor:
        method = chebyshev(self.stages)
        smoothing = state.smoothing.repeat_interleave(self.chains)
        t = expand(state.step_size.repeat_interleave(self.chains), x)
        q = (2 * t).sqrt() * noise
        # K_1 = x - mu_1 t grad U(x + nu_1 q) + k_1 q
        _, slope, _ = self.potential(objective, x + method.nu[0] * q, smoothing)
        before, latest = x, x - method.mu[0] * t * slope + method.kappa * q
        for mu, nu in zip(method.mu[1:], method.nu[1:]):
            # K_j = nu_j K_(j-1) + (1 - nu_j) K_(j-2) - mu_j t grad U(K_(j-1))
            _, slope, _ = self.potential(objective, latest, smoothing)
            before, latest = latest, nu * latest + (1 - nu) * before - mu * t * slope
        return latest


@dataclass(frozen=True)
class Chebyshev:
    """Coefficients of the stages of `SKROCK`.

    Attributes:
        mu: factors of the gradients, mu_1 to mu_s.
        nu: nu_1, the factor of the noise in the first gradient, and nu_2 to nu_s.
        kappa: factor of the noise in the first stage, k_1.
        longest: largest stable product of step and curvature.
    """

    mu: tuple[float, ...]
    nu: tuple[float, ...]
    kappa: float
    longest: float


@lru_cache
def chebyshev(stages: int, damping: float = 0.05) -> Chebyshev:
    """Return the coefficients of a number of stages; ``damping`` is eta of the paper.

    >>> round(chebyshev(10).longest)
    173
    """
    s, eta = stages, damping
    start = 1 + eta / s**2
    # Chebyshev polynomials T_j and their derivatives at omega_0 = 1 + eta / s^2.
    T, slope = [1.0, start], [0.0, 1.0]
    for _ in range(2, s + 1):
        slope.append(2 * T[-1] + 2 * start * slope[-1] - slope[-2])
        T.append(2 * start * T[-1] - T[-2])
    rate = T[s] / slope[s]
    mu = [rate / start, *(2 * rate * T[j - 1] / T[j] for j in range(2, s + 1))]
    nu = [s * rate / 2, *(2 * start * T[j - 1] / T[j] for j in range(2, s + 1))]
    longest = (s - 0.5) ** 2 * (2 - 4 / 3 * eta) - 1.5
    return Chebyshev(tuple(mu), tuple(nu), s * rate / start, longest)
