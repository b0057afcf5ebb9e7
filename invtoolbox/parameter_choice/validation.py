"""The default rule: predict measurements that were held out, and leave a white residual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision
from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.held_out import (
    HeldOut,
    accepts,
    has_views,
    held_views,
    hold_out,
    in_norm_of_image,
)
from invtoolbox.parameter_choice.noise import RoughNoise, rough_noise
from invtoolbox.parameter_choice.residual_notes import STRUCTURED, explain
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.parameter_choice.walk import Curve, minimum, walk_over, weight_curve
from invtoolbox.problem import Problem

#: Error of held-out measurements, in units of the estimated noise, above which the model is not right
#: and a score may have several minima. The walks are then repeated: decades above the first weight
#: where they start, because solves are quick there, and number of weights that they pass on either
#: side of the best one.
_DOUBTFUL, _ABOVE, _BEYOND = 1.5, 1.5, 3
#: Number of weights that are passed on either side of the one whose image is the best.
_BOTH = 4
#: Share of the whitest residual if it is white.
_LEAST_SHARE = 0.4
#: Size of the whitest residual of a scan, in units of the noise, above which no weight explains the
#: measurements if it has structure.
_ABOVE_NOISE = 1.02


@dataclass(frozen=True)
class Validation(WeightSearch):
    r"""The weight between the best prediction of held-out measurements and the whitest residual.

    ``log weight = log weight_1 + s max(0, log weight_2 - log weight_1)``, of two minima over the
    weight:

    - weight_1 of the mean squared error of the prediction of measurements that the solution has
      not seen: every sixth view of a scan, or a random sixth of the pixels (cross-validation;
      Stone, J. R. Statist. Soc. B 36, 1974);
    - weight_2 of the whiteness, the logarithm of half the mean square of the power spectrum of the
      residual over the square of its mean, which is 0 for white noise (Almeida & Figueiredo, IEEE
      TIP 22, 2013; Lanza et al., ETNA 53, 2020). The residual of too large a weight holds parts of
      the image, and the residual of too small a weight lacks the frequencies that the image has
      fitted.

    Neither needs the noise level. If the model is right, the first is about the best weight for
    the image, and the second is too large. If it is not (an object that is not made of pixels, a
    blur that is not quite known), small weights fit the error of the model, and the first is too
    small; the second is larger, because the error colors the residual. The whiteness v at weight_2
    tells the two cases apart, since a right model has a weight that leaves a white residual:
    ``s = (v^2 + 0.4 coloured^2) / (v^2 + coloured^2)``, between 0.4 and 1. If the measurements have
    no grid (the rows of a matrix), their order means nothing, and the first decides alone.

    If all priors are squares, views of a scan are predicted in the norm of the image
    (`in_norm_of_image`), in which noise of the image counts as much as other errors.

    If held-out measurements are predicted worse than 1.5 times the noise that `estimate_noise_std`
    finds, the model is wrong beyond the noise, and the scores may have several minima. Both are
    then sought again, from large weights down. Of weights that predict equally well, within one
    standard error, weight_1 is the largest (Breiman et al. 1984), and weight_2 may only raise it.

    The model of a scan is wrong if even the whitest residual has structure (v above 0.1) and
    exceeds the noise (by 2 %). The weight is then the one whose image, of the other views, is
    closest to the filtered back-projection of the held-out views. The noise of that image is
    independent of x, so it adds a constant to the mean squared distance (Hendriksen et al., IEEE
    TCI 6, 2020), and it does not fit the error of the model. But it is blurred, so it serves no
    model that is right.

    For a large 2D scan the weight is found on a grid of half the pixels per axis, from 512 pixels on
    of a quarter, with means of two or four measurements each, if the solver is `FISTA`.

    The weights are tried one after the other in one run of the solver, which goes on from its
    present state, at a loose tolerance; see `Walk`. The last solve, with all measurements, is
    accurate. ``benchmarks/parameter_choice.py`` measures the losses and the operator applications.

    Args:
        coloured: the larger, the less the whitest residual counts; positive.
        seed: seed of the random choice of measurements to hold out.

    Raises:
        InputError: for other data terms than `LeastSquares`, and for priors that no rule can weigh.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> solution = it.solve(
    ...     problem, it.priors.TotalVariation(), regularization=Validation(), progress=False
    ... )
    >>> bool((solution.x - clean).norm() < 0.5 * (problem.y - clean).norm())
    True
    """

    coloured: float = 0.2
    seed: int = 0
    name: ClassVar[str] = "validation"

    def __post_init__(self) -> None:
        check_range(self, "(0, inf)", "coloured")
        self._refuse_separate()

    def choose(self, trials: Trials) -> WeightCurve:
        if not accepts(trials.objective):
            raise InputError(
                f"{self.name!r} is for LeastSquares of one tensor, not for "
                f"{trials.problem.data_term!r}; use 'l-curve', 'quasi-optimality' or a number"
            )
        full_problem, trials = trials.problem, trials.on_coarse_grid()
        # The mean of n measurements has 1 / n of the variance of the noise.
        merged = math.log(full_problem.y0.numel() / trials.problem.y0.numel())
        term = hold_out(trials.problem, self.seed)
        noise = rough_noise(trials.problem)
        white, t_white = self._by_whiteness(trials, noise)
        wrong = trials.every[:0]
        if term.image is not None:
            wrong = self._unexplained(white, noise, trials.problem)
        right = trials.every[~torch.isin(trials.every, wrong)]
        held, chosen = self._by_prediction(trials, term, noise, white, t_white, right)
        if term.image is not None and len(wrong):
            for k, (curve, t) in self._by_images(trials, term, term.image, wrong).items():
                held[k] = white[k] = curve
                chosen[k] = t
        sentences = [
            explain(full_problem, k, _near(white[k], at), _near(held[k], at), merged)
            for k, at in enumerate(chosen.tolist())
        ]
        remarks = tuple(
            Decision(step="residual", item=k, sentence=sentence)
            for k, sentence in enumerate(sentences)
            if sentence
        )
        return weight_curve(self.name, held, chosen, remarks)

    def _by_whiteness(self, trials: Trials, noise: RoughNoise) -> tuple[list[Curve], Tensor]:
        """Return the curves of whiteness, and logarithms of the weights of the whitest residuals."""
        first = self._begin(trials, noise)
        white = walk_over(trials, first, measure_fit)
        return white, torch.stack([minimum(curve, start) for curve, start in zip(white, first)])

    def _by_images(
        self, trials: Trials, term: HeldOut, image: Tensor, places: Tensor
    ) -> dict[int, tuple[Curve, Tensor]]:
        """Return curves of the distance to the image of held-out views, and minima, by place."""
        # That image is noisy, so its noise gives a large weight. From there the walk goes down,
        # since far below the best weight the error of the model makes all weights alike.
        residual = trials.problem.operator(image) - trials.problem.y0
        first = _first(trials, mean_items(residual.square()).sqrt().double())
        held_problem = trials.problem.with_data_term(term)
        curves = walk_over(
            trials, first, _measure_image, held_problem, places, beyond=_BOTH, from_above=True
        )
        return {k: (curves[k], minimum(curves[k], first[k])) for k in places.tolist()}

    def _by_prediction(
        self,
        trials: Trials,
        term: HeldOut,
        noise: RoughNoise,
        white: list[Curve],
        t_white: Tensor,
        places: Tensor,
    ) -> tuple[list[Curve], Tensor]:
        """Return the curves of prediction, and logarithms of the chosen weights.

        Where the model is doubtful, `white` holds the curves of the second walk afterwards.
        """
        held_problem, measure = trials.problem.with_data_term(term), _measure_held_out
        # Squares leave much noise in the image, which views smooth.
        is_squares = all("quadratic" in prior.offers for prior in trials.objective.explicit_priors)
        if is_squares and isinstance(trials.problem.operator, Scan):
            measure = _measure_in_norm_of_image
        held = walk_over(trials, t_white, measure, held_problem, places)
        t_held = torch.stack([minimum(curve, start) for curve, start in zip(held, t_white)])
        # Measurements without a grid (the rows of a matrix) are in no order that could tell, nor are
        # white ones (of a random transform), whose residuals are white for every weight.
        grid = trials.problem.y0.ndim > 3
        tells = (whiteness(trials.problem.y0) > STRUCTURED).tolist()
        shares = [self._share(curve) if grid and told else 0.0 for curve, told in zip(white, tells)]
        share = torch.tensor(shares).to(t_white)
        # Far below the best weight residuals are white as well.
        chosen = t_held + share * (t_white - t_held).clamp_min(0)
        if grid and len(doubtful := self._doubtful(held, noise, trials.problem)):
            above = self._begin(trials, noise) + _ABOVE * math.log(10.0)
            held_again = walk_over(trials, above, measure, held_problem, doubtful, _BEYOND)
            white_again = walk_over(trials, above, measure_fit, None, doubtful, _BEYOND)
            count = sum_items(term.held.expand_as(trials.problem.y0.real).gt(0))
            for k in doubtful.tolist():
                white[k], held[k] = white_again[k], held_again[k]
                low = _largest_within(held[k], float((2 / count[k]) ** 0.5), t_held[k])
                high = minimum(white[k], t_white[k])
                # The error makes the prediction choose too small a weight, never too large.
                chosen[k] = low + self._share(white[k]) * (high - low).clamp_min(0)
        return held, chosen

    def _begin(self, trials: Trials, noise: RoughNoise) -> Tensor:
        """Return the logarithms of the weights of the noise, ``(batch,)``."""
        return _first(trials, torch.where(noise.is_known, noise.std, noise.usual))

    def _share(self, white: Curve) -> float:
        """Return the share of the whitest residual, which grows with the whiteness it has."""
        score = white.score[white.score.isfinite()]
        v = max(0.0, float(score.min())) if len(score) else 0.0
        return (v**2 + _LEAST_SHARE * self.coloured**2) / (v**2 + self.coloured**2)

    def _unexplained(self, white: Sequence[Curve], noise: RoughNoise, problem: Problem) -> Tensor:
        """Return the items whose whitest residual has structure and exceeds the noise."""
        whitest = [c.columns[c.score.nan_to_num(math.inf).argmin()] for c in white if len(c.score)]
        if len(whitest) < len(white):  # the time is over
            return torch.arange(0, device=noise.std.device)
        columns = torch.stack(whitest).to(noise.std)
        is_larger = columns[:, 1] > _log_variance(problem, _ABOVE_NOISE * noise.std)
        return (is_larger & (columns[:, 0] > STRUCTURED)).nonzero().squeeze(1)

    def _doubtful(self, held: Sequence[Curve], noise: RoughNoise, problem: Problem) -> Tensor:
        """Return the items whose held-out measurements are predicted far worse than the noise."""
        least = torch.stack(
            [
                c.columns[:, 1].nan_to_num(math.inf).min()
                if len(c.score)
                else c.score.new_full((), -math.inf)
                for c in held
            ]
        )
        bound = _log_variance(problem, _DOUBTFUL * noise.std)
        return (noise.is_known & (least.to(bound) > bound)).nonzero().squeeze(1)

    def describe(self, objective: Objective) -> str:
        return (
            "validation chooses the weight between the best prediction of held-out measurements and "
            "the whitest residual, which needs no noise level"
        )


def measure_fit(objective: Objective, x: Tensor) -> Tensor:
    """Return the whiteness of the residual, and the logarithm of its mean square, ``(batch, 2)``.

    Two more columns of a blurred picture are those of the residual away from the edges.
    """
    problem, A = objective.problem, objective.problem.operator
    residual = A(x) - problem.y
    weights = getattr(problem.data_term, "weights", None)
    if weights is None:
        weights = torch.ones_like(residual[:1].real)
    columns = _fit(problem, residual, weights)
    if not isinstance(A, Blur):
        return columns
    inner = A.without_edges(residual), A.without_edges(weights.expand_as(residual))
    return torch.cat([columns, _fit(problem, *inner)], 1)


def _fit(problem: Problem, residual: Tensor, weights: Tensor) -> Tensor:
    white = whiteness(_taper(problem, residual) * weights.sqrt() * residual)
    return torch.stack([white, _log_mean_square(residual, weights)], 1)


def _measure_held_out(objective: Objective, x: Tensor) -> Tensor:
    """Return the logarithm of the mean square of the held-out residual, twice, ``(batch, 2)``."""
    problem = objective.problem
    assert isinstance(problem.data_term, HeldOut)
    error = _log_mean_square(problem.operator(x) - problem.y, problem.data_term.held)
    return torch.stack([error, error], 1)


def _measure_in_norm_of_image(objective: Objective, x: Tensor) -> Tensor:
    """Return log mean squares of held-out views in the norm of the image, and of the cells."""
    problem = objective.problem
    assert isinstance(problem.data_term, HeldOut)
    residual, held = problem.operator(x) - problem.y, problem.data_term.held
    filtered = in_norm_of_image(held.sqrt() * residual)
    counted = (held.expand_as(residual) > 0).to(residual)
    counted = torch.cat([counted, counted], -1)  # the filter adds zeros beyond the cells
    scores = [_log_mean_square(filtered, counted), _log_mean_square(residual, held)]
    return torch.stack(scores, 1)


def _measure_image(objective: Objective, x: Tensor) -> Tensor:
    """Return log mean squares of ``x - image`` and of what is held out, and `_fit`, ``(batch, 4)``."""
    problem, term = objective.problem, objective.problem.data_term
    assert isinstance(term, HeldOut) and term.image is not None and term.weights is not None
    residual = problem.operator(x) - problem.y0
    is_fitted = torch.ones(residual.shape[2], dtype=torch.bool, device=residual.device)
    is_fitted[held_views(problem)] = False
    weights = term.weights.expand_as(residual)[:, :, is_fitted]
    fitted = residual[:, :, is_fitted]
    distance = _log_mean_square(x - term.image, torch.ones_like(x[:1]))
    unseen = _log_mean_square(residual, term.held)
    return torch.cat([torch.stack([distance, unseen], 1), _fit(problem, fitted, weights)], 1)


def _log_mean_square(residual: Tensor, weights: Tensor) -> Tensor:
    squares = weights * residual.abs().square()
    tiny = torch.finfo(torch.float64).tiny
    total, count = (
        torch.stack([item.double().sum() for item in tensor])
        for tensor in (squares, weights.expand_as(squares))
    )
    return (total / count.clamp_min(tiny)).clamp_min(tiny).log()


def _taper(problem: Problem, residual: Tensor) -> Tensor:
    """Return a Hann window over the detector of a scan, whose ends see air only, and else 1."""
    window = torch.ones([1] * residual.ndim, dtype=residual.real.dtype, device=residual.device)
    if has_views(problem):
        for axis in range(3, residual.ndim):
            n = residual.shape[axis]
            shape = [1] * (residual.ndim - 1 - axis)
            taper = torch.hann_window(n + 2, periodic=False).to(window)[1:-1]
            window = window * taper.view(n, *shape)
    return window


def whiteness(residual: Tensor) -> Tensor:
    """Return ``log (mean(P^2) / (2 mean(P)^2))``, P the power spectrum, ``(batch,)`` in float64.

    It is about 0 for white noise of any size, and larger for everything else.

    Args:
        residual: ``(batch, channel, *space)``.
    """
    scores = []
    for item in residual:  # the bits of a transform depend on the number of items
        power = torch.fft.fftn(item, dim=tuple(range(1, item.ndim))).abs().square()
        power = power / power.mean().clamp_min(torch.finfo(power.dtype).tiny)
        scores.append((power.double().square().mean() / 2).log())
    return torch.stack(scores)


def _log_variance(problem: Problem, std: Tensor) -> Tensor:
    """Return the logarithm of the mean square of noise of a level of each part, ``(batch,)``."""
    return ((2 if problem.y0.is_complex() else 1) * std.square()).log()


def _first(trials: Trials, noise_std: Tensor) -> Tensor:
    """Return the logarithms of the weights with which the walks begin, ``(batch,)``."""
    # Rounding errors, which depend on the batch, must not reach the walk.
    return trials.centre(noise_std)[:, 0].round(decimals=3)


def _largest_within(curve: Curve, doubt: float, otherwise: Tensor) -> Tensor:
    """Return the largest log weight whose score is within a standard error of the least one.

    Of weights that predict equally well the largest fits the least of what is not understood (the
    one-standard-error rule; Breiman et al., Classification and Regression Trees, 1984). The
    logarithm of a mean of n squares has the standard error ``sqrt(2 / n)``.
    """
    t, score = curve.log_weight, curve.score.nan_to_num(math.inf)
    least = minimum(curve, otherwise)
    if not len(t):
        return least
    best = int(score.argmin())
    bound = score[best] + doubt
    for k in range(best + 1, len(t)):
        if score[k] > bound:  # between two weights the score is taken as linear
            share = (bound - score[k - 1]) / (score[k] - score[k - 1])
            return torch.maximum(least, t[k - 1] + share * (t[k] - t[k - 1]))
    return least


def _near(curve: Curve, place: float) -> list[float]:
    """Return the columns at the judged weight nearest to a place; none if it is a decade away."""
    distance = (curve.log_weight - place).abs()
    if not len(distance) or float(distance.min()) > math.log(10.0):
        return []
    return curve.columns[int(distance.argmin())].tolist()
