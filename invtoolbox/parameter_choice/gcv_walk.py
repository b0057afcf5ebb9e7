"""Generalized cross-validation along one walk over the weights: the default rule for k-space."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.core.reductions import sum_items
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.divergence import (
    check_white_noise,
    number_of,
    probe_size,
    random_signs,
    root_weights,
)
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.parameter_choice.walk import (
    DECADES,
    LONGEST,
    LOOSEN,
    PATIENCE,
    Walk,
    curves_of,
    minimum,
    weight_curve,
)

#: Share of the degrees of freedom above which the score is a quotient of two rounding errors.
_LARGEST_SHARE = 0.97


@dataclass(frozen=True)
class GCVWalk(WeightSearch):
    r"""The weight that minimizes ``(|A x - y|^2 / m) / (1 - df / m)^2``, found in one run.

    The score is that of `GCV`, which explains it. There every weight costs two solves from the
    beginning. Here y and ``y + h b``, with random signs b, are two items of one run of the solver,
    which goes on from its present state from large weights to smaller ones (`Walk`). Both are
    judged at the same iteration, so that the difference of their predictions is the derivative of
    one and the same map, whether it has converged or not (Deledalle et al., SIAM J. Imaging Sci. 7,
    2014).

    It is the default for k-space. Its outermost samples hold edges in addition to noise, so the
    noise level is overestimated; neighbouring samples do not predict each other. This score needs
    neither. It judges the samples that were taken, and the weight that suits these also suits the
    image (``benchmarks/mri_one_liner.py``).

    Args:
        above: decades between the weight of the noise and the first weight.
        beyond: number of weights on either side of the best one that are tried.
        step: size of the change of the measurements, in units of the noise.
        seed: seed of the signs.

    Raises:
        InputError: for other data terms than `LeastSquares`, and for priors that no rule can weigh.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32, dtype=torch.complex64)
    >>> clean[..., 8:24, 8:24] = 1
    >>> mask = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.6
    >>> A = it.operators.CartesianMRI(mask, (32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization=GCVWalk(), progress=False
    ... )
    >>> bool((solution.x - clean).norm() < 0.5 * (A.pseudo_inverse(problem.y) - clean).norm())
    True
    """

    above: float = 1.25
    beyond: int = 2
    step: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "gcv-walk"

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "step")
        check_range(self, "[0, inf)", "above")
        check_range(self, "[1, inf)", "beyond")
        self._refuse_separate()

    def choose(self, trials: Trials) -> WeightCurve:
        check_white_noise(trials.problem)
        # Rounding errors, which depend on the batch, must not reach the walk.
        first = trials.centre()[:, 0].round(decimals=3) + self.above * math.log(10.0)
        judged: list[tuple[Tensor, Tensor, Tensor]] = []
        for items in trials.split():
            walk = _PairedWalk(
                first[items].repeat(2),
                torch.cat([items, items + trials.batch]),
                _score,
                trials.coarse(LOOSEN * trials.tolerance),
                min(trials.max_iterations, PATIENCE),
                DECADES * math.log(10.0),
                beyond=self.beyond,
                from_above=True,
                judged=judged,
                batch=trials.batch,
            )
            with suppress(OutOfTime):
                self._follow(trials, walk, items)
        curves = curves_of(judged, first)
        chosen = torch.stack([minimum(curve, start) for curve, start in zip(curves, first)])
        return weight_curve(self.name, curves, chosen)

    def _follow(self, trials: Trials, walk: Walk, items: Tensor) -> Any:
        """Run the walk for some items, each followed by itself with changed measurements."""
        twice = items.repeat(2)
        problem, priors = trials.problem.select(twice), trials.objective.prior.unbind()
        root = root_weights(problem)
        signs = random_signs(problem.y0, self.seed)
        shift = expand(probe_size(trials, self.step)[items], signs) * torch.where(
            root[: len(items)] > 0,
            signs / root[: len(items)].clamp_min(torch.finfo(root.dtype).tiny),
            torch.zeros_like(signs),
        )
        y = torch.cat([problem.y0[: len(items)], problem.y0[len(items) :] + shift])
        return trials.attempt(
            problem.with_measurements(y), priors.select(twice), walk, twice, LONGEST
        )

    def describe(self, objective: Objective) -> str:
        return (
            "generalized cross-validation chooses the weight along one walk, which needs no noise "
            "level"
        )


@dataclass(frozen=True)
class _PairedWalk(Walk):
    """Walk of items 0 to n - 1 and of items n to 2 n - 1, their copies; pairs stay together.

    Args:
        batch: number n of items of the search.
    """

    batch: int = 0

    def join(self, item: Tensor, ready: Tensor) -> Tensor:
        # A copy that has diverged and left the batch stops the judgement of its pair.
        is_pair = (item.unsqueeze(1) + self.batch) % (2 * self.batch) == item
        return ready & (is_pair & ready).any(1)


def _score(objective: Objective, x: Tensor) -> Tensor:
    """Return the logarithm of the score of pairs, df / m and the logarithm of the misfit, per item.

    The first half of the items has the measurements, and the second half the changed ones.
    """
    problem = objective.problem
    half = len(x) // 2
    prediction, y = problem.operator(x), problem.y0
    root = root_weights(problem)
    weights = root.square()[: half if len(root) > 1 else 1]
    shift, change = y[half:] - y[:half], prediction[half:] - prediction[:half]
    size = sum_items((weights * shift.abs().square()).double())
    # size = h^2 m, so this is div(A x) / m in the direction of the signs.
    share = sum_items((weights * (change * shift.conj()).real).double()) / size
    misfit = sum_items((weights * (prediction - y)[:half].abs().square()).double())
    tiny = torch.finfo(torch.float64).tiny
    log_misfit = (misfit / number_of(problem)[:half]).clamp_min(tiny).log()
    left = (1 - share).clamp_min(1 - _LARGEST_SHARE)
    score = torch.where(share <= _LARGEST_SHARE, log_misfit - 2 * left.log(), torch.inf)
    return torch.stack([score, share, log_misfit], 1).repeat(2, 1)
