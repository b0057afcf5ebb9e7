"""Gaussians projected into views, with their derivative: what compositing takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.rendering.splat_projection_kernels import (
    GEOMETRY,
    PART,
    project_kernel,
    pull_kernel,
)


@dataclass(frozen=True)
class Projection:
    """How Gaussians are projected.

    Attributes:
        width, height: of the views, in pixels.
        near, far: depths between which they are seen.
        blur: added to the diagonal of their covariances in the image, square pixels.
        clip: those that reach no farther than so many pixels are left out.
        degree: of the spherical harmonics; -1 where colors are given.
        depth, normals: add these to the features.
        antialiased: lower the opacity by what the blur adds to the area.
        anywhere: what is seen is not only the centres of pixels, so boxes hold every pixel of which a part is touched.
    """

    width: int
    height: int
    near: float = 0.01
    far: float = 1e10
    blur: float = 0.3
    clip: float = 0.0
    degree: int = -1
    depth: bool = False
    normals: bool = False
    antialiased: bool = False
    anywhere: bool = False


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    how: Projection,
) -> tuple[Tensor, Tensor, Tensor]:
    """Splats in the image, differentiable in everything but the intrinsics.

    Args:
        means, quats, scales, opacities: ``(S, N, 3)``, ``(S, N, 4)``, ``(S, N, 3)`` and ``(S, N)``, for S scenes.
        colors: ``(S, N, D)``, or coefficients ``(S, N, K, 3)`` where there are spherical harmonics.
        viewmats, Ks: ``(S, C, 4, 4)`` and ``(S, C, 3, 3)``.

    Returns:
        splats ``(S * C, N, 6 + features)``: mean (x, y), conic (xx, xy, yy), opacity, and the features colors, depth, normal;
        boxes ``(S * C, N, 4)`` int32, the pixels that one may touch; reaches ``(S * C, N, 2)``: depth, and half the squared Mahalanobis
        distance at which alpha is 1/255.
    """
    splats, boxes, reaches = _Project.apply(
        means, quats, scales, opacities, colors, viewmats, Ks, how
    )
    return splats, boxes, reaches


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        *given, how = arguments
        means, quats, scales, opacities, colors, viewmats, Ks = (
            t.detach().contiguous() for t in given
        )
        scenes, count = means.shape[:2]
        views = viewmats.shape[1]
        channels = 3 if how.degree >= 0 else colors.shape[-1]
        row = GEOMETRY + channels + int(how.depth) + 3 * int(how.normals)
        splats = means.new_empty(scenes * views, count, row)
        boxes = torch.empty(scenes * views, count, 4, dtype=torch.int32, device=means.device)
        reaches = means.new_empty(scenes * views, count, 2)
        tensors = [splats, boxes, reaches, means, quats, scales, opacities, colors, viewmats, Ks]
        kernel = project_kernel(
            means.dtype, channels, how.degree, how.depth, how.normals, how.antialiased
        )
        parts, tasks = _parts(scenes, count)
        launch(
            kernel,
            tasks,
            [
                *map(address, tensors),
                count,
                views,
                parts,
                colors.shape[2],
                how.width,
                how.height,
                how.near,
                how.far,
                how.blur,
                how.clip,
                0.5 if how.anywhere else 0.0,
            ],
            tensors,
            50.0 * splats.shape[0] * count,
        )
        ctx.save_for_backward(boxes, means, quats, scales, opacities, colors, viewmats, Ks)
        ctx.how, ctx.channels = how, channels
        ctx.mark_non_differentiable(boxes, reaches)
        return splats, boxes, reaches

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Any) -> Any:
        boxes, means, quats, scales, opacities, colors, viewmats, Ks = ctx.saved_tensors
        how = ctx.how
        scenes, count = means.shape[:2]
        views = viewmats.shape[1]
        parts, tasks = _parts(scenes, count)
        poses = means.new_empty(tasks, views, 12)
        gradients = [torch.empty_like(t) for t in (means, quats, scales, opacities, colors)]
        tensors = [
            *gradients,
            poses,
            slope.contiguous(),
            boxes,
            means,
            quats,
            scales,
            opacities,
            colors,
            viewmats,
            Ks,
        ]
        kernel = pull_kernel(
            means.dtype, ctx.channels, how.degree, how.depth, how.normals, how.antialiased
        )
        launch(
            kernel,
            tasks,
            [
                *map(address, tensors),
                count,
                views,
                parts,
                colors.shape[2],
                how.width,
                how.height,
                how.blur,
            ],
            tensors,
            200.0 * boxes.shape[0] * count,
        )
        pose = torch.zeros_like(viewmats)
        pose[:, :, :3] = poses.view(scenes, parts, views, 3, 4).sum(1)
        return *gradients, pose, None, None


def _parts(scenes: int, count: int) -> tuple[int, int]:
    """Tasks of a scene, and of all."""
    parts = (count + PART - 1) // PART
    return parts, scenes * parts
