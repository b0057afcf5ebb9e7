r"""Project and back-project 2D images along straight rays by Joseph's method.

The two are an exactly matched pair. A ray is sampled once on every row (or column, if it is closer
to horizontal), by linear interpolation between the two nearest pixels; outside the image is zero:

.. math:: (A x)_r = \ell_r \sum_j (1 - w_{rj}) x_{j, i_{rj}} + w_{rj} x_{j, i_{rj} + 1},
          \quad i_{rj} + w_{rj} = a_r + b_r j, \; 0 \le w_{rj} < 1.

P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1(3),
1982. The back-projection is the transpose of this matrix, with bitwise the same weights. Both are
differentiable in their input and in the rays' offset, slope and step, to any order.

Layout of the data in the kernels, with L = lanes (images that are projected together, next to each
other in memory):

- an image is kept twice, by rows ``(H, W + 4, L)`` for rays whose main axis is vertical and by
  columns ``(W, H + 4, L)`` for the others, so that the two neighbours of a sample are always
  adjacent. Two zeros before and behind every line stand for the outside: positions are clamped onto
  them instead of tested. With two of them the difference of neighbours, which the derivatives need,
  is zero there as well.
- a sinogram is ``(rays, L)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from invtoolbox.core.checks import check_input
from invtoolbox.kernels.linear_map import BatchedFunction
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel
from invtoolbox.kernels.tomography.rays import Rays

#: Rays that a task of the CPU follows side by side: a multiple of the length of its vectors.
_GROUP = 16
#: Lines of the image that a task of the CPU's back-projection owns. They stay near the core, and a ray
#: adds to all of them before the next ray, which adds to the same pixels.
_LINES = 32


@dataclass
class JosephArguments:
    """Arguments of the kernels; see ``joseph_project.cpp``."""

    rows: Tensor  # (items, H, W + 4, lanes); lines are padded to a multiple of LINES if written
    columns: Tensor  # (items, W, H + 4, lanes)
    sinogram: Tensor  # (items, rays, lanes)
    offsets: Tensor  # this and the next one as in `Rays`, (V, D)
    slopes_in: Tensor
    coefficients: Tensor  # c0, or c0, c1 and c2 of the family below, (1 or 3, V, D)
    order: Tensor  # as in `Rays`, (V D,) int32
    vertical_rays: int
    all_rays: int
    detectors: int
    height: int
    width: int
    items: int


@cache
def joseph_kernel(name: str, dtype: torch.dtype, lanes: int, mode: int, **further: int) -> Kernel:
    """Return the kernel of the file ``joseph_{name}.cpp``.

    Args:
        name: "project", or "backproject" or "scatter" (its transpose in modes 0 and 1: by lines of
            the image that a task owns, or by atomic additions).
        dtype: precision of the images.
        lanes: number of images that are projected together.
        mode: which member of the family below, see ``joseph_project.cpp``.
        further: ``GROUP``, rays per task of "project"; ``LINES``, lines per task of "backproject"
            (the image is padded to a multiple of them, for "scatter" too).
    """
    definitions = {"REAL": REAL[dtype], "SINGLE": dtype == torch.float32, "IMAGES": lanes}
    definitions |= {"MODE": mode} | further
    return native_kernel(f"tomography/joseph_{name}.cpp", definitions, JosephArguments)


def project(image: Tensor, rays: Rays) -> Tensor:
    """Compute line integrals of images, ``(N, H, W) -> (N, V, D)``.

    Args:
        image: float32, float64 or complex, shape (N, H, W).
        rays: the scan; ``rays.shape`` must be (H, W).

    Raises:
        InputError: wrong shape or dtype.

    >>> from invtoolbox.kernels.tomography.rays import Rays
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> ray = Rays.through((0 * one, 0 * one), (0 * one, one), (4, 3), (1.0, 1.0))  # upwards
    >>> project(torch.ones(1, 4, 3), ray)
    tensor([[[4.]]])
    """
    check_input(image, (rays.shape[0], rays.shape[1]), "project takes images", "row, column")
    return _transform(image, rays, False)


def backproject(sinogram: Tensor, rays: Rays) -> Tensor:
    """Apply the transpose of `project`, ``(N, V, D) -> (N, H, W)``.

    On the CPU the result is bitwise the same for any number of threads. On CUDA rays are scattered
    with atomic additions, whose order varies; with ``torch.use_deterministic_algorithms(True)`` the
    slower ordered kernel is used.

    Args:
        sinogram: float32, float64 or complex, shape (N, V, D).
        rays: the scan; ``rays.offset`` must have the shape (V, D).

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
    return _transform(sinogram, rays, True)


def _transform(value: Tensor, rays: Rays, transpose: bool) -> Tensor:
    if value.is_complex():
        components = (value.real.contiguous(), value.imag.contiguous())
        return torch.complex(*(_transform(x, rays, transpose) for x in components))
    rays = rays.to(value.device, value.dtype)
    geometry = (rays.offset, rays.slope, rays.step[None])
    return _Transform.apply(value, *geometry, rays, transpose)


# Both directions are special cases of one family that is closed under differentiation. With u, v
# the two pixels of a sample and t the line's distance from the centre,
#     y = c0 sum(u + w (v - u)) + c1 sum(v - u) + c2 sum(t (v - u)).
# In a projection c0 = step and c1 = c2 = 0. d/d(offset) turns c0 into c1, d/d(slope) turns c0 into
# c2, and the second derivatives of linear interpolation vanish.


class _Transform(BatchedFunction):
    """Projection of images or, with ``transpose``, back-projection of sinograms."""

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
            # The map is linear in its input, so the derivative is the other direction.
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
        # The product rule: A' x + A x'.
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


class _Moments(BatchedFunction):
    """Three sums of the family above times the sinogram, summed over the batch: (3, V, D)."""

    sums_batch = True

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
        # The moments are bilinear in image and sinogram: each derivative is a transform of the
        # other one whose coefficients are the gradient.
        needs = ctx.needs_input_grad
        grad_image = (
            _Transform.apply(sinogram, offset, slope, grad, ctx.rays, True) if needs[0] else None
        )
        grad_sinogram = (
            _Transform.apply(image, offset, slope, grad, ctx.rays, False) if needs[1] else None
        )
        grad_offset = grad_slope = None
        if needs[2] or needs[3]:
            # The derivatives of c1 and c2 vanish, so only that of c0 is left.
            moments = _Moments.apply(image, sinogram, offset, slope, ctx.rays)
            grad_offset, grad_slope = grad[0] * moments[1], grad[0] * moments[2]
        return grad_image, grad_sinogram, grad_offset, grad_slope, None


def _geometry_grads(
    ctx: Any, image: Tensor, sinogram: Tensor, offset: Tensor, slope: Tensor, coefficients: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if not any(ctx.needs_input_grad[1:4]):
        return None, None, None
    # <y, A x> = sum_r c . moments_r, of which d/d(offset) is c0 times the moment of c1, and so on.
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
    """Return the coefficients of the derivative in the direction of a change of the rays."""
    if d_offset is None and d_slope is None and d_coefficients is None:
        return None
    # (c0', c1' + c0 offset', c2' + c0 slope')
    zero = torch.zeros_like(coefficients[0])
    tangent = [zero, zero, zero]
    if d_coefficients is not None:
        tangent[: coefficients.shape[0]] = list(d_coefficients)
    if d_offset is not None:
        tangent[1] = tangent[1] + coefficients[0] * d_offset
    if d_slope is not None:
        tangent[2] = tangent[2] + coefficients[0] * d_slope
    return torch.stack(tangent)


# -- running the kernels


def _run_project(
    image: Tensor, offset: Tensor, slope: Tensor, coefficients: Tensor, rays: Rays
) -> Tensor:
    sinogram = image.new_empty(image.shape[0], *offset.shape)
    fields = _ray_fields(offset, slope, coefficients, rays)
    mode = 0 if coefficients.shape[0] == 1 else 1
    for start, count, lanes in plan_lanes(image):
        rows, columns = _lines(image[start : start + count], lanes)
        # With one lane the kernel writes to the result; several lanes lie next to each other.
        direct = lanes == 1
        y = sinogram[start : start + count] if direct else image.new_empty(offset.numel(), lanes)
        _run_rays(
            JosephArguments(rows=rows, columns=columns, sinogram=y, items=len(rows), **fields),
            lanes,
            mode,
        )
        if not direct:
            sinogram[start : start + count] = y.t()[:count].view(count, *offset.shape)
    return sinogram


def _run_moments(
    image: Tensor, sinogram: Tensor, offset: Tensor, slope: Tensor, rays: Rays
) -> Tensor:
    moments = offset.new_zeros(3, *offset.shape)
    for start, count, lanes in plan_lanes(image):
        rows, columns = _lines(image[start : start + count], lanes)
        y = interleave(sinogram[start : start + count], lanes)
        # In mode 2 the kernel writes to the coefficients.
        summands = torch.empty_like(moments)
        fields = _ray_fields(offset, slope, summands, rays)
        _run_rays(
            JosephArguments(rows=rows, columns=columns, sinogram=y, items=len(rows), **fields),
            lanes,
            mode=2,
        )
        moments += summands
    return moments


def _ray_fields(offset: Tensor, slope: Tensor, coefficients: Tensor, rays: Rays) -> dict[str, Any]:
    """Return the fields of `JosephArguments` that describe the rays."""
    height, width = rays.shape
    return {
        "offsets": offset.contiguous(),
        "slopes_in": slope.contiguous(),
        "coefficients": coefficients.contiguous(),
        "order": rays.order,
        "vertical_rays": rays.number_vertical,
        "all_rays": offset.numel(),
        "detectors": rays.detectors,
        "height": height,
        "width": width,
    }


def _run_rays(arguments: JosephArguments, lanes: int, mode: int) -> None:
    rows, total = arguments.rows, arguments.all_rays
    group = _GROUP if rows.device.type == "cpu" else 1
    # A group holds rays of one main axis.
    vertical = arguments.vertical_rays
    groups = -(-vertical // group) - (-(total - vertical) // group)
    kernel = joseph_kernel("project", rows.dtype, lanes, mode, GROUP=group)
    # The moments are sums over the items: one task goes through all of them.
    tasks = groups * (1 if mode == 2 else arguments.items)
    longest = max(arguments.height, arguments.width)
    launch(kernel, tasks, arguments, float(total) * longest * arguments.items)


def _run_backproject(
    sinogram: Tensor, offset: Tensor, slope: Tensor, coefficients: Tensor, rays: Rays
) -> Tensor:
    height, width = rays.shape
    image = sinogram.new_empty(sinogram.shape[0], height, width)
    fields = _ray_fields(offset, slope, coefficients, rays)
    mode = 0 if coefficients.shape[0] == 1 else 1
    scatter = sinogram.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    block = _LINES if sinogram.device.type == "cpu" else 1
    blocks_vertical, blocks_horizontal = -(-height // block), -(-width // block)
    total = offset.numel()
    for start, count, lanes in plan_lanes(sinogram):
        items = count if lanes == 1 else 1
        new = sinogram.new_zeros if scatter else sinogram.new_empty
        rows = new(items, blocks_vertical * block, width + 4, lanes)
        columns = new(items, blocks_horizontal * block, height + 4, lanes)
        y = interleave(sinogram[start : start + count], lanes)
        name = "scatter" if scatter else "backproject"
        kernel = joseph_kernel(name, sinogram.dtype, lanes, mode, LINES=block)
        arguments = JosephArguments(rows=rows, columns=columns, sinogram=y, items=items, **fields)
        # A task is a ray if rays are scattered, otherwise a block of lines.
        tasks = total if scatter else blocks_vertical + blocks_horizontal
        launch(kernel, tasks * items, arguments, float(total) * max(rays.shape) * items)
        # Both kinds of rays contribute to a pixel.
        # (items, lines, across, lanes) without the padding -> (items * lanes, H, W)
        by_rows = rows[:, :height, 2 : width + 2].permute(0, 3, 1, 2)
        by_columns = columns[:, :width, 2 : height + 2].permute(0, 3, 2, 1)
        out = image[start : start + count].view(items, count // items, height, width)
        torch.add(by_rows[:, : count // items], by_columns[:, : count // items], out=out)
    return image


def _lines(image: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """Return the images by rows and by columns, as the kernels read them."""
    rows = pad_lines(image, lanes)
    return rows, pad(rows[:, :, 2:-2].transpose(1, 2), (0, 0, 2, 2))


def plan_lanes(tensor: Tensor) -> list[tuple[int, int, int]]:
    """Split a batch into parts (first item, items, lanes) of images that are projected together.

    Vectors are hardly slower than one number, so some empty lanes cost less than another
    pass. On CUDA the whole batch is one part with one lane.

    >>> import torch
    >>> plan_lanes(torch.zeros(19, 2, 2))
    [(0, 16, 16), (16, 3, 4)]
    """
    batch = tensor.shape[0]
    if tensor.device.type == "cuda":
        return [(0, batch, 1)]
    size = tensor.element_size()
    # Numbers in vectors of 64, 32 and 16 bytes.
    widths = [64 // size, 32 // size, 16 // size, 1]
    plan, start = [], 0
    while start < batch:
        left = batch - start
        lanes = min((lanes for lanes in widths if lanes >= left), default=widths[0])
        plan.append((start, min(left, lanes), lanes))
        start += lanes
    return plan


def pad_lines(values: Tensor, lanes: int) -> Tensor:
    """Pad every line of ``(count, lines, across)`` with two zeros on either side.

    Returns:
        tensor of shape (items, lines, across + 4, lanes): the items are innermost. ``items`` is
        ``count`` for one lane and 1 otherwise; empty lanes are zero.
    """
    count, length, across = values.shape
    padded = values.new_empty(count if lanes == 1 else 1, length, across + 4, lanes)
    padded[:, :, :2] = 0
    padded[:, :, across + 2 :] = 0
    inside = padded[:, :, 2 : across + 2]
    if lanes == 1:
        inside[..., 0] = values
    else:
        inside[0, :, :, :count] = values.permute(1, 2, 0)
        inside[0, :, :, count:] = 0
    return padded


def interleave(values: Tensor, lanes: int) -> Tensor:
    """Flatten ``(count, ...)`` to (count, numbers) for one lane, else to (numbers, lanes).

    Empty lanes are zero.
    """
    flat = values.reshape(values.shape[0], -1)
    if lanes == 1:
        return flat.contiguous()
    # Channels that come last are the fastest transposition.
    full = pad(flat, (0, 0, 0, lanes - len(flat))) if lanes > len(flat) else flat
    last = full.reshape(1, lanes, 1, -1).contiguous(memory_format=torch.channels_last)
    return last.permute(0, 2, 3, 1).reshape(-1, lanes)
