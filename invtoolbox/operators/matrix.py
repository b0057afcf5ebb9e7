"""Matrices, dense and sparse, functions and networks as operators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from invtoolbox.core.guards import as_tensor
from invtoolbox.core.pytrees import map_items, tree_map
from invtoolbox.errors import InputError
from invtoolbox.kernels.linear_map import BatchedFunction
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.operators.base import LinearOperator, Operator, Shape, Shapes

#: Largest error of an adjoint in the dot test. Pairs of projectors that are not matched on purpose
#: differ by a few per cent; a wrong sign, axis or factor by more.
_UNMATCHED = 0.1


class Matrix(LinearOperator):
    """Product ``A x = M x`` with a matrix; images are flattened row by row, channel first.

    On a CPU, items are multiplied one by one, so that an item does not depend on its batch. The
    last bits may depend on the number of threads.

    Args:
        matrix: the matrix M, ``(m, n)``, or ``(batch, m, n)`` for one matrix per item.
        domain_shape: shape ``(channel, *space)`` with ``n`` entries; ``(1, n)`` by default.
        range_shape: shape ``(channel, *space)`` with ``m`` entries; ``(1, m)`` by default.

    Raises:
        InputError: if shapes do not fit, or if entries are not finite.

    >>> A = Matrix(torch.tensor([[1., 2.], [0., 1.], [1., 0.]]))
    >>> A(torch.tensor([[[1., 1.]]]))
    tensor([[[3., 1., 1.]]])
    """

    def __init__(
        self,
        matrix: Any,
        domain_shape: Sequence[int] | None = None,
        range_shape: Sequence[int] | None = None,
    ) -> None:
        values = as_tensor(matrix)
        if values.ndim not in (2, 3):
            raise InputError(
                f"a Matrix must be (m, n) or (batch, m, n), got shape {tuple(values.shape)}"
            )
        if not bool(values.isfinite().all()):
            raise InputError("the Matrix has entries that are NaN or infinite")
        self.matrix = (
            values
            if values.is_floating_point() or values.is_complex()
            else values.to(torch.float32)
        )
        self.domain_shape, self.range_shape = infer_shapes(domain_shape, range_shape, values.shape)
        self.items = values.shape[0] if values.ndim == 3 and values.shape[0] > 1 else None

    def parameters(self) -> dict[str, Tensor]:
        """``matrix``, of shape ``(m, n)`` or ``(batch, m, n)``."""
        return {"matrix": self.matrix}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        operator = super()._replace(parameters)
        return operator._with_items(
            len(operator.matrix) if operator.matrix.ndim == 3 and len(operator.matrix) > 1 else None
        )

    @property
    def blocks(self) -> int | None:
        """Number of rows, if the measurements are one row of numbers."""
        return (
            self.range_shape[1] if len(self.range_shape) == 2 and self.range_shape[0] == 1 else None
        )

    def subset(self, index: Any) -> Operator:
        """Return the operator of some rows: ``A.subset(i)(x) = A(x)[:, :, i]``."""
        if self.blocks is None:
            return super().subset(index)
        operator = self._replace({"matrix": self.matrix[..., index, :]})
        operator.range_shape = (1, operator.matrix.shape[-2])
        return operator

    def _forward(self, x: Tensor) -> Tensor:
        return self._product(x, self.matrix).reshape(x.shape[0], *self.range_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._product(y, self.matrix.mH).reshape(y.shape[0], *self.domain_shape)

    def _product(self, x: Tensor, matrix: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.complex64) if matrix.is_complex() else x.dtype
        vectors, M = x.to(dtype).flatten(1), matrix.to(dtype)
        if M.ndim == 2:
            return map_items(lambda v: _multiply(M, v), vectors)
        return map_items(_multiply, M, vectors)

    def _known_norm(self) -> Tensor:
        return torch.linalg.matrix_norm(self.matrix, 2).reshape(-1)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute the least-squares image of smallest norm."""
        self._check_measurements("pseudo-inverse", y)
        matrix = self.matrix
        inverse = (
            torch.linalg.pinv(matrix) if matrix.ndim == 2 else map_items(torch.linalg.pinv, matrix)
        )
        return self._product(y, inverse).reshape(y.shape[0], *self.domain_shape)

    def __repr__(self) -> str:
        return f"Matrix({'x'.join(map(str, self.matrix.shape))})"


def _multiply(matrix: Tensor, vectors: Tensor) -> Tensor:
    return (matrix @ vectors.unsqueeze(2)).squeeze(2)


class SparseMatrix(LinearOperator):
    """Product ``A x = M x`` with a sparse matrix; images are flattened as by `Matrix`.

    The matrix and its transpose are both stored by rows, so that both products are fast, and the
    sums have the same order in every call. The product has the precision of the image. On a CPU,
    items are multiplied one by one, so that an item does not depend on its batch.

    Args:
        matrix: sparse tensor ``(m, n)`` of any layout of torch (COO, CSR, CSC, BSR, BSC); entries
            of one place are added.
        domain_shape: shape ``(channel, *space)`` with ``n`` entries; ``(1, n)`` by default.
        range_shape: shape ``(channel, *space)`` with ``m`` entries; ``(1, m)`` by default.

    Raises:
        InputError: if the tensor is not one sparse matrix, if shapes do not fit, or if entries are
            not finite.

    >>> A = SparseMatrix(torch.tensor([[1., 2.], [0., 1.], [1., 0.]]).to_sparse())
    >>> A(torch.tensor([[[1., 1.]]])), A.adjoint(torch.tensor([[[0., 1., 1.]]]))
    (tensor([[[3., 1., 1.]]]), tensor([[[1., 1.]]]))
    """

    def __init__(
        self,
        matrix: Tensor,
        domain_shape: Sequence[int] | None = None,
        range_shape: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(matrix, Tensor) or matrix.layout == torch.strided:
            raise InputError(
                f"a SparseMatrix takes a sparse tensor (m, n), got a dense {type(matrix).__name__}; "
                "use it.operators.Matrix"
            )
        if matrix.ndim != 2 or matrix.dense_dim():
            raise InputError(
                f"a SparseMatrix must be (m, n) with numbers as entries, got the shape "
                f"{tuple(matrix.shape)} with {matrix.dense_dim()} dense axes; convert a batch of "
                "matrices by to_dense()"
            )
        with warnings.catch_warnings():
            # torch warns once per process that its compressed rows are a beta feature.
            warnings.filterwarnings("ignore", message="Sparse")
            entries = (
                matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()
            ).coalesce()
        values = entries.values()
        if not values.is_floating_point() and not values.is_complex():
            values = values.to(torch.float32)
        if not bool(values.isfinite().all()):
            raise InputError("the SparseMatrix has entries that are NaN or infinite")
        m, n = matrix.shape
        self.rows, self.columns = entries.indices()
        self.values = values
        self.domain_shape, self.range_shape = infer_shapes(domain_shape, range_shape, (m, n))
        self.product: SparseProduct | None = SparseProduct(
            self.rows, self.columns, values.detach(), (m, n)
        )

    def parameters(self) -> dict[str, Tensor]:
        """``values``, the entries row by row, ``(entries,)``."""
        return {"values": self.values}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        operator = super()._replace(parameters)
        # Other entries may carry derivatives, which the stored product does not.
        operator.product = None
        return operator

    def _forward(self, x: Tensor) -> Tensor:
        return self._apply(x, False)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y, True)

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        if self.product is not None and not self.values.requires_grad:
            return cast(Tensor, ApplyLinear.apply(x, self, transpose))
        shape, x = self._prepare(x, transpose)
        sources, targets = self.columns, self.rows
        if transpose:
            sources, targets = targets, sources
        entries = self.values.conj() if transpose else self.values
        summands = x[:, sources] * entries.to(x.dtype)
        result = x.new_zeros(x.shape[0], math.prod(shape)).index_add(1, targets, summands)
        return result.reshape(x.shape[0], *shape)

    def compute(self, x: Tensor, transpose: bool) -> Tensor:
        """Compute ``A x``, or ``A^H x`` if ``transpose``, outside automatic differentiation."""
        assert self.product is not None
        shape, x = self._prepare(x, transpose)
        # A^H x is the conjugate of A^T applied to the conjugate of x.
        product = self.product.T if transpose else self.product
        items = (x.conj() if transpose else x).resolve_conj()
        groups = items.split(1) if x.device.type == "cpu" else (items,)
        result = torch.cat([product(group.T.clone()).T for group in groups])
        return (result.conj() if transpose else result).resolve_conj().reshape(len(x), *shape)

    def _prepare(self, x: Tensor, transpose: bool) -> tuple[Shape, Tensor]:
        """Return the shape of a result, and the flat items in the dtype of the result."""
        dtype = x.dtype
        if self.values.is_complex():
            dtype = torch.promote_types(dtype, torch.complex64)
        shape = self.domain_shape if transpose else cast(Shape, self.range_shape)
        return shape, x.to(dtype).flatten(1)

    def normal_diagonal(self) -> Tensor:
        squares = self.values.abs().square()
        diagonal = squares.new_zeros(math.prod(self.domain_shape))
        return diagonal.index_add(0, self.columns, squares).reshape(1, *self.domain_shape)

    def __repr__(self) -> str:
        m, n = math.prod(cast(Shape, self.range_shape)), math.prod(self.domain_shape)
        return f"SparseMatrix({m}x{n}, {len(self.values)} entries)"


class ApplyLinear(BatchedFunction):
    """Automatic differentiation to any order: the derivative of a linear map is the map itself.

    The operator has a method ``compute(x, transpose)``, which computes ``A x`` or ``A^H x`` of a
    batch outside automatic differentiation.
    """

    @staticmethod
    def forward(x: Tensor, operator: Any, transpose: bool) -> Tensor:
        return operator.compute(x, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.operator, ctx.transpose = inputs
        ctx.real = not x.is_complex()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        result = ApplyLinear.apply(gradients[0], ctx.operator, not ctx.transpose)
        return (result.real if ctx.real and result.is_complex() else result), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return ApplyLinear.apply(tangents[0], ctx.operator, ctx.transpose)


class Function(Operator):
    """Operator ``A(x) = function(x)`` of a torch function.

    The function takes ``(batch, *domain_shape)`` and is differentiable by autograd. The parameters
    of a `torch.nn.Module` are the `parameters()` of the operator; the module itself is never
    written to. On a CPU a module is applied to each item alone, so that an item has the same bits
    in a batch.

    Args:
        function: function or module.
        domain_shape: shape ``(channel, *space)`` of the images.
        range_shape: shape of the prediction without the batch axis; if ``None``, the function is
            applied once to find it.
        channelwise: whether every channel is treated alike.

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
        self.replacements: dict[str, Tensor] = {}
        self.range_shape = (
            probe_range(self._forward, self.domain_shape, self._like(), repr(self))
            if range_shape is None
            else range_shape
        )

    def _forward(self, x: Tensor) -> Any:
        module = self.function
        if not isinstance(module, nn.Module):
            return module(x)
        if not self.replacements:
            return map_items(module, x)
        return map_items(lambda v: torch.func.functional_call(module, self.replacements, (v,)), x)

    def parameters(self) -> dict[str, Tensor]:
        module = self.function
        trained = dict(module.named_parameters()) if isinstance(module, nn.Module) else {}
        return {**trained, **self.replacements}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        if not parameters:
            return self
        replacements = {**self.replacements, **parameters}
        return super()._replace(cast("dict[str, Tensor]", {"replacements": replacements}))

    def _like(self) -> Tensor:
        """Return a tensor of the dtype and the device of the function's parameters."""
        module = self.function
        tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{type(self).__name__}({name})"


class LinearFunction(Function, LinearOperator):
    """Linear operator of a function; its adjoint is given, or comes from automatic differentiation.

    Args:
        function: linear function or module.
        domain_shape: shape ``(channel, *space)`` of the images.
        range_shape: shape of the prediction without the batch axis; if ``None``, the function is
            applied once to find it.
        channelwise: whether every channel is treated alike.
        adjoint: function that computes the adjoint; automatic differentiation if ``None``.

    Raises:
        InputError: if the function is not linear on random images, or ``adjoint`` is not its
            adjoint.

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
        if adjoint is not None:
            check_adjoint(self._forward, adjoint, self.domain_shape, self._like(), repr(self))

    def _adjoint(self, y: Any) -> Tensor:
        return super()._adjoint(y) if self.adjoint_function is None else self.adjoint_function(y)


def probe_range(
    function: Callable[[Tensor], Any], domain: Shape, like: Tensor, name: str, batch: int = 1
) -> Shapes:
    """Find the shape of the result of a function by applying it to zeros."""
    with torch.no_grad():
        prediction = function(like.new_zeros(batch, *domain))
    tensors = prediction if isinstance(prediction, (tuple, list)) else (prediction,)
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.ndim < 2 or tensor.shape[0] != batch:
            got = (
                f"shape {tuple(tensor.shape)}"
                if isinstance(tensor, Tensor)
                else type(tensor).__name__
            )
            raise InputError(
                f"{name} must map a batch ({batch}, {', '.join(map(str, domain))}) to tensors "
                f"whose first axis is the batch and whose second is the channel, got {got}"
            )
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in tensors)
    return shapes if isinstance(prediction, (tuple, list)) else shapes[0]


def check_linear(
    function: Callable[[Tensor], Any],
    domain: Shape,
    like: Tensor,
    name: str,
    advice: str = "pass linear=False",
) -> None:
    """Raise an `InputError` unless ``function(a + 2 b)`` equals ``function(a) + 2 function(b)``."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, *domain, generator=generator).to(like) for _ in range(2))
    with torch.no_grad():
        together, alone_a, alone_b = (_flatten(function(x)) for x in (a + 2 * b, a, b))
    error = (together - alone_a - 2 * alone_b).abs().max()
    if not bool(error <= 1e-3 * (alone_a.abs().max() + 2 * alone_b.abs().max())):
        raise InputError(
            f"{name} is not linear: A(a + 2b) differs from A(a) + 2A(b) by {float(error):.3g} on "
            f"random images (a bias?); {advice}"
        )


def check_adjoint(
    function: Callable[[Tensor], Any],
    adjoint: Callable[[Any], Tensor],
    domain: Shape,
    like: Tensor,
    name: str,
    written: str = "adjoint=",
) -> None:
    """Raise an `InputError` unless ``<function(a), y>`` is close to ``<a, adjoint(y)>``.

    ``written`` is the place of the adjoint in the user's code.
    """
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(1, *domain, generator=generator).to(like)
    with torch.no_grad():
        prediction = function(a)
        # Two random vectors are nearly orthogonal in many dimensions, so y contains A a.
        y = tree_map(
            lambda t: (
                t
                + t.abs().double().square().mean().sqrt()
                * torch.randn(t.shape, generator=generator).to(t)
            ),
            prediction,
        )
        back = adjoint(y)
    if not isinstance(back, Tensor) or back.shape != a.shape:
        got = tuple(back.shape) if isinstance(back, Tensor) else type(back).__name__
        raise InputError(f"{written} of {name} must return images {tuple(a.shape)}, got {got}")
    # Products of large values leave float32, and float64 holds them.
    forward, measured, start, back = (
        t.to(torch.promote_types(t.dtype, torch.float64))
        for t in (_flatten(prediction), _flatten(y), a, back)
    )
    left = float((forward.conj() * measured).sum().real)
    right = float((start.conj() * back).sum().real)
    if not abs(left - right) <= _UNMATCHED * float(forward.norm() * measured.norm()):
        raise InputError(
            f"{written} is not the adjoint of {name}: <A a, y> is {left:.4g} and <a, A^T y> is "
            f"{right:.4g} for random a and y; leave it out for that of automatic differentiation"
        )


def _flatten(value: Any) -> Tensor:
    return (
        torch.cat([tensor.flatten() for tensor in value])
        if isinstance(value, (tuple, list))
        else value.flatten()
    )


def infer_shapes(
    domain_shape: Sequence[int] | None, range_shape: Sequence[int] | None, matrix: Sequence[int]
) -> tuple[Shape, Shape]:
    """Return the shapes of images and measurements of a matrix ``(..., m, n)``."""
    m, n = matrix[-2:]
    return (
        _infer_shape(domain_shape, n, "columns", "domain_shape"),
        _infer_shape(range_shape, m, "rows", "range_shape"),
    )


def _infer_shape(shape: Sequence[int] | None, count: int, axis: str, name: str) -> Shape:
    """Return ``shape`` if it has ``count`` entries; ``(1, count)`` by default."""
    if shape is None:
        return (1, count)
    fitted = tuple(int(n) for n in shape)
    if math.prod(fitted) != count:
        raise InputError(
            f"the matrix has {count} {axis}, but {name} {fitted} has {math.prod(fitted)} entries"
        )
    return fitted
