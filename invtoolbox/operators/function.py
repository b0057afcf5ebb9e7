"""A function or a network as an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, Shape, Shapes


class Function(Operator):
    """``A(x) = function(x)`` for a function of ``(batch, *domain_shape)``, written in torch so that it has a derivative.

    Of a `torch.nn.Module` the parameters are `parameters()`, and the module itself is never written to.

    >>> Function(torch.sin, (1, 4)).range_shape
    (1, 4)
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        domain_shape: Sequence[int],
        range_shape: Shapes | None = None,
        channelwise: bool = False,
    ) -> None:
        self.function = function
        self.domain_shape = tuple(int(n) for n in domain_shape)
        self.channelwise = channelwise
        self.replaced: dict[str, Tensor] = {}
        self.range_shape = (
            probed_range(self._forward, self.domain_shape, self._like(), repr(self))
            if range_shape is None
            else range_shape
        )

    def _forward(self, x: Tensor) -> Any:
        if self.replaced:
            return torch.func.functional_call(cast(nn.Module, self.function), self.replaced, (x,))
        return self.function(x)

    def parameters(self) -> dict[str, Tensor]:
        own = dict(self.function.named_parameters()) if isinstance(self.function, nn.Module) else {}
        return {**own, **self.replaced}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        if not parameters:
            return self
        return super()._replace(
            cast("dict[str, Tensor]", {"replaced": {**self.replaced, **parameters}})
        )

    def _like(self) -> Tensor:
        """A tensor of the dtype and the device that the function works with."""
        module = self.function
        tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{type(self).__name__}({name})"


class LinearFunction(Function, LinearOperator):
    """A linear function; the adjoint is given, or comes from automatic differentiation.

    Raises:
        InputError: a function that is not linear, found out on random images.

    >>> A = LinearFunction(lambda x: x.cumsum(-1), (1, 3))
    >>> A.adjoint(torch.tensor([[[0., 0., 1.]]]))
    tensor([[[1., 1., 1.]]])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        domain_shape: Sequence[int],
        range_shape: Shapes | None = None,
        channelwise: bool = False,
        adjoint: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(function, domain_shape, range_shape, channelwise)
        self.adjoint_function = adjoint
        check_linear(self._forward, self.domain_shape, self._like(), repr(self))

    def _adjoint(self, y: Any) -> Tensor:
        return super()._adjoint(y) if self.adjoint_function is None else self.adjoint_function(y)


def probed_range(
    function: Callable[[Tensor], Any], domain: Shape, like: Tensor, name: str, batch: int = 1
) -> Shapes:
    """The shape of what a function gives, found by giving it zeros."""
    with torch.no_grad():
        found = function(like.new_zeros(batch, *domain))
    parts = found if isinstance(found, (tuple, list)) else (found,)
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim < 2 or part.shape[0] != batch:
            got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise InputError(
                f"{name} must map a batch ({batch}, {', '.join(map(str, domain))}) to tensors whose first "
                f"axis is the batch and whose second is the channel, got {got}"
            )
    shapes = tuple(tuple(part.shape[1:]) for part in parts)
    return shapes if isinstance(found, (tuple, list)) else shapes[0]


def check_linear(function: Callable[[Tensor], Any], domain: Shape, like: Tensor, name: str) -> None:
    """Raise an `InputError` where ``function(a + 2 b)`` is not ``function(a) + 2 function(b)``."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, *domain, generator=generator).to(like) for _ in range(2))
    with torch.no_grad():
        together, alone_a, alone_b = (_flat(function(x)) for x in (a + 2 * b, a, b))
    error = (together - alone_a - 2 * alone_b).abs().max()
    if not bool(error <= 1e-3 * (alone_a.abs().max() + 2 * alone_b.abs().max())):
        raise InputError(
            f"{name} is not linear: A(a + 2b) differs from A(a) + 2A(b) by {float(error):.3g} on random "
            "images (a bias?); pass linear=False"
        )


def _flat(value: Any) -> Tensor:
    return (
        torch.cat([part.flatten() for part in value])
        if isinstance(value, (tuple, list))
        else value.flatten()
    )
