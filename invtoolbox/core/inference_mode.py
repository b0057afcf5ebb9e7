"""A decorator by which functions that compute derivatives work under `torch.inference_mode`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

from invtoolbox.core.pytrees import tree_map

P = ParamSpec("P")
T = TypeVar("T")


def outside_inference_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function that computes derivatives work under `torch.inference_mode` too.

    Autograd records nothing in that mode, so the function runs outside of it. Arguments that are
    tensors of that mode are copied.

    >>> @outside_inference_mode
    ... def slope(x):
    ...     with torch.enable_grad():
    ...         x = x.detach().requires_grad_(True)
    ...         return torch.autograd.grad(x.square().sum(), x)[0]
    >>> with torch.inference_mode():
    ...     slope(torch.ones(2))
    tensor([2., 2.])
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with leaving_inference_mode((args, kwargs)) as (positional, keywords):
            return function(*positional, **keywords)

    return call


@contextmanager
def leaving_inference_mode(arguments: Any) -> Iterator[Any]:
    """Leave `torch.inference_mode` if it is on, and return copies of the tensors of that mode.

    Args:
        arguments: nested containers of tensors and other values.
    """
    if not torch.is_inference_mode_enabled():
        yield arguments
        return
    with torch.inference_mode(False), torch.no_grad():
        yield tree_map(lambda t: t.clone() if t.is_inference() else t, arguments)
