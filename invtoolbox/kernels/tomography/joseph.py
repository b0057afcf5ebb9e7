r"""Projection and back-projection of 2D images along straight rays by Joseph's method, an exactly matched
pair.

A ray is sampled once on every row (or column, if it is closer to horizontal), by linear interpolation between
the two nearest pixels; outside the image is zero:

.. math:: (A x)_r = \ell_r \sum_j (1 - w_{rj}) x_{j, i_{rj}} + w_{rj} x_{j, i_{rj} + 1},
          \quad i_{rj} + w_{rj} = a_r + b_r j, \; 0 \le w_{rj} < 1.

P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1(3), 1982.
The back-projection is the transpose of this matrix, with bitwise the same weights. Both are differentiable
in their input and in the rays' offset, slope and step, to any order.

Layout of the data in the kernels, with L = lanes (images that are projected together, next to each other in
memory):

- an image is kept twice, by rows ``(H, W + 4, L)`` for rays whose main axis is vertical and by columns
  ``(W, H + 4, L)`` for the others, so that the two neighbours of a sample are always adjacent. Two zeros before
  and behind every line stand for the outside: positions are clamped onto them instead of tested. With two of
  them the difference of neighbours, which the derivatives need, is zero there as well.
- a sinogram is ``(rays, L)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.checks import check_input
from invtoolbox.kernels.launch import Kernel, launch
from invtoolbox.kernels.native import REAL, native_kernel
from invtoolbox.kernels.tomography.lanes import interleave, pad_lines, plan_lanes
from invtoolbox.kernels.tomography.rays import Rays

#: Rays that a task of the CPU follows side by side, one image at a time; 32 keep its vector units busy.
_GROUP = 32
#: Lines of the image that a task of the CPU's back-projection owns; eight fit the nearest cache at 512
#: pixels.
_LINES = 8


@dataclass
class JosephArguments:
    """Arguments of the kernels; see ``joseph_project.cpp``."""

    rows: Tensor
    columns: Tensor
    sinogram: Tensor
    offsets: Tensor
    slopes_in: Tensor
    coefficients: Tensor
    order: Tensor
    vertical_rays: int
    all_rays: int
    height: int
    width: int
    items: int


@cache
def project_kernel(dtype: torch.dtype, lanes: int, group: int, mode: int) -> Kernel:
    """Return the forward projection of ``group`` rays and ``lanes`` images per task."""
    definitions = {"REAL": REAL[dtype], "LANES": lanes, "GROUP": group, "MODE": mode}
    return native_kernel("tomography/joseph_project.cpp", definitions, JosephArguments)


@cache
def backproject_kernel(
    dtype: torch.dtype, lanes: int, lines: int, mode: int, scatter: bool
) -> Kernel:
    """Return the transpose of `project_kernel` in modes 0 and 1: by ``lines`` that a task owns, or by atomic scatter."""
    file = "tomography/joseph_scatter.cpp" if scatter else "tomography/joseph_backproject.cpp"
    definitions = {"REAL": REAL[dtype], "LANES": lanes, "LINES": lines, "MODE": mode}
    return native_kernel(file, definitions, JosephArguments)


def project(image: Tensor, rays: Rays) -> Tensor:
    """Line integrals of images, ``(N, H, W) -> (N, V, D)``.

    Args:
        image: float32, float64 or complex, shape (N, H, W).
        rays: the scan; ``rays.shape`` must be (H, W).

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Rays
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> ray = Rays.through((0 * one, 0 * one), (0 * one, one), (4, 3), (1.0, 1.0))   # upwards, centre
    >>> project(torch.ones(1, 4, 3), ray)
    tensor([[[4.]]])
    """
    check_input(image, (rays.shape[0], rays.shape[1]), "project takes images", "row, column")
    if image.is_complex():
        return torch.complex(
            project(image.real.contiguous(), rays), project(image.imag.contiguous(), rays)
        )
    rays = rays.to(image.device, image.dtype)
    result: Tensor = _Transform.apply(image, rays.offset, rays.slope, rays.step[None], rays, False)
    return result


def backproject(sinogram: Tensor, rays: Rays) -> Tensor:
    """The transpose of `project`, ``(N, V, D) -> (N, H, W)``.

    On the CPU the result is bitwise the same for any number of threads. On CUDA rays are scattered with
    atomic additions, whose order varies, unless ``torch.use_deterministic_algorithms(True)`` asks for the
    slower ordered kernel.

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Rays
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> ray = Rays.through((0 * one, 0 * one), (0 * one, one), (2, 3), (1.0, 1.0))
    >>> backproject(torch.ones(1, 1, 1), ray)
    tensor([[[0., 1., 0.],
             [0., 1., 0.]]])
    """
    check_input(
        sinogram, (rays.views, rays.detectors), "backproject takes sinograms", "view, detector cell"
    )
    if sinogram.is_complex():
        return torch.complex(
            backproject(sinogram.real.contiguous(), rays),
            backproject(sinogram.imag.contiguous(), rays),
        )
    rays = rays.to(sinogram.device, sinogram.dtype)
    result: Tensor = _Transform.apply(
        sinogram, rays.offset, rays.slope, rays.step[None], rays, True
    )
    return result


# Both directions are special cases of one family that is closed under differentiation. With u, v the two
# pixels of a sample and t the line's distance from the centre,
#     y = c0 sum(u + w (v - u)) + c1 sum(v - u) + c2 sum(t (v - u)),    c0 = step, c1 = c2 = 0 in a
# projection; d/d(offset) turns c0 into c1, d/d(slope) turns c0 into c2, and the second derivatives of linear
# interpolation vanish.


class _Transform(torch.autograd.Function):
    """The projection of images or, with ``transpose``, the back-projection of sinograms."""

    @staticmethod
    def forward(
        value: Tensor,
        offset: Tensor,
        slope: Tensor,
        coefficients: Tensor,
        rays: Rays,
        transpose: bool,
    ) -> Tensor:
        return (_run_backproject if transpose else _run_project)(
            value, offset, slope, coefficients, rays
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.rays, ctx.transpose = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        value, offset, slope, coefficients = ctx.saved_tensors
        grad_value = None
        if ctx.needs_input_grad[0]:
            grad_value = _Transform.apply(
                grad, offset, slope, coefficients, ctx.rays, not ctx.transpose
            )
        image, sinogram = (grad, value) if ctx.transpose else (value, grad)
        return (
            grad_value,
            *_geometry_grads(ctx, image, sinogram, offset, slope, coefficients),
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        value, offset, slope, coefficients = ctx.saved_tensors
        d_value, d_offset, d_slope, d_coefficients, *_ = tangents
        total: Tensor = value.new_zeros(
            value.shape[0], *(ctx.rays.shape if ctx.transpose else offset.shape)
        )
        if d_value is not None:
            total = total + _Transform.apply(
                d_value, offset, slope, coefficients, ctx.rays, ctx.transpose
            )
        tangent = _tangent(coefficients, d_offset, d_slope, d_coefficients)
        if tangent is not None:
            total = total + _Transform.apply(value, offset, slope, tangent, ctx.rays, ctx.transpose)
        return total


class _Moments(torch.autograd.Function):
    """The three sums of the family above times the sinogram, summed over the batch, shape (3, V, D)."""

    @staticmethod
    def forward(
        image: Tensor, sinogram: Tensor, offset: Tensor, slope: Tensor, rays: Rays
    ) -> Tensor:
        return _run_moments(image, sinogram, offset, slope, rays)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.rays = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        image, sinogram, offset, slope = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_image = (
            _Transform.apply(sinogram, offset, slope, grad, ctx.rays, True) if needs[0] else None
        )
        grad_sinogram = (
            _Transform.apply(image, offset, slope, grad, ctx.rays, False) if needs[1] else None
        )
        grad_offset = grad_slope = None
        if needs[2] or needs[3]:
            moments = _Moments.apply(image, sinogram, offset, slope, ctx.rays)
            grad_offset, grad_slope = grad[0] * moments[1], grad[0] * moments[2]
        return grad_image, grad_sinogram, grad_offset, grad_slope, None


def _geometry_grads(
    ctx: Any, image: Tensor, sinogram: Tensor, offset: Tensor, slope: Tensor, coefficients: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if not any(ctx.needs_input_grad[1:4]):
        return None, None, None
    moments = _Moments.apply(image, sinogram, offset, slope, ctx.rays)
    return (
        coefficients[0] * moments[1],
        coefficients[0] * moments[2],
        moments[: coefficients.shape[0]],
    )


def _tangent(
    coefficients: Tensor,
    d_offset: Tensor | None,
    d_slope: Tensor | None,
    d_coefficients: Tensor | None,
) -> Tensor | None:
    """The coefficients of the derivative in the direction of the given changes of the rays."""
    if d_offset is None and d_slope is None and d_coefficients is None:
        return None
    zero = torch.zeros_like(coefficients[0])
    parts = [zero, zero, zero]
    if d_coefficients is not None:
        parts[: coefficients.shape[0]] = list(d_coefficients)
    if d_offset is not None:
        parts[1] = parts[1] + coefficients[0] * d_offset
    if d_slope is not None:
        parts[2] = parts[2] + coefficients[0] * d_slope
    return torch.stack(parts)


# -- running the kernels
# ---------------------------------------------------------------------------------------


def _run_project(
    image: Tensor, offset: Tensor, slope: Tensor, coefficients: Tensor, rays: Rays
) -> Tensor:
    sinogram = image.new_empty(image.shape[0], *offset.shape)
    mode = 0 if coefficients.shape[0] == 1 else 1
    tables = [t.contiguous() for t in (offset, slope, coefficients)]
    for start, count, lanes in plan_lanes(image):
        rows, columns = _lines(image[start : start + count], lanes)
        direct = lanes == 1
        y = sinogram[start : start + count] if direct else image.new_empty(offset.numel(), lanes)
        _run_rays(rows, columns, y, tables[0], tables[1], tables[2], rays, lanes, mode)
        if not direct:
            sinogram[start : start + count] = y.t()[:count].view(count, *offset.shape)
    return sinogram


def _run_moments(
    image: Tensor, sinogram: Tensor, offset: Tensor, slope: Tensor, rays: Rays
) -> Tensor:
    moments = offset.new_zeros(3, *offset.shape)
    tables = [t.contiguous() for t in (offset, slope)]
    for start, count, lanes in plan_lanes(image):
        rows, columns = _lines(image[start : start + count], lanes)
        y = interleave(sinogram[start : start + count], lanes)
        part = torch.empty_like(moments)
        _run_rays(rows, columns, y, tables[0], tables[1], part, rays, lanes, 2)
        moments += part
    return moments


def _run_rays(
    rows: Tensor,
    columns: Tensor,
    sinogram: Tensor,
    offset: Tensor,
    slope: Tensor,
    coefficients: Tensor,
    rays: Rays,
    lanes: int,
    mode: int,
) -> None:
    items = rows.shape[0]
    group = _GROUP if lanes == 1 and rows.device.type == "cpu" else 1
    vertical, total = rays.number_vertical, offset.numel()
    groups = -(-vertical // group) - (-(total - vertical) // group)
    kernel = project_kernel(rows.dtype, lanes, group, mode)
    arguments = JosephArguments(
        rows,
        columns,
        sinogram,
        offset,
        slope,
        coefficients,
        rays.order,
        vertical,
        total,
        *rays.shape,
        items,
    )
    tasks = groups * (1 if mode == 2 else items)
    launch(kernel, tasks, arguments, float(total) * max(rays.shape) * items)


def _run_backproject(
    sinogram: Tensor, offset: Tensor, slope: Tensor, coefficients: Tensor, rays: Rays
) -> Tensor:
    height, width = rays.shape
    image = sinogram.new_empty(sinogram.shape[0], height, width)
    mode = 0 if coefficients.shape[0] == 1 else 1
    scatter = sinogram.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    block = _LINES if sinogram.device.type == "cpu" else 1
    blocks_vertical, blocks_horizontal = -(-height // block), -(-width // block)
    tables = [t.contiguous() for t in (offset, slope, coefficients)]
    vertical, total = rays.number_vertical, offset.numel()
    for start, count, lanes in plan_lanes(sinogram):
        items = count if lanes == 1 else 1
        new = sinogram.new_zeros if scatter else sinogram.new_empty
        rows = new(items, blocks_vertical * block, width + 4, lanes)
        columns = new(items, blocks_horizontal * block, height + 4, lanes)
        y = interleave(sinogram[start : start + count], lanes)
        kernel = backproject_kernel(sinogram.dtype, lanes, block, mode, scatter)
        arguments = JosephArguments(
            rows, columns, y, *tables, rays.order, vertical, total, height, width, items
        )
        tasks = total if scatter else blocks_vertical + blocks_horizontal
        launch(kernel, tasks * items, arguments, float(total) * max(rays.shape) * items)
        # (items, lines, across, lanes) without the padding -> (items * lanes, H, W)
        by_rows = rows[:, :height, 2 : width + 2].permute(0, 3, 1, 2)
        by_columns = columns[:, :width, 2 : height + 2].permute(0, 3, 2, 1)
        out = image[start : start + count].view(items, count // items, height, width)
        torch.add(by_rows[:, : count // items], by_columns[:, : count // items], out=out)
    return image


def _lines(image: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """The images by rows and by columns, as the kernels read them."""
    return pad_lines(image, lanes), pad_lines(image.transpose(1, 2), lanes)
