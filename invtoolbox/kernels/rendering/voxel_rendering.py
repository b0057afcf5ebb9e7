r"""Render voxels along rays by exact alpha compositing at a fixed step.

The gradient is hand-written. Samples lie at ``t_k = (k + offset) step`` along a ray. With the
optical thickness ``tau_k = step sigma(t_k)`` of each sample,

.. math:: T_k = \exp(-\sum_{j<k} \tau_j), \quad w_k = T_k (1 - e^{-\tau_k}),
          \quad C = \sum_k w_k c(t_k), \quad \alpha = \sum_k w_k.

The kernels are ``voxel_rendering.cpp`` and ``voxel_rendering_gradient.cpp``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.core.constants import constant
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import spherical_harmonics
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: Bytes that the separate gradients of the threads may take together.
_BUFFERS = 1 << 30


class Rendering(NamedTuple):
    """Images of R rays per item.

    Depths are in lengths of the ray's direction: for the rays of a camera, they are along its z
    axis.

    Attributes:
        color: color, ``(batch, R, channels)``.
        alpha: share of the light that was stopped, ``(batch, R)``.
        depth: expected depth at which the light was stopped, ``(batch, R)``; 0 if none was.
        median_depth: depth at which half of the light was stopped, ``(batch, R)``; infinite if less
            was stopped. Without gradient.
        thickness: optical thickness ``-log(1 - alpha)``, ``(batch, R)``.
        distortion: spread of the samples along the ray, ``sum_jk w_j w_k |t_j - t_k| + step / 3
            sum_k w_k^2``, ``(batch, R)``, in the unit of the depths; None if not asked for.
        entropy: entropy ``-sum_k p_k log p_k`` of the shares ``p_k = w_k / alpha``, ``(batch, R)``;
            0 if less than 1e-30 of the light was stopped. None if not asked for.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    median_depth: Tensor
    thickness: Tensor
    distortion: Tensor | None = None
    entropy: Tensor | None = None


def render_voxels(
    voxels: Voxels,
    origins: Tensor,
    directions: Tensor,
    *,
    step: float | None = None,
    near: float = 0.0,
    far: float = math.inf,
    offset: float | Tensor = 0.5,
    background: Tensor | float | None = None,
    stop: float = 1e-4,
    least_alpha: float = 0.0,
    spread: bool = False,
) -> Rendering:
    """Render voxels along rays; differentiable in density, color, rays and background.

    Args:
        voxels: density and color at the nodes, float32 or float64; see `Voxels`.
        origins: origins of the rays, ``(R, 3)`` for all items, or ``(batch, R, 3)``.
        directions: directions of the rays, of the same shape and of any length.
        step: distance between samples, in the unit of the world; by default half the shortest edge
            of a cell.
        near: distance from the origin at which sampling begins, in the unit of the world.
        far: distance from the origin at which sampling ends, in the unit of the world.
        offset: offset of the samples in steps, between 0 and 1: a number, or one number per ray,
            ``(R,)`` or ``(batch, R)``.
        background: color behind all voxels, ``()`` or ``(channels,)``; None for black.
        stop: share of the light below which a ray ends; 0 to sample up to the end of the box.
        least_alpha: share of the light; samples that stop less than this share are left out.
        spread: compute the distortion and the entropy of the rays too.

    Raises:
        InputError: if the shapes or the precisions do not fit together.

    >>> from invtoolbox.geometry.voxels import VoxelSpace
    >>> space = VoxelSpace.box(9, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), scale=1.0)
    >>> s = 0.5413  # softplus(s) = 1
    >>> fog = Voxels(torch.full((1, 729), s), torch.zeros(1, 729, 1, 3), space)
    >>> ray = render_voxels(fog, torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    >>> bool((ray.alpha - (1 - math.exp(-2.0))).abs() < 1e-4)
    True
    >>> bool((ray.median_depth - 2 - math.log(2.0)).abs() < 1e-3)
    True
    """
    density, color, space = voxels
    _check(voxels, origins, directions)
    if origins.ndim == 2:
        origins, directions = origins[None], directions[None]
    cell = constant(space.cell, density)
    step = 0.5 * min(space.cell) if step is None else step
    length = directions.norm(dim=-1, keepdim=True)
    unit = directions / length
    degree = math.isqrt(color.shape[2]) - 1
    bases = spherical_harmonics(unit, degree)
    offsets = offset.to(density) if isinstance(offset, Tensor) else constant(offset, density)
    # The density s with softplus(s) scale step = -log(1 - least_alpha)
    thinnest = -math.log1p(-least_alpha) / (space.scale * step)
    least = math.log(math.expm1(thinnest)) if thinnest > 0 else -1e30
    settings = {
        "numbers": space.numbers,
        "clearance": space.clearance,
        **dict(zip(("nx", "ny", "nz"), space.shape)),
        "spacing": step,
        "near": near,
        "far": min(far, 1e30),
        "stop": stop,
        "least": least,
        "density_scale": space.scale,
    }
    # The kernel works in units of the grid: node (i, j, k) lies at (i, j, k).
    colors, scalars = _Render.apply(
        density,
        color,
        (origins - constant(space.low, density)) / cell,
        unit / cell,
        bases,
        _March(offsets.expand(origins.shape[:2]), settings, spread),
    )
    alpha, depth, thickness, median = scalars[..., :4].unbind(-1)
    if background is not None:
        behind = background.to(colors) if isinstance(background, Tensor) else background
        colors = colors + (1 - alpha)[..., None] * behind
    length = length[..., 0]
    # The derivatives divide by the share of the light, and its inverse must not overflow.
    met = alpha > 1e-30
    total = torch.where(met, alpha, torch.ones_like(alpha))
    # Expected depth sum_k w_k t_k / sum_k w_k, from distances to lengths of the direction.
    depth = torch.where(met, depth / total, torch.zeros_like(depth)) / length
    # The kernel writes 1e30 if less than half of the light is stopped.
    median = torch.where(median < 1e29, median, torch.full_like(median, torch.inf))
    median = median.detach() / length.detach()
    rendering = Rendering(colors, alpha, depth, median, thickness)
    if not spread:
        return rendering
    distortion, unscaled = scalars[..., 4] / length, scalars[..., 5]
    # -sum p log p = log(sum w) - (sum w log w) / sum w
    entropy = torch.where(met, total.log() + unscaled / total, torch.zeros_like(alpha))
    return rendering._replace(distortion=distortion, entropy=entropy)


def _check(voxels: Voxels, origins: Tensor, directions: Tensor) -> None:
    density, color, space = voxels
    rows = space.rows
    fits = (
        density.ndim == 2
        and density.shape[1] == rows
        and color.ndim == 4
        and color.shape[:2] == density.shape
    )
    if not fits or color.shape[2] not in (1, 4, 9):
        raise InputError(
            f"voxels of {rows} nodes take a density (batch, {rows}) and a color "
            f"(batch, {rows}, 1 or 4 or 9, channels), got {tuple(density.shape)} "
            f"and {tuple(color.shape)}"
        )
    if density.dtype not in (torch.float32, torch.float64) or color.dtype != density.dtype:
        raise InputError(f"voxels are float32 or float64, got {density.dtype} and {color.dtype}")
    if (
        origins.shape != directions.shape
        or origins.shape[-1:] != (3,)
        or origins.ndim not in (2, 3)
    ):
        raise InputError(
            "rays are origins and directions (R, 3) or (batch, R, 3), got "
            f"{tuple(origins.shape)} and {tuple(directions.shape)}"
        )
    if origins.ndim == 3 and len(origins) not in (1, len(density)):
        raise InputError(f"there are {len(origins)} items of rays and {len(density)} of voxels")
    if origins.dtype != density.dtype or directions.dtype != density.dtype:
        raise InputError(
            f"the rays are {origins.dtype} and {directions.dtype}, and the voxels {density.dtype}"
        )


@dataclass
class RenderingArguments:
    """Arguments of both kernels; the tensors at the end are for the gradient alone."""

    density: Tensor  # (batch, rows)
    color: Tensor  # (batch, rows, bases, channels)
    origins: Tensor  # in cells from the first node, (1 or batch, R, 3)
    directions: Tensor  # cells per unit of length, (1 or batch, R, 3)
    bases: Tensor  # spherical harmonics of the directions, (1 or batch, R, bases)
    offsets: Tensor  # (1 or batch, R)
    colors_out: Tensor  # (batch, R, channels)
    rest_out: Tensor  # alpha, depth, thickness, median, distortion, entropy, (batch, R, 4 or 6)
    shared_rays: int  # 1 if all items have the same rays
    rows: int
    rays: int  # R
    parts: int  # number of tasks per item
    numbers: Tensor | None  # as in `VoxelSpace`, and the next one
    clearance: Tensor | None
    nx: int
    ny: int
    nz: int
    spacing: float  # step between samples
    near: float
    far: float
    stop: float
    least: float  # density below which a sample is left out
    density_scale: float
    colors_grad: Tensor | None = None  # gradients, of the shapes of what they belong to
    rest_grad: Tensor | None = None
    density_grad: Tensor | None = None  # one per part, (batch, 1 or parts, rows)
    color_grad: Tensor | None = None  # one per part, (batch, 1 or parts, rows, bases, channels)
    origins_grad: Tensor | None = None  # one per item, as the next two
    directions_grad: Tensor | None = None
    bases_grad: Tensor | None = None


def _definitions(
    dtype: torch.dtype, bases: int, channels: int, spread: bool
) -> dict[str, str | int]:
    double = dtype == torch.float64
    functions = {"EXP": "exp", "LOG": "log"} if double else {"EXP": "expf", "LOG": "logf"}
    sizes = {"BASES": bases, "CHANNELS": channels, "SPREAD": spread}
    return {"REAL": REAL[dtype], **functions, **sizes}


@cache
def render_kernel(dtype: torch.dtype, bases: int, channels: int, spread: bool = False) -> Kernel:
    """Return the kernel that renders colors with a number of basis functions and of channels.

    With ``spread`` it computes the distortion and the entropy of the rays too.
    """
    definitions = _definitions(dtype, bases, channels, spread)
    return native_kernel("rendering/voxel_rendering.cpp", definitions, RenderingArguments)


@cache
def gradient_kernel(
    dtype: torch.dtype,
    bases: int,
    channels: int,
    of_rays: bool,
    atomic: bool,
    spread: bool = False,
) -> Kernel:
    """Return the kernel of the gradient.

    Args:
        dtype: precision.
        bases: number of basis functions of the color.
        channels: number of channels of the color.
        of_rays: compute the gradient of the rays as well.
        atomic: parts share their gradients, by atomic additions.
        spread: include the gradient of the distortion and the entropy.
    """
    definitions = _definitions(dtype, bases, channels, spread)
    definitions |= {"OF_RAYS": of_rays, "ATOMIC": atomic}
    return native_kernel("rendering/voxel_rendering_gradient.cpp", definitions, RenderingArguments)


class _March(NamedTuple):
    """Samples of the rays, which have no derivative: offsets, and fields of the arguments."""

    offsets: Tensor
    settings: dict[str, Any]
    spread: bool


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        density: Tensor,
        color: Tensor,
        origins: Tensor,
        directions: Tensor,
        bases: Tensor,
        march: _March,
    ) -> tuple[Tensor, Tensor]:
        fixed = [t.detach().contiguous() for t in (density, color, origins, directions, bases)]
        batch, rays, channels = len(density), origins.shape[1], color.shape[3]
        colors = density.new_empty(batch, rays, channels)
        scalars = density.new_empty(batch, rays, 6 if march.spread else 4)
        ctx.march = march._replace(offsets=march.offsets.detach().contiguous())
        ctx.save_for_backward(colors, scalars, *fixed)
        parts = min(rays, rays if density.is_cuda else 16 * torch.get_num_threads())
        arguments = _arguments(ctx.march, parts, colors, scalars, *fixed)
        kernel = render_kernel(density.dtype, color.shape[2], channels, march.spread)
        launch(kernel, batch * parts, arguments, _work(arguments, batch))
        return colors, scalars

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, colors_grad: Tensor, rest_grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, density, color, *of_ray = ctx.saved_tensors
        batch, rays, of_rays = len(density), of_ray[0].shape[1], any(ctx.needs_input_grad[2:5])
        atomic = density.is_cuda and not torch.are_deterministic_algorithms_enabled()
        parts = rays if atomic else _parts(density, color, rays)
        buffers = 1 if atomic else parts
        grads = [t.new_zeros(batch, buffers, *t.shape[1:]) for t in (density, color)]
        ray_grads = [t.new_empty(batch if of_rays else 0, *t.shape[1:]) for t in of_ray]
        arguments = _arguments(ctx.march, parts, *ctx.saved_tensors)
        arguments.colors_grad = colors_grad.contiguous()
        arguments.rest_grad = rest_grad.contiguous()
        arguments.density_grad, arguments.color_grad = grads
        arguments.origins_grad, arguments.directions_grad, arguments.bases_grad = ray_grads
        kernel = gradient_kernel(
            density.dtype, color.shape[2], color.shape[3], of_rays, atomic, ctx.march.spread
        )
        launch(kernel, batch * parts, arguments, 4 * _work(arguments, batch))
        of_density, of_color = (g[:, 0] if buffers == 1 else g.sum(1) for g in grads)
        pulled: list[Tensor | None] = [None] * 3
        if of_rays:
            # Rays that all items share get the sum over the items.
            pulled = [
                g if len(t) == batch else g.sum(0, keepdim=True) for g, t in zip(ray_grads, of_ray)
            ]
        return (of_density, of_color, *pulled, None)


def _parts(density: Tensor, color: Tensor, rays: int) -> int:
    """Return the number of parts of an item's rays, each with separate gradients.

    It does not depend on the batch, so that an item has the same gradient alone and in a batch.
    """
    buffer = (density[0].numel() + color[0].numel()) * density.element_size()
    most = 64 if density.is_cuda else torch.get_num_threads()
    return max(1, min(most, rays, _BUFFERS // max(buffer, 1)))


def _work(arguments: RenderingArguments, batch: int) -> float:
    # A ray crosses about as many cells as there are along the three axes.
    return 20.0 * batch * arguments.rays * (arguments.nx + arguments.ny + arguments.nz)


def _arguments(
    march: _March,
    parts: int,
    colors: Tensor,
    scalars: Tensor,
    density: Tensor,
    color: Tensor,
    origins: Tensor,
    directions: Tensor,
    bases: Tensor,
) -> RenderingArguments:
    return RenderingArguments(
        density=density,
        color=color,
        origins=origins,
        directions=directions,
        bases=bases,
        offsets=march.offsets,
        colors_out=colors,
        rest_out=scalars,
        shared_rays=int(len(origins) == 1),
        rows=density.shape[1],
        rays=origins.shape[1],
        parts=parts,
        **march.settings,
    )
