"""Project Gaussians into views, with the derivative: the input of the compositing.

The kernels are ``splat_projection.cpp`` and ``splat_projection_gradient.cpp``. A task takes some
Gaussians of a scene through all views of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: Gaussians per task on a CPU, and on CUDA, whose threads are many and light.
PART, PART_ON_CUDA = 256, 4
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
        surface: add the square of the depth, and the distance of the camera to the plane of the two
            longer axes (0 or less, along the normal); it needs the normals.
        anywhere: samples lie anywhere in a pixel, not only at its centre, so that the boxes hold
            every pixel that a Gaussian touches in part.
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
    surface: bool = False
    anywhere: bool = False


@dataclass
class ProjectionArguments:
    """Arguments of the kernels: the projection writes splats and reaches, the gradient the rest."""

    boxes: Tensor  # this and the other tensors as in `project`
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    count: int  # number of Gaussians N of a scene
    views: int  # number of views C of a scene
    parts: int  # number of tasks per scene
    stride: int  # number of colors D, or of coefficients K
    width: int
    height: int
    near: float
    far: float
    blur: float
    clip: float
    spread: float  # largest distance of a sample from the centre of its pixel
    splats: Tensor | None = None
    reaches: Tensor | None = None
    dsplats: Tensor | None = None  # gradients, of the shapes of what they belong to
    dmeans: Tensor | None = None
    dquats: Tensor | None = None
    dscales: Tensor | None = None
    dopacities: Tensor | None = None
    dcolors: Tensor | None = None
    poses: Tensor | None = None  # gradients of the extrinsic matrices, (S, parts, C, 3, 4)


@cache
def projection_kernel(
    dtype: torch.dtype,
    channels: int,
    degree: int,
    depth: bool,
    normals: bool,
    antialiased: bool,
    gradient: bool,
    part: int,
    surface: bool = False,
) -> Kernel:
    """Return the kernel that projects ``part`` Gaussians per task, or its gradient.

    The other arguments are those of `Projection`.
    """
    definitions: dict[str, str | int] = {
        "REAL": REAL[dtype],
        "PART": part,
        "GEOMETRY": GEOMETRY,
        "CHANNELS": channels,
        "DEGREE": degree,
        "DEPTH": depth,
        "NORMALS": normals,
        "ANTIALIASED": antialiased,
        "SURFACE": surface,
    }
    file = "splat_projection_gradient.cpp" if gradient else "splat_projection.cpp"
    return native_kernel(f"rendering/{file}", definitions, ProjectionArguments, task="part")


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
    """Project the Gaussians of S scenes into C views each.

    The result is differentiable in everything but the intrinsic matrices.

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

        - splats ``(S * C, N, 6 + features)``: mean (x, y), conic (xx, xy, yy), opacity, and the
          features colors, depth, normal, square of the depth and distance of the plane.
        - boxes ``(S * C, N, 4)`` int32: the pixels that a splat may touch.
        - reaches ``(S * C, N, 2)``: depth, and half the squared Mahalanobis distance at which alpha
          is 1/255.
    """
    splats, boxes, reaches = _Project.apply(
        means, quats, scales, opacities, colors, viewmats, Ks, how
    )
    return splats, boxes, reaches


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        *scene, how = inputs
        tensors = [t.detach().contiguous() for t in scene]
        means, colors, viewmats = tensors[0], tensors[4], tensors[5]
        views, count = len(means) * viewmats.shape[1], means.shape[1]
        channels = 3 if how.degree >= 0 else colors.shape[-1]
        # Spherical harmonics give three colors; the rest of a row as in `project`.
        row = GEOMETRY + channels + int(how.depth) + 3 * int(how.normals) + 2 * int(how.surface)
        splats, reaches = means.new_empty(views, count, row), means.new_empty(views, count, 2)
        boxes = torch.empty(views, count, 4, dtype=torch.int32, device=means.device)
        ctx.how, ctx.channels = how, channels
        ctx.save_for_backward(boxes, *tensors)
        ctx.mark_non_differentiable(boxes, reaches)
        arguments = _arguments(ctx.how, boxes, *tensors)
        arguments.splats, arguments.reaches = splats, reaches
        _run(arguments, how, channels, gradient=False, work=50.0 * views * count)
        return splats, boxes, reaches

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Any) -> Any:
        boxes, *inputs, viewmats, _ = ctx.saved_tensors
        arguments = _arguments(ctx.how, *ctx.saved_tensors)
        scenes, views = viewmats.shape[:2]
        poses = viewmats.new_empty(scenes, arguments.parts, views, 3, 4)
        dmeans, dquats, dscales, dopacities, dcolors = map(torch.empty_like, inputs)
        arguments.dsplats, arguments.poses = slope.contiguous(), poses
        arguments.dmeans, arguments.dquats, arguments.dscales = dmeans, dquats, dscales
        arguments.dopacities, arguments.dcolors = dopacities, dcolors
        work = 200.0 * boxes.shape[0] * boxes.shape[1]
        _run(arguments, ctx.how, ctx.channels, gradient=True, work=work)
        # Every task has gradients of its own for the poses, which are summed in a fixed order. The
        # last row of an extrinsic matrix is constant.
        pose = torch.zeros_like(viewmats)
        pose[:, :, :3] = poses.sum(1)
        return dmeans, dquats, dscales, dopacities, dcolors, pose, None, None


def _arguments(
    how: Projection,
    boxes: Tensor,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
) -> ProjectionArguments:
    count = means.shape[1]
    return ProjectionArguments(
        boxes=boxes,
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities,
        colors=colors,
        viewmats=viewmats,
        Ks=Ks,
        count=count,
        views=viewmats.shape[1],
        parts=-(-count // _part(means)),
        stride=colors.shape[2],
        width=how.width,
        height=how.height,
        near=how.near,
        far=how.far,
        blur=how.blur,
        clip=how.clip,
        spread=0.5 if how.anywhere else 0.0,
    )


def _part(means: Tensor) -> int:
    return PART_ON_CUDA if means.is_cuda else PART


def _run(
    arguments: ProjectionArguments, how: Projection, channels: int, gradient: bool, work: float
) -> None:
    kernel = projection_kernel(
        arguments.means.dtype,
        channels,
        degree=how.degree,
        depth=how.depth,
        normals=how.normals,
        antialiased=how.antialiased,
        gradient=gradient,
        part=_part(arguments.means),
        surface=how.surface,
    )
    launch(kernel, len(arguments.means) * arguments.parts, arguments, work)
