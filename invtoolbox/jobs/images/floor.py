"""Compare the default answer for a picture with the simple answer, without the truth.

The simple answer to missing pixels is an interpolation, to a noisy or blurred picture and to counts
the picture itself, to a small picture bicubic interpolation, to k-space zero filling, and to a scan
its filtered back-projection. Answers are compared by pixels or views that neither has seen,
denoised pictures by Stein's estimate of the risk, and blurred ones, counts and k-space by simulated
measurements. Numbers here were chosen on the even half of `benchmarks/zoo.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.objective.gaps import interpolate, measured
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.operators.base import Operator, expand, inner
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice import SURE
from invtoolbox.parameter_choice.noise import has_noise_windows, noise_std_of
from invtoolbox.parameter_choice.validation import (
    LEAST_BLOCKS,
    LEAST_MEASUREMENTS,
    ONE_OF,
    quadratic_model,
    separate_generator,
)
from invtoolbox.posteriors.exact import GaussianPosterior
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.base import Solver

#: Largest number of folds of held-out pixels, and number of pixels of which one fold is enough.
_FOLDS, _ENOUGH = 4, 1 << 14
#: Largest number of pixels of a biharmonic interpolation, whose time grows faster than linearly.
_BIHARMONIC = 1 << 18
#: Standard errors of the paired difference by which the prior must win.
_ERRORS = 1.0
#: Standard errors by which the prior must lose to the filtered back-projection.
_VIEW_ERRORS = 2.0
#: An estimated noise level of which the answer leaves less than this share as its residual is
#: doubted: there are hardly any flat parts from which it could come.
_LEAST_RESIDUAL = 0.55
#: Noise relative to the range of a picture (32 dB) below which an estimate needs a remark.
_LOW_NOISE = 10 ** (-32 / 20)
#: Ratio of squared errors (0.7 dB) by which the prior must win on simulated measurements, which
#: suit it too well, because they come from its own answer.
_LEAST_GAIN = 0.85
#: Step of the divergence in units of the noise, and seed of its signs.
_STEP, _SEED = 0.3, 0

#: Solve another problem with the weight and the solver of a solution: ``(problem) -> images``.
Again = Callable[[Problem], Tensor]


class Verdict(NamedTuple):
    """In which items the simple answer is taken, and why.

    Attributes:
        wins: ``(batch,)`` booleans.
        simple: simple answers of these items, by their place in the batch.
        reason: a sentence per item, without the item's number.
        notes: further sentences for the user.
    """

    wins: Tensor
    simple: Callable[[int], Tensor]
    reason: Callable[[int], str]
    notes: tuple[str, ...] = ()


def keep_floor(
    problem: Problem,
    solution: Solution,
    prior: Prior | None,
    solver: Solver | str | None,
    max_iterations: int | None = None,
) -> Solution:
    """Return the solution, with the simple answer in the items in which the prior is no better.

    The solution is returned as it is if no comparison is known, if the user wrote a weight, or if
    the answer was drawn by a sampler. A simple answer has no posterior.

    Args:
        problem: measurements, operator and data term.
        solution: its solution, with ``regularization="auto"``.
        prior: the prior of the solution.
        solver: the solver of the solution.
        max_iterations: largest number of iterations of the solution.
    """
    is_drawn = not isinstance(solution.posterior, GaussianPosterior | None)
    if prior is None or solution.parameters or is_drawn:
        return solution
    terms = prior.as_sum().terms
    kind = _kind(problem)
    if any(term.chosen for term in terms) or kind is None:
        return solution
    valid = torch.tensor([status != "invalid" for status in solution.status])
    problem = problem.without_skipping().to(device=solution.x.device, dtype=solution.x.real.dtype)
    weight = torch.where(valid.to(solution.x.device), solution.regularization, 1)

    def again(changed: Problem) -> Tensor:
        x = inner_solve(
            changed,
            prior,
            solver,
            weight,
            max_iterations=max_iterations,
            seed=solution.seed,
            progress=False,
        ).x
        if budget().is_spent:
            raise OutOfTime
        return x

    known = measured(problem)
    try:
        if kind is Scan:
            verdict = compare_views(problem, again)
        elif kind in (Blur, Poisson, CartesianMRI):
            verdict = compare_by_simulation(problem, solution, again)
        elif kind is Downsampling:
            every = torch.ones_like(problem.y0, dtype=torch.bool)
            verdict = compare_in_gaps(problem, every if known is None else known, again)
        elif known is not None:
            verdict = compare_in_gaps(problem, known, again)
        else:
            verdict = compare_with_measurements(problem, solution, again)
    except OutOfTime:
        late = "the time limit left no time for the comparison with a simple answer"
        return dataclasses.replace(solution, notes=(*solution.notes, late))
    replaced = (verdict.wins.cpu() & valid).nonzero().flatten().tolist()
    notes = solution.notes + verdict.notes
    images = list(solution.x.split(1))
    for k in replaced:
        where = "" if problem.batch == 1 else f" of item {k}"
        images[k] = verdict.simple(k)
        for term in terms:
            if term.prior.is_constraint and "prox" in term.prior.offers:
                images[k] = term.prior.prox(images[k], 1.0)
        # A remark on the residual of an answer that is not returned.
        notes = tuple(note for note in notes if f"the residual{where}," not in note)
        notes += (f"{verdict.reason(k)}{where}; regularization= a number keeps the prior's answer",)
    posterior = solution.posterior
    if replaced and posterior is not None:
        posterior = None
        notes += ("the simple answer has no posterior",)
    return dataclasses.replace(solution, x=torch.cat(images), notes=notes, posterior=posterior)


def compare_with_measurements(problem: Problem, solution: Solution, again: Again) -> Verdict:
    """Compare a denoised picture with the picture itself.

    Stein's unbiased estimate of the risk, ``|x - y|^2 / m - sigma^2 + 2 sigma^2 div x / m``, is
    ``sigma^2`` for the picture (Stein 1981). A weight that minimizes it needs no comparison.

    Args:
        problem: a picture without gaps.
        solution: its solution.
        again: solves another problem in the same way.
    """
    y, x = problem.y0, solution.x
    std = noise_std_of(problem)
    count = y[0].numel()
    residual = (x - y).flatten(1).double().square().mean(1)
    wins = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    is_estimated = getattr(problem.data_term, "noise_std", None) is None
    if is_estimated:
        wins = residual.sqrt() < _LEAST_RESIDUAL * std
    if solution.weight_search is None or solution.weight_search.rule != SURE.name:
        generator = torch.Generator().manual_seed(_SEED)
        signs = torch.randint(2, (1, *y.shape[1:]), generator=generator).to(y) * 2 - 1
        step = expand((_STEP * std).clamp_min(torch.finfo(y.dtype).tiny), y)
        change = again(problem.with_measurements(y + step * signs)) - x
        degrees = inner((change / step).double(), signs.double().expand_as(change))
        wins = wins | (residual - std**2 + 2 * std**2 * degrees / count > std**2)

    def reason(k: int) -> str:
        return (
            f"the prior would change the picture by more than the noise of {float(std[k]):.3g}: x "
            "is the picture itself"
        )

    ranges = torch.stack([item.max() - item.min() for item in y]).double()
    notes: tuple[str, ...] = ()
    if is_estimated and bool((std < _LOW_NOISE * ranges).any()):
        level = float(std[int((std / ranges).argmin())])
        notes = (
            f"the noise level was estimated as {level:.3g}, and fine texture may be taken for noise "
            "at such a low level: give noise_std",
        )
    return Verdict(wins, lambda k: y[k : k + 1], reason, notes)


def compare_in_gaps(problem: Problem, known: Tensor, again: Again) -> Verdict:
    """Predict held-out pixels by the prior and by an interpolation.

    Args:
        problem: a picture with gaps, or a small picture under `Downsampling`.
        known: the pixels that are measured, booleans of the shape of ``y``.
        again: solves another problem in the same way.
    """
    y, A = _pixels(problem), problem.operator
    is_small = isinstance(A, Downsampling)

    def predict(x: Tensor) -> Tensor:
        return A(x) if is_small else x

    def enlarge(image: Tensor) -> Tensor:
        if not is_small:
            return image
        size = problem.image_shape[1:]
        return torch.nn.functional.interpolate(image, size, mode="bicubic", align_corners=False)

    folds = min(_FOLDS, -(-_ENOUGH // y[0].numel()))
    squares = []
    for fold in range(folds):
        held = torch.cat([hold_out_gaps(mask, fold) for mask in known])
        fitted = known & ~held
        x = again(problem.with_data_term(_with_weights(problem, fitted)))
        simple = enlarge(_interpolate_items(y, fitted))
        pair = [held * (predict(z) - y).square() for z in (x, simple)]
        squares.append(torch.stack([*pair, held.to(y)], 1))
    wins, errors = _judge(torch.cat(squares, 2), -_ERRORS)
    name = "a bicubic interpolation" if is_small else "an interpolation of the known pixels"

    def reason(k: int) -> str:
        prior, simple = (float(error[k]) for error in errors)
        return (
            f"{name} predicts held-out ones to {simple:.3g}, and the prior to {prior:.3g}: x is the "
            "interpolation"
        )

    return Verdict(
        wins, lambda k: enlarge(interpolate_smoothly(y[k : k + 1], known[k : k + 1])), reason
    )


def compare_views(problem: Problem, again: Again) -> Verdict:
    """Predict held-out views by the prior and by the filtered back-projection of the others.

    Counts of photons are compared as weighted logarithms.

    Args:
        problem: a scan.
        again: solves another problem in the same way.
    """
    model, _ = quadratic_model(problem)
    is_held = torch.arange(problem.operator.blocks or 0, device=problem.y0.device) % ONE_OF
    is_held = is_held == ONE_OF // 2
    fitted, held = ((is_held == choice).nonzero().squeeze(1) for choice in (False, True))
    some, unseen = (model.subset(views) for views in (fitted, held))

    def invert(scan: Problem) -> Tensor:
        return first_guess(scan.with_data_term(LeastSquares()), inverse=True)

    weights = getattr(unseen.data_term, "weights", None)
    weights = torch.ones_like(unseen.y0) if weights is None else weights.expand_as(unseen.y0)
    pair = [
        weights * (unseen.operator(x) - unseen.y0).square()
        for x in (again(problem.subset(fitted)), invert(some))
    ]
    wins, errors = _judge(torch.stack([*pair, (weights > 0).to(pair[0])], 1), _VIEW_ERRORS)

    def reason(k: int) -> str:
        prior, back_projection = (float(error[k]) for error in errors)
        return (
            "the filtered back-projection predicts held-out views to "
            f"{back_projection:.3g}, and the prior to {prior:.3g}: x is the filtered back-projection"
        )

    return Verdict(wins, lambda k: invert(model.select(held.new_tensor([k]))), reason)


def compare_by_simulation(problem: Problem, solution: Solution, again: Again) -> Verdict:
    """Compare errors on measurements that are simulated from the answer, whose truth is known.

    With the answer x, the simple answer S, simulated noise n and ``d = R(A x + n) - x`` of another
    solve R, the squared errors are ``|d|^2`` and ``|S A x - x|^2 - |S A d - d|^2 + |S n|^2``. The
    second term is the share of the first that comes from errors of x itself. This is the parametric
    bootstrap with a correction of its bias (Efron and Tibshirani 1993, chapters 6 and 10).

    Args:
        problem: a blurred picture, counts, or k-space on a grid.
        solution: its solution.
        again: solves another problem in the same way.
    """
    A: Any = problem.operator
    term, y, x = problem.data_term, problem.y0, solution.x
    is_k_space = isinstance(A, CartesianMRI)

    def to_image(measurements: Tensor) -> Tensor:
        return A.pseudo_inverse(measurements) if is_k_space else measurements

    def simple(measurements: Tensor) -> Tensor:
        if isinstance(term, Poisson):
            return term.fitting_prediction(measurements)
        return to_image(measurements)

    def sizes(image: Tensor) -> Tensor:
        return image.abs().square().flatten(1).double().mean(1)

    clean = A(x)
    simulated = _simulate(problem, clean)
    d = again(problem.with_measurements(simulated)) - x
    by_prior = sizes(d)
    bias = sizes(to_image(clean) - x) - sizes(to_image(A(d)) - d)
    by_simple = bias.clamp_min(0) + sizes(simple(simulated) - to_image(clean))
    name = "the zero-filled image" if is_k_space else "the picture itself"
    wins = ~(by_prior <= _LEAST_GAIN * by_simple)
    if bool(wins.any()):
        # An answer that another solve does not find again was not what its weight asks for.
        wins = wins & ~(sizes(again(problem) - x) > by_prior / 4)

    def reason(k: int) -> str:
        return (
            f"on measurements simulated from the answer, the prior errs by {_root(by_prior[k])} and "
            f"{name} by {_root(by_simple[k])}: x is {name}"
        )

    return Verdict(wins, lambda k: simple(y[k : k + 1]), reason)


def _simulate(problem: Problem, clean: Tensor) -> Tensor:
    """Return measurements with noise like that of the problem.

    What the noise does not explain of the residual is added at other places: errors of the operator
    are no white noise. Every item has the same draws.
    """
    y = problem.y0
    if isinstance(problem.data_term, Poisson):
        counts = [
            torch.poisson(rates, generator=torch.Generator().manual_seed(_SEED))
            for rates in problem.data_term.mean(clean).clamp_min(0).double().cpu()
        ]
        return torch.stack(counts).to(y)
    draw = torch.Generator().manual_seed(_SEED)
    white = torch.randn((1, *y.shape[1:]), dtype=y.dtype, generator=draw).to(y.device)
    residual = y - clean
    size = residual.abs().square().flatten(1).double().mean(1)
    variance = noise_std_of(problem) ** 2
    if y.is_complex():  # real and imaginary part have the variance of the noise each
        white, variance = white * math.sqrt(2), 2 * variance
    if isinstance(problem.operator, CartesianMRI):
        white = white * problem.operator.sampled
        size = size * y.numel() / problem.operator.sampled.expand(y.shape).sum()
    shift = [n // 2 for n in y.shape[2:]]
    moved = residual.roll(shift, tuple(range(2, y.ndim)))
    share = (1 - variance / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_min(0).sqrt()
    return clean + expand(variance.sqrt(), y) * white + expand(share, y) * moved


def _root(square: Tensor) -> str:
    return f"{float(square.sqrt()):.3g}"


def _judge(squares: Tensor, errors: float) -> tuple[Tensor, list[Tensor]]:
    """Return in which items the simple answer wins, and both root mean squares.

    Args:
        squares: squared residuals of the prior and of the simple answer, and what is held out,
            ``(batch, 3, ...)``.
        errors: number of standard errors of the paired difference by which the prior must lose.
    """
    by_prior, by_simple, held = squares.flatten(2).double().unbind(1)
    count = held.sum(1).clamp_min(1)
    loss = (by_prior - by_simple).sum(1) / count
    spread = (held * (by_prior - by_simple - loss[:, None]).square()).sum(1) / count
    wins = ~(loss <= errors * (spread / count).sqrt())  # also if the prior predicts NaN
    return wins, [(s.sum(1) / count).sqrt() for s in (by_prior, by_simple)]


def hold_out_gaps(known: Tensor, seed: int) -> Tensor:
    """Return pixels to hold out whose gaps resemble the real ones, ``(1, channel, *space)``.

    Candidates are a random sixth of the known pixels, and the pattern of gaps moved by a random
    shift, in a third of the blocks. The one is chosen whose distances to the next fitted pixel are
    closest to those of the unknown pixels.

    Args:
        known: booleans ``(channel, *space)``.
        seed: seed of the draws.
    """
    generator = separate_generator(seed)
    first = known.any(0)
    space = first.shape
    scattered = torch.rand(space, generator=generator).to(first.device) < 1 / ONE_OF
    if bool(first.all()):
        return scattered.expand(1, *known.shape) & known
    shift = [int(torch.randint(1, n, (), generator=generator)) if n > 1 else 0 for n in space]
    side = [max(1, n // 8) for n in space]
    blocks = torch.rand([-(-n // s) for n, s in zip(space, side)], generator=generator) < 1 / 3
    for axis, (n, s) in enumerate(zip(space, side)):
        blocks = blocks.repeat_interleave(s, axis).narrow(axis, 0, n)
    moved = ~first.roll(shift, tuple(range(len(space)))) & blocks.to(first.device)
    aim = _mean_distance(~first, first)
    patterns = [
        p & first
        for p in (scattered, moved)
        if bool((p & first).any()) and bool((first & ~p).any())
    ]
    best = min(
        patterns,
        key=lambda p: abs(np.log(_mean_distance(p, first & ~p) / aim)),
        default=scattered & first,
    )
    return best.expand(1, *known.shape) & known


def _mean_distance(of: Tensor, to: Tensor) -> float:
    """Return the mean distance of some pixels to the nearest of others."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(~to.cpu().numpy())
    return float(distance[of.cpu().numpy()].mean())


def interpolate_smoothly(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels by biharmonic interpolation, large images by means of blocks.

    Args:
        image: ``(1, channel, *space)``.
        known: booleans of the same shape.
    """
    if image[0, 0].numel() > _BIHARMONIC or image.ndim != 4:
        return interpolate(image, known)
    channels = []
    for values, mask in zip(image[0].double().cpu().numpy(), known[0].cpu().numpy()):
        scale = float(np.abs(values[mask]).max(initial=0.0)) or 1.0
        channels.append(scale * inpaint_biharmonic(np.where(mask, values / scale, 0), ~mask))
    return torch.as_tensor(np.stack(channels)[None]).to(image)


def _interpolate_items(image: Tensor, known: Tensor) -> Tensor:
    return torch.cat([interpolate_smoothly(*pair) for pair in zip(image.split(1), known.split(1))])


def _kind(problem: Problem) -> type[Operator | DataTerm] | None:
    """Return the kind of operator or misfit whose simple answer is known, None for others."""
    A, y, term = problem.operator, problem.y, problem.data_term
    if not isinstance(y, Tensor) or y[0].numel() < LEAST_MEASUREMENTS:
        return None
    if y.is_complex():
        is_known = isinstance(A, CartesianMRI) and type(term) is LeastSquares
        return CartesianMRI if is_known and not problem.unknown else None
    if isinstance(A, Scan):
        is_known = type(term) in (LeastSquares, PoissonTransmission)
        enough = not problem.unknown and (A.blocks or 0) >= LEAST_BLOCKS
        return Scan if is_known and enough else None
    is_picture = not problem.unknown and A.domain_shape == A.range_shape
    if type(term) is Poisson:
        return Poisson if isinstance(A, (Identity, Blur)) and is_picture else None
    if type(term) is not LeastSquares or not has_noise_windows(y):
        return None
    if isinstance(A, Blur):
        return Blur if is_picture and measured(problem) is None else None
    if isinstance(A, Downsampling):
        return Downsampling if y.ndim == 4 else None
    return Identity if isinstance(A, (Identity, Inpainting)) else None


def _pixels(problem: Problem) -> Tensor:
    """Return the measured pixels, zero where none was measured."""
    A: Any = problem.operator
    return A.pseudo_inverse(problem.y) if isinstance(A, Inpainting) else problem.y0


def _with_weights(problem: Problem, fitted: Tensor) -> LeastSquares:
    term = problem.data_term
    assert isinstance(term, LeastSquares)
    weights = fitted.to(problem.y0)
    if term.weights is not None:
        weights = weights * term.weights.to(weights)
    return LeastSquares(term.noise_std, weights)
