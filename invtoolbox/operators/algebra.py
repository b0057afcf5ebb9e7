"""Operators built from operators: composition, sum, multiple, adjoint, stack, part, Jacobian."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, Shape, expand


def stack(parts: Sequence[Operator]) -> Operator:
    """Measure the same ``x`` with several operators; ``A(x)`` and ``y`` are then tuples.

    >>> import invtoolbox as it
    >>> A = stack([it.operators.Identity((1, 2)), 2 * it.operators.Identity((1, 2))])
    >>> A.adjoint(A(torch.ones(1, 1, 2)))
    tensor([[[5., 5.]]])
    """
    return (
        LinearStack(parts)
        if all(isinstance(operator, LinearOperator) for operator in parts)
        else Stack(parts)
    )


def _items(parts: Sequence[Operator]) -> int | None:
    """Return the number of batch items that all parts share.

    ``None`` if no part depends on the item.
    """
    counts = {operator.items for operator in parts if operator.items is not None}
    if len(counts) > 1:
        raise InputError(
            f"these operators hold parameters for batches of different sizes: {sorted(counts)}"
        )
    return next(iter(counts), None)


class _Combination(Operator):
    """Base of the combinations, which have the parameters and items of their parts."""

    parts: tuple[Operator, ...]

    def __init__(self, parts: Sequence[Operator]) -> None:
        self.parts = tuple(parts)
        self.items = _items(self.parts)
        self.channelwise = all(operator.channelwise for operator in self.parts)
        # In a composition the last part takes the image.
        self.complex_images = self.parts[-1].complex_images

    def parameters(self) -> dict[str, Tensor]:
        return {
            f"{k}.{name}": value
            for k, operator in enumerate(self.parts)
            for name, value in operator.parameters().items()
        }

    def item_parameters(self, batch: int) -> dict[str, Tensor]:
        return {
            f"{k}.{name}": value
            for k, operator in enumerate(self.parts)
            for name, value in operator.item_parameters(batch).items()
        }

    def _replace(self, parameters: dict[str, Tensor]) -> Any:
        def parameters_of(k: int) -> dict[str, Tensor]:
            return {
                name.split(".", 1)[1]: v
                for name, v in parameters.items()
                if name.startswith(f"{k}.")
            }

        return self._with_parts(
            [operator._replace(parameters_of(k)) for k, operator in enumerate(self.parts)]
        )

    def select(self, index: Tensor) -> Any:
        return self._with_parts([operator.select(index) for operator in self.parts])

    def _with_parts(self, parts: Sequence[Operator]) -> Any:
        combination = copy.copy(self)
        combination.parts, combination.items = tuple(parts), _items(parts)
        return combination


class Composition(_Combination):
    """Composition ``A(B(x))``."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if outer.domain_shape != inner.range_shape and not (
            outer.channelwise and tuple(outer.domain_shape[1:]) == tuple(inner.range_shape[1:])
        ):
            raise InputError(
                f"{outer} @ {inner} does not fit: {inner} returns {inner.range_shape}, "
                f"{outer} takes {outer.domain_shape}"
            )
        super().__init__((outer, inner))
        self.domain_shape, self.range_shape = inner.domain_shape, outer.range_shape
        if (
            outer.channelwise
            and not inner.channelwise
            and outer.range_shape
            and not isinstance(outer.range_shape[0], tuple)
        ):
            self.range_shape = cast(Shape, (inner.range_shape[0], *outer.range_shape[1:]))

    def _forward(self, x: Tensor) -> Any:
        return self.parts[0]._forward(self.parts[1]._forward(x))

    def with_info(self, x: Any) -> tuple[Any, dict[str, Tensor]]:
        inner, info = self.parts[1].with_info(x)
        return self.parts[0](inner), info

    @property
    def sampled(self) -> Tensor | None:
        return self.parts[0].sampled

    def estimate_noise_std(self, y: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Estimate the noise level as the inner operator does, if the outer one selects."""
        outer, inner = self.parts
        # Measurements of some pixels or samples return to their grid, where the others are 0.
        place = getattr(outer, "to_grid", None)
        if place is not None:
            return inner.estimate_noise_std(*place(y, weights))
        if outer.sampled is None or outer.domain_shape != outer.range_shape:
            return None
        used = outer.sampled if weights is None else outer.sampled * weights
        return inner.estimate_noise_std(y, used)

    @property
    def blocks(self) -> int | None:
        return self.parts[0].blocks

    def subset(self, index: Any) -> Operator:
        return compose(self.parts[0].subset(index), self.parts[1])

    def __repr__(self) -> str:
        return f"{self.parts[0]} @ {self.parts[1]}"


class LinearComposition(Composition, LinearOperator):
    """Composition ``A B x`` of linear operators, with adjoint ``B^T A^T y``."""

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def _adjoint(self, y: Any) -> Tensor:
        return self.parts[1]._adjoint(self.parts[0]._adjoint(y))


class OperatorSum(_Combination):
    """Sum ``A(x) + B(x)``."""

    def __init__(self, first: Operator, second: Operator) -> None:
        if (first.domain_shape, first.range_shape) != (second.domain_shape, second.range_shape):
            raise InputError(
                f"{first} + {second} does not fit: {first.domain_shape} -> {first.range_shape} "
                f"and {second.domain_shape} -> {second.range_shape}"
            )
        super().__init__((first, second))
        self.domain_shape, self.range_shape = first.domain_shape, first.range_shape

    def _forward(self, x: Tensor) -> Any:
        return _plus(self.parts[0]._forward(x), self.parts[1]._forward(x))

    @property
    def blocks(self) -> int | None:
        counts = {operator.blocks for operator in self.parts}
        return counts.pop() if len(counts) == 1 else None

    def subset(self, index: Any) -> Operator:
        return add(self.parts[0].subset(index), self.parts[1].subset(index))

    def __repr__(self) -> str:
        return f"({self.parts[0]} + {self.parts[1]})"


class LinearSum(OperatorSum, LinearOperator):
    """Sum ``(A + B) x`` of linear operators."""

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def _adjoint(self, y: Any) -> Tensor:
        return self.parts[0]._adjoint(y) + self.parts[1]._adjoint(y)


class Scaled(_Combination):
    """Multiple ``a A(x)`` for a number ``a``, or one number per item."""

    def __init__(self, factor: float | Tensor, part: Operator) -> None:
        super().__init__((part,))
        self.factor = factor
        self.domain_shape, self.range_shape = part.domain_shape, part.range_shape
        if isinstance(factor, Tensor) and factor.ndim == 1 and len(factor) > 1:
            if self.items not in (None, len(factor)):
                raise InputError(
                    f"{len(factor)} factors do not fit {part}, which holds {self.items} items"
                )
            self.items = len(factor)

    def _forward(self, x: Tensor) -> Any:
        return _times(self.factor, self.parts[0]._forward(x))

    def select(self, index: Tensor) -> Any:
        scaled = self._with_parts([self.parts[0].select(index)])
        if isinstance(self.factor, Tensor) and self.factor.ndim == 1 and len(self.factor) > 1:
            scaled.factor, scaled.items = self.factor.index_select(0, index), len(index)
        return scaled

    @property
    def sampled(self) -> Tensor | None:
        return self.parts[0].sampled

    def estimate_noise_std(self, y: Tensor, weights: Tensor | None = None) -> Tensor | None:
        return self.parts[0].estimate_noise_std(y, weights)

    @property
    def blocks(self) -> int | None:
        return self.parts[0].blocks

    def subset(self, index: Any) -> Operator:
        return scale(self.parts[0].subset(index), self.factor)

    def __repr__(self) -> str:
        return f"{self.factor} * {self.parts[0]}"


class LinearScaled(Scaled, LinearOperator):
    """Multiple ``a A x`` of a linear operator."""

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def _adjoint(self, y: Any) -> Tensor:
        factor = (
            self.factor.conj()
            if isinstance(self.factor, Tensor)
            else complex(self.factor).conjugate()
        )
        if isinstance(factor, complex) and factor.imag == 0:
            factor = factor.real
        return _times(factor, self.parts[0]._adjoint(y))

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Compute ``|a|`` times the norm of the part, which may have a closed form."""
        inner_norm = self.parts[0].norm(
            tolerance=tolerance,
            max_iterations=max_iterations,
            seed=seed,
            dtype=dtype,
            device=device,
        )
        size = (
            self.factor.abs().reshape(-1).to(inner_norm)
            if isinstance(self.factor, Tensor)
            else abs(self.factor)
        )
        return inner_norm * size

    @property
    def has_normal_resolvent(self) -> bool:
        return self.parts[0].has_normal_resolvent

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        size = (
            self.factor.abs().to(v.device) if isinstance(self.factor, Tensor) else abs(self.factor)
        )
        return self.parts[0].normal_resolvent(v, rho, weight * size**2)


class Adjoint(_Combination, LinearOperator):
    """Adjoint ``A^T`` as an operator."""

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def __init__(self, part: LinearOperator) -> None:
        super().__init__((part,))
        self.domain_shape, self.range_shape = cast(Shape, part.range_shape), part.domain_shape

    def _forward(self, x: Tensor) -> Any:
        return self.parts[0]._adjoint(x)

    def _adjoint(self, y: Any) -> Tensor:
        return cast(Tensor, self.parts[0]._forward(y))

    @property
    def T(self) -> LinearOperator:
        return self.parts[0]

    def __repr__(self) -> str:
        return f"{self.parts[0]}.T"


class Stack(_Combination):
    """Several operators on the same ``x``; the prediction is a tuple."""

    def __init__(self, parts: Sequence[Operator]) -> None:
        if not parts:
            raise InputError("stack needs at least one operator")
        shapes = {tuple(operator.domain_shape) for operator in parts}
        if len(shapes) > 1:
            raise InputError(
                f"stack needs operators on the same images, got domain shapes {sorted(shapes)}"
            )
        super().__init__(parts)
        self.domain_shape = parts[0].domain_shape
        self.range_shape = tuple(cast(Shape, operator.range_shape) for operator in parts)

    def _forward(self, x: Tensor) -> Any:
        return tuple(operator._forward(x) for operator in self.parts)

    @property
    def blocks(self) -> int:
        """Number of stacked operators."""
        return len(self.parts)

    def subset(self, index: Any) -> Operator:
        """Return the stack of some of the operators."""
        return stack(take_blocks(self.parts, index))

    def __repr__(self) -> str:
        return f"stack({', '.join(map(str, self.parts))})"


class LinearStack(Stack, LinearOperator):
    """Stack of linear operators; its adjoint is the sum of their adjoints."""

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def _adjoint(self, y: Any) -> Tensor:
        result = self.parts[0]._adjoint(y[0])
        for operator, measurement in zip(self.parts[1:], y[1:]):
            result = result + operator._adjoint(measurement)
        return result


class Component(_Combination):
    """One part ``A(x)[k]`` of an operator whose prediction is a tuple."""

    def __init__(self, operator: Operator, k: int) -> None:
        super().__init__((operator,))
        self.k = k
        self.domain_shape = operator.domain_shape
        self.range_shape = cast(Shape, operator.range_shape[k])

    def __call__(self, x: Any) -> Any:
        return self.parts[0](x)[self.k]

    def _forward(self, x: Tensor) -> Any:
        return self.parts[0]._forward(x)[self.k]

    def __repr__(self) -> str:
        return f"{self.parts[0]}[{self.k}]"


def component(operator: Operator, k: int) -> Operator:
    """Return the operator ``A(x)[k]``; for stacked operators this is the k-th operator."""
    return operator.parts[k] if isinstance(operator, Stack) else Component(operator, k)


class Jacobian(LinearOperator):
    """Derivative of a nonlinear operator at a point."""

    def __init__(self, operator: Operator, x: Tensor) -> None:
        self.operator, self.point = operator, x.detach()
        self.domain_shape, self.range_shape = operator.domain_shape, operator.range_shape
        self.channelwise, self.items = operator.channelwise, x.shape[0]

    def _forward(self, x: Tensor) -> Any:
        return torch.func.jvp(self.operator._forward, (self.point,), (x,))[1]

    def _adjoint(self, y: Any) -> Tensor:
        return cast(Tensor, torch.func.vjp(self.operator._forward, self.point)[1](y)[0])

    def select(self, index: Tensor) -> Any:
        return Jacobian(self.operator.select(index), self.point.index_select(0, index))

    def __repr__(self) -> str:
        return f"{self.operator}.linearize(x)"


def compose(outer: Operator, inner: Operator) -> Operator:
    """Return ``outer(inner(x))`` as an operator, linear if both are."""
    linear = isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator)
    return LinearComposition(outer, inner) if linear else Composition(outer, inner)


def add(first: Operator, second: Operator) -> Operator:
    """Return ``first(x) + second(x)`` as an operator, linear if both are."""
    linear = isinstance(first, LinearOperator) and isinstance(second, LinearOperator)
    return LinearSum(first, second) if linear else OperatorSum(first, second)


def scale(part: Operator, factor: float | Tensor) -> Operator:
    """Return ``factor * part(x)`` as an operator, linear if the part is."""
    return LinearScaled(factor, part) if isinstance(part, LinearOperator) else Scaled(factor, part)


def take_blocks(parts: Sequence[Any], index: Any) -> list[Any]:
    """Return the entries ``index`` of a sequence, for an index as tensors accept it."""
    numbers = torch.arange(len(parts))[index.cpu() if isinstance(index, Tensor) else index]
    return [parts[k] for k in numbers.reshape(-1).tolist()]


def _plus(a: Any, b: Any) -> Any:
    return tuple(p + q for p, q in zip(a, b)) if isinstance(a, tuple) else a + b


def _times(factor: float | complex | Tensor, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_times(factor, tensor) for tensor in value)
    if isinstance(factor, Tensor):
        if factor.is_complex():  # `expand` returns real factors
            return value * (factor.reshape(-1, *[1] * (value.ndim - 1)) if factor.ndim else factor)
        return value * expand(factor, value)
    return factor * value
