r"""Projection and back-projection of volumes along straight rays by Joseph's method in 3D, an exactly matched pair.

A ray is sampled once on every plane of voxels across its *main axis* (the one along which it crosses the most voxels), by bilinear
interpolation between the four nearest; outside the volume is zero:

.. math:: (A x)_r = \ell_r \sum_t \sum_{p, q \in \{0, 1\}} w^a_{rtp} w^b_{rtq} \, x_{t, i_{rt} + p, j_{rt} + q},

with the ray's length :math:`\ell_r` between two planes. P. M. Joseph, IEEE TMI 1(3), 1982, one dimension up. The back-projection is
the transpose. No table of rays is kept: a ray is computed where it is used, from 13 numbers a view.

Both are differentiable in the volume or the projections, and in the views' source, detector, u and v: once in the geometry, in forward
and reverse mode; and the gradient in the geometry is differentiable in the volume and the projections.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.checks import check_input
from invtoolbox.errors import InputError
from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.tomography import slabs as volume_slabs
from invtoolbox.kernels.tomography.rays import WIDTH, Views, table_of
from invtoolbox.kernels.tomography.volume_kernels import (
    geometry_kernel,
    project_kernel,
    scatter_kernel,
)


def project_volume(volume: Tensor, views: Views) -> Tensor:
    """Line integrals of volumes, ``(N, D, H, W) -> (N, V, R, C)``.

    Rays are infinite lines: what lies behind a source counts too.

    Args:
        volume: float32, float64 or complex, shape (N, D, H, W).
        views: the scan; ``views.volume`` must be (D, H, W).

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Views
    >>> x, y, z = torch.eye(3)[:, None]
    >>> along_y = Views(y, 0 * x, x, z, (2, 3), (2, 4, 3), (1.0, 0.5, 1.0), parallel=True, curved=False)
    >>> project_volume(torch.ones(1, 2, 4, 3), along_y)
    tensor([[[[2., 2., 2.],
              [2., 2., 2.]]]])
    """
    check_input(volume, views.volume, "project_volume takes volumes", "slice, row, column")
    if volume.is_complex():
        return torch.complex(
            project_volume(volume.real.contiguous(), views),
            project_volume(volume.imag.contiguous(), views),
        )
    result: Tensor = _Transform.apply(volume, table_of(views, volume.device), None, views, False)
    return result


def backproject_volume(projections: Tensor, views: Views) -> Tensor:
    """The transpose of `project_volume`, ``(N, V, R, C) -> (N, D, H, W)``.

    On the CPU the result is bitwise the same for any number of threads. On CUDA rays are scattered with atomic additions, whose order
    varies, unless ``torch.use_deterministic_algorithms(True)`` asks for sums of whole numbers (64 bits, which take twice the memory of a
    float32 volume and round to 2^-62 of the largest sum that could occur).

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Views
    >>> x, y, z = torch.eye(3)[:, None]
    >>> along_y = Views(y, 0 * x, x, z, (1, 1), (1, 2, 3), (1.0, 0.5, 1.0), parallel=True, curved=False)
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
    if projections.is_complex():
        return torch.complex(
            backproject_volume(projections.real.contiguous(), views),
            backproject_volume(projections.imag.contiguous(), views),
        )
    result: Tensor = _Transform.apply(
        projections, table_of(views, projections.device), None, views, True
    )
    return result


# Both directions take a tangent: a change of the table, or None. With one they are the derivative of the projection in the direction of
# that change, and its transpose. This family is all that first derivatives in the geometry need.


class _Transform(torch.autograd.Function):
    """The projection of volumes or, with ``transpose``, the back-projection of projections."""

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


class _Geometry(torch.autograd.Function):
    """The gradient of ``<projections, A volume>``, summed over the batch, in the table: (V, 13)."""

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
        needs = ctx.needs_input_grad
        grad_volume = (
            _Transform.apply(projections, table, grad, ctx.views, True) if needs[0] else None
        )
        grad_projections = (
            _Transform.apply(volume, table, grad, ctx.views, False) if needs[1] else None
        )
        return grad_volume, grad_projections, torch.zeros_like(table) if needs[2] else None, None


class _FirstOrder(torch.autograd.Function):
    """The table, of which no further derivative is known: an error for those who ask for one, and for nobody else."""

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
    """Gradients in the table and in the tangent, in which both directions are linear."""
    of_table, of_tangent = ctx.needs_input_grad[1:3]
    table = _FirstOrder.apply(table)
    if tangent is None:
        return _Geometry.apply(volume, projections, table, ctx.views) if of_table else None, None
    # The table went in as `_FirstOrder`, which stops whoever follows this zero.
    return (
        torch.zeros_like(table) if of_table else None,
        _Geometry.apply(volume, projections, table, ctx.views) if of_tangent else None,
    )


def _second_derivative() -> InputError:
    return InputError(
        "the volume projectors have no second derivative in the geometry; detach the views' tensors, or use first-order "
        "methods (gradient descent, L-BFGS, Gauss-Newton) for the geometry"
    )


# -- running the kernels ------------------------------------------------------------------------------------------------------------------


def _run_project(volume: Tensor, table: Tensor, tangent: Tensor | None, views: Views) -> Tensor:
    if tangent is None and volume.device.type == "cpu":
        return volume_slabs.project(volume, table, views)
    projections = volume.new_empty(volume.shape[0], table.shape[0], *views.panel)
    kernel = project_kernel(volume.dtype, views.parallel, views.curved, tangent is not None)
    _launch(
        kernel,
        projections[0].numel() if len(projections) else 0,
        volume,
        projections,
        table,
        tangent,
        projections,
        None,
        views,
    )
    return projections


def _run_backproject(
    projections: Tensor, table: Tensor, tangent: Tensor | None, views: Views
) -> Tensor:
    if tangent is None and projections.device.type == "cpu":
        return volume_slabs.backproject(projections, table, views)
    volume = projections.new_zeros(projections.shape[0], *views.volume)
    if not volume.numel():
        return volume
    ordered = projections.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
    if ordered and tangent is not None:
        scatter_owned(projections, table, tangent, views, volume)
    elif ordered:
        scatter_fixed(projections, table, views, volume)
    else:
        kernel = scatter_kernel(
            volume.dtype, views.parallel, views.curved, tangent is not None, "atomic", False
        )
        _launch(
            kernel, projections[0].numel(), volume, projections, table, tangent, volume, None, views
        )
    return volume


def scatter_owned(
    projections: Tensor, table: Tensor, tangent: Tensor | None, views: Views, volume: Tensor
) -> None:
    """Adds the back-projection to the volume, one axis after the other; no two tasks own the same plane."""
    kernel = scatter_kernel(
        volume.dtype, views.parallel, views.curved, tangent is not None, "plain", True
    )
    for axis in range(3):
        length = int(volume.shape[3 - axis])
        block = -(-length // 8) if volume.device.type == "cpu" else 1
        _launch(
            kernel,
            -(-length // block),
            volume,
            projections,
            table,
            tangent,
            volume,
            None,
            views,
            axis,
            block,
        )


def scatter_fixed(projections: Tensor, table: Tensor, views: Views, volume: Tensor) -> None:
    """Adds the back-projection to the volume by sums of 64-bit whole numbers, item by item: the order of the sums does not matter."""
    kernel = scatter_kernel(volume.dtype, views.parallel, views.curved, False, "fixed", False)
    for item in range(volume.shape[0]):
        # No voxel can receive more than every value, each times a ray's length of at most a voxel's diagonal.
        diagonal = sum(s * s for s in views.voxel_size) ** 0.5
        bound = projections[item].double().abs().sum() * diagonal
        units = torch.where(bound > 0, 2.0**62 / bound, 0.0)[None]
        sums = torch.zeros(volume.shape[1:], dtype=torch.int64, device=volume.device)
        _launch(
            kernel,
            projections[item].numel(),
            volume[item : item + 1],
            projections[item : item + 1],
            table,
            None,
            sums,
            units,
            views,
        )
        volume[item] += torch.where(units > 0, sums / units, 0.0).to(volume.dtype)


def _run_geometry(volume: Tensor, projections: Tensor, table: Tensor, views: Views) -> Tensor:
    parts = table.new_zeros(table.shape[0], views.panel[0], WIDTH)
    kernel = geometry_kernel(volume.dtype, views.parallel, views.curved)
    _launch(
        kernel,
        parts.shape[0] * parts.shape[1],
        volume,
        projections,
        table,
        None,
        parts,
        None,
        views,
        each_item=False,
    )
    return parts.sum(1)


def _launch(
    kernel: Any,
    tasks: int,
    volume: Tensor,
    projections: Tensor,
    table: Tensor,
    tangent: Tensor | None,
    out: Tensor,
    units: Tensor | None,
    views: Views,
    axis: int = 0,
    block: int = 1,
    each_item: bool = True,
) -> None:
    """Run a kernel of `volume_kernels`, with ``tasks`` for every item of the batch or in all."""
    items = volume.shape[0]
    tensors = [
        volume,
        projections,
        table,
        table if tangent is None else tangent.contiguous(),
        out,
        table if units is None else units,
    ]
    numbers = [
        items,
        table.shape[0],
        *views.panel,
        *views.volume,
        *views.voxel_size[::-1],
        axis,
        block,
    ]
    total = tasks * items if each_item else tasks
    if total >= 2**31:
        raise InputError(f"{total} rays are too many for one launch; project fewer views at a time")
    launch(
        kernel,
        total,
        [*map(address, tensors), *numbers],
        tensors,
        float(projections.numel()) * max(views.volume),
    )
