"""The noise level of measurements, estimated from them alone."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator
from invtoolbox.problem import Problem

#: The median of |n| over the standard deviation, for Gaussian n.
_MEDIAN_OF_MODULUS = 0.6744897501960817
#: Third differences: they vanish on parabolas, and the factor keeps the standard deviation of white noise.
_THIRD_DIFFERENCE: tuple[float, ...] = (1.0, -3.0, 3.0, -1.0)
#: Estimated noise is not taken to be below this fraction of the measurements: no rule can work with a level of 0.
_LEAST_NOISE = 1e-4
#: The product of second differences along both axes (Immerkaer 1996) vanishes on edges that run along an
#: axis.
_SECOND_DIFFERENCE: tuple[float, ...] = (1.0, -2.0, 1.0)


def estimate_noise_std(y: Tensor, operator: Operator | None = None, weights: Tensor | None = None) -> Tensor:
    r"""The standard deviation of white Gaussian noise in ``y (batch, channel, *space)``, ``(batch,)``.

    ``median(|H y|) / 0.6745``, H a difference filter of norm 1 that sees little of a smooth signal (Donoho &
    Johnstone 1994; Immerkaer 1996):

    - a picture (the measurements lie on the grid of the image, as for denoising, blur and inpainting): second
      differences along both axes of space;
    - other measurements (a sinogram): third differences along the last axis, the detector's. Neighbouring
      views are not compared, because there may be few.

    Complex values count as two real ones, so the result is that of their real and of their imaginary part.

    What it cannot do: noise that is correlated between neighbours (measurements that were interpolated,
    rebinned or compressed) is underestimated, and fine texture is taken for noise, as are the pixels of an
    image that a sinogram was simulated from (a third too much at 2 % noise, far more below). Where the level
    depends on the signal (photon counts) it is that of a typical measurement.

    Args:
        operator: tells a picture from other measurements, and which pixels an inpainting mask hides.
        weights: measurements of weight 0 are not looked at.

    >>> clean = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    >>> noisy = clean + 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> round(float(estimate_noise_std(noisy)), 2)
    0.1
    """
    if isinstance(y, (tuple, list)):
        raise InputError("the noise level of stacked measurements cannot be estimated; give each data term its noise_std")
    picture = y.ndim >= 4 and (operator is None or tuple(operator.domain_shape[1:]) == tuple(y.shape[2:]))
    values = torch.view_as_real(y).movedim(-1, 1).flatten(1, 2) if y.is_complex() else y
    used = _used(y, operator, weights)
    last = values.ndim - 1
    taps = {last - 1: _SECOND_DIFFERENCE, last: _SECOND_DIFFERENCE} if picture else {last: _THIRD_DIFFERENCE}
    for axis, filter_taps in taps.items():
        if values.shape[axis] < len(filter_taps) + 1:
            raise InputError(f"the noise level cannot be estimated from measurements of shape {tuple(y.shape)}; "
                             "give it with LeastSquares(noise_std=...)")
        values = _filter(values, axis, filter_taps)
        used = _window(used, axis, len(filter_taps))
    used = used.expand_as(values)
    levels = []
    for item, kept in zip(values, used):
        seen = item[kept].abs()
        if seen.numel() == 0:
            raise InputError("the noise level cannot be estimated where no two neighbouring measurements have a weight; "
                             "give it with LeastSquares(noise_std=...)")
        levels.append(seen.median() / _MEDIAN_OF_MODULUS)
    return torch.stack(levels)


def noise_std_of(problem: Problem, given: float | Tensor | None = None) -> Tensor:
    """The noise level of a problem, ``(batch,)`` in float64: the given one, the data term's, or an estimate."""
    y = problem.first
    known = given if given is not None else getattr(problem.data_term, "noise_std", None)
    if known is not None:
        return torch.as_tensor(known, dtype=torch.float64, device=y.device).expand(problem.batch)
    std = estimate_noise_std(problem.y, problem.operator, getattr(problem.data_term, "weights", None)).double()
    size = y.abs().flatten(1).square().mean(1).sqrt().double()
    return torch.maximum(std, _LEAST_NOISE * torch.where(size > 0, size, torch.ones_like(size)))


def listed(values: Tensor, shown: int = 4) -> str:
    """The first numbers of a tensor, for a sentence."""
    numbers = ", ".join(f"{float(s):.4g}" for s in values[:shown])
    return f"{numbers}, ..." if len(values) > shown else numbers


def _used(y: Tensor, operator: Operator | None, weights: Tensor | None) -> Tensor:
    used = torch.ones(1, 1, *[1] * (y.ndim - 2), dtype=torch.bool, device=y.device).expand(1, 1, *y.shape[2:])
    for mask in (weights, getattr(operator, "mask", None)):
        if isinstance(mask, Tensor):
            used = used & (mask.to(y.device) != 0)
    return used


def _filter(values: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    length = values.shape[axis] - len(taps) + 1
    out = torch.zeros_like(values.narrow(axis, 0, length))
    scale = sum(t * t for t in taps) ** -0.5
    for k, tap in enumerate(taps):
        out.add_(values.narrow(axis, k, length), alpha=tap * scale)
    return out


def _window(used: Tensor, axis: int, width: int) -> Tensor:
    """Where all ``width`` neighbours are used."""
    length = used.shape[axis] - width + 1
    out = used.narrow(axis, 0, length)
    for k in range(1, width):
        out = out & used.narrow(axis, k, length)
    return out
