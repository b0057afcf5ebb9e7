"""The problem: measurements, the operator that explains them, and how misfit is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import picked
from invtoolbox.operators.base import LinearOperator, Operator, check_shape
from invtoolbox.settings import Settings


class Problem(Settings):
    """Find ``x`` such that ``operator(x)`` explains ``y``.

    Args:
        y: measurements ``(batch, *operator.range_shape)``, a tensor or an array; a tuple for stacked operators.
        operator: the forward operator, or anything `as_operator` takes.
        data_term: how misfit is measured; least squares without a noise level by default.

    Raises:
        InputError: where a shape does not fit (it names the axis) or measurements are not finite (it says where).

    >>> import invtoolbox as it
    >>> A = it.operators.Identity((1, 4))
    >>> it.Problem(torch.ones(2, 1, 4), A)
    Problem: 2 items, Identity (1, 4) -> (1, 4), LeastSquares()
    """

    y: Any
    operator: Operator
    data_term: DataTerm

    def __init__(self, y: Any, operator: Any, data_term: DataTerm | None = None) -> None:
        if not isinstance(operator, Operator):
            from invtoolbox.operators.adapters import as_operator

            operator = as_operator(operator)
        self.y = tuple(map(_as_measurements, y)) if isinstance(y, (tuple, list)) else _as_measurements(y)
        self.operator = operator
        self.data_term = data_term if data_term is not None else LeastSquares()
        if not isinstance(self.data_term, DataTerm):
            raise InputError(f"data_term must be one of it.data_terms, got {type(data_term).__name__}")
        check_shape(self.y, operator.range_shape, f"the measurements of {operator}", operator.channelwise, operator.items)
        for part in self.y if isinstance(self.y, tuple) else (self.y,):
            _check_finite(part)
        self.data_term.check(self.y)

    @property
    def first(self) -> Tensor:
        """The measurements, or the first tensor of them: for batch size, dtype and device."""
        first: Tensor = self.y[0] if isinstance(self.y, tuple) else self.y
        return first

    @property
    def batch(self) -> int:
        return int(self.first.shape[0])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(channel, *space)`` of ``x``; an operator that treats channels alike takes their number from ``y``."""
        domain = self.operator.domain_shape
        return (self.first.shape[1], *domain[1:]) if self.operator.channelwise else tuple(domain)

    @property
    def image_dtype(self) -> torch.dtype:
        """That of the measurements; complex where the operator takes complex images to real measurements."""
        real = self.first.dtype
        return real.to_complex() if self.operator.complex_images and not real.is_complex else real

    @property
    def is_linear(self) -> bool:
        return isinstance(self.operator, LinearOperator)

    def zeros(self) -> Tensor:
        """An image of zeros for every item."""
        return torch.zeros(self.batch, *self.image_shape, dtype=self.image_dtype, device=self.first.device)

    def select(self, index: Tensor) -> Problem:
        pick = _each(self.y, lambda t: t.index_select(0, index))
        return self._with(pick, self.operator.select(index), self.data_term.select(index))

    def subset(self, index: Any, generator: Generator | None = None) -> Problem:
        """The problem of some blocks of the measurements: views of a scan, rows of a matrix, parts of a stack.

        Operator, data term and measurements are taken together, so the misfits of disjoint subsets add up to the whole.

        Args:
            index: which blocks, as tensors are indexed; a whole number draws that many, without repetition.
            generator: of the draw.

        >>> import invtoolbox as it
        >>> problem = it.Problem(torch.ones(1, 1, 6), it.operators.Matrix(torch.ones(6, 2)))
        >>> problem.subset([0, 3]).y.shape
        torch.Size([1, 1, 2])
        """
        blocks = self.operator.blocks
        if blocks is not None and isinstance(index, int):
            if not 1 <= index <= blocks:
                raise InputError(f"a subset holds 1 to {blocks} of the blocks of {self.operator}, got {index}")
            drawn = torch.randperm(blocks, generator=generator, device=generator.device if generator is not None else "cpu")
            index = drawn[:index].to(self.first.device)
        operator = self.operator.subset(index)  # says so where there are no blocks
        y = tuple(picked(self.y, index)) if isinstance(self.y, tuple) else self.y[:, :, index]
        return self._with(y, operator, self.data_term.subset(index, self.y))

    def to(self, target: torch.device | torch.dtype | str | None = None, *, device: torch.device | str | None = None,
           dtype: torch.dtype | None = None) -> Problem:
        if target is None and device is None and dtype is None:
            return self
        moved = super().to(target, device=device, dtype=dtype)
        return self._with(moved.y, moved.operator, moved.data_term)

    def with_data_term(self, data_term: DataTerm) -> Problem:
        """The same measurements and operator with another misfit."""
        return self._with(self.y, self.operator, data_term)

    def _with(self, y: Any, operator: Operator, data_term: DataTerm) -> Problem:
        other = object.__new__(Problem)  # what is already checked is not checked again
        other.y, other.operator, other.data_term = y, operator, data_term
        return other

    def __repr__(self) -> str:
        return (f"Problem: {self.batch} item{'s' if self.batch != 1 else ''}, {self.operator} {self.image_shape} -> "
                f"{self.operator.range_shape}, {self.data_term!r}")


def _each(y: Any, change: Any) -> Any:
    return tuple(change(t) for t in y) if isinstance(y, tuple) else change(y)


def _as_measurements(y: Any) -> Tensor:
    if isinstance(y, np.ndarray) and not y.flags.writeable:
        y = y.copy()
    tensor = y if isinstance(y, Tensor) else torch.as_tensor(y)
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.to(torch.float32)


def _check_finite(y: Tensor) -> None:
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        place = ", ".join(str(int(k)) for k in bad.nonzero()[0])
        raise InputError(f"the measurements hold {int(bad.sum())} values of {y.numel()} that are NaN or infinite, the first at "
                         f"index ({place}); replace them and give them weight 0 with LeastSquares(weights=...)")
