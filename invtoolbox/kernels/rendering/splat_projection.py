"""Project Gaussians into views, with the derivative: the input of the compositing.

The kernels are ``splat_projection.cpp`` and ``splat_projection_gradient.cpp``. A task takes some Gaussians
of a scene through all views of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invtoolbox.kernels.launch import Kernel, launch
from invtoolbox.kernels.native import REAL, native_kernel

#: Gaussians per task.
PART = 256
#: Numbers of a splat before its features: mean (x, y), conic (xx, xy, yy), opacity.
GEOMETRY = 6


@dataclass(frozen=True)
class Projection:
    """Settings of the projection of Gaussians.

    Attributes:
        width: width of the views in pixels.
        height: height of the views in pixels.
        near: depth below which Gaussians are left out.
        far: depth above which Gaussians are left out.
        blur: number that is added to the diagonal of the covariances in the image, square pixels.
        clip: extent in pixels; Gaussians that do not extend farther are left out.
        degree: degree of the spherical harmonics; -1 for given colors.
        depth: add the depth to the features.
        normals: add the normal to the features.
        antialiased: lower the opacity by what the blur adds to the area.
        anywhere: samples lie anywhere in a pixel, not only at its centre, so that the boxes hold every
            pixel that a Gaussian touches in part.
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


@dataclass(kw_only=True)
class ProjectionArguments:
    """Arguments of both kernels."""

    boxes: Tensor
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    count: int
    views: int
    parts: int
    stride: int
    width: int
    height: int
    blur: float


@dataclass(kw_only=True)
class ForwardArguments(ProjectionArguments):
    """Arguments of ``splat_projection.cpp``."""

    splats: Tensor
    reaches: Tensor
    near: float
    far: float
    clip: float
    spread: float


@dataclass(kw_only=True)
class GradientArguments(ProjectionArguments):
    """Arguments of ``splat_projection_gradient.cpp``."""

    dsplats: Tensor
    dmeans: Tensor
    dquats: Tensor
    dscales: Tensor
    dopacities: Tensor
    dcolors: Tensor
    poses: Tensor


@cache
def projection_kernel(
    dtype: torch.dtype,
    channels: int,
    degree: int,
    depth: bool,
    normals: bool,
    antialiased: bool,
    gradient: bool,
) -> Kernel:
    """Return the kernel that projects, or the kernel of the gradient; see `Projection`."""
    definitions = {
        "REAL": REAL[dtype],
        "PART": PART,
        "GEOMETRY": GEOMETRY,
        "CHANNELS": channels,
        "DEGREE": degree,
        "DEPTH": depth,
        "NORMALS": normals,
        "ANTIALIASED": antialiased,
    }
    file = "splat_projection_gradient.cpp" if gradient else "splat_projection.cpp"
    arguments = GradientArguments if gradient else ForwardArguments
    return native_kernel(f"rendering/{file}", definitions, arguments, task="part")


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
    """Project the Gaussians of S scenes into C views each, differentiable in all but the intrinsics.

    Args:
        means: centres, ``(S, N, 3)``.
        quats: quaternions (w, x, y, z) of any length, ``(S, N, 4)``.
        scales: standard deviations along the axes, ``(S, N, 3)``.
        opacities: opacities, ``(S, N)``.
        colors: colors ``(S, N, D)``, or coefficients of spherical harmonics ``(S, N, K, 3)``.
        viewmats: extrinsic matrices, world to camera, ``(S, C, 4, 4)``.
        Ks: intrinsic matrices, ``(S, C, 3, 3)``.
        how: settings of the projection.

    Returns:
        The splats, their boxes and their reaches.

        - splats ``(S * C, N, 6 + features)``: mean (x, y), conic (xx, xy, yy), opacity, and the features
          colors, depth and normal.
        - boxes ``(S * C, N, 4)`` int32: the pixels that a splat may touch.
        - reaches ``(S * C, N, 2)``: depth, and half the squared Mahalanobis distance at which alpha is
          1/255.
    """
    splats, boxes, reaches = _Project.apply(
        means, quats, scales, opacities, colors, viewmats, Ks, how
    )
    return splats, boxes, reaches


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        *inputs, how = arguments
        tensors = [t.detach().contiguous() for t in inputs]
        means, colors, viewmats = tensors[0], tensors[4], tensors[5]
        views = len(means) * viewmats.shape[1]
        count = means.shape[1]
        channels = 3 if how.degree >= 0 else colors.shape[-1]
        row = GEOMETRY + channels + int(how.depth) + 3 * int(how.normals)
        splats = means.new_empty(views, count, row)
        boxes = torch.empty(views, count, 4, dtype=torch.int32, device=means.device)
        reaches = means.new_empty(views, count, 2)
        forward = ForwardArguments(
            **_common([boxes, *tensors], how),
            splats=splats,
            reaches=reaches,
            near=how.near,
            far=how.far,
            clip=how.clip,
            spread=0.5 if how.anywhere else 0.0,
        )
        kernel = _kernel(means, channels, how, gradient=False)
        launch(kernel, len(means) * forward.parts, forward, 50.0 * views * count)
        ctx.save_for_backward(boxes, *tensors)
        ctx.how, ctx.channels = how, channels
        ctx.mark_non_differentiable(boxes, reaches)
        return splats, boxes, reaches

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Any) -> Any:
        boxes, means, *others, viewmats, _ = ctx.saved_tensors
        common = _common(ctx.saved_tensors, ctx.how)
        scenes, parts, views = len(means), common["parts"], viewmats.shape[1]
        poses = means.new_empty(scenes * parts, views, 12)
        gradients = [torch.empty_like(t) for t in (means, *others)]
        dmeans, dquats, dscales, dopacities, dcolors = gradients
        backward = GradientArguments(
            **common,
            dsplats=slope.contiguous(),
            dmeans=dmeans,
            dquats=dquats,
            dscales=dscales,
            dopacities=dopacities,
            dcolors=dcolors,
            poses=poses,
        )
        kernel = _kernel(means, ctx.channels, ctx.how, gradient=True)
        launch(kernel, scenes * parts, backward, 200.0 * boxes.shape[0] * boxes.shape[1])
        pose = torch.zeros_like(viewmats)
        pose[:, :, :3] = poses.view(scenes, parts, views, 3, 4).sum(1)
        return *gradients, pose, None, None


def _common(tensors: Sequence[Tensor], how: Projection) -> dict[str, Any]:
    """Return the arguments of both kernels: boxes, the inputs, and sizes."""
    names = ("boxes", "means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")
    given: dict[str, Any] = dict(zip(names, tensors))
    count = given["means"].shape[1]
    return given | {
        "count": count,
        "views": given["viewmats"].shape[1],
        "parts": (count + PART - 1) // PART,
        "stride": given["colors"].shape[2],
        "width": how.width,
        "height": how.height,
        "blur": how.blur,
    }


def _kernel(means: Tensor, channels: int, how: Projection, gradient: bool) -> Kernel:
    return projection_kernel(
        means.dtype, channels, how.degree, how.depth, how.normals, how.antialiased, gradient
    )
