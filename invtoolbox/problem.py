"""The problem: measurements, the operator that explains them, and the data term."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.core.masks import explain_mismatch
from invtoolbox.core.pytrees import blank_items
from invtoolbox.core.settings import Settings
from invtoolbox.data_terms.base import DataTerm, ResidualTerm, Stack
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError, MeasurementWarning, warn_user
from invtoolbox.operators.algebra import component, take_blocks
from invtoolbox.operators.base import LinearOperator, Operator, expand, inner
from invtoolbox.priors.base import Prior, PriorSum


class Problem(Settings):
    """Find ``x`` such that ``operator(x)`` explains ``y``.

    Args:
        y: measurements ``(batch, *operator.range_shape)``, a tensor or an array; a tuple for
            stacked operators.
        operator: the forward operator, or anything `as_operator` takes.
        data_term: misfit between prediction and measurements; least squares without a noise level
            by default. Measurements that the operator does not take (`Operator.sampled`) are set
            to 0 and have weight 0.
        unknown: parameters of the operator (``operator.parameters()``) that are found together with
            the image, each with an explicit prior of its own or None: ``{"angles": None}``,
            ``{"kernel": it.priors.Simplex()}``. They start from the values of the operator, and
            every item has its own. ``Solution.parameters`` and ``Solution.problem.operator`` hold
            the values that were found.

    Raises:
        InputError: if a shape does not fit (the sentence names the axis), the batch is empty, a mask
            is inverted, exchanged or shifted (the zeros of ``y`` show it), or the measurements of
            every item hold NaN or infinite values (it names the first index).

    Attributes:
        skipped: items whose measurements are not finite, bool ``(batch,)``; None if all are finite.
            Other items are solved, and the status of a skipped item is ``invalid``. Its ``y`` holds
            the measurements of another item, so that no sum or rule meets NaN.

    >>> import invtoolbox as it
    >>> A = it.operators.Identity((1, 4))
    >>> it.Problem(torch.ones(2, 1, 4), A)
    Problem: 2 items, Identity (1, 4) -> (1, 4), LeastSquares()
    """

    y: Any
    operator: Operator
    data_term: DataTerm
    unknown: dict[str, PriorSum]
    skipped: Tensor | None

    def __init__(
        self,
        y: Any,
        operator: Any,
        data_term: DataTerm | None = None,
        unknown: dict[str, Prior | None] | None = None,
    ) -> None:
        if not isinstance(operator, Operator):
            from invtoolbox.operators.adapters import as_operator

            operator = as_operator(operator)
        self.y = (
            tuple(map(as_measurements, y)) if isinstance(y, (tuple, list)) else as_measurements(y)
        )
        self.operator = operator
        self.data_term = data_term if data_term is not None else LeastSquares()
        if not isinstance(self.data_term, DataTerm):
            is_theirs = type(data_term).__module__.startswith("deepinv.")
            hint = "; LeastSquares(noise_std=sigma) is deepinv's L2(sigma)" if is_theirs else ""
            raise InputError(
                "data_term must be one of it.data_terms or a subclass of DataTerm, got "
                f"{type(data_term).__name__}{hint}"
            )
        try:
            self.data_term.check_shape(
                self.y,
                operator.range_shape,
                f"the measurements of {operator}",
                operator.channelwise,
                operator.items,
            )
        except InputError as error:
            if hint := operator.explain_shape(self.y):
                raise InputError(f"{error}; {hint}") from None
            raise
        self.data_term = self.data_term.align(self.y)
        self.y, self.data_term = _restrict(self.y, self.data_term, operator)
        self.y, self.skipped = _skip_items(self.y)
        self.data_term.check(self.y)
        self.unknown = _check_unknown(unknown or {}, operator)

    @property
    def y0(self) -> Tensor:
        """First tensor of the measurements, which has their batch size, dtype and device."""
        return self.y[0] if isinstance(self.y, tuple) else self.y

    @property
    def batch(self) -> int:
        """Number of items of ``y``, or of the operator if its items share one measurement."""
        measured = int(self.y0.shape[0])
        return max(measured, self.operator.items or 1) if measured == 1 else measured

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape ``(channel, *space)`` of ``x``; channelwise operators take channels from ``y``."""
        domain = self.operator.domain_shape
        return (self.y0.shape[1], *domain[1:]) if self.operator.channelwise else tuple(domain)

    @property
    def image_dtype(self) -> torch.dtype:
        """Dtype of ``x``: that of ``y``, or complex if complex images give real measurements."""
        real = self.y0.dtype
        return real.to_complex() if self.operator.complex_images and not real.is_complex else real

    @property
    def is_linear(self) -> bool:
        return isinstance(self.operator, LinearOperator)

    def zeros(self) -> Tensor:
        """Return an image of zeros for every item."""
        return torch.zeros(
            self.batch, *self.image_shape, dtype=self.image_dtype, device=self.y0.device
        )

    def select(self, index: Tensor) -> Problem:
        picked_y = _each(
            self.y, lambda t: t if len(t) == 1 < self.batch else t.index_select(0, index)
        )
        problem = self._with(picked_y, self.operator.select(index), self.data_term.select(index))
        problem.unknown = {name: prior.select(index) for name, prior in self.unknown.items()}
        if self.skipped is not None:
            problem.skipped = self.skipped.index_select(0, index)
        return problem

    def without_skipping(self) -> Problem:
        """Return the problem in which no item is skipped, with the same ``y``."""
        if self.skipped is None:
            return self
        problem = copy.copy(self)
        problem.skipped = None
        return problem

    def measured(self) -> Any:
        """Return ``y`` with NaN for the skipped items."""
        return self.y if self.skipped is None else blank_items(self.skipped, self.y)

    def subset(self, index: Any, generator: Generator | None = None) -> Problem:
        """Return the problem of some blocks: views of a scan, rows of a matrix, parts of a stack.

        Operator, data term and measurements are restricted together, so the misfits of disjoint
        subsets add up to the misfit of the whole.

        Args:
            index: indices of the blocks, as tensors are indexed; a whole number draws that number
                of blocks, without repetition.
            generator: source of the random draw.

        >>> import invtoolbox as it
        >>> problem = it.Problem(torch.ones(1, 1, 6), it.operators.Matrix(torch.ones(6, 2)))
        >>> problem.subset([0, 3]).y.shape
        torch.Size([1, 1, 2])
        """
        blocks = self.operator.blocks
        if blocks is not None and isinstance(index, int):
            if not 1 <= index <= blocks:
                raise InputError(
                    f"a subset holds 1 to {blocks} of the blocks of {self.operator}, got {index}"
                )
            index = self.operator.draw_blocks(index, generator).to(self.y0.device)
        operator = self.operator.subset(index)  # raises if the operator has no blocks
        y = tuple(take_blocks(self.y, index)) if isinstance(self.y, tuple) else self.y[:, :, index]
        return self._with(y, operator, self.data_term.subset(index, self.y))

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Problem:
        if target is None and device is None and dtype is None:
            return self
        return super().to(target, device=device, dtype=dtype)

    def part(self, k: int) -> Problem:
        """Return the problem of the k-th measurements, whose misfits a `data_terms.Stack` adds.

        Args:
            k: number of the measurement.
        """
        terms = getattr(self.data_term, "terms", None)
        if terms is None or not isinstance(self.y, tuple) or not 0 <= k < len(self.y):
            raise InputError(
                f"{self!r} has no part {k}; parts belong to measurements that are a tuple, under "
                "data_terms.Stack"
            )
        return self._with(self.y[k], component(self.operator, k), terms[k])

    def with_data_term(self, data_term: DataTerm) -> Problem:
        """Return the problem with another data term.

        Args:
            data_term: the new data term.
        """
        return self._with(self.y, self.operator, data_term)

    def with_operator(self, operator: Operator) -> Problem:
        """Return the problem with another operator of the same shapes.

        Args:
            operator: the new operator.
        """
        return self._with(self.y, operator, self.data_term)

    def with_measurements(self, y: Any) -> Problem:
        """Return the problem with other measurements of the same shape.

        Args:
            y: the new measurements, which are not checked.
        """
        return self._with(y, self.operator, self.data_term)

    def without_unknowns(self) -> Problem:
        """Return the problem with a known operator, for the first reconstructions of priors."""
        problem = copy.copy(self)
        problem.unknown = {}
        return problem

    def _with(self, y: Any, operator: Operator, data_term: DataTerm) -> Problem:
        problem = copy.copy(self)  # what is already checked is not checked again
        problem.y, problem.operator, problem.data_term = y, operator, data_term
        return problem

    def __repr__(self) -> str:
        unknown = f", unknown {', '.join(self.unknown)}" if self.unknown else ""
        return (
            f"Problem: {self.batch} item{'s' if self.batch != 1 else ''}, {self.operator} "
            f"{self.image_shape} -> {self.operator.range_shape}, {self.data_term!r}{unknown}"
        )


def fitted_back_projection(problem: Problem) -> Tensor:
    """Return the multiple of the back-projection ``A^T W p`` whose prediction is closest to p.

    p is the prediction that fits the measurements best, and W holds the weights of the data term,
    if it has any: a measurement without weight changes nothing. The result is zero if the data
    term has no such prediction, or if the operator is not linear.

    Args:
        problem: measurements, operator and data term.
    """
    A, fitting = problem.operator, problem.data_term.fitting_prediction(problem.y)
    if fitting is None or not isinstance(A, LinearOperator):
        return problem.zeros()
    weights = getattr(problem.data_term, "weights", None)
    weighted = fitting if weights is None else weights.to(fitting.real.dtype) * fitting
    x = A.adjoint(weighted)
    prediction = A(x)
    squared = inner(prediction, prediction)
    if weights is not None:
        squared = inner(prediction, weights.to(fitting.real.dtype) * prediction)
    return x * expand(
        torch.where(
            squared > 0,
            inner(prediction, weighted)
            / torch.where(squared > 0, squared, torch.ones_like(squared)),
            torch.zeros_like(squared),
        ),
        x,
    )


def _check_unknown(unknown: dict[str, Prior | None], operator: Operator) -> dict[str, PriorSum]:
    tensors = operator.parameters()
    for name, prior in unknown.items():
        if name not in tensors:
            raise InputError(
                f"unknown= names {name!r}, which is no parameter of {operator}; it has "
                f"{', '.join(tensors) or 'none'}"
            )
        if not (tensors[name].is_floating_point() or tensors[name].is_complex()):
            raise InputError(
                f"unknown= names {name!r}, which holds {tensors[name].dtype} and cannot be moved in "
                "small steps"
            )
        if prior is not None and (
            not isinstance(prior, Prior) or prior.as_sum().implicit is not None
        ):
            raise InputError(
                f"the prior of the unknown {name!r} must be an explicit one or None, got {prior!r}"
            )
    return {
        name: PriorSum() if prior is None else prior.as_sum() for name, prior in unknown.items()
    }


def _restrict(y: Any, data_term: DataTerm, operator: Operator) -> tuple[Any, DataTerm]:
    """Set measurements that the operator does not take to 0, with weight 0.

    A user's file may hold anything there: zeros, garbage, or the pixels of a whole picture.
    """
    if isinstance(data_term, Stack) and isinstance(y, tuple):
        parts = [
            _restrict(component_y, term, component(operator, k))
            for k, (component_y, term) in enumerate(zip(y, data_term.terms))
        ]
        terms = Stack(*(term for _, term in parts), weights=data_term.weights)
        changed = any(new is not old for (_, new), old in zip(parts, data_term.terms))
        return tuple(component_y for component_y, _ in parts), terms if changed else data_term
    sampled = None if isinstance(y, tuple) else operator.sampled
    if sampled is None or bool((sampled != 0).all()):
        return y, data_term
    change = explain_mismatch(y, (sampled != 0).to(y.device))
    if change is not None:
        raise InputError(
            f"measurements that {operator} does not take hold values, and measurements that it "
            f"takes are zero or NaN; the mask fits {change}"
        )
    hidden = (sampled == 0).to(y.device).expand(y.shape[0], *(-1 for _ in y.shape[1:]))
    if bool((y != 0).logical_and(hidden).any()):
        y = y.masked_fill(hidden, 0)
    if isinstance(data_term, ResidualTerm):
        data_term = data_term.restrict(sampled)
    return y, data_term


def _each(y: Any, change: Any) -> Any:
    return tuple(change(t) for t in y) if isinstance(y, tuple) else change(y)


def as_measurements(y: Any) -> Tensor:
    """Convert measurements to a tensor of floating-point or complex numbers.

    Whole numbers and half precision become single precision, in which operators compute.

    Args:
        y: a tensor, an array of any memory layout, or numbers.

    >>> as_measurements(torch.ones(2, dtype=torch.float16)).dtype
    torch.float32
    """
    tensor = as_tensor(y)
    if tensor.is_complex():
        return tensor.to(torch.complex64) if tensor.dtype == torch.complex32 else tensor
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _skip_items(y: Any) -> tuple[Any, Tensor | None]:
    """Return the measurements without the items that are not finite, and the mask of these items.

    The measurements of the first finite item take their place.
    """
    parts = y if isinstance(y, tuple) else (y,)
    broken = torch.stack([~torch.isfinite(tensor).flatten(1).all(1) for tensor in parts]).any(0)
    if not bool(broken.any()):
        return y, None
    tensor = next(tensor for tensor in parts if not bool(torch.isfinite(tensor).all()))
    bad = ~torch.isfinite(tensor)
    place = ", ".join(str(int(k)) for k in bad.nonzero()[0])
    fault = (
        f"the measurements hold {int(bad.sum())} values of {tensor.numel()} that are NaN or infinite, "
        f"the first at index ({place})"
    )
    remedy = "replace them and give them weight 0 with LeastSquares(weights=...)"
    if bool(broken.all()):
        raise InputError(f"{fault}; {remedy}")
    items = ", ".join(str(int(k)) for k in broken.nonzero()[:8, 0])
    warn_user(f"{fault}; item {items} is skipped: {remedy}", MeasurementWarning)
    index = torch.arange(len(broken), device=broken.device)
    index = torch.where(broken, (~broken).nonzero()[0], index)
    return _each(y, lambda t: t.index_select(0, index.to(t.device))), broken
