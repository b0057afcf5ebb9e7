"""Base classes of forward operators, and the per-item helpers shared by operators and solvers.

An operator maps the unknown ``x`` to a prediction of the measurements ``y``.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Generator, Tensor

from invtoolbox.core.pytrees import align
from invtoolbox.core.ranks import sum_over_ranks
from invtoolbox.core.reductions import norm_items
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.kernels.grids.grid_system import GridSystem

Shape = tuple[int, ...]
#: The shape of a tensor without its batch axis, or a tuple of such shapes.
Shapes = Shape | tuple[Shape, ...]

_SPATIAL_NAMES = {1: ("column",), 2: ("row", "column"), 3: ("slice", "row", "column")}


class Operator(Settings, ABC):
    """Map from images to measurements, differentiable by autograd.

    A subclass sets ``domain_shape`` and ``range_shape`` (without the batch axis) and implements
    ``_forward``.

    Attributes:
        domain_shape: shape ``(channel, *space)`` of ``x``.
        range_shape: shape ``(channel, *space)`` of ``A(x)``; a tuple of shapes if the measurements
            are a tuple.
        channelwise: if true, every channel is treated alike, and ``x`` may have any number of
            channels.
        complex_images: if true, images are complex although the measurements are real; otherwise
            images have the dtype of the measurements.
        items: number of batch items that the parameters belong to; ``None`` if all items share the
            parameters.
    """

    domain_shape: Shape
    range_shape: Shapes
    channelwise: bool = False
    complex_images: bool = False
    items: int | None = None
    #: Whether every parameter has a batch axis in front, of length 1 if all items share it.
    has_batch_axis: bool = False

    @abstractmethod
    def _forward(self, x: Tensor) -> Any: ...

    def __call__(self, x: Tensor) -> Any:
        """Compute the prediction ``A(x)``, shape ``(batch, *range_shape)``."""
        check_shape(x, self.domain_shape, lambda: f"{self} takes x", self.channelwise, self.items)
        return self._forward(x)

    def with_info(self, x: Any) -> tuple[Any, dict[str, Tensor]]:
        """Compute the prediction and a dictionary of named intermediate quantities.

        An adaptive implicit prior gathers its statistics from these quantities; see
        `ImplicitPrior.gather`. Tensors that take part in the prediction keep their derivatives.
        """
        return self(x), {}

    def linearize(self, x: Tensor) -> LinearOperator:
        """Return the derivative of ``A`` at ``x``: a linear operator by jvp, its adjoint by vjp."""
        from invtoolbox.operators.algebra import Jacobian

        return Jacobian(self, x)

    def near_derivative(self, x: Tensor) -> LinearOperator | None:
        """Return a linear operator near the derivative of ``A`` at ``x``, or None.

        Gauss-Newton methods take its products for directions of descent, if those of the derivative
        cost much more. Gradients stay exact.
        """
        return None

    def simulate(self, x: Tensor, noise: Any = 0.0, seed: int | Sequence[int] = 0) -> Any:
        """Simulate noisy measurements ``A(x) + e``; the noise depends on ``seed`` alone.

        Args:
            x: images, ``(batch, *domain_shape)``.
            noise: standard deviation of the noise, or a noise model of
                `invtoolbox.operators.noise`: Gaussian, RelativeGaussian, Poisson.
            seed: one seed, which gives every batch item the same draw, or one seed per item.
        """
        from invtoolbox.operators.noise import simulate

        return simulate(self, x, noise, seed)

    # -- measurements that are not taken, and the noise of the others ------------------------------

    @property
    def sampled(self) -> Tensor | None:
        """Mask that is 1 for measurements that are taken and 0 for the others; None if all are.

        It broadcasts against ``y``. A `Problem` gives the others no weight, whatever they hold.
        """
        return None

    def estimate_noise_std(self, y: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Estimate the noise level of this kind of measurements, ``(batch,)``.

        The result is None if the kind has no method of its own, so that
        `parameter_choice.estimate_noise_std` compares neighbours.

        Args:
            y: measurements ``(batch, channel, *space)``.
            weights: measurements of weight 0 are left out.
        """
        return None

    # -- parameters: geometry, kernels, masks ------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        """Return the tensors that a user may calibrate or differentiate in, by name."""
        return {}

    def item_parameters(self, batch: int) -> dict[str, Tensor]:
        """Return the parameters with one set per item, ``(batch, ...)``, for `with_parameters`."""
        return {
            name: value.expand(batch, *value.shape[1:])
            if self.has_batch_axis or (self.items is not None and value.shape[:1] == (self.items,))
            else value.expand(batch, *value.shape)
            for name, value in self.parameters().items()
        }

    def with_parameters(self, **parameters: Tensor) -> Self:
        """Return a copy of the operator with other parameters; this operator is not changed."""
        names = self.parameters()
        for name in parameters:
            if name not in names:
                raise InputError(
                    f"{self} has no parameter {name!r}; it has {', '.join(names) or 'none'}"
                )
        return self._replace(parameters)

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        operator = copy.copy(self)
        for name, value in parameters.items():
            setattr(operator, name, value)
        return operator

    def fixed_scales(self) -> dict[str, float]:
        """Return the known units in which solvers move parameters, by name.

        Solvers estimate the unit of every other parameter.
        """
        return {}

    def select(self, index: Tensor) -> Self:
        """Return the operator for the batch items ``index``.

        If all items share the parameters, this is the operator itself.
        """
        if self.items is None:
            return self
        return self._replace(
            {
                k: v.index_select(0, index)
                for k, v in self.parameters().items()
                if v.shape[:1] == (self.items,)
            }
        )._with_items(len(index))

    def _with_items(self, items: int | None) -> Self:
        operator = copy.copy(self)
        operator.items = items
        return operator

    # -- subsets of the measurements: ordered subsets, stochastic solvers --------------------------

    @property
    def blocks(self) -> int | None:
        """Number of blocks of measurements that `subset` selects from; ``None`` without subsets.

        Blocks are, for example, the views of a scan or the rows of a matrix. They lie along the
        first axis of ``y`` behind the channel; in a stack, the stacked operators are the blocks.
        """
        return None

    def draw_blocks(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw the indices of ``count`` blocks without repetition.

        The order is random, unless the blocks are only meaningful in one order.
        """
        assert self.blocks is not None
        return torch.randperm(
            self.blocks,
            generator=generator,
            device=generator.device if generator is not None else "cpu",
        )[:count]

    def explain_shape(self, y: Any) -> str:
        """Return what to do with measurements of another shape; empty if it is not known."""
        return ""

    def subset(self, index: Any) -> Operator:
        """Return the operator for some blocks: ``A.subset(i)(x) = A(x)[:, :, i]``."""
        raise InputError(
            f"the measurements of {self} do not fall into blocks, so it has no subsets; use a "
            "solver without subset_size="
        )

    # -- algebra -----------------------------------------------------------------------------------

    def __matmul__(self, other: Operator) -> Operator:
        from invtoolbox.operators.algebra import compose

        return compose(self, other) if isinstance(other, Operator) else NotImplemented

    def __add__(self, other: Operator) -> Operator:
        from invtoolbox.operators.algebra import add

        return add(self, other) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        return self + (-1.0) * other if isinstance(other, Operator) else NotImplemented

    def __rmul__(self, factor: float | Tensor) -> Operator:
        from invtoolbox.operators.algebra import scale

        return scale(self, factor)

    __mul__ = __rmul__

    def __neg__(self) -> Operator:
        return -1.0 * self

    def __repr__(self) -> str:
        return type(self).__name__


class LinearOperator(Operator):
    """Linear map with an adjoint that is exact to rounding.

    A subclass implements ``_forward`` and, unless automatic differentiation of it is good enough,
    ``_adjoint``.

    >>> class Double(LinearOperator):
    ...     domain_shape = range_shape = (1, 4)
    ...     def _forward(self, x):
    ...         return 2 * x
    >>> A = Double()
    >>> A.adjoint(torch.ones(1, 1, 4))
    tensor([[[2., 2., 2., 2.]]])
    >>> round(float(A.norm()), 4)
    2.0
    """

    #: Whether ``A^T A``, and ``A^T W A`` of weighted measurements, multiply every pixel by a
    #: number, as for operators that select or mask.
    normal_is_diagonal: bool = False
    #: Whether `norm` starts from a complex image: a real one is orthogonal to imaginary images.
    needs_complex_start: bool = False

    def adjoint(self, y: Any) -> Tensor:
        """Compute ``A^T y`` (``A^H y`` if complex), shape ``(batch, *domain_shape)``."""
        self._check_measurements("adjoint", y)
        return self._adjoint(y)

    def _check_measurements(self, method: str, y: Any) -> None:
        """Raise an `InputError` if ``y``, the argument of ``method``, has a wrong shape."""
        check_shape(
            y,
            self.range_shape,
            lambda: f"the {method} of {self} takes y",
            self.channelwise,
            self.items,
            may_be_empty=True,
        )

    def _adjoint(self, y: Any) -> Tensor:
        first = y[0] if isinstance(y, (tuple, list)) else y
        channels = first.shape[1] if self.channelwise else self.domain_shape[0]
        with torch.enable_grad():
            x = torch.zeros(
                first.shape[0],
                channels,
                *self.domain_shape[1:],
                dtype=first.dtype,
                device=first.device,
                requires_grad=True,
            )
            # The gradient of <A x, y> in x is A^T y, at any x.
            prediction = self._forward(x)
            create_graph = any(t.requires_grad for t in ([y] if isinstance(y, Tensor) else y))
            (result,) = torch.autograd.grad(prediction, x, y, create_graph=create_graph)
        return result

    @property
    def T(self) -> LinearOperator:
        """The adjoint as an operator."""
        from invtoolbox.operators.algebra import Adjoint

        return Adjoint(self)

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator (equal to ``T``: complex operators conjugate)."""
        return self.T

    # -- SciPy's protocol: `scipy.sparse.linalg.aslinearoperator(A)` and its solvers ---------------

    @property
    def shape(self) -> tuple[int, int]:
        """Number of measurements and number of unknowns of one item."""
        from invtoolbox.operators.scipy_export import range_shapes

        return sum(map(math.prod, range_shapes(self))), math.prod(self.domain_shape)

    def matvec(self, x: Any) -> Any:
        """Compute ``A x`` of one flat NumPy vector in double precision.

        `to_scipy` returns the whole operator for SciPy. It is faster than repeated calls, because
        it finds out only once whether ``A`` is complex.
        """
        from invtoolbox.operators.adapters import to_scipy

        return to_scipy(self).matvec(x)

    def rmatvec(self, y: Any) -> Any:
        """Compute ``A^H y`` of one flat NumPy vector in double precision; see `matvec`."""
        from invtoolbox.operators.adapters import to_scipy

        return to_scipy(self).rmatvec(y)

    def normal(self, x: Tensor) -> Tensor:
        """Compute ``A^T A x``."""
        return self.adjoint(self(x))

    @property
    def has_normal_resolvent(self) -> bool:
        """Whether `normal_resolvent` has a closed form."""
        return type(self).normal_resolvent is not LinearOperator.normal_resolvent

    def normal_diagonal(self) -> Tensor | None:
        """Return the diagonal of ``A^T A``, or ``None`` if it is expensive to compute.

        It serves preconditioners, and broadcasts to ``(batch, *domain_shape)``.
        """
        return None

    def grid_system(self, weights: Tensor) -> GridSystem | None:
        """Return ``A^T W A`` if it couples a pixel with its four neighbours only, else ``None``.

        Args:
            weights: diagonal of W, of the shape of the measurements.
        """
        return None

    def normal_symbol(self) -> tuple[Tensor, bool] | None:
        """Return the Fourier eigenvalues of ``A^T A``, and whether they are exact.

        The transform is `torch.fft.rfftn` of the spatial axes; the shape is
        ``(1 or items, 1 or channel, *half spectrum)``. For a convolution with a boundary that is
        not periodic the eigenvalues are approximate, but good for preconditioning. ``None`` if the
        operator does not resemble a convolution.
        """
        return None

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``(weight A^T A + rho I)^{-1} v`` if there is a closed form.

        ``rho`` and ``weight`` are numbers, or one number per item.
        """
        raise InputError(f"{self} has no closed form of (A^T A + rho I)^-1; use it.solvers.CG()")

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Compute the largest singular value, exactly if there is a closed form.

        The shape is ``(1,)``, or ``(items,)`` if parameters differ per item. Without a closed form,
        the norm is estimated by the power method on ``A^T A`` from a fixed random image. The
        estimate approaches the norm from below, and the method stops once the estimate changes by
        less than ``tolerance`` relative. Nothing is stored in the operator.
        """
        closed_form = self._known_norm()
        if closed_form is not None:
            return closed_form.to(dtype=dtype.to_real(), device=device)
        if self.needs_complex_start:
            dtype = torch.promote_types(dtype, torch.complex64)
        tensors = list(self.parameters().values())
        device = device if device is not None else (tensors[0].device if tensors else "cpu")
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(1, *self.domain_shape, generator=generator, dtype=dtype).to(device)
        x = x.expand(self.items or 1, *self.domain_shape).contiguous()
        x = x / expand(item_norm(x), x)
        estimate = torch.zeros(self.items or 1, dtype=x.real.dtype, device=device)
        done = torch.zeros(len(estimate), dtype=torch.bool, device=device)
        # Power method: x tends to the first right singular vector, and |A^T A x| to sigma^2.
        for _ in range(max_iterations):
            x = self.normal(x)
            squared = item_norm(x)
            if not bool((squared > 0).any()):
                return squared
            x = x / expand(squared.clamp_min(torch.finfo(squared.dtype).tiny), x)
            new = squared.sqrt()
            settled = (new - estimate).abs() <= tolerance * new
            # A settled item keeps its estimate, so that it does not depend on the other items of
            # the batch.
            estimate = torch.where(done, estimate, new)
            done = done | settled
            if bool(done.all()):
                break
        return estimate

    def _known_norm(self) -> Tensor | None:
        """Return the norm, or a close upper bound, if there is a closed form."""
        return None

    def pseudo_inverse(self, y: Any) -> Tensor:
        """Compute an approximate inverse in closed form, if one exists.

        For CT this is filtered back-projection.
        """
        raise InputError(
            f"{self} has no closed-form pseudo-inverse; use it.solve(problem, "
            "solver=it.solvers.CGLS())"
        )


# -- helpers shared by operators, priors and solvers: one definition of "per item" -----------------


#: Number of values in one dot product.
_BLOCK = 1 << 16


def inner(a: Any, b: Any) -> Tensor:
    """Compute the real inner product of each item, shape ``(batch,)``; tuples are summed over."""
    return sum_over_ranks(_inner(a, b))


def _inner(a: Any, b: Any) -> Tensor:
    if isinstance(a, (tuple, list)):
        return torch.stack([_inner(p, q) for p, q in zip(a, b)]).sum(0)
    if a.is_complex() or b.is_complex():
        # Re <a, b> of the real and imaginary parts: the rounding of a complex product depends on its
        # place in the batch.
        kind = torch.promote_types(a.dtype, b.dtype)
        a, b = (torch.view_as_real(v.to(kind).resolve_conj()) for v in (a, b))
    a, b = a.flatten(1), b.flatten(1)
    if a.is_cuda:
        return torch.linalg.vecdot(a, b)
    if a.shape[1] < 4096:
        return (a * b).sum(1)
    # On a CPU one dot product per item makes no temporary of the size of x, and its rounding does
    # not depend on the batch, unlike a batched matrix product's. In float32 a dot product over 16
    # million positive values is off by 1e-4, so it is summed in blocks.
    return torch.stack(
        [
            torch.stack([_dot(u, v) for u, v in zip(p.split(_BLOCK), q.split(_BLOCK))]).sum()
            for p, q in zip(a.unbind(0), b.unbind(0))
        ]
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(align(a), align(b))


def item_norm(a: Any) -> Tensor:
    """Compute the Euclidean norm of each item, shape ``(batch,)``."""
    if isinstance(a, (tuple, list)):
        return torch.stack([item_norm(tensor) for tensor in a]).square().sum(0).sqrt()
    return norm_items(a)


def expand(value: float | Tensor, like: Tensor) -> Tensor:
    """Reshape a number, or one number per item, so that it multiplies ``like``."""
    if not isinstance(value, Tensor):
        # No copy from the host.
        return torch.full((), value, dtype=like.real.dtype, device=like.device)
    if value.dtype != like.dtype or value.device != like.device:
        value = value.to(dtype=like.real.dtype, device=like.device)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


def count_items(what: str, *tensors: Tensor | None) -> int | None:
    """Return the common length of the batch axes of tensors; ``None`` if all lengths are 1."""
    counts = {len(t) for t in tensors if t is not None and len(t) > 1}
    if len(counts) > 1:
        raise InputError(f"{what} are for batches of different sizes: {sorted(counts)}")
    return counts.pop() if counts else None


def check_shape(
    value: Any,
    shape: Shapes,
    what: str | Callable[[], str],
    channelwise: bool = False,
    items: int | None = None,
    may_be_empty: bool = False,
) -> None:
    """Raise an `InputError` that names the wrong axis, unless the shape is ``(batch, *shape)``.

    ``what`` may be a function of the text, because describing an operator may take long. An operator
    may have no measurements (a mask without a pixel, ``may_be_empty``), but an image has values.
    """
    nested = bool(shape) and isinstance(shape[0], tuple)
    if isinstance(value, Tensor) and not nested and value.ndim == len(shape) + 1:
        first = 2 if channelwise else 1
        same = tuple(value.shape[first:]) == tuple(shape[first - 1 :])
        if same and (items is None or value.shape[0] == items) and _has_values(value, may_be_empty):
            return
    what = what if isinstance(what, str) else what()
    if shape and isinstance(shape[0], tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(shape):
            raise InputError(f"{what} as a tuple of {len(shape)} tensors, got {_describe(value)}")
        for k, (tensor, part_shape) in enumerate(zip(value, shape)):
            check_shape(tensor, part_shape, f"{what}[{k}]", channelwise, items, may_be_empty)
        return
    expected: Sequence[Any] = ("channel" if channelwise else shape[0], *shape[1:])
    expected_shape = f"(batch, {', '.join(str(n) for n in expected)})"
    if not isinstance(value, Tensor):
        raise InputError(
            f"{what} as a torch tensor of shape {expected_shape}, got {_describe(value)}"
        )
    if value.ndim != len(shape) + 1:
        axes = "a batch axis and a channel axis" if value.ndim == len(shape) - 1 else "a batch axis"
        hint = f"; add {axes} in front" if value.ndim < len(shape) + 1 else ""
        raise InputError(f"{what} of shape {expected_shape}, got {tuple(value.shape)}{hint}")
    names = (
        "batch",
        "channel",
        *_SPATIAL_NAMES.get(len(shape) - 1, [f"space {k}" for k in range(len(shape) - 1)]),
    )
    for axis in range(1, value.ndim):
        if value.shape[axis] != shape[axis - 1] and not (channelwise and axis == 1):
            raise InputError(
                f"{what} of shape {expected_shape}, got {tuple(value.shape)}: "
                f"axis {axis} ({names[axis]}) has {value.shape[axis]}, expected {shape[axis - 1]}"
                f"{_exchange(tuple(value.shape), cast(Shape, shape), channelwise)}"
            )
    if items is not None and value.shape[0] != items:
        raise InputError(
            f"{what} with a batch of {items}, because its parameters differ from item to item, "
            f"got a batch of {value.shape[0]}"
        )
    if not _has_values(value, may_be_empty):
        raise InputError(
            f"{what} with at least one item and one value, got {tuple(value.shape)}, which is empty"
        )


def _exchange(got: Shape, shape: Shape, channelwise: bool) -> str:
    """Return the end of a sentence if axes of a tensor are exchanged, else nothing."""

    def fits(axes: Shape) -> bool:
        return axes[2:] == shape[1:] and (channelwise or axes[1] == shape[0])

    if len(got) > 3 and fits((got[0], got[-1], *got[1:-1])):
        return "; the channels are the last axis, so give y.movedim(-1, 1) (NumPy: moveaxis)"
    if len(got) > 3 and fits((*got[:-2], got[-1], got[-2])):
        return "; the last two axes are exchanged, so give y.swapaxes(-1, -2)"
    return ""


def _has_values(value: Tensor, may_be_empty: bool) -> bool:
    """Return whether there is an item, and a value unless items may be empty."""
    return len(value) > 0 and (may_be_empty or value.numel() > 0)


def _describe(value: Any) -> str:
    return (
        f"a tensor of shape {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"{type(value).__name__}"
    )
