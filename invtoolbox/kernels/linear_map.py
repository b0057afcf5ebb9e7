"""Differentiable linear maps, given by code for the map and for its transpose.

`BatchedFunction` has the rule of `torch.vmap` for functions that run kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad


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


def is_differentiated(tensor: Tensor) -> bool:
    """Return whether a derivative in a tensor may be taken, in reverse or in forward mode.

    >>> is_differentiated(torch.ones(1)), is_differentiated(torch.ones(1, requires_grad=True))
    (False, True)
    """
    # Inside of a transform of torch.func, a tensor has no memory of its own.
    if tensor.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return forward_ad.unpack_dual(tensor).tangent is not None if _in_forward_mode() else False


def _in_forward_mode() -> bool:
    return getattr(forward_ad, "_current_level", -1) >= 0


class BatchedFunction(torch.autograd.Function):
    """Autograd function that runs kernels, with a rule for `torch.vmap`.

    Attributes:
        sums_batch: whether the result has no batch axis.
    """

    sums_batch: ClassVar[bool] = False

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
        """Evaluate the function for every entry of the axis of vmap.

        If only the first argument has the axis, the axis joins the batch, which is the first axis
        of the argument and of the result. Otherwise the function is called once per entry.
        """
        first, *others = in_dims
        if first is not None and not cls.sums_batch and all(axis is None for axis in others):
            x = arguments[0].movedim(first, 0)
            y = cls.apply(x.flatten(0, 1), *arguments[1:])
            return y.unflatten(0, x.shape[:2]), 0
        results = [
            cls.apply(
                *(a if axis is None else a.select(axis, k) for a, axis in zip(arguments, in_dims))
            )
            for k in range(info.batch_size)
        ]
        return torch.stack(results), 0


class _LinearMap(BatchedFunction):
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
