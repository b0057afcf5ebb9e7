"""Differentiable linear maps, given by code for the map and for its transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def linear_map(
    x: Tensor, run: Callable[[Tensor], Tensor], transpose: Callable[[Tensor], Tensor]
) -> Tensor:
    """Compute ``A x``, with derivatives of any order in forward and reverse mode.

    Args:
        x: input of the map.
        run: computes ``A x``, outside of automatic differentiation.
        transpose: computes ``A^T y``, outside of automatic differentiation.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> linear_map(x, lambda x: x.sum()[None], lambda y: y.expand(2).clone()).backward()
    >>> x.grad
    tensor([1., 1.])
    """
    return _LinearMap.apply(x, run, transpose)


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, run: Callable[[Tensor], Tensor], transpose: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return run(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.run, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _LinearMap.apply(grads[0], ctx.transpose, ctx.run), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return linear_map(tangents[0], ctx.run, ctx.transpose)
