"""Check of the range of the image against the range that a trained prior was trained on."""

from __future__ import annotations

import warnings

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.measurements.pictures import FULL_SCALES
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.priors.learned.denoiser import Denoiser
from invtoolbox.priors.settings import replace
from invtoolbox.problem import fitted_back_projection

#: Largest values of an image, relative to the trained range, that are too dark and too bright; a
#: network without noise level does not converge above the last.
_DARK, _BRIGHT, _HOPELESS = 0.05, 2.0, 20.0
#: Side of the part of an image, and noise relative to its range, on which a denoiser is tried.
_SIDE, _NOISE = 64, 0.05
#: Largest change of what a denoiser removes, if images in another unit are the same to it.
_SAME = 0.2


@register(Operator)
def check_range(subject: Subject) -> Finding | None:
    """Find an image whose values a trained prior has never seen, because their unit differs.

    The image is estimated by the back-projection that fits the measurements. A denoiser that gives
    the same result in another unit has no range.
    """
    problem = subject.problem
    if subject.prior is None or not isinstance(problem.operator, LinearOperator):
        return None
    total = subject.prior.as_sum()
    candidates = [*(term.prior for term in total.terms), total.implicit]
    trained = [p for p in candidates if isinstance(getattr(p, "intensity_range", None), tuple)]
    if not trained:
        return None
    prior, x = trained[0], fitted_back_projection(problem)[:1].detach()
    low, high = prior.intensity_range  # type: ignore[union-attr]
    top = highest(x)
    if not top > low or is_in_range(top, (low, high)):
        return None
    factor = (top - low) / (high - low)
    scale = min(FULL_SCALES, key=lambda s: abs(s * (high - low) / max(top - low, 1e-30) - 1))
    # Largest values of digital pictures are rarely the largest possible ones.
    is_digital = 0.3 < top / scale <= 1.1 and (low, high) == (0, 1)
    unit = scale if is_digital else float(f"{top:.2g}")
    if isinstance(prior, Denoiser) and _is_free(prior, x, (0.0, unit)):
        return None
    name = type(getattr(prior, "network", prior)).__name__
    remedy = (
        f"divide the measurements (and noise_std) by {unit:g}"
        if (low, high) == (0, 1)
        else "bring the measurements to this unit"
    )
    return Finding(
        "range",
        f"the image has values up to about {top:.3g}, and {name} was trained on images between "
        f"{low:g} and {high:g}; {remedy}, or give the prior the range of the image: "
        f"it.priors.load(name, {{'intensity_range': (0, {unit:g})}})",
        is_fatal=isinstance(prior, Denoiser) and prior.fixed_level and factor > _HOPELESS,
    )


def highest(x: Tensor) -> float:
    """Return the value that 0.5 % of the pixels exceed, from at most about 100,000 of them."""
    values = (x.abs() if x.is_complex() else x).flatten()
    values = values[:: max(1, len(values) // 100_000)].double()
    return float(values.quantile(0.995))


def is_in_range(top: float, intensity_range: tuple[float, float]) -> bool:
    """Return whether an image with these highest values is neither too dark nor too bright."""
    low, high = intensity_range
    return _DARK <= (top - low) / (high - low) <= _BRIGHT


def _is_free(prior: Denoiser, x: Tensor, intensity_range: tuple[float, float]) -> bool:
    """Return whether a denoiser gives the same result if the unit of the image is known to it."""
    rows, columns = (slice(max(0, n // 2 - _SIDE // 2), n // 2 + _SIDE // 2) for n in x.shape[-2:])
    crop, sigma = x[..., rows, columns], _NOISE * intensity_range[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stated = prior.denoise(crop, sigma)
            scaled = replace(prior, intensity_range=intensity_range).denoise(crop, sigma)
    except (InputError, RuntimeError):  # for another device, or another number of axes
        return True
    return float((stated - scaled).abs().mean()) <= _SAME * float((crop - scaled).abs().mean())
