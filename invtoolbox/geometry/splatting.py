"""3D Gaussian splatting as one pure, differentiable function in the argument order of gsplat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.lens_splatting import project_through_lens
from invtoolbox.kernels.rendering.splat_binning import bin_splats
from invtoolbox.kernels.rendering.splat_compositing import (
    composite,
    composite_with_ids,
    find_contributors,
)
from invtoolbox.kernels.rendering.splat_projection import Projection, project

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    *,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    normals: bool = False,
    median_depth: bool = False,
    surface: bool = False,
    absgrad: bool = False,
    contributors: int = 0,
    lens: Lens | Sequence[Lens] | None = None,
    viewmats_rs: Tensor | None = None,
    checked: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    r"""Render 3D Gaussians into C views each, as Kerbl et al. (ACM TOG 42, 2023).

    A Gaussian is projected by the derivative of the projection at its mean, which turns it into a
    2D Gaussian with the covariance ``J W Sigma W^T J^T + eps2d I`` (Zwicker et al., "EWA
    splatting", 2002). Pixels composite from front to back by the depth of the means:
    ``alpha = min(0.999, o exp(-d^2 / 2))``, 0 below 1/255, up to a transmittance of 1e-4. A
    Gaussian is cut exactly where its alpha falls below 1/255. Pixel (i, j) has its centre at (j +
    1/2, i + 1/2).

    Derivatives reach the means, quaternions, scales, opacities, colors and ``viewmats``. Scenes of
    different sizes share a batch if the smaller ones are padded with Gaussians of opacity 0, which
    cost no time. The function runs on the CPU and on CUDA.

    Args:
        means: centres in the world, ``(..., N, 3)``, float32 or float64; ``...`` are axes of
            scenes, or none.
        quats: quaternions, ``(..., N, 4)``, w x y z, of any length except 0.
        scales: standard deviations along the axes, ``(..., N, 3)``, lengths of the world.
        opacities: opacities from 0 to 1, ``(..., N)``.
        colors: colors ``(..., N, D)``, or with ``sh_degree`` coefficients of spherical harmonics
            ``(..., N, K, 3)``, K at least ``(sh_degree + 1)^2``; the color is then
            ``max(sum + 1/2, 0)`` in the direction from the camera.
        viewmats: world to camera ``(..., C, 4, 4)``: x to the right, y down, z ahead.
        Ks: intrinsics in pixels without skew, ``(..., C, 3, 3)``.
        width: width of the views in pixels.
        height: height of the views in pixels.
        near_plane: smallest depth at which a Gaussian is seen.
        far_plane: largest depth at which a Gaussian is seen.
        radius_clip: radius in pixels up to which Gaussians are left out.
        eps2d: variance added to the projected covariance, square pixels.
        sh_degree: degree of the spherical harmonics, 0 to 3, or None for colors.
        backgrounds: color behind transparent pixels, ``(..., C, D)``.
        render_mode: colors, depth as composited ("D"), depth expected ("ED": divided by the alpha),
            or both.
        rasterize_mode: ``"antialiased"`` lowers the opacity by
            ``sqrt(det Sigma / det (Sigma + eps2d I))``, so that Gaussians smaller than a pixel keep
            their brightness at every distance (Yu et al., "Mip-splatting", 2024).
        normals: whether to composite the normals, in the world: the normal of a Gaussian is its
            shortest axis, towards the camera.
        median_depth: whether to return the depth of the Gaussian at which the transmittance falls
            below 1/2, 0 if there is none.
        surface: whether to return what flat Gaussians show of a surface: "median_ids", the number
            of the Gaussian of the median depth, -1 if there is none; "plane_depth", the depth along
            z at which the ray of a pixel meets the plane of that Gaussian, 0 if there is none; and
            "distortion", ``sum_(i<j) w_i w_j (z_i - z_j)^2`` over the weights and the depths of the
            Gaussians of a pixel. Median depth and normals are returned, too.
        absgrad: whether to return "absgrad", zeros whose derivative is the sum over the pixels of the
            absolute values of each pixel's derivative in the mean of the splat in the picture (Ye
            et al., "AbsGS", 2024). Derivatives of opposite signs do not cancel there.
        contributors: number k of Gaussians per pixel to return with the largest weights
            ``alpha T``, the largest first: their numbers "ids", -1 if there are fewer, and their
            "weights".
        lens: lens of all views, or one lens per view, through which Gaussians are projected by the
            unscented transform (`geometry.lens_splatting`); ``Ks`` are its intrinsics. Normals and
            surfaces need a pinhole.
        viewmats_rs: world to camera when the last row of a view is read, ``(..., C, 4, 4)``, for a
            rolling shutter; ``viewmats`` are then those of the first row. In between, the centre of
            the camera goes straight and its rotation is even. The projection is by the unscented
            transform. None if all rows are read at once.
        checked: whether the caller has checked that the intrinsics have no skew, which a GPU would
            have to be waited for.

    Returns:
        the images ``(..., C, height, width, X)``, alpha ``(..., C, height, width, 1)``, and a dict:
        "splats" ``(..., C, N, 6 + features)`` (mean, conic, opacity, features; zeros for Gaussians
        that are not seen), through which derivatives pass; "boxes" ``(..., C, N, 4)``, the pixels
        that a Gaussian may touch; and, if requested, "normals" ``(..., 3)``, and "median_depth",
        "median_ids", "plane_depth" and "distortion" ``(..., 1)``, "absgrad" ``(..., C, N, 2)``, and
        "ids" and "weights" ``(..., C, height, width, k)``.

    Raises:
        InputError: if shapes or types do not fit together, if intrinsics have a skew, or for
            normals or surfaces through a lens.

    >>> mean, size = torch.tensor([[0.0, 0, 4]]), torch.full((1, 3), 0.2)
    >>> splat = mean, torch.tensor([[1.0, 0, 0, 0]]), size, torch.tensor([0.9]), torch.ones(1, 3)
    >>> K = torch.tensor([[[20.0, 0, 8], [0, 20.0, 8], [0, 0, 1]]])
    >>> image, alpha, _ = rasterization(*splat, torch.eye(4)[None], K, 16, 16)
    >>> image.shape, round(float(alpha[0, 8, 8]), 3)
    (torch.Size([1, 16, 16, 3]), 0.743)
    """
    check_choice("rasterization", _MODES, render_mode=render_mode)
    check_choice("rasterization", ("classic", "antialiased"), rasterize_mode=rasterize_mode)
    check_range("rasterization", "[1, inf)", width=width, height=height)
    check_range("rasterization", "(0, inf]", near_plane=near_plane, eps2d=eps2d)
    inputs = means, quats, scales, opacities, colors, viewmats, Ks
    leading = check_splats(*inputs, sh_degree)
    if not checked:
        check_skew(Ks)
    # Depth is a feature after the colors, composited with the same weights.
    views = viewmats.shape[-3]
    shows = "RGB" in render_mode
    deep = "D" in render_mode.replace("RGB", "") or median_depth or surface
    if not shows:
        colors, sh_degree = means.new_zeros(*means.shape[:-1], 0), None
    channels = colors.shape[-1]
    scenes = torch.Size(leading).numel()
    how = Projection(
        width=width,
        height=height,
        near=near_plane,
        far=far_plane,
        blur=eps2d,
        clip=radius_clip,
        degree=-1 if sh_degree is None else sh_degree,
        depth=deep,
        normals=normals or surface,
        antialiased=rasterize_mode == "antialiased",
        surface=surface,
    )
    # The axes of scenes become one.
    m, q, s, o, f, V, K = (
        t.reshape(scenes, *t.shape[len(leading) :])
        for t in (means, quats, scales, opacities, colors, viewmats, Ks)
    )
    inputs = m, q, s, o, f, V, K
    if lens is None and viewmats_rs is None:
        splats, boxes, reaches = project(*inputs, how)
    else:
        _check_lens(how, viewmats, viewmats_rs)
        ends = None if viewmats_rs is None else viewmats_rs.reshape(V.shape)
        splats, boxes, reaches = project_through_lens(*inputs, how, lens or Lens(), ends)
    # Each tile of the picture gets the list of its splats, nearest first.
    tiles = bin_splats(boxes, reaches, width, height)
    # The images are computed from the returned tensor, so that they have a derivative in it.
    returned = splats.unflatten(0, (*leading, views))
    splats = returned.reshape(splats.shape)
    binned = boxes, reaches, tiles, width, height
    zeros = flat = None
    if absgrad:
        # They do not enter the images; see `kernels.rendering.splat_compositing.composite`.
        zeros = splats.new_zeros(*returned.shape[:-1], 2, requires_grad=torch.is_grad_enabled())
        flat = zeros.view(*splats.shape[:2], 2)
    if surface:
        planes, ids = composite_with_ids(splats, *binned, channels, absolute=flat)
    else:
        median = channels if median_depth else None
        planes = composite(splats, *binned, median, absolute=flat)
    # The last axis: the features (colors, depth, normal, square of the depth, distance of the plane),
    # the transmittance, and the median depth.
    planes = planes.movedim(1, -1).unflatten(0, (*leading, views))
    # Six numbers of a splat are its mean, conic and opacity. alpha = 1 - T, T the transmittance.
    features = splats.shape[-1] - 6
    alphas = 1 - planes[..., features : features + 1]
    color = planes[..., :channels]
    if backgrounds is not None and shows:
        _check_backgrounds(backgrounds, (*leading, views, channels))
        # C = sum(w c) + T c_background.
        color = color + (1 - alphas) * backgrounds[..., None, None, :]
    images = [color] if shows else []
    if "D" in render_mode.replace("RGB", ""):
        depth = planes[..., channels : channels + 1]
        # "D" is sum(w z), and "ED" the mean sum(w z) / sum(w).
        images.append(depth / alphas.clamp_min(1e-10) if "ED" in render_mode else depth)
    info: dict[str, Tensor] = {"splats": returned, "boxes": boxes.unflatten(0, (*leading, views))}
    if contributors > 0:
        largest = find_contributors(splats, reaches, tiles, width, height, contributors)
        info["ids"], info["weights"] = (t.unflatten(0, (*leading, views)) for t in largest)
    if zeros is not None:
        info["absgrad"] = zeros
    # Index of the normal among the features: after the colors and, if rendered, the depth.
    first = channels + int(deep)
    if normals or surface:
        info["normals"] = planes[..., first : first + 3]
    if surface:
        depth, square = planes[..., [channels]], planes[..., [first + 3]]
        # sum_(i<j) w_i w_j (z_i - z_j)^2 = sum(w) sum(w z^2) - sum(w z)^2: half of the sum over all
        # pairs. Rounding may leave a small negative number.
        info["distortion"] = (alphas * square - depth * depth).clamp_min(0)
        normal, distance = splats[..., 6 + first : 6 + first + 3], splats[..., [6 + first + 4]]
        plane_depth = _plane_depth(ids, normal, distance, V.flatten(0, 1), K.flatten(0, 1))
        plane_depth = plane_depth.unflatten(0, (*leading, views))[..., None]
        # A ray along the plane takes the median depth.
        median_planes = planes[..., features + 1 :]
        info["plane_depth"] = torch.where(plane_depth > 0, plane_depth, median_planes)
        info["median_ids"] = ids.unflatten(0, (*leading, views))[..., None]
    if median_depth or surface:
        info["median_depth"] = planes[..., features + 1 :]
    return torch.cat(images, -1) if len(images) > 1 else images[0], alphas, info


def _check_lens(how: Projection, viewmats: Tensor, viewmats_rs: Tensor | None) -> None:
    """Refuse what only a pinhole renders, and cameras of the last rows of another number."""
    if how.normals:
        raise InputError(
            "normals and surfaces are rendered by a pinhole; straighten the pictures, or leave out "
            "the lens and the rolling shutter"
        )
    if viewmats_rs is not None and viewmats_rs.shape != viewmats.shape:
        raise InputError(
            f"viewmats_rs have the shape {tuple(viewmats_rs.shape)}, expected "
            f"{tuple(viewmats.shape)}, that of viewmats"
        )


def _check_backgrounds(backgrounds: Tensor, shape: tuple[int, ...]) -> None:
    if backgrounds.shape != shape:
        raise InputError(f"backgrounds have the shape {tuple(backgrounds.shape)}, expected {shape}")


#: Least cosine of the angle between a ray and the normal of the plane that it meets.
_LEAST_COSINE = 0.05


def _plane_depth(
    ids: Tensor, normals: Tensor, distances: Tensor, viewmats: Tensor, Ks: Tensor
) -> Tensor:
    """Compute the depth at which rays meet the plane of one Gaussian each, ``(V, height, width)``.

    The result is 0 if there is no Gaussian, or if the ray is nearly parallel to its plane.

    Args:
        ids: number of the Gaussian of each pixel, or -1, ``(V, height, width)``.
        normals: normals of the Gaussians in the world, ``(V, N, 3)``.
        distances: ``n . x`` on the planes, x from the camera, ``(V, N, 1)``.
        viewmats: world to camera, ``(V, 4, 4)``.
        Ks: intrinsics, ``(V, 3, 3)``.
    """
    # A point z r of the ray r = (x, y, 1) is on the plane n . p = d at the depth z = d / (n . r).
    height, width = ids.shape[1:]
    # Entries of K: row 0 is (fx, 0, cx), row 1 is (0, fy, cy).
    x, y = (torch.arange(n, device=ids.device).to(normals) + 0.5 for n in (width, height))
    across = (x - Ks[:, 0, 2:]) / Ks[:, 0, :1]
    down = (y - Ks[:, 1, 2:]) / Ks[:, 1, 1:2]
    # Normals turn into the frame of the camera; the distance from the camera is the same in both.
    planes = torch.cat([normals @ viewmats[:, :3, :3].transpose(1, 2), distances], -1)
    place = ids.clamp_min(0).flatten(1)[..., None].expand(-1, -1, 4)
    plane = planes.gather(1, place).unflatten(1, (height, width))
    along = plane[..., 0] * across[:, None] + plane[..., 1] * down[:, :, None] + plane[..., 2]
    length = (1 + across.square()[:, None] + down.square()[:, :, None]).sqrt()
    # Normals point towards the camera, so n . r is negative; |r| times the cosine is its size.
    meets = (ids >= 0) & (-along > _LEAST_COSINE * length)
    return torch.where(meets, plane[..., 3] / torch.where(meets, along, -1.0), 0.0)


def check_splats(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: int | None,
) -> tuple[int, ...]:
    """Return the axes of scenes; raise an `InputError` if the arguments do not fit together."""
    if means.ndim < 2 or means.shape[-1] != 3:
        raise InputError(f"means have the shape {tuple(means.shape)}, expected (..., N, 3)")
    if means.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"Gaussians are rendered in float32 or float64, and means are {means.dtype}"
        )
    leading, count = tuple(means.shape[:-2]), means.shape[-2]
    views = viewmats.shape[-3] if viewmats.ndim >= 3 else 0
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "colors": (colors, tuple(colors.shape)),  # the shape follows from sh_degree, see below
        "quats": (quats, (*leading, count, 4)),
        "scales": (scales, (*leading, count, 3)),
        "opacities": (opacities, (*leading, count)),
        "viewmats": (viewmats, (*leading, views, 4, 4)),
        "Ks": (Ks, (*leading, views, 3, 3)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise InputError(
                f"{name} have the shape {tuple(tensor.shape)}, expected {shape} for means "
                f"{tuple(means.shape)}"
            )
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise InputError(
                f"{name} are {tensor.dtype} on {tensor.device}, and means {means.dtype} on "
                f"{means.device}; bring them together"
            )
    check_choice("rasterization", (None, 0, 1, 2, 3), sh_degree=sh_degree)
    if sh_degree is None:
        if colors.shape[:-1] != (*leading, count):
            raise InputError(
                f"colors have the shape {tuple(colors.shape)}, expected "
                f"{(*leading, count, 'channels')}; give sh_degree= for spherical harmonics"
            )
    elif (
        colors.shape[:-2] != (*leading, count)
        or colors.shape[-1] != 3
        or colors.shape[-2] < (sh_degree + 1) ** 2
    ):
        raise InputError(
            f"colors have the shape {tuple(colors.shape)}, expected "
            f"{(*leading, count, (sh_degree + 1) ** 2, 3)} for spherical harmonics of degree "
            f"{sh_degree}"
        )
    return leading


def check_skew(Ks: Tensor) -> None:
    """Raise an `InputError` if intrinsics ``(..., 3, 3)`` have a skew."""
    if bool((Ks[..., 0, 1] != 0).any()):
        raise InputError(
            "Ks have a skew (entry 0, 1), which the renderer does not support; resample the images "
            "without it"
        )
