r"""Project and back-project volumes along straight rays by Joseph's method in 3D.

The two are an exactly matched pair. A ray is sampled once on every plane of voxels across its *main
axis* (the one along which it crosses the most voxels), by bilinear interpolation between the four
nearest voxels; outside the volume is zero:

.. math:: (A x)_r = \ell_r \sum_t \sum_{p, q \in \{0, 1\}}
          w^a_{rtp} w^b_{rtq} \, x_{t, i_{rt} + p, j_{rt} + q},

with the ray's length :math:`\ell_r` between two planes. P. M. Joseph, IEEE TMI 1(3), 1982, one
dimension up. The back-projection is the transpose. No table of rays is kept: a ray is computed
when it is used, from 13 numbers per view (`invtoolbox.kernels.tomography.rays`).

Both are differentiable in the volume or the projections, and in the views' source, detector, u and
v: once in the geometry, in forward and reverse mode; and the gradient in the geometry is
differentiable in the volume and the projections.

The kernels of this module follow ray by ray and read the volume in its own layout, (D, H, W). They
are all that CUDA needs. On the CPU, `invtoolbox.kernels.tomography.slabs` is much faster at
projection and back-projection, and the kernels of this module compute the derivatives in the
geometry. A ray is set up in float64 and then followed in the volume's precision. With ``m`` its
main axis and ``a``, ``b`` the two others, it is at ``offset_a + slope_a t`` on the plane ``t``,
counted from the middle one. All kernels compute the family

    y = c0 sum(sample) + sum((a0 + a1 t) d(sample)/da + (b0 + b1 t) d(sample)/db).

Its first term is the projection (c0 = the ray's length between two planes), its other terms are the
derivatives of the projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.checks import check_input
from invtoolbox.errors import InputError
from invtoolbox.kernels.linear_map import BatchedFunction
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel
from invtoolbox.kernels.tomography import slabs
from invtoolbox.kernels.tomography.rays import WIDTH, ScanArguments, Views, table_of


@dataclass
class VolumeArguments(ScanArguments):
    """Arguments of the kernels.

    Attributes:
        tangent: a change of the table, or None.
        units: whole numbers per unit of the volume for ``fixed`` sums, (items,), float64, or None.
        gradient: result of "geometry", to be summed over the rows, (V, R, 13), float64, or None.
        items, views: the sizes above.
        axis: main axis of the planes of "backproject".
    """

    tangent: Tensor | None
    units: Tensor | None
    gradient: Tensor | None
    items: int
    views: int
    axis: int


@cache
def volume_kernel(
    name: str,
    dtype: torch.dtype,
    parallel: bool,
    curved: bool,
    tangent: bool = False,
    fixed: bool = False,
) -> Kernel:
    """Return the kernel of the file ``volume_{name}.cpp``.

    Args:
        name: "project" (one ray per task), its transpose "scatter" (one ray per task, by atomic
            additions) or "backproject" (some planes of the volume per task), or "geometry" (the
            gradient of ``<projections, A volume>`` in the table, one row of a view per task).
        dtype: precision of the projections.
        parallel: see `Views`.
        curved: see `Views`.
        tangent: whether to compute the derivative in the direction of `VolumeArguments.tangent`, or
            its transpose (not for "geometry").
        fixed: whether to add whole multiples of ``1 / units[item]``, int64 (for "scatter").
    """
    definitions = {"REAL": REAL[dtype], "PARALLEL": parallel, "CURVED": curved}
    switches = {"TANGENT": tangent, "FIXED": fixed}
    return native_kernel(f"tomography/volume_{name}.cpp", definitions | switches, VolumeArguments)


def project_volume(volume: Tensor, views: Views) -> Tensor:
    """Compute line integrals of volumes, ``(N, D, H, W) -> (N, V, R, C)``.

    Rays are infinite lines: voxels behind a source count too.

    Args:
        volume: float32, float64 or complex, shape (N, D, H, W).
        views: the scan; ``views.volume`` must be (D, H, W).

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Views
    >>> x, y, z = torch.eye(3)[:, None]
    >>> along_y = Views(y, 0 * x, x, z, (2, 3), (2, 4, 3), (1.0, 0.5, 1.0), True, curved=False)
    >>> project_volume(torch.ones(1, 2, 4, 3), along_y)
    tensor([[[[2., 2., 2.],
              [2., 2., 2.]]]])
    """
    check_input(volume, views.volume, "project_volume takes volumes", "slice, row, column")
    return _transform(volume, views, False)


def backproject_volume(projections: Tensor, views: Views) -> Tensor:
    """Apply the transpose of `project_volume`, ``(N, V, R, C) -> (N, D, H, W)``.

    On the CPU the result is bitwise the same for any number of threads. On CUDA rays are scattered
    with atomic additions, whose order varies. With ``torch.use_deterministic_algorithms(True)`` the
    sums are made of whole numbers instead (64 bits, which take twice the memory of a float32 volume
    and round to 2^-62 of the largest sum that could occur).

    Args:
        projections: float32, float64 or complex, shape (N, V, R, C).
        views: the scan; ``views.panel`` must be (R, C).

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Views
    >>> x, y, z = torch.eye(3)[:, None]
    >>> along_y = Views(y, 0 * x, x, z, (1, 1), (1, 2, 3), (1.0, 0.5, 1.0), True, curved=False)
    >>> backproject_volume(torch.ones(1, 1, 1, 1), along_y)
    tensor([[[[0.0000, 0.5000, 0.0000],
              [0.0000, 0.5000, 0.0000]]]])
    """
    check_input(
        projections,
        (views.count, *views.panel),
        "backproject_volume takes projections",
        "view, detector row, detector column",
    )
    return _transform(projections, views, True)


def _transform(value: Tensor, views: Views, transpose: bool) -> Tensor:
    if value.is_complex():
        components = (value.real.contiguous(), value.imag.contiguous())
        return torch.complex(*(_transform(x, views, transpose) for x in components))
    return _Transform.apply(value, table_of(views, value.device), None, views, transpose)


# Both directions take a tangent: a change of the table, or None. With a tangent they compute the
# derivative of the projection in the direction of that change, and its transpose. First derivatives
# in the geometry need nothing else.


class _Transform(BatchedFunction):
    """Projection of volumes or, with ``transpose``, back-projection of projections."""

    @staticmethod
    def forward(
        value: Tensor, table: Tensor, tangent: Tensor | None, views: Views, transpose: bool
    ) -> Tensor:
        return (_run_backproject if transpose else _run_project)(
            value.contiguous(), table.contiguous(), tangent, views
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.views, ctx.transpose = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        value, table, tangent = ctx.saved_tensors
        # The map is linear in its input, so the derivative is the other direction.
        grad_value = (
            _Transform.apply(grad, table, tangent, ctx.views, not ctx.transpose)
            if ctx.needs_input_grad[0]
            else None
        )
        volume, projections = (grad, value) if ctx.transpose else (value, grad)
        return grad_value, *_geometry_grads(ctx, volume, projections, table, tangent), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        value, table, tangent = ctx.saved_tensors
        # The product rule; a change of the table, and of the tangent, is itself a tangent.
        d_value, d_table, d_tangent, *_ = tangents
        total: Tensor = value.new_zeros(
            value.shape[0],
            *(ctx.views.volume if ctx.transpose else (table.shape[0], *ctx.views.panel)),
        )
        if d_value is not None:
            total = total + _Transform.apply(d_value, table, tangent, ctx.views, ctx.transpose)
        if d_table is not None:
            total = total + _Transform.apply(
                value, _FirstOrder.apply(table), d_table, ctx.views, ctx.transpose
            )
        if d_tangent is not None:
            total = total + _Transform.apply(value, table, d_tangent, ctx.views, ctx.transpose)
        return total


class _Geometry(BatchedFunction):
    """Gradient of ``<projections, A volume>`` in the table, summed over the batch: (V, 13)."""

    sums_batch = True

    @staticmethod
    def forward(volume: Tensor, projections: Tensor, table: Tensor, views: Views) -> Tensor:
        return _run_geometry(
            volume.contiguous(), projections.contiguous(), table.contiguous(), views
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.views = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        volume, projections, table = ctx.saved_tensors
        # <grad, d<y, A x>/d(table)> is <y, A' x> for the tangent grad, linear in x and in y.
        needs = ctx.needs_input_grad
        grad_volume = (
            _Transform.apply(projections, table, grad, ctx.views, True) if needs[0] else None
        )
        grad_projections = (
            _Transform.apply(volume, table, grad, ctx.views, False) if needs[1] else None
        )
        return grad_volume, grad_projections, torch.zeros_like(table) if needs[2] else None, None


class _FirstOrder(BatchedFunction):
    """Copy of the table that raises an error if it is differentiated.

    Second derivatives in the geometry are not implemented.
    """

    @staticmethod
    def forward(table: Tensor) -> Tensor:
        return table.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise _second_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise _second_derivative()


def _geometry_grads(
    ctx: Any, volume: Tensor, projections: Tensor, table: Tensor, tangent: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients in the table and in the tangent, in which both directions are linear."""
    of_table, of_tangent = ctx.needs_input_grad[1:3]
    table = _FirstOrder.apply(table)
    if tangent is None:
        return _Geometry.apply(volume, projections, table, ctx.views) if of_table else None, None
    # The table is a `_FirstOrder`, so that differentiating this zero raises an error.
    return (
        torch.zeros_like(table) if of_table else None,
        _Geometry.apply(volume, projections, table, ctx.views) if of_tangent else None,
    )


def _second_derivative() -> InputError:
    return InputError(
        "the volume projectors have no second derivative in the geometry; detach the views' "
        "tensors, or use first-order methods (gradient descent, L-BFGS, Gauss-Newton) for the "
        "geometry"
    )


# -- running the kernels


def _run_project(volume: Tensor, table: Tensor, tangent: Tensor | None, views: Views) -> Tensor:
    if tangent is None and volume.device.type == "cpu":
        return slabs.project(volume, table, views)
    projections = volume.new_empty(volume.shape[0], table.shape[0], *views.panel)
    tasks = projections.numel()
    _launch("project", tasks, volume, projections, table, views, tangent=tangent)
    return projections


def _run_backproject(
    projections: Tensor, table: Tensor, tangent: Tensor | None, views: Views
) -> Tensor:
    if tangent is None and projections.device.type == "cpu":
        return slabs.backproject(projections, table, views)
    volume = projections.new_zeros(projections.shape[0], *views.volume)
    if not volume.numel():
        return volume
    ordered = projections.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
    if ordered and tangent is not None:
        scatter_owned(projections, table, tangent, views, volume)
    elif ordered:
        scatter_fixed(projections, table, views, volume)
    else:
        tasks = projections.numel()
        _launch("scatter", tasks, volume, projections, table, views, tangent=tangent)
    return volume


def scatter_owned(
    projections: Tensor, table: Tensor, tangent: Tensor | None, views: Views, volume: Tensor
) -> None:
    """Add the back-projection to the volume, one axis after the other.

    No two tasks own the same plane.
    """
    for axis in range(3):
        length = int(volume.shape[3 - axis])
        block = -(-length // 8) if volume.device.type == "cpu" else 1
        tasks = volume.shape[0] * -(-length // block)
        tensors = (volume, projections, table)
        _launch("backproject", tasks, *tensors, views, tangent=tangent, axis=axis, block=block)


def scatter_fixed(projections: Tensor, table: Tensor, views: Views, volume: Tensor) -> None:
    """Add the back-projection to the volume by sums of 64-bit whole numbers, item by item.

    The order of the sums does not matter.
    """
    for item, values in enumerate(projections.split(1)):
        # No voxel can receive more than every value times the longest ray in a voxel, its diagonal.
        diagonal = sum(s * s for s in views.voxel_size) ** 0.5
        # Then no sum exceeds 2^62, which a 64-bit number holds.
        bound = values.double().abs().sum() * diagonal
        units = torch.where(bound > 0, 2.0**62 / bound, 0.0)[None]
        sums = torch.zeros(1, *volume.shape[1:], dtype=torch.int64, device=volume.device)
        _launch("scatter", values.numel(), sums, values, table, views, units=units)
        volume[item] += torch.where(units > 0, sums[0] / units, 0.0).to(volume.dtype)


def _run_geometry(volume: Tensor, projections: Tensor, table: Tensor, views: Views) -> Tensor:
    # One gradient per row of the panel, so that the order of the sums is fixed.
    gradients = table.new_zeros(table.shape[0], views.panel[0], WIDTH)
    tasks = gradients.shape[0] * gradients.shape[1]
    _launch("geometry", tasks, volume, projections, table, views, gradient=gradients)
    return gradients.sum(1)


def _launch(
    name: str,
    tasks: int,
    volume: Tensor,
    projections: Tensor,
    table: Tensor,
    views: Views,
    tangent: Tensor | None = None,
    units: Tensor | None = None,
    gradient: Tensor | None = None,
    axis: int = 0,
    block: int = 1,
) -> None:
    """Run the kernel ``name`` of this module."""
    if tasks >= 2**31:
        raise InputError(f"{tasks} rays are too many for one launch; project fewer views at a time")
    arguments = VolumeArguments(
        volume=volume,
        projections=projections,
        table=table,
        tangent=tangent if tangent is None else tangent.contiguous(),
        units=units,
        gradient=gradient,
        items=volume.shape[0],
        views=table.shape[0],
        axis=axis,
        block=block,
        **views.sizes,
    )
    dtype, switches = projections.dtype, (tangent is not None, units is not None)
    kernel = volume_kernel(name, dtype, views.parallel, views.curved, *switches)
    launch(kernel, tasks, arguments, float(projections.numel()) * max(views.volume))
