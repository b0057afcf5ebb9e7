"""Settings of priors: copies with changes, checks, and the text in a ``repr``."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError

S = TypeVar("S", bound=Settings)
T = TypeVar("T")


def replace(settings: S, **changes: Any) -> S:
    """Return a copy of settings with some of their attributes changed.

    >>> from invtoolbox.priors import L1
    >>> replace(L1(), bounds="a box").bounds
    'a box'
    """
    changed = copy.copy(settings)
    vars(changed).update(changes)
    return changed


def format_setting(value: Tensor | None) -> str:
    """Return a setting for a ``repr``: its number, or the shape of a tensor of several."""
    if value is None:
        return "None"
    return f"{float(value):g}" if value.numel() == 1 else f"{tuple(value.shape)}"


def format_changes(settings: object, **defaults: object) -> str:
    """Return ``name=value, ...`` of the attributes that differ from their defaults.

    >>> from invtoolbox.priors import TotalVariation
    >>> format_changes(TotalVariation(periodic=True), isotropic=True, periodic=False)
    'periodic=True'
    """
    values = {name: getattr(settings, name) for name in defaults}
    return ", ".join(f"{k}={v}" for k, v in values.items() if v != defaults[k])


def check_real(x: Tensor) -> None:
    """Raise `InputError` for complex values."""
    if x.is_complex():
        raise InputError("bounds need real images; complex numbers have no order")


def require_bound(prior: object, value: T | None) -> T:
    """Return what a prior made of its problem, or raise `InputError` if it has no problem yet."""
    if value is None or (isinstance(value, tuple) and not value):
        raise InputError(
            f"{prior!r} must be prepared with a problem first: it.solve does so, "
            "or call prior.prepare(problem, it.solve)"
        )
    return value


def check_graph(clean: Tensor, x: Tensor, prior: object) -> Tensor:
    """Return a denoised image, and raise `InputError` if a derivative is wanted and it has none.

    Args:
        clean: denoised image.
        x: noisy image.
        prior: the prior that denoised it.
    """
    if torch.is_grad_enabled() and x.requires_grad and not clean.requires_grad:
        raise InputError(
            f"this method takes the derivative of the denoiser, and that of {prior!r} records no "
            "graph; leave out torch.no_grad and detach, or take DiffPIR or DDRM"
        )
    return clean


def check_intensity_range(intensity_range: Sequence[float]) -> tuple[float, float]:
    """Return a range ``(low, high)``; raise `InputError` unless low < high, both finite."""
    try:
        low, high = map(float, intensity_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise InputError(
            f"intensity_range is (low, high), finite, with low < high, got {intensity_range!r}"
        )
    return low, high


def check_spacing(prior: object, spacing: tuple[float, ...] | None, dimensions: int) -> None:
    """Raise `InputError` unless a spacing has one number for every axis of space."""
    if spacing is not None and len(spacing) != dimensions:
        raise InputError(
            f"{prior!r} has a spacing for {len(spacing)} axes, and the image has {dimensions}"
        )


def check_placement(prior: object, network: nn.Module, x: Tensor) -> None:
    """Raise `InputError` if the image has another precision or device than the network."""
    like = next(iter(network.parameters()), x)
    if like.device != x.device or like.dtype != x.dtype:
        raise InputError(
            f"the network of {prior!r} is {like.dtype} on {like.device} and the image "
            f"{x.dtype} on {x.device}; move the prior with "
            f"prior.to(dtype={x.dtype}, device={str(x.device)!r})"
        )
