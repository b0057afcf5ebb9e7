"""Rules that minimize a score over the weight, or over several weights.

A line search takes a grid first, then golden sections around its best point, for every item. The
scores are generalized cross-validation and Stein's unbiased estimate of the risk; the compensated
discrepancy principle, which allows for the noise that the image itself fits, is here too.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple
from invtoolbox.parameter_choice.divergence import fits
from invtoolbox.parameter_choice.noise import describe_noise, noise_std_of
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials

#: The fraction of an interval at which golden sections look: ``(3 - sqrt 5) / 2``.
_FRACTION = 0.3819660112501051
#: Number of points by which a grid is continued if the best point lies at its end, and how often.
_FURTHER, _EXTENSIONS = 2, 6

#: ``(positions (k, n), items (n,)) -> values (k, n)``.
Values = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Line:
    """Tried positions, increasing, ``(tried, batch)``.

    An item with fewer positions has infinite ones, with value infinity.
    """

    positions: Tensor
    values: Tensor
    best: Tensor  # (batch,)


def grid(values: Values, centre: Tensor, spacing: float, points: int) -> Line:
    """Return the values of ``points`` positions around ``centre (batch,)``.

    If the least value lies at an end, the grid is continued there. An item continues by itself, so
    its positions do not depend on the other items.
    """
    batch = len(centre)
    every = torch.arange(batch, device=centre.device)
    offsets = spacing * (
        torch.arange(points, dtype=centre.dtype, device=centre.device) - (points - 1) / 2
    )
    t = centre + offsets.unsqueeze(1)
    v = _finite(values(t, every)).to(t.dtype)
    for _ in range(_EXTENSIONS):
        last = t.isfinite().sum(0) - 1
        best = v.argmin(0)
        low, high = best == 0, best == last
        items = (low | high).nonzero().flatten()
        if not len(items):
            break
        steps = spacing * torch.arange(1, _FURTHER + 1, dtype=t.dtype, device=t.device).unsqueeze(1)
        ends = t.gather(0, last.unsqueeze(0)).squeeze(0)
        new = torch.where(low[items], t[0, items] - steps, ends[items] + steps)
        more_t, more_v = (
            torch.full((_FURTHER, batch), torch.inf, dtype=t.dtype, device=t.device)
            for _ in range(2)
        )
        more_t[:, items], more_v[:, items] = new, _finite(values(new, items)).to(t.dtype)
        t, v = _sort(torch.cat([t, more_t]), torch.cat([v, more_v]))
    return Line(t, v, _best(t, v, centre))


def refine(values: Values, line: Line, steps: int) -> Line:
    """Refine the best position of a line by ``steps`` golden sections for every item."""
    t, v = line.positions, line.values
    every = torch.arange(t.shape[1], device=t.device)
    last = t.isfinite().sum(0) - 1
    k = v.argmin(0)
    left, middle, right = (
        t.gather(0, j.unsqueeze(0)).squeeze(0)
        for j in ((k - 1).clamp_min(0), k, torch.minimum(k + 1, last))
    )
    least = v.gather(0, k.unsqueeze(0)).squeeze(0)
    for _ in range(steps):
        down = middle - left > right - middle
        new = torch.where(
            down, middle - _FRACTION * (middle - left), middle + _FRACTION * (right - middle)
        )
        score = _finite(values(new.unsqueeze(0), every)).squeeze(0).to(t.dtype)
        better = score < least
        # The new position becomes the middle if it is better, otherwise an end of the interval.
        left = torch.where(better & ~down, middle, torch.where(~better & down, new, left))
        right = torch.where(better & down, middle, torch.where(~better & ~down, new, right))
        middle, least = torch.where(better, new, middle), torch.where(better, score, least)
        t, v = torch.cat([t, new.unsqueeze(0)]), torch.cat([v, score.unsqueeze(0)])
    t, v = _sort(t, v)
    return Line(t, v, _best(t, v, line.best))


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isnan(), torch.inf, values)


def _best(t: Tensor, v: Tensor, otherwise: Tensor) -> Tensor:
    """Return the position of the least value; ``otherwise`` if none is finite."""
    best = t.gather(0, v.argmin(0, keepdim=True)).squeeze(0)
    return torch.where(v.isfinite().any(0), best, otherwise)


def _sort(t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    order = t.argsort(dim=0, stable=True)
    return t.gather(0, order), v.gather(0, order)


#: Distance between two weights of a grid: half a decade.
_SPACING = 0.5 * math.log(10.0)
#: Number of points along one of several weights, around the best one so far.
_POINTS_EACH = 5


@dataclass(frozen=True)
class ScoreSearch(WeightSearch):
    """Minimizes ``score`` over the logarithm of the weight.

    The search takes a grid of half decades, then golden sections.

    A grid whose best weight lies at an end is continued there, up to six decades. With ``separate``
    every prior of a sum has a weight of its own: all of them are changed together first, and then
    one after the other.

    Args:
        points: number of points of the first grid; 9 are four decades.
        sections: number of golden sections around the best point; 4 leave a bracket of 0.15
            decades.
        separate: find a weight for each prior of the sum, instead of one factor for all of them.
        cycles: number of cycles over the weights, if they are separate.
    """

    points: int = 9
    sections: int = 4
    separate: bool = False
    cycles: int = 2

    def __post_init__(self) -> None:
        check_range(self, "[3, inf)", "points")
        check_range(self, "[0, inf)", "sections")
        check_range(self, "[1, inf)", "cycles")

    @abstractmethod
    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        """Return the score to minimize, shape ``(k, n)``.

        Args:
            trials: solves the problem for given weights.
            log_weight: logarithms of weights, ``(k, n, weights)``.
            items: places of the items in the batch, ``(n,)``.
        """

    def choose(self, trials: Trials) -> WeightCurve:
        number = trials.number
        log_weight = trials.centre()
        direction = torch.ones(number, dtype=log_weight.dtype, device=log_weight.device)
        line = self._along(trials, log_weight, direction, self.points)
        if number == 1:
            positions = log_weight[:, 0] + line.positions
            tried = positions.isfinite()
            return WeightCurve(
                self.name,
                torch.where(tried, positions.exp(), torch.nan).T,
                torch.where(tried, line.values, torch.nan).T,
                (log_weight[:, 0] + line.best).exp(),
            )
        lines = [log_weight + line.positions.unsqueeze(2) * direction]
        scores = [line.values]
        log_weight = log_weight + line.best.unsqueeze(1) * direction
        for direction in torch.eye(number, dtype=log_weight.dtype, device=log_weight.device).repeat(
            self.cycles, 1
        ):
            line = self._along(trials, log_weight, direction, _POINTS_EACH)
            lines.append(log_weight + torch.where(direction > 0, line.positions.unsqueeze(2), 0.0))
            scores.append(line.values)
            log_weight = log_weight + line.best.unsqueeze(1) * direction
        weights, values = torch.cat(lines), torch.cat(scores)
        tried = weights.isfinite().all(2)
        return WeightCurve(
            self.name,
            torch.where(tried.unsqueeze(2), weights.exp(), torch.nan).movedim(0, 1),
            torch.where(tried, values, torch.nan).T,
            log_weight.exp(),
        )

    def _along(self, trials: Trials, base: Tensor, direction: Tensor, points: int) -> Line:
        """Return the line ``base + t * direction``; t is 0 in the middle of its grid."""

        def values(t: Tensor, items: Tensor) -> Tensor:
            try:
                return self.score(trials, base[items] + t.unsqueeze(2) * direction, items)
            except OutOfTime:
                return torch.full_like(t, math.nan)

        return refine(
            values, grid(values, torch.zeros_like(base[:, 0]), _SPACING, points), self.sections
        )


@dataclass(frozen=True)
class GCV(ScoreSearch):
    r"""The weight that minimizes ``(|A x - y|^2 / m) / (1 - df / m)^2``.

    There are m measurements and df degrees of freedom. The score measures the prediction of a
    measurement that was left out (Golub, Heath & Wahba, Technometrics 21, 1979), and needs no noise
    level. For quadratic priors df is the trace of the influence matrix ``A H^-1 A^T W``, estimated
    with random signs (Hutchinson 1989); for others it is the divergence of ``A x(y)``, by
    differences along the same signs (Ramani et al., IEEE TIP 21, 2012). Every solution costs
    ``1 + probes`` solves.

    With `LeastSquares(weights=w)` the score assumes noise with variance ``1 / w``. Noise that is
    correlated between measurements is taken for signal, and the weight comes out too small.

    Args:
        probes: number of random vectors of signs.
        step: step of the differences, in units of the noise; without effect for quadratic priors.
        seed: seed of the probes.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> rule = GCV(sections=0)
    >>> solution = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization=rule, progress=False
    ... )
    >>> bool((solution.x - clean).norm() < 0.5 * (problem.y - clean).norm())
    True
    """

    probes: int = 1
    step: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "gcv"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[1, inf)", "probes")
        check_range(self, "(0, inf]", "step")

    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        fit = fits(trials, log_weight, items, self.probes, self.step, self.seed)
        # A trace of m and more is an error of the estimate: such a solution would fit everything.
        left = (1 - fit.degrees / fit.measured).clamp_min(1e-6)
        return fit.residual / fit.measured / left.square()

    def describe(self, objective: Objective) -> str:
        return "generalized cross-validation chooses the weight, which needs no noise level"


@dataclass(frozen=True)
class SURE(ScoreSearch):
    r"""The weight that minimizes ``|A x - y|^2 - m sigma^2 + 2 sigma^2 div`` (Stein 1981).

    There are m measurements with noise sigma. ``div`` is the divergence of ``A x(y)`` in y, by
    differences along random signs (Monte-Carlo SURE; Ramani, Blu & Unser, IEEE TIP 17, 2008; the
    trace of the influence matrix for quadratic priors). The score estimates, without bias for white
    Gaussian noise, the *predicted* risk ``|A x - A x_true|^2``. It exists for every operator. It
    does not judge the null space of A, and if A damps strongly (deblurring) it prefers a little
    less regularization than the image itself would need. Every solution costs ``1 + probes``
    solves.

    With `LeastSquares(weights=w)` the noise is assumed to have the variance ``sigma^2 / w``.

    Args:
        noise_std: sigma, ``(batch,)`` or a number; by default the data term's, and if it has none,
            `estimate_noise_std` of the measurements.
        probes: number of random vectors of signs.
        step: step of the differences, in units of the noise; without effect for quadratic priors.
        seed: seed of the probes.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A, it.data_terms.LeastSquares(0.1))
    >>> solution = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization=SURE(sections=0), progress=False
    ... )
    >>> bool((solution.x - clean).norm() < 0.5 * (problem.y - clean).norm())
    True
    """

    noise_std: float | Tensor | None = None
    probes: int = 1
    step: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "sure"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[1, inf)", "probes")
        check_range(self, "(0, inf]", "step")

    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        fit = fits(trials, log_weight, items, self.probes, self.step, self.seed)
        variance = noise_std_of(trials.problem, self.noise_std)[items].square()
        return fit.residual / fit.measured - variance + 2 * variance * fit.degrees / fit.measured

    def describe(self, objective: Objective) -> str:
        noise = describe_noise(objective.problem, self.noise_std)
        return f"Stein's unbiased estimate of the predicted risk chooses the weight, with {noise}"


#: Estimated degrees of freedom are limited to this share of the measurements.
_LARGEST_SHARE = 0.95


@dataclass(frozen=True)
class CompensatedDiscrepancy(WeightSearch):
    r"""The weight at which ``|A x - y|^2 = sigma^2 (m - df)``.

    There are m measurements with noise sigma, and the image has df degrees of freedom. The noise
    has the expected size ``sigma^2 m``, but an image with df degrees of freedom fits ``sigma^2 df``
    of it (Wahba, J. R. Statist. Soc. B 45, 1983; Hall & Titterington, J. R. Statist. Soc. B 49,
    1987), so that Morozov's residual is too large and his image too smooth. df is the divergence of
    ``A x(y)`` in y, by differences along random signs as in `SURE`.

    The equation is solved by its fixed point, from the smooth side: the first weight is Morozov's
    (tau = 1), and every round takes df of the previous image, which is smoother and has fewer. So
    the weights decrease in steps, and the target of a round can be reached by the noise alone, for
    every number of measurements. If m is much larger than df, the exact equation depends on the
    draw of the noise and may have no solution but the weight 0. One round takes most of the way and
    is the default.

    Five solves altogether with one round (`DiscrepancyPrinciple` one, `SURE` about 27): Morozov's,
    two for df, the corrected one, and the last with the weight found. On the 20 problems of
    ``benchmarks/parameter_choice.py`` the median loss to the best weight falls from 0.82 dB to 0.15
    dB, the worst from 1.79 to 0.55; with two rounds (eight solves) to 0.11 and 0.32 by
    interpolation.

    Give the noise level: if the image has few degrees of freedom, an estimate that is a few per
    cent too small makes the weight far too low (7.7 dB in the worst of those problems). `SURE` and
    `GCV` do not depend on it like that.

    Args:
        noise_std: sigma, ``(batch,)`` or a number; by default the data term's, and if it has none,
            `estimate_noise_std` of the measurements.
        rounds: number of times that df is computed.
        probes: number of random vectors of signs.
        step: step of the differences, in units of the noise; without effect for quadratic priors.
        seed: seed of the probes.

    Raises:
        InputError: for other data terms than `LeastSquares`, and for priors that no rule can weigh.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A, it.data_terms.LeastSquares(0.1))
    >>> morozov = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization="discrepancy", progress=False
    ... )
    >>> solution = it.solve(
    ...     problem,
    ...     it.priors.TotalVariation(),
    ...     regularization=CompensatedDiscrepancy(),
    ...     progress=False,
    ... )
    >>> bool((solution.x - clean).norm() < (morozov.x - clean).norm())
    True
    """

    noise_std: float | Tensor | None = None
    rounds: int = 1
    probes: int = 1
    step: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "compensated-discrepancy"

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "probes")
        check_range(self, "(0, inf]", "step")
        if self.rounds < 1:
            raise InputError(
                f"rounds must be at least 1, got {self.rounds}; 'discrepancy' is the rule without "
                "any"
            )
        self._refuse_separate()

    def choose(self, trials: Trials) -> WeightCurve:
        if not isinstance(trials.problem.data_term, LeastSquares):
            raise InputError(
                f"{self.name!r} is for LeastSquares, whose noise is white, not for "
                f"{trials.problem.data_term!r}; use 'discrepancy' or a number"
            )
        std = noise_std_of(trials.problem, self.noise_std)
        share = torch.ones_like(std)  # share of the noise that remains in the residual
        weight, error = self._meet(trials, std, share)
        weights, scores = [weight], [error]
        for _ in range(self.rounds):
            if budget().is_spent:
                break
            fit = fits(
                trials, weight.log().view(1, -1, 1), trials.every, self.probes, self.step, self.seed
            )
            degrees_share = (
                (fit.degrees[0] / fit.measured[0]).nan_to_num(0.0).clamp(0.0, _LARGEST_SHARE)
            )
            # Take the smaller of two targets: the weights only decrease.
            share = torch.minimum(share, 1 - degrees_share.to(share))
            lower, error = self._meet(trials, std, share)
            usable = lower.isfinite() & (lower > 0)
            weight = torch.where(usable, torch.minimum(lower, weight), weight)
            weights.append(weight)
            scores[-1] = (
                scores[-1] - share.log()
            ).abs()  # distance of the previous weight from this target
            scores.append(error.abs())
        return WeightCurve(
            self.name,
            torch.stack(weights[::-1], 1),
            torch.stack(scores[::-1], 1).to(weight),
            weight,
        )

    def _meet(self, trials: Trials, std: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights at which the squared residual is ``share`` of the noise's.

        The second tensor is the logarithm of the reached over the wanted value.
        """
        weights, errors = [], []
        for items in trials.split():
            rule = DiscrepancyPrinciple(tau=1.0, noise_std=(std * share.sqrt())[items])
            solution = trials.follow(rule, items)
            problem = trials.problem.select(items)
            discrepancy = problem.data_term.discrepancy(
                problem.operator(solution.x), problem.y
            ).double()
            target = rule.target(trials.objective.select(items)).double()
            weights.append(solution.regularization)
            errors.append(2 * (discrepancy.clamp_min(1e-300) / target).log())
        return torch.cat(weights), torch.cat(errors)

    def describe(self, objective: Objective) -> str:
        level = describe_noise(objective.problem, self.noise_std)
        times = "" if self.rounds == 1 else f" in {self.rounds} rounds"
        return (
            "the discrepancy principle chooses the weight, less the degrees of freedom of the "
            f"image{times}, with {level}"
        )
