"""Guards of settings: refuse a number outside of an interval, or a word that is no choice.

The sentence names the setting, its owner, what is allowed and what was given. A guard whose error
holds a remedy, or whose condition joins several settings, is written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

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
