"""The noise level of measurements, estimated from the measurements alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items
from invtoolbox.data_terms.base import MEDIAN_OF_MODULUS
from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator
from invtoolbox.problem import Problem

#: The orthonormal polynomials of degree 0 to 3 on four points; degree 3 is the third difference.
_POLYNOMIALS: tuple[tuple[float, ...], ...] = tuple(
    tuple(tap * sum(t * t for t in taps) ** -0.5 for tap in taps)
    for taps in ((1, 1, 1, 1), (-3, -1, 1, 3), (1, -1, -1, 1), (-1, 3, -3, 1))
)
#: Degrees along each axis that distinguish a flat window from one with an edge; the degree of the
#: noise is not among them.
_SHAPES = {1: ((1,), (2,)), 2: ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))}
#: Degrees of waves that are coarser than the noise that is measured, of degree 3 along both axes.
_COARSER = ((2, 2), (1, 3), (3, 1))
#: Number of strata of intensity, and the fraction of flattest windows per stratum, for pictures and
#: for other measurements.
_PICTURE, _OTHER = (1, 0.25), (4, 0.1)
#: A stated level is contradicted by an estimate that is larger, or smaller, by these factors.
_TOO_SMALL, _TOO_LARGE = 1.2, 1.25
_LEAST_WINDOWS = 256  # per stratum
#: With fewer windows that have all their measurements, an item has no estimate.
_FEWEST_WINDOWS = 64
#: Lower bound of estimated noise, as a fraction of the measurements: no rule can work with a level
#: of 0.
LEAST_NOISE = 1e-4
#: Noise as a fraction of the measurements, if it is not known.
USUAL_NOISE = 0.02


def estimate_noise_std(
    y: Tensor, operator: Operator | None = None, weights: Tensor | None = None
) -> Tensor:
    r"""Estimate the standard deviation of white Gaussian noise in ``y (batch, channel, *space)``.

    Returns ``(batch,)``, ``median(|H y|) / 0.6745`` over flat windows of 4 by 4 measurements. H is
    the third difference along both of the last axes (along one axis if there is one, or if the
    other is too short), of norm 1 (after Donoho & Johnstone 1994; Immerkaer 1996). A window is flat
    if its slopes and curvatures are small; these are orthogonal to H, so for white noise the choice
    does not depend on the measured noise.

    - A picture (the measurements lie on the grid of the image, as for denoising, blur and
      inpainting): the flattest quarter of the windows.
    - Other measurements (a sinogram): the flattest tenth in each quarter of intensities, and the
      root mean square of the four levels: behind an object there are fewer photons and more noise
      than next to it.

    Kinds of measurements whose neighbours are not alike have a method of their own
    (`Operator.estimate_noise_std`): the noise of k-space is that of its outermost samples.

    Windows that are exactly constant (saturated, clipped) are left out. Complex values count as two
    real ones, so the result applies to their real and to their imaginary part.

    Limits: noise that is correlated between neighbours (measurements that were interpolated,
    rebinned or compressed) is underestimated. Fine texture is taken for noise, as are the pixels of
    an image from which a sinogram was simulated. Bias and spread over pictures and draws, from
    ``benchmarks/parameter_choice.py --noise``: blurred 128x128 pictures +3 % (4 %) at noise 0.003,
    0 % (3 %) at 0.01 and more; sharp ones +11 % (7 %) at 0.01, +3 % (4 %) at 0.02; simulated
    sinograms +7 % (5 %) at 2 % noise, +3 % (4 %) at 5 %, but +20 % at 1 % and more below.

    Args:
        y: the measurements.
        operator: distinguishes a picture from other measurements, and defines the pixels that an
            inpainting mask hides.
        weights: measurements of weight 0 are left out. If they leave fewer than 64 windows of 4 by
            4, windows of 4 measurements in a row are used.

    Raises:
        InputError: if the measurements are a tuple, have fewer than five samples per row, or if
            their gaps leave too few windows.

    >>> clean = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    >>> noisy = clean + 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> round(float(estimate_noise_std(noisy)), 2)
    0.1
    """
    levels = estimate_or_nan(y, operator, weights)
    if bool(levels.isnan().any()):
        which = "" if len(levels) == 1 else f" of item {int(levels.isnan().nonzero()[0])}"
        raise InputError(
            f"the noise level of the measurements{which} cannot be estimated, because hardly any "
            f"{len(_POLYNOMIALS)} neighbouring measurements in a row have a weight; give it with "
            "LeastSquares(noise_std=...)"
        )
    return levels


def estimate_or_nan(
    y: Tensor, operator: Operator | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return `estimate_noise_std`, with NaN for items that have too few neighbours.

    The arguments are those of `estimate_noise_std`.
    """
    if isinstance(y, (tuple, list)):
        raise InputError(
            "the noise level of stacked measurements cannot be estimated; give each data term its "
            "noise_std"
        )
    estimate = None if operator is None else operator.estimate_noise_std(y, weights)
    if estimate is not None:
        return estimate
    picture = y.ndim >= 4 and (
        operator is None or tuple(operator.domain_shape[1:]) == tuple(y.shape[2:])
    )
    values = torch.view_as_real(y).movedim(-1, 1).flatten(1, 2) if y.is_complex() else y
    width = len(_POLYNOMIALS[0])
    if values.ndim < 3 or values.shape[-1] <= width:
        raise InputError(
            f"the noise level cannot be estimated from measurements of shape {tuple(y.shape)}; "
            "give it with LeastSquares(noise_std=...)"
        )
    axes = tuple(k for k in (values.ndim - 2, values.ndim - 1) if k > 1 and values.shape[k] > width)
    used = _select_used(y, operator, weights).expand(len(values), *[-1] * (values.ndim - 1))
    strata = _PICTURE if picture else _OTHER
    levels = _levels(values, used, axes, *strata)
    if len(axes) == 2 and bool(levels.isnan().any()):
        # Among scattered gaps there may be rows and columns of four, though no squares.
        lines = torch.stack([_levels(values, used, (axis,), *strata) for axis in axes])
        levels = torch.where(levels.isnan(), lines.square().nanmean(0).sqrt(), levels)
    return levels


def coarseness(y: Tensor) -> Tensor:
    """Return the size of coarser waves in flat windows, relative to the waves of the noise estimate.

    It is 1 for white noise, mostly 1.25 and more for texture, whose spectrum falls with the frequency,
    infinite for pictures without noise, and 1 for few rows. Of the directions of waves the one with the least counts,
    since fine stripes are added to noise in one direction only.

    Args:
        y: pictures ``(batch, channel, *space)`` without gaps, with more than four columns.

    Returns:
        The ratio, ``(batch,)`` in float64.

    >>> white = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> smooth = white + white.roll(1, -1) + white.roll(1, -2) + white.roll((1, 1), (-1, -2))
    >>> bool(coarseness(white) < 1.1), bool(coarseness(smooth) > 1.5)
    (True, True)
    """
    axes = (y.ndim - 2, y.ndim - 1)
    if y.shape[-2] < len(_POLYNOMIALS[0]):
        return torch.ones(len(y), dtype=torch.float64, device=y.device)
    fine = _component(y, axes, (3, 3))
    rough = _roughness(y, axes)
    coarse = [_component(y, axes, degrees) for degrees in _COARSER]
    ratios = []
    for k, (h, r) in enumerate(zip(fine, rough)):
        varied = (r > 0) | (h != 0)
        count = min(int(varied.sum()), max(_LEAST_WINDOWS, round(_PICTURE[1] * int(varied.sum()))))
        if not count:
            ratios.append(fine.new_full((), torch.inf).double())
            continue
        flat = varied & (r <= r[varied].kthvalue(count).values)
        sizes = torch.stack([c[k][flat].abs().median().double() for c in (fine, *coarse)])
        ratios.append(torch.where(sizes[0] > 0, sizes[1:].min() / sizes[0], torch.inf))
    return torch.stack(ratios)


def has_noise_windows(y: Tensor) -> bool:
    """Return whether measurements are pictures or volumes with rows long enough for an estimate."""
    return y.ndim in (4, 5) and y.shape[-1] > len(_POLYNOMIALS[0])


def _levels(
    values: Tensor, used: Tensor, axes: tuple[int, ...], strata: int, fraction: float
) -> Tensor:
    """Return the noise level from windows along some axes, NaN for items with too few windows."""
    for axis in axes:
        used = _window(used, axis, len(_POLYNOMIALS[0]))
    high = _component(values, axes, (3,) * len(axes))
    rough = _roughness(values, axes)
    level = _component(values, axes, (0,) * len(axes)).abs_()
    used = used.expand_as(high)
    varied = used & ((rough > 0) | (high != 0))
    return torch.stack(
        [
            _level(h[k], r[k], v[k], strata, fraction)
            if int(windows.sum()) >= min(_FEWEST_WINDOWS, windows.numel())
            else h.new_full((), torch.nan)
            for h, r, v, k, windows in zip(high, rough, level, varied, used)
        ]
    )


def _level(high: Tensor, rough: Tensor, level: Tensor, strata: int, fraction: float) -> Tensor:
    """Return the noise of one item from its windows.

    It is the root mean square of the flattest windows over strata of intensity.
    """
    if not high.numel():
        return high.new_zeros(())
    squares = []
    for stratum in level.argsort(stable=True).chunk(strata) if strata > 1 else (slice(None),):
        h, r = high[stratum], rough[stratum]
        count = min(len(h), max(_LEAST_WINDOWS, round(fraction * len(h))))
        flat = r <= r.kthvalue(count).values
        squares.append((h[flat].abs().median() / MEDIAN_OF_MODULUS).square())
    return torch.stack(squares).mean().sqrt()


def _roughness(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the sum of squares of slopes and curvatures in every window."""
    first, *others = _SHAPES[len(axes)]
    rough = _component(values, axes, first).square_()
    for degrees in others:  # one by one, as scans are large
        rough.add_(_component(values, axes, degrees).square_())
    return rough


def _component(values: Tensor, axes: tuple[int, ...], degrees: tuple[int, ...]) -> Tensor:
    """Return the coefficient of a product of polynomials in every window."""
    for axis, degree in zip(axes, degrees):
        values = _filter(values, axis, _POLYNOMIALS[degree])
    return values


class RoughNoise(NamedTuple):
    """Estimated noise levels, whatever the data term states, ``(batch,)`` in float64 each."""

    std: Tensor  # NaN if there is no estimate
    usual: Tensor  # a guess in its place
    is_known: Tensor


def rough_noise(problem: Problem) -> RoughNoise:
    """Return an estimate of the noise level of every item, and a guess if there is none."""
    size = mean_items(problem.y0.abs().square()).sqrt().double()
    size = torch.where(size > 0, size, torch.ones_like(size))
    try:
        std = estimate_or_nan(
            problem.y0, problem.operator, getattr(problem.data_term, "weights", None)
        ).double()
    except InputError:
        std = torch.full_like(size, math.nan)
    std = torch.maximum(std, LEAST_NOISE * size)
    return RoughNoise(std, USUAL_NOISE * size, ~std.isnan())


def noise_std_of(problem: Problem, given: float | Tensor | None = None) -> Tensor:
    """Return the noise level of a problem, ``(batch,)`` in float64.

    It is the given level, the data term's, an estimate, or 2 % of the measurements if their gaps
    leave too few neighbours for an estimate.
    """
    y = problem.y0
    stated = given if given is not None else getattr(problem.data_term, "noise_std", None)
    if stated is not None:
        return torch.as_tensor(stated, dtype=torch.float64, device=y.device).expand(problem.batch)
    std = estimate_or_nan(
        problem.y, problem.operator, getattr(problem.data_term, "weights", None)
    ).double()
    size = mean_items(y.abs().square()).sqrt().double()
    size = torch.where(size > 0, size, torch.ones_like(size))
    return torch.maximum(torch.where(std.isnan(), USUAL_NOISE * size, std), LEAST_NOISE * size)


def correct_level(problem: Problem, is_reliable: bool) -> tuple[Tensor | None, str]:
    """Return noise levels in place of stated ones that the measurements contradict, ``(batch,)``.

    None if they do not, or if none is stated; and words for the reason.

    Args:
        problem: least squares of one tensor.
        is_reliable: whether the estimate can be too large by little only. Otherwise it may take
            texture for noise, and only a stated level that is too large is corrected.
    """
    stated = getattr(problem.data_term, "noise_std", None)
    if stated is None:
        return None, ""
    try:
        estimate = estimate_or_nan(
            problem.y0, problem.operator, getattr(problem.data_term, "weights", None)
        ).double()
    except InputError:
        return None, ""
    stated = stated.to(estimate).flatten().expand_as(estimate)
    low, high = (estimate / _TOO_SMALL if is_reliable else 0 * estimate), _TOO_LARGE * estimate
    wrong = ((stated < low) | (stated > high)).nonzero().squeeze(1)
    if not len(wrong):
        return None, ""
    level = stated.clone()
    level[wrong] = estimate[wrong]
    k = int(wrong[0])
    return level, (
        f"noise_std = {float(stated[k]):.3g} does not fit measurements with noise of about "
        f"{float(estimate[k]):.3g}; the weight follows from that"
    )


def describe_noise(problem: Problem, given: float | Tensor | None = None) -> str:
    """Return words for the origin of the noise level, with the first values of an estimate."""
    if given is not None or getattr(problem.data_term, "noise_std", None) is not None:
        return "the noise level that was given"
    values = noise_std_of(problem)
    numbers = ", ".join(f"{float(s):.4g}" for s in values[:4])
    levels = f"{numbers}, ..." if len(values) > 4 else numbers
    return f"noise_std = {levels} estimated from the data"


def _select_used(y: Tensor, operator: Operator | None, weights: Tensor | None) -> Tensor:
    used = torch.ones(1, 1, *[1] * (y.ndim - 2), dtype=torch.bool, device=y.device).expand(
        1, 1, *y.shape[2:]
    )
    for mask in (weights, getattr(operator, "mask", None)):
        if isinstance(mask, Tensor):
            used = used & (mask.to(y.device) != 0)
    return used


def _filter(values: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    length = values.shape[axis] - len(taps) + 1
    out = torch.zeros_like(values.narrow(axis, 0, length))
    for k, tap in enumerate(taps):
        out.add_(values.narrow(axis, k, length), alpha=tap)
    return out


def _window(used: Tensor, axis: int, width: int) -> Tensor:
    """Return the windows in which all ``width`` neighbours are used."""
    length = used.shape[axis] - width + 1
    out = used.narrow(axis, 0, length)
    for k in range(1, width):
        out = out & used.narrow(axis, k, length)
    return out
