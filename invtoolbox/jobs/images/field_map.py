"""Field map of magnetic resonance imaging, from the phases of two echoes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.problem import Problem
from invtoolbox.solve import inner_solve

#: Share of the largest magnitude below which a pixel's phase is no guide to the unwrapping.
_OBJECT = 0.1
#: Rounds in which differences are taken to the nearest branch of the smooth map.
_ROUNDS = 3


def estimate_field_map(
    first: Any, second: Any, echo_times: tuple[float, float], smoothness: float = 0.5
) -> Tensor:
    r"""Estimate the field map in Hz, ``(batch, 1, *space)``, from images of two echoes.

    The phase between the echoes is ``2 pi f (t_2 - t_1)``, up to whole turns. It is unwrapped
    (Herraez et al., Appl. Opt. 41, 2002), and the map minimizes, in the unit of the phase,

    .. math:: \frac12 \sum_n w_n (f_n - d_n)^2 + \frac{\lambda}{2} |\Delta f|^2,

    with the weights ``w = |u_1|^2 |u_2|^2 / (|u_1|^2 + |u_2|^2)`` over their mean in the object:
    the inverse variance of the phase d (Funai et al., IEEE TMI 27, 2008). So air, which has no
    phase, takes the values of its surroundings. The differences ``d - f`` are then taken to the
    nearest whole turn and the map is solved for again, which mends pixels that were unwrapped
    wrongly.

    Args:
        first: complex images of the first echo, ``(batch, coil, *space)``; the axes of the batch
            and of the coil may be left out together. Coils are combined by their phase differences.
        second: complex images of the second echo, of the same shape.
        echo_times: times of the two echoes in seconds.
        smoothness: lambda: at the mean weight of the object it smooths over about
            ``lambda^(1/4)`` pixels.

    Raises:
        InputError: if the echoes have one time, or if the images are real, empty or differ in
            shape.

    >>> clean = torch.ones(1, 1, 32, 32, dtype=torch.complex64)
    >>> f = torch.linspace(-40, 90, 32).expand(1, 1, 32, 32)
    >>> second = clean * torch.exp(2j * math.pi * f * 0.01)  # the phase makes more than a turn
    >>> map_ = estimate_field_map(clean, second, (0.002, 0.012), smoothness=0.001)
    >>> bool((map_ - f).abs().max() < 0.1)
    True
    """
    check_range("estimate_field_map", "(0, inf)", smoothness=smoothness)
    u1, u2 = (_as_images(u, name) for u, name in ((first, "first"), (second, "second")))
    if u1.shape != u2.shape:
        raise InputError(
            f"the images of the two echoes have the shapes {tuple(u1.shape)} and "
            f"{tuple(u2.shape)}, which must be equal"
        )
    apart = float(echo_times[1]) - float(echo_times[0])
    if not (math.isfinite(apart) and apart != 0):
        raise InputError(
            f"the echo times are {echo_times[0]} and {echo_times[1]} s: a field map needs two "
            "echoes of different times"
        )
    product = (u1.conj() * u2).sum(1, keepdim=True)
    power = u1.abs().square().sum(1, keepdim=True), u2.abs().square().sum(1, keepdim=True)
    total = power[0] + power[1]
    weights = power[0] * power[1] / torch.where(total > 0, total, 1)
    phase, magnitude = product.angle(), product.abs().sqrt()
    maps = [
        _solve(*item, smoothness)
        for item in zip(phase.split(1), magnitude.split(1), weights.split(1))
    ]
    return torch.cat(maps) / (2 * math.pi * apart)


def _solve(phase: Tensor, magnitude: Tensor, weights: Tensor, smoothness: float) -> Tensor:
    """Return the smooth, unwrapped phase of one item, ``(1, 1, *space)``."""
    is_object = magnitude > _OBJECT * magnitude.max()
    if not bool(is_object.any()):
        raise InputError("the images of the echoes are 0, so they have no phase")
    w = weights / weights[is_object].mean()
    differences = FiniteDifference(phase.shape[1:])
    laplacian = differences.T @ differences
    assert isinstance(laplacian, LinearOperator)
    smooth, target = Tikhonov(laplacian), _unwrap(phase, is_object)
    A, result = Identity(phase.shape[1:]), target
    for _ in range(_ROUNDS):
        problem = Problem(target, A, LeastSquares(weights=w))
        result = inner_solve(
            problem, smooth, regularization=smoothness, initial=target, progress=False
        ).x
        turns = ((phase - result) / (2 * math.pi)).round()
        nearest = phase - 2 * math.pi * turns
        if torch.equal(nearest, target):
            break
        target = nearest
    # Whole turns of all pixels are not determined: the object's median phase is the smallest one.
    median = float(result[is_object].median())
    return result - 2 * math.pi * round(median / (2 * math.pi))


def _unwrap(phase: Tensor, is_object: Tensor) -> Tensor:
    """Return the phase without jumps in the object, and as it is elsewhere."""
    from skimage.restoration import unwrap_phase

    values = phase[0, 0].double().cpu().numpy()
    mask = ~is_object[0, 0].cpu().numpy()
    unwrapped = unwrap_phase(np.ma.masked_array(values, mask), rng=0)
    result = torch.as_tensor(np.ma.filled(unwrapped, 0.0)).to(phase)
    return torch.where(is_object, result, phase)


def _as_images(value: Any, name: str) -> Tensor:
    """Return complex images ``(batch, coil, *space)`` after checking them."""
    image = torch.as_tensor(value)
    if image.ndim in (2, 3) and image.is_complex():
        image = image[None, None]
    if not image.is_complex() or image.ndim < 4 or not image.numel():
        raise InputError(
            f"the images of the {name} echo have shape {tuple(image.shape)} and dtype "
            f"{image.dtype}; expected complex images (batch, coil, *space), or one image of 2 or 3 "
            "axes"
        )
    if not bool(image.isfinite().all()):
        raise InputError(f"the images of the {name} echo have pixels that are NaN or infinite")
    return image
