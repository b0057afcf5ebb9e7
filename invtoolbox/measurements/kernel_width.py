"""Find a kernel of the wrong width by the spectrum of the blurred picture."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.problem import Problem

#: Least and largest rows and columns of a window, number of windows, and least ratio of its side to
#: that of the kernel.
_LEAST, _SIDE, _WINDOWS, _ROOM = 64, 256, 16, 4
#: Periods per window up to which a spectrum follows no power law, and the frequency in the middle.
_SLOW, _MIDDLE = 3, 0.1
#: Neighbouring frequencies of a Hann window per independent one, along both axes.
_SHARED = 1.5**2
#: Mean and deviation of the exponent of spectra of pictures, of the change of the exponent per factor
#: e of the frequency, and of the cosine and sine of the direction.
_MEANS, _DEVIATIONS = (2.2, 0.0, 0.0, 0.0), (0.5, 1.0, 0.5, 0.5)
#: Iterations of a fit, and the change of the logarithms that ends it.
_STEPS, _DONE = 40, 1e-3
#: Factors of the width that are tried first, and number of halvings of their distance.
_FACTORS, _HALVINGS = tuple(1.12**k for k in range(-5, 6)), 3
#: Least logarithm of the likelihood ratio, least and largest change of the logarithm of the width, and
#: largest misfit of the spectrum.
_EVIDENCE, _CHANGES, _MISFIT = 20.0, (0.045, 0.5), 0.6
#: Blocks of frequencies along each axis, whose means show the misfit.
_BLOCKS = 12


class Width(NamedTuple):
    """Width of a kernel that fits a picture best.

    Attributes:
        factor: factor on the width, between 0.55 and 1.8.
        evidence: logarithm of the ratio of the likelihoods at this factor and at 1, per window of at
            most 256 x 256 pixels.
        misfit: root mean square of the logarithm of the ratio of the spectrum to its model, in blocks
            of frequencies, without the share of chance. Compression, clipped values and pictures
            without noise make it large.
    """

    factor: float
    evidence: float
    misfit: float


class _Spectrum(NamedTuple):
    """Periodogram at the frequencies that are used, ``(n,)``, where they lie, and the basis ``(n, 5)``."""

    values: Tensor
    used: Tensor
    basis: Tensor


class _Fit(NamedTuple):
    """Fit of a spectrum: logarithm of the likelihood times the density, misfit, and six numbers."""

    score: float
    misfit: float
    numbers: Tensor


def fit_width(y: Tensor, kernel: Tensor) -> Width:
    r"""Return the width of a kernel that fits a picture best, relative to the given one.

    The expected periodogram of a blurred picture at the frequency f, of length r and direction t, is::

        E I(f) = |K(s f)|^2 exp(a - p log r - q log^2 r + u cos 2t + v sin 2t) + n^2

    with the transfer function K, the factor s, a power law for the sharp picture (Field, J. Opt. Soc.
    Am. A 4, 1987) that may bend and favour directions, and the variance n^2 of white noise. The six
    numbers maximize Whittle's likelihood (Ark. Mat. 2, 1953) times a normal density of p, q, u and v
    by Fisher scoring, and s maximizes the result.

    Args:
        y: one picture of one channel, ``(rows, columns)``, at least 64 in both.
        kernel: ``(rows, columns)``, at most a quarter of the picture's.

    >>> import invtoolbox as it
    >>> from invtoolbox.jobs.images.kernels import disc_kernel
    >>> A = it.operators.Blur(disc_kernel(3.0, "kernel"), (192, 192))
    >>> y = A.simulate(it.datasets.photograph("camera")[..., 100:292, 100:292], 0.01, seed=0)
    >>> width = fit_width(y[0, 0], disc_kernel(3.6, "kernel"))
    >>> 0.8 < width.factor < 0.87 and width.evidence > 20
    True
    """
    spectrum = _spectrum_of(y.double())
    fits: dict[float, _Fit] = {}

    def fit(factor: float) -> None:
        # The numbers change little from one factor to the next.
        nearest = min(fits, key=lambda known: abs(math.log(known / factor)), default=None)
        start = None if nearest is None else fits[nearest].numbers
        fits[factor] = _fit_spectrum(spectrum, kernel, factor, start)

    for factor in sorted(_FACTORS, key=lambda factor: abs(math.log(factor))):
        fit(factor)
    ratio = _FACTORS[1] / _FACTORS[0]
    for _ in range(_HALVINGS):
        ratio, best = math.sqrt(ratio), max(fits, key=lambda factor: fits[factor].score)
        fit(best / ratio)
        fit(best * ratio)
    best = max(fits, key=lambda factor: fits[factor].score)
    return Width(best, fits[best].score - fits[1.0].score, fits[best].misfit)


def scale_kernel(kernel: Tensor, factor: float) -> Tensor:
    """Return a kernel of another width and the same sum, whose transfer function is ``K(factor f)``.

    Args:
        kernel: ``(..., rows, columns)``.
        factor: factor on its width. A larger kernel has more rows and columns.

    >>> scale_kernel(torch.ones(3, 3) / 9, 1.0).allclose(torch.ones(3, 3) / 9)
    True
    """
    band, scaled = min(1.0, 1 / factor), kernel.double()
    for axis in (-2, -1):
        count = kernel.shape[axis]
        margin = max(0, math.ceil((factor - 1) * (count - 1) / 2))
        # Entry c = n // 2 stays at the point, whatever its place in the array is.
        places = torch.arange(-(count // 2), count - count // 2, dtype=torch.float64)
        wider = torch.arange(-(count // 2) - margin, count - count // 2 + margin).double()
        kernel_of_sinc = band * torch.sinc(band * (wider[:, None] - factor * places))
        scaled = torch.tensordot(scaled, kernel_of_sinc.to(kernel.device), ([axis], [1]))
        scaled = scaled.movedim(-1, axis)
    total = kernel.double().sum((-2, -1), keepdim=True)
    return (scaled * total / scaled.sum((-2, -1), keepdim=True)).to(kernel.dtype)


def with_width(problem: Problem, factor: float) -> Problem:
    """Return the problem of a blur whose kernel has another width.

    The image keeps its shape, so under "valid" the measurements lose the outermost pixels that a
    wider kernel cannot predict.

    Args:
        problem: measurements, operator `Blur` and data term.
        factor: factor on the width.
    """
    A, y = problem.operator, problem.y0
    assert isinstance(A, Blur)
    blur = Blur(scale_kernel(A.kernel, factor), A.domain_shape, A.boundary, A.tile)
    if A.boundary == "valid":
        rows, columns = ((n - m) // 2 for n, m in zip(blur.kernel.shape[-2:], A.kernel.shape[-2:]))
        y = y[..., rows : y.shape[-2] - rows, columns : y.shape[-1] - columns].contiguous()
    return Problem(y, blur, problem.data_term)


def propose_width(problem: Problem) -> Width | None:
    """Return another width of the kernel of one picture, None if the given one may be right.

    It is a proposal: textures and very smooth pictures may have the spectrum of another kernel.

    Args:
        problem: least squares without weights, and `Blur` with one kernel.
    """
    A, y, term = problem.operator, problem.y0, problem.data_term
    if not isinstance(A, Blur) or type(term) is not LeastSquares or term.weights is not None:
        return None
    is_small = min(y.shape[-2:]) < max(_LEAST, _ROOM * max(A.kernel.shape[-2:]))
    if is_small or y.is_complex() or len(y) > 1 or A.kernel.shape[:2] != (1, 1):
        return None
    picture = y[0].mean(0)
    if not bool(picture.isfinite().all()) or bool((picture == picture[0, 0]).all()):
        return None
    with torch.no_grad():
        width = fit_width(picture, A.kernel[0, 0])
    is_wrong = _CHANGES[0] < abs(math.log(width.factor)) < _CHANGES[1]
    return width if is_wrong and width.evidence > _EVIDENCE and width.misfit < _MISFIT else None


def describe_width(width: Width) -> str:
    """Return the beginning of a sentence about a width."""
    return f"the spectrum of the picture fits a kernel {width.factor:.3g} times as wide as the given one"


def _periodogram(y: Tensor) -> Tensor:
    """Return the mean periodogram of square windows of a picture."""
    side = min(_SIDE, *y.shape)
    starts = [
        torch.linspace(0, n - side, min(math.isqrt(_WINDOWS), -(-n // side))).long().tolist()
        for n in y.shape
    ]
    hann = torch.hann_window(side + 2, periodic=False, dtype=y.dtype, device=y.device)[1:-1]
    window = hann[:, None] * hann
    powers = []
    for top in starts[0]:
        for left in starts[1]:
            values = y[top : top + side, left : left + side]
            values = values - (values * window).sum() / window.sum()
            powers.append(torch.fft.fft2(values * window).abs().square())
    return torch.stack(powers).mean(0) / window.square().sum()


def _spectrum_of(y: Tensor) -> _Spectrum:
    """Return the periodogram of a picture at half of the plane, without the lowest frequencies."""
    periodogram = _periodogram(y)
    side = len(periodogram)
    frequency = torch.fft.fftfreq(side, dtype=torch.float64, device=y.device)
    down, right = frequency[:, None].expand(side, side), frequency.expand(side, side)
    radius = torch.hypot(down, right)
    used = (radius > _SLOW / side) & ((down > 0) | ((down == 0) & (right > 0)))
    length, angle = (radius[used] / _MIDDLE).log(), 2 * torch.atan2(down[used], right[used])
    columns = [torch.ones_like(length), -length, -length.square(), angle.cos(), angle.sin()]
    return _Spectrum(periodogram[used], used, torch.stack(columns, 1))


def _fit_spectrum(spectrum: _Spectrum, kernel: Tensor, factor: float, start: Tensor | None) -> _Fit:
    """Fit the spectrum by the kernel of one width, from an estimate or from given numbers."""
    values, used, basis = spectrum
    size = tuple(used.shape)
    power = torch.fft.fft2(scale_kernel(kernel.double(), factor), s=size).abs().square()
    for axis in (0, 1):  # the window mixes neighbouring frequencies
        power = (4 * power + power.roll(1, axis) + power.roll(-1, axis)) / 6
    power = power[used]
    mean = torch.tensor([0.0, *_MEANS, 0.0], dtype=torch.float64, device=values.device)
    precision = torch.zeros_like(mean)
    precision[1:5] = torch.tensor(_DEVIATIONS, dtype=torch.float64).pow(-2)

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logarithm of the posterior density, the model and the part of the picture."""
        picture = power * (basis @ z[:5]).exp()
        model = picture + z[5].exp()
        fit = -(model.log() + values / model).sum() / _SHARED
        return fit - (precision * (z - mean).square()).sum() / 2, model, picture

    if start is None:
        # The noise dominates where the blur passes least, and the picture at low frequencies.
        dark = values[power <= power.quantile(0.25)].mean()
        slow = (values / power.clamp_min(1e-3))[basis[:, 1] > 0].mean()
        z = mean.clone()
        z[0], z[5] = slow.clamp_min(1e-300).log(), dark.clamp_min(1e-300).log()
    else:
        z = start
    score, model, picture = evaluate(z)
    for _ in range(_STEPS):
        # Fisher scoring with J = d log E I / d z: (J^T J + C) d = J^T (I / E I - 1) - C (z - m).
        slope = torch.cat([picture[:, None] * basis, z[5].exp().expand(len(picture), 1)], 1)
        slope = slope / model[:, None]
        right_side = slope.T @ (values / model - 1) / _SHARED - precision * (z - mean)
        information = slope.T @ slope / _SHARED + precision.diag()
        information = information + 1e-9 * information.diagonal().max() * torch.eye(6).to(slope)
        change = torch.linalg.solve(information, right_side).clamp(-2, 2)
        next_score, next_model, next_picture = evaluate(z + change)
        while not next_score >= score and float(change.abs().max()) > _DONE:
            change = change / 2
            next_score, next_model, next_picture = evaluate(z + change)
        if not next_score >= score:
            break
        z, score, model, picture = z + change, next_score, next_model, next_picture
        if float(change.abs().max()) < _DONE:
            break
    return _Fit(float(score), _misfit(values / model, used), z)


def _misfit(ratios: Tensor, used: Tensor) -> float:
    """Return the root mean square logarithm of the means of blocks, without the share of chance."""
    plane = torch.stack([torch.zeros(used.shape).to(ratios), used.to(ratios)])
    plane[0, used] = ratios
    plane = torch.fft.fftshift(plane, (1, 2))
    total, share = torch.nn.functional.avg_pool2d(plane, len(used) // _BLOCKS)
    whole = share > 0.5
    means = total[whole] / share[whole]
    count = (len(used) // _BLOCKS) ** 2 * share[whole]
    square = means.clamp_min(torch.finfo(means.dtype).tiny).log().square() - _SHARED / count
    return math.sqrt(max(0.0, float(square.mean())))
