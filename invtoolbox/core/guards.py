"""Guards of arguments: numbers in an interval, words of a choice, arrays of any memory layout.

The sentence names the setting, its owner, what is allowed and what was given. A guard whose error
holds a remedy, or whose condition joins several settings, is written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError


def check_range(owner: object, interval: str, /, *names: str, **values: Any) -> None:
    """Refuse numbers outside of an interval.

    Args:
        owner: object with the settings ``names``; or the name of a function, for its ``values``.
        interval: interval in the notation of mathematics, for example ``"(0, 1]"``; a square
            bracket includes the end.
        *names: attributes of the owner. None passes: a setting that may be None means "not given".
        **values: further values by name. Every entry of a tensor must lie in the interval.

    Raises:
        InputError: a value outside of the interval, NaN, or no number.

    >>> check_range("invert_flow", "(0, 1]", damping=0.5)
    >>> check_range("invert_flow", "[1, inf)", inner=0)
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: inner of invert_flow must be at least 1, got 0
    """
    low, high, holds_low, holds_high, demand = _parse(interval)
    for name, value in _settings(owner, names, values):
        if value is None:
            continue
        try:
            above = value >= low if holds_low else value > low
            below = value <= high if holds_high else value < high
            inside = bool((above & below).all()) if isinstance(value, Tensor) else above and below
        except (TypeError, RuntimeError):
            inside = False
        if not inside:
            # Infinity is positive, so an open end needs a word of its own.
            is_end = high == math.inf and not holds_high and _is_infinite(value)
            ending = " and finite" if is_end else ""
            raise InputError(
                f"{name} of {_label(owner)} must {demand}{ending}, got {_shown(value)}"
            )


def to_shape(owner: object, **values: Any) -> tuple[int, ...]:
    """Return a shape as a tuple of numbers.

    Args:
        owner: object with the setting.
        **values: the shape by its name.

    Raises:
        InputError: no list of whole numbers, such as arguments in another order.

    >>> to_shape("Blur", image_shape=[4, 5])
    (4, 5)
    >>> to_shape("Blur", image_shape=5)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: image_shape of Blur must be whole numbers, ... got 5; check ...
    """
    ((name, value),) = values.items()
    try:
        sizes = tuple(int(n) for n in value)
        if all(bool(size == n) for size, n in zip(sizes, value)):
            return sizes
    except (TypeError, ValueError, RuntimeError):
        pass
    shown = f"an array of {tuple(value.shape)}" if hasattr(value, "shape") else _shown(value)
    raise InputError(
        f"{name} of {_label(owner)} must be whole numbers, (rows, columns) for example, got {shown}; "
        "check the order of the arguments"
    )


def check_choice(owner: object, choices: Iterable[Any], /, *names: str, **values: Any) -> None:
    """Refuse values that are none of the choices.

    Args:
        owner: object with the settings ``names``; or the name of a function, for its ``values``.
        choices: allowed values; None is allowed only if it is among them.
        *names: attributes of the owner.
        **values: further values by name.

    Raises:
        InputError: another value.

    >>> check_choice("solve", (None, "implicit"), differentiate="explicit")
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: differentiate of solve must be None or 'implicit', got 'explicit'
    """
    allowed = tuple(choices)
    for name, value in _settings(owner, names, values):
        if not any(value is choice or value == choice for choice in allowed):
            *others, last = map(repr, allowed)
            demand = f"{', '.join(others)} or {last}" if others else last
            raise InputError(f"{name} of {_label(owner)} must be {demand}, got {value!r}")


def _settings(
    owner: object, names: tuple[str, ...], values: dict[str, Any]
) -> Iterable[tuple[str, Any]]:
    return [*((name, getattr(owner, name)) for name in names), *values.items()]


def _label(owner: object) -> str:
    return owner if isinstance(owner, str) else type(owner).__name__


def _is_infinite(value: Any) -> bool:
    return bool((value == math.inf).any()) if isinstance(value, Tensor) else value == math.inf


def _shown(value: Any) -> str:
    """Return a value as an error message shows it; of a large tensor, its range."""
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{value.item():g}"
        if value.is_floating_point() and bool(value.isnan().any()):
            return f"{int(value.isnan().sum())} NaN of {value.numel()} values"
        return f"values from {value.min().item():g} to {value.max().item():g}"
    return f"{value:g}" if isinstance(value, float) else repr(value)


@lru_cache(maxsize=256)
def _parse(interval: str) -> tuple[float, float, bool, bool, str]:
    """Return the ends of an interval, whether it includes them, and the demand in words."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    holds_low, holds_high = interval[0] == "[", interval[-1] == "]"
    if math.isfinite(high):
        demand = f"lie in {interval}"
    elif low == 0:
        demand = "not be negative" if holds_low else "be positive"
    else:
        demand = f"be {'at least' if holds_low else 'above'} {low:g}"
    return low, high, holds_low, holds_high, demand


def as_tensor(
    values: Any, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Return `torch.as_tensor` of numbers, also of arrays whose memory a tensor cannot share.

    Args:
        values: a tensor, an array or numbers.
        dtype: type of the tensor; that of the values by default.
        device: device of the tensor; that of the values by default.

    Raises:
        InputError: for a masked array with masked entries, whose mask a tensor cannot hold, and for
            a text, such as a path.

    >>> as_tensor(np.arange(3)[::-1]).tolist()
    [2, 1, 0]
    """
    if isinstance(values, (str, bytes, PurePath)):
        raise InputError(
            f"an array or a tensor is expected, got the text {str(values)!r}; "
            "it.datasets.open(path)[0].y reads the measurements of a file"
        )
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(
            f"the array masks {int(np.ma.getmaskarray(values).sum())} of {values.size} values, which "
            "a tensor cannot hold; give y.filled(0) and the weights of what is measured, "
            "it.data_terms.LeastSquares(weights=1.0 - y.mask)"
        )
    _refuse_images(values)
    values = _as_array(values)
    if isinstance(values, np.ndarray):
        # A tensor cannot share memory with a read-only array, a foreign byte order, a flipped axis or
        # a field of records.
        native, size = values.dtype.newbyteorder("="), max(1, values.itemsize)
        is_irregular = any(stride < 0 or stride % size for stride in values.strides)
        if not values.flags.writeable or values.dtype != native or is_irregular:
            values = values.astype(native, order="C")
    try:
        return torch.as_tensor(values, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(values, (Tensor, float, int, complex)):
            raise
        kind = f"{type(values).__module__}.{type(values).__qualname__}".removeprefix("builtins.")
        if isinstance(values, np.ndarray):
            kind = f"an array of {values.dtype}"
        raise InputError(
            f"an array or a tensor of numbers is expected, got {kind} "
            f"({' '.join(str(error).split())[:100]}); check the order of the arguments"
        ) from error


def _as_array(values: Any) -> Any:
    """Return the array of a table of pandas, a picture of PIL, or an array of another package."""
    is_array = hasattr(values, "__array__") or hasattr(values, "__array_interface__")  # of PIL
    if isinstance(values, (Tensor, np.ndarray)) or not is_array:
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # arrays of CuPy raise a TypeError, other packages anything
        try:
            return torch.utils.dlpack.from_dlpack(values)
        except Exception:  # no common device
            kind = f"{type(values).__module__}.{type(values).__qualname__}"
            raise InputError(
                f"an array on the CPU is expected, got {kind}, which is no array there "
                f"({' '.join(str(error).split())[:100]}); convert it, for example by .get() or "
                "numpy.asarray"
            ) from error


def _refuse_images(values: Any) -> None:
    """Refuse images of other packages, whose axes and places an array would lose."""
    package = type(values).__module__.partition(".")[0]
    if package in ("SimpleITK", "itk") and hasattr(values, "GetDirection"):
        way = f"{package}.GetArrayFromImage(image), with the axes (slice, row, column)"
    elif package == "nibabel" and hasattr(values, "dataobj"):
        way = "image.get_fdata().T, with the axes (slice, row, column)"
    else:
        return
    raise InputError(
        f"an array or a tensor is expected, got an image of {package}; give {way}; it.register takes "
        "such images with their place"
    )
