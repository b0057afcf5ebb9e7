r"""Rendering of voxels along rays: exact alpha compositing at a fixed step, with its hand-written gradient.

Samples lie at ``t_k = (k + offset) step`` along a ray. With the optical thickness ``tau_k = step sigma(t_k)`` of each,

.. math:: T_k = \exp(-\sum_{j<k} \tau_j), \quad w_k = T_k (1 - e^{-\tau_k}), \quad C = \sum_k w_k c(t_k), \quad \alpha = \sum_k w_k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import spherical_harmonics
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.kernels.launch import address, launch

#: Bytes that the threads' own gradients may take together.
_BUFFERS = 1 << 30


class Rendering(NamedTuple):
    """What rays meet. Depths count in lengths of a ray's direction: for those of a camera, along its z.

    Attributes:
        color: ``(batch, R, channels)``.
        alpha: how much of the light was stopped, ``(batch, R)``.
        depth: its expectation given that it was, ``(batch, R)``; 0 where nothing was met.
        median_depth: where half of it was stopped, ``(batch, R)``; infinite where less was. Without gradient.
        thickness: the optical thickness ``-log(1 - alpha)``, ``(batch, R)``.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    median_depth: Tensor
    thickness: Tensor


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
) -> Rendering:
    """Render voxels along rays; differentiable in density, color, rays and background.

    Args:
        voxels: see `Voxels`; float32 or float64.
        origins: ``(R, 3)``, or ``(batch, R, 3)`` where every item has its own.
        directions: the same shape, of any length.
        step: between samples, in the unit of the world; half the shortest edge of a cell by default.
        near, far: distances from the origin between which is sampled, in the unit of the world.
        offset: of the samples, in steps, between 0 and 1; a number, or one a ray, ``(R,)`` or ``(batch, R)``.
        background: a color that stands behind everything, ``()`` or ``(channels,)``; none for black.
        stop: a ray ends where less than this share of the light is left; 0 for the end of the box.
        least_alpha: samples that stop less than this share of the light are left out.

    Raises:
        InputError: for shapes and precisions that do not fit.

    >>> from invtoolbox.geometry.voxels import VoxelSpace
    >>> space = VoxelSpace.box(9, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), scale=1.0)
    >>> fog = Voxels(torch.full((1, 729), 0.5413), torch.zeros(1, 729, 1, 3), space)  # softplus(0.5413) = 1
    >>> seen = render_voxels(fog, torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    >>> bool((seen.alpha - (1 - math.exp(-2.0))).abs() < 1e-4), bool((seen.median_depth - 2 - math.log(2.0)).abs() < 1e-3)
    (True, True)
    """
    density, color, space = voxels
    _check(voxels, origins, directions)
    if origins.ndim == 2:
        origins, directions = origins[None], directions[None]
    cell = density.new_tensor(space.cell)
    step = 0.5 * min(space.cell) if step is None else step
    length = directions.norm(dim=-1, keepdim=True)
    unit = directions / length
    degree = math.isqrt(color.shape[2]) - 1
    bases = spherical_harmonics(unit, degree)
    offsets = torch.as_tensor(offset, dtype=density.dtype, device=density.device).expand(
        origins.shape[:2]
    )
    # softplus(s) scale step = -log(1 - least_alpha)
    thinnest = -math.log1p(-least_alpha) / (space.scale * step)
    least = math.log(math.expm1(thinnest)) if thinnest > 0 else -1e30
    march = _March(space.shape, step, near, min(far, 1e30), stop, least, space.scale)
    seen, rest = _Render.apply(
        density,
        color,
        (origins - density.new_tensor(space.low)) / cell,
        unit / cell,
        bases,
        offsets,
        space.numbers,
        space.clearance,
        march,
    )
    alpha, depth, thickness, median = rest.unbind(-1)
    if background is not None:
        seen = seen + (1 - alpha)[..., None] * torch.as_tensor(
            background, dtype=seen.dtype, device=seen.device
        )
    length = length[..., 0]
    met = alpha > 0
    depth = (
        torch.where(
            met, depth / torch.where(met, alpha, torch.ones_like(alpha)), torch.zeros_like(depth)
        )
        / length
    )
    median = (
        torch.where(median < 1e29, median, torch.full_like(median, torch.inf)).detach()
        / length.detach()
    )
    return Rendering(seen, alpha, depth, median, thickness)


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
            f"voxels of {rows} nodes take a density (batch, {rows}) and a color (batch, {rows}, 1 or 4 or 9, channels), got "
            f"{tuple(density.shape)} and {tuple(color.shape)}"
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


@dataclass(frozen=True)
class _March:
    shape: tuple[int, int, int]
    step: float
    near: float
    far: float
    stop: float
    least: float
    scale: float


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        density: Tensor,
        color: Tensor,
        origins: Tensor,
        directions: Tensor,
        bases: Tensor,
        offsets: Tensor,
        numbers: Tensor | None,
        clearance: Tensor | None,
        march: _March,
    ) -> tuple[Tensor, Tensor]:
        from invtoolbox.kernels.rendering.voxel_rendering_kernels import render_kernel

        fixed = [
            t.detach().contiguous() for t in (density, color, origins, directions, bases, offsets)
        ]
        batch, rays, channels = len(density), origins.shape[1], color.shape[3]
        seen, rest = density.new_empty(batch, rays, channels), density.new_empty(batch, rays, 4)
        ctx.numbers, ctx.clearance, ctx.march = numbers, clearance, march
        ctx.save_for_backward(*fixed, seen, rest)
        arguments = _arguments(fixed, numbers, clearance, march, seen, rest)
        parts = arguments.parts = min(
            rays, rays if density.is_cuda else 16 * torch.get_num_threads()
        )
        kernel = render_kernel(density.dtype, color.shape[2], channels)
        launch(
            kernel, batch * parts, [arguments], [density, seen, rest], _work(march, batch * rays)
        )
        return seen, rest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, seen_grad: Tensor, rest_grad: Tensor) -> tuple[Tensor | None, ...]:
        from invtoolbox.kernels.rendering.voxel_rendering_kernels import gradient_kernel

        *fixed, seen, rest = ctx.saved_tensors
        density, color, origins, directions, bases, _ = fixed
        batch, rays, of_rays = len(density), origins.shape[1], any(ctx.needs_input_grad[2:5])
        seen_grad, rest_grad = seen_grad.contiguous(), rest_grad.contiguous()
        atomic = density.is_cuda and not torch.are_deterministic_algorithms_enabled()
        parts = rays if atomic else _parts(density, color, rays)
        buffers = 1 if atomic else parts
        grads = [t.new_zeros(batch, buffers, *t.shape[1:]) for t in (density, color)]
        ray_grads = [
            t.new_empty(batch if of_rays else 0, *t.shape[1:]) for t in (origins, directions, bases)
        ]
        arguments = _arguments(fixed, ctx.numbers, ctx.clearance, ctx.march, seen, rest)
        arguments.parts = parts
        arguments.colors_grad, arguments.rest_grad = address(seen_grad), address(rest_grad)
        arguments.density_grad, arguments.color_grad = map(address, grads)
        if of_rays:
            arguments.origins_grad, arguments.directions_grad, arguments.bases_grad = map(
                address, ray_grads
            )
        kernel = gradient_kernel(density.dtype, color.shape[2], color.shape[3], of_rays, atomic)
        launch(
            kernel,
            batch * parts,
            [arguments],
            [density, seen_grad, rest_grad, *grads, *ray_grads],
            4 * _work(ctx.march, batch * rays),
        )
        of_density, of_color = (g[:, 0] if buffers == 1 else g.sum(1) for g in grads)
        pulled: list[Tensor | None] = [None] * 3
        if of_rays:
            pulled = [
                g if len(t) == batch else g.sum(0, keepdim=True)
                for g, t in zip(ray_grads, (origins, directions, bases))
            ]
        return (of_density, of_color, *pulled, None, None, None, None)


def _parts(density: Tensor, color: Tensor, rays: int) -> int:
    """Into how many parts the rays of an item fall, each with gradients of its own: the same whatever the batch is."""
    one = (density[0].numel() + color[0].numel()) * density.element_size()
    wanted = 64 if density.is_cuda else torch.get_num_threads()
    return max(1, min(wanted, rays, _BUFFERS // max(one, 1)))


def _work(march: _March, rays: int) -> float:
    return 20.0 * rays * sum(march.shape)


def _arguments(
    fixed: list[Tensor],
    numbers: Tensor | None,
    clearance: Tensor | None,
    march: _March,
    seen: Tensor,
    rest: Tensor,
) -> Any:
    from invtoolbox.kernels.rendering.voxel_rendering_kernels import Arguments

    a = Arguments()
    density, _, origins, *_ = fixed
    a.density, a.color, a.origins, a.directions, a.bases, a.offsets = map(address, fixed)
    a.numbers = 0 if numbers is None else address(numbers)
    a.clearance = 0 if clearance is None else address(clearance)
    a.colors_out, a.rest_out = address(seen), address(rest)
    a.shared_rays, a.rows, a.rays = int(len(origins) == 1), density.shape[1], origins.shape[1]
    a.nx, a.ny, a.nz = march.shape
    a.step, a.near, a.far, a.stop, a.least, a.scale = (
        march.step,
        march.near,
        march.far,
        march.stop,
        march.least,
        march.scale,
    )
    return a
