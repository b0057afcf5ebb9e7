"""Compare a prior with a simple answer by the noise: Stein's estimate, or simulated measurements."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson
from invtoolbox.jobs.images.decisions.judge import Again, Verdict
from invtoolbox.jobs.images.decisions.k_space import leave_out_samples, predict_gaps
from invtoolbox.jobs.images.decisions.thresholds import (
    CLEARLY,
    COARSE,
    LEAST_GAIN,
    LEAST_GAIN_OF_K_SPACE,
    LEAST_RESIDUAL,
    LOW_NOISE,
    MOVED,
    RISK_SEED,
    RISK_STEP,
    STRUCTURED,
)
from invtoolbox.objective.gaps import interpolate, measured
from invtoolbox.operators.base import expand, inner
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.parameter_choice import SURE
from invtoolbox.parameter_choice.noise import coarseness, correct_level, noise_std_of
from invtoolbox.parameter_choice.residual_notes import COLOURED
from invtoolbox.parameter_choice.validation import whiteness
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.linear_systems import quotient


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
    is_texture, waves = wins, std
    if is_estimated:
        waves = coarseness(y)
        is_texture = waves > COARSE
        wins = is_texture | (residual.sqrt() < LEAST_RESIDUAL * std)
    is_doubted = wins
    risk = torch.zeros_like(residual)
    is_chosen_by_risk = getattr(solution.weight_search, "rule", "") == SURE.name
    if not is_chosen_by_risk and not bool(wins.all()):
        generator = torch.Generator().manual_seed(RISK_SEED)
        signs = torch.randint(2, (1, *y.shape[1:]), generator=generator).to(y) * 2 - 1
        step = expand((RISK_STEP * std).clamp_min(torch.finfo(y.dtype).tiny), y)
        change = again(problem.with_measurements(y + step * signs)) - x
        degrees = inner((change / step).double(), signs.double().expand_as(change))
        risk = residual - std**2 + 2 * std**2 * degrees / count
        wins = wins | (risk > std**2)

    def reason(k: int) -> str:
        level = f"{float(std[k]):.3g}"
        if bool(is_texture[k] & waves[k].isinf()):
            return (
                f"flat parts of the picture have no noise, so the level of {level} is too high: x is "
                "the picture itself; give noise_std if it has noise"
            )
        if bool(is_texture[k]):
            return (
                f"the noise was estimated as {level}, and where the picture is flat its variations "
                "are coarser than white noise, as fine texture is, or the smooth noise of a camera or "
                f"a JPEG: x is the picture itself; give noise_std, for example {level}"
            )
        if bool(is_doubted[k]):
            return (
                f"the noise was estimated as {level}, and the prior takes half of it for texture, as "
                "it does if the noise of a camera or a JPEG is smooth: x is the picture itself; give "
                f"noise_std, for example {level}"
            )
        return (
            f"the prior would change the picture by more than the noise of {level}: x is the picture "
            "itself"
        )

    ranges = torch.stack([item.max() - item.min() for item in y]).double()
    has_structure = whiteness(y - x) > STRUCTURED

    def remark(k: int) -> str:
        level = f"the noise level was estimated as {float(std[k]):.3g}"
        if is_estimated and bool(std[k] < LOW_NOISE * ranges[k]):
            return f"{level}, and fine texture may be taken for noise at such a low level: give noise_std"
        if is_estimated and bool(has_structure[k]):
            return (
                f"{level}, and what the prior removes is not white, so it may be fine texture: give "
                "noise_std"
            )
        return ""

    by_prior = risk.clamp_min(0).sqrt()
    return Verdict(wins, lambda k: y[k : k + 1], reason, by_prior, std, remark)


def compare_by_simulation(problem: Problem, solution: Solution, again: Again) -> Verdict:
    """Compare errors on measurements that are simulated from the answer, whose truth is known.

    With the answer x, the simple answer S, simulated noise n and ``d = R(A x + n) - x`` of another
    solve R, the squared errors are ``|d|^2`` and ``|S A x - x|^2 - |S A d - d|^2 + |S n|^2``. The
    second term is the share of the first that comes from errors of x itself. This is the parametric
    bootstrap with a correction of its bias (Efron and Tibshirani 1993, chapters 6 and 10).

    K-space is simulated from x moved by a few pixels, an odd number, and there the error of S is
    ``|S A x - x|^2 + |S n|^2``. Wavelets on a grid lie elsewhere in the moved image, so that it does
    not consist of few of them only because x does. Held-out samples are predicted as well, because the
    simulation shows no error of x in the gaps.

    Args:
        problem: a blurred picture, counts, or k-space on a grid.
        solution: its solution.
        again: solves another problem in the same way.
    """
    problem = leave_out_samples(problem)
    A: Any = problem.operator
    term, y, x = problem.data_term, problem.y0, solution.x
    is_k_space = isinstance(A, CartesianMRI)
    is_measured = None if is_k_space else measured(problem)

    def to_image(measurements: Tensor) -> Tensor:
        if is_measured is not None:
            measurements = interpolate(measurements, is_measured.expand_as(measurements))
        if isinstance(A, Blur):
            return A.pad(measurements)
        return A.pseudo_inverse(measurements) if is_k_space else measurements

    def simple(measurements: Tensor) -> Tensor:
        if isinstance(term, Poisson):
            return term.fitting_prediction(measurements)
        return to_image(measurements)

    def sizes(image: Tensor) -> Tensor:
        # What lies beyond the edges is no question of the noise.
        image = A.without_edges(image) if isinstance(A, Blur) else image
        return image.abs().square().flatten(1).double().mean(1)

    clean = A(x)
    truth, exact, simulated = x, clean, _simulate(problem, clean)
    if is_k_space:
        truth = x.roll(MOVED, (-2, -1))
        exact = A(truth)
        simulated = exact + (simulated - clean)
    d = again(problem.with_measurements(simulated)) - truth
    by_prior = sizes(d)
    bias = sizes(to_image(exact) - truth)
    if not is_k_space:
        bias = bias - sizes(to_image(A(d)) - d)
    by_simple = bias.clamp_min(0) + sizes(simple(simulated) - to_image(exact))
    name = "the zero-filled image" if is_k_space else "the picture itself"
    left = y - clean if is_measured is None else (y - clean).where(is_measured, 0)
    is_invented = _invents_detail(problem, x, left)
    least_gain = LEAST_GAIN_OF_K_SPACE if is_k_space else LEAST_GAIN
    wins = ~(by_prior <= least_gain * by_simple)
    if bool(wins.any()):
        # An answer that another solve does not find again was not what its weight asks for.
        wins = wins & ~(sizes(again(problem) - x) > by_prior / 4)
    totals = [by_prior, by_simple]
    misfit, is_misfit = _misfit(problem, sizes(to_image(left)), bias)
    is_lost_in_gaps = torch.zeros_like(wins)
    if is_k_space:
        # Errors in the gaps by held-out samples, and errors of the samples by the simulation.
        errors = A(d), A(to_image(simulated)) - exact
        totals = [
            error.abs().square().flatten(1).double().sum(1) + in_gaps
            for error, in_gaps in zip(errors, predict_gaps(problem, again))
        ]
        is_lost_in_gaps = ~(totals[0] <= CLEARLY * totals[1]) & ~wins
        wins = wins & ~(CLEARLY**2 * totals[0] < totals[1])

    def reason(k: int) -> str:
        has_gaps = is_measured is not None and not bool(is_measured[k].all())
        end = f"x is {name}" + has_gaps * ", interpolated where pixels are left out"
        if bool(is_invented[k]):
            return (
                "the prior's answer has fine detail of which the picture shows nothing that is "
                f"coarser, and its residual is not white: {end}"
            )
        if bool(is_misfit[k]):
            return (
                "the noise does not explain the residual of the prior's answer, which errs by "
                f"{_root(misfit[k])} or more: {end}"
            )
        if bool(is_lost_in_gaps[k]):
            by_both = [_root(total[k] / y[0].numel()) for total in totals]
            return (
                f"the prior predicts k-space with held-out samples to {by_both[0]}, and {name} to "
                f"{by_both[1]}: {end}"
            )
        return (
            f"on measurements simulated from the answer, the prior errs by {_root(by_prior[k])} and "
            f"{name} by {_root(by_simple[k])}: {end}"
        )

    wins = wins | is_misfit | is_lost_in_gaps | is_invented
    return Verdict(wins, lambda k: simple(y)[k : k + 1], reason, by_prior.sqrt(), by_simple.sqrt())


def _misfit(problem: Problem, residual: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return a lower bound of the squared error of an answer, and whether it exceeds an estimate.

    ``|A (x - truth)|^2`` is at least what the noise leaves of the residual. The estimate is that of the
    squared error of the blurred picture, if the answer were the truth.

    Args:
        problem: a blurred picture; 0 is returned for others.
        residual: mean square of the residual, ``(batch,)``.
        bias: mean square of the change of the answer by the blur, ``(batch,)``.
    """
    A, term = problem.operator, problem.data_term
    if not isinstance(A, Blur) or not isinstance(term, LeastSquares) or term.weights is not None:
        return torch.zeros_like(residual), torch.zeros_like(residual, dtype=torch.bool)
    # Counts by least squares have more noise than their dark parts show.
    variance = torch.maximum(_noise_level(problem), noise_std_of(problem)) ** 2
    misfit = (residual - variance) / A.norm() ** 2
    return misfit, misfit > bias.clamp_min(0) + variance


def _invents_detail(problem: Problem, x: Tensor, residual: Tensor) -> Tensor:
    """Return where a deblurred picture has detail of which its coarser detail shows nothing, ``(batch,)``.

    The detail that the picture itself lacks is `expected_detail`, and the rest of the answer's is its
    error. So the picture is nearer to the truth if the squared detail exceeds twice the squared
    expectation and the variance of the noise. White residuals are those of points on a smooth ground.
    """
    A: Any = problem.operator
    # A kernel may be larger than a picture that ends where the kernel does.
    if not isinstance(A, Blur) or any(
        k > n for k, n in zip(A.kernel.shape[-2:], residual.shape[-2:])
    ):
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    detail, expected = expected_detail(A, A.crop(x))
    least = 2 * expected.square() + _noise_level(problem) ** 2
    return (whiteness(residual) > COLOURED) & (detail.square() > least)


def expected_detail(A: Blur, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the size of the detail that a blur takes from images, and the size that is expected.

    Detail is ``x - A x``. Repeated blurs take ``A^k x - A^(k + 1) x``, whose sizes fall at the first
    step by a ratio r, and at the second by a ratio s. For smooth images both are about 1. Edges and
    white noise have the power spectra ``f^-3`` and 1, and the ratios that follow for the kernel. The
    expected r is linear in s between these three, and nothing is rougher than white noise.

    Args:
        A: the blur.
        x: images ``(batch, channel, rows, columns)`` in the size of the measurements.

    Returns:
        Two root mean squares away from edges, ``(batch,)``.
    """
    image_shape = (A.domain_shape[0], *x.shape[-2:])
    same = Blur(
        A.kernel, image_shape, "periodic" if A.boundary == "periodic" else "reflect", A.tile
    )
    sizes = []
    for _ in range(3):
        blurred = same(x)
        change = same.without_edges(x - blurred)
        sizes.append(change.square().flatten(1).double().mean(1).sqrt())
        x = blurred
    transfer = same.transfer_function()
    rows, columns = (torch.fft.fftfreq(n, device=x.device).abs() for n in x.shape[-2:])
    frequency = torch.hypot(rows[:, None], columns[: transfer.shape[-1]])
    frequency = frequency.clamp_min(1 / max(x.shape[-2:]))
    ratio = quotient(sizes[1], sizes[2])
    first = second = expected = torch.ones_like(ratio)
    for power in (-3, 0):
        energy = frequency.double() ** power
        steps = [
            (energy * ((1 - transfer).abs() * transfer.abs() ** k).square())
            .flatten(1)
            .sum(1)
            .sqrt()
            for k in range(3)
        ]
        r, s = quotient(steps[0], steps[1]), quotient(steps[1], steps[2])
        slope = quotient((r - first).clamp_min(0), (s - second).clamp_min(1e-3))
        expected = torch.where(ratio >= second, first + slope * (ratio - second), expected)
        first, second = r, s
    expected = torch.where(ratio >= second, first, expected)  # rougher than white noise
    return sizes[0], expected * sizes[1]


def _simulate(problem: Problem, clean: Tensor) -> Tensor:
    """Return measurements with noise like the noise of the problem.

    What the noise does not explain of the residual is added at other places: errors of the operator
    are no white noise. Every item has the same draws.
    """
    y = problem.y0
    if isinstance(problem.data_term, Poisson):
        counts = [
            torch.poisson(rates, generator=torch.Generator().manual_seed(RISK_SEED))
            for rates in problem.data_term.mean(clean).clamp_min(0).double().cpu()
        ]
        return torch.stack(counts).to(y)
    draw = torch.Generator().manual_seed(RISK_SEED)
    white = torch.randn((1, *y.shape[1:]), dtype=y.dtype, generator=draw).to(y.device)
    residual = y - clean
    is_measured = measured(problem)
    if is_measured is not None:  # measurements without a weight leave no residual
        residual = residual.where(is_measured, 0)
    size = residual.abs().square().flatten(1).double().mean(1)
    variance = _noise_level(problem) ** 2
    if y.is_complex():  # real and imaginary part have the variance of the noise each
        white, variance = white * math.sqrt(2), 2 * variance
    if isinstance(problem.operator, CartesianMRI):
        white = white * problem.operator.sampled
    if is_measured is not None:
        size = size * is_measured[0].numel() / is_measured.flatten(1).sum(1)
    shift = [n // 2 for n in y.shape[2:]]
    shifted = residual.roll(shift, tuple(range(2, y.ndim)))
    share = (1 - variance / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_min(0).sqrt()
    return clean + expand(variance.sqrt(), y) * white + expand(share, y) * shifted


def _noise_level(problem: Problem) -> Tensor:
    """Return the noise level by which the weight was chosen, ``(batch,)``.

    A stated level that the measurements contradict is replaced, one that is too small only if no
    texture can be taken for noise, as in a blurred picture.
    """
    level, _ = correct_level(problem, is_reliable=isinstance(problem.operator, Blur))
    return noise_std_of(problem) if level is None else level


def _root(square: Tensor) -> str:
    return f"{float(square.sqrt()):.3g}"
