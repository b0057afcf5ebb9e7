"""Gaussian splatting by gsplat on CUDA, in place of `invtoolbox.geometry.splatting`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invtoolbox.core.environment import optional_package
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.splatting import RenderMode


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
    lens: Lens | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Render 3D Gaussians by gsplat; see `invtoolbox.geometry.splatting.rasterization`.

    Normals, the median depth, surfaces and lenses are not passed on to gsplat, and this function returns no information
    for densification. gsplat cuts Gaussians at about three standard deviations, so its pictures
    differ from the toolbox's own by up to 1/255.

    Raises:
        MissingDependency: if gsplat is not installed.
        InputError: if the tensors are not on CUDA, and for options that gsplat does not support.
    """
    if normals or median_depth or surface or lens is not None:
        raise InputError(
            "backend='gsplat' renders neither normals nor the median depth, surfaces or lenses; "
            "use backend='own' for these"
        )
    if not means.is_cuda:
        raise InputError(
            f"gsplat renders on CUDA only, and the Gaussians are on {means.device}; use "
            "backend='own', or move them"
        )
    gsplat = optional_package(
        "gsplat", "backend='gsplat' needs gsplat, which is not installed;", "gsplat"
    )
    scenes = means.shape[:-2]
    tensors = {
        "means": means,
        "quats": quats,
        "scales": scales,
        "opacities": opacities,
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
        "backgrounds": backgrounds,
    }
    pairs = []
    for k in range(torch.Size(scenes).numel()):
        # One scene at a time: releases before 1.6 do not support axes of scenes.
        scene = {
            name: None if t is None else t.reshape(-1, *t.shape[len(scenes) :])[k]
            for name, t in tensors.items()
        }
        image, alpha, _ = gsplat.rasterization(
            **scene,
            width=width,
            height=height,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            sh_degree=sh_degree,
            render_mode=render_mode,
            rasterize_mode=rasterize_mode,
        )
        pairs.append((image, alpha))
    # No axis of scenes is one scene here, whose axis is removed at the end.
    images, alphas = (
        torch.stack([pair[k] for pair in pairs]).unflatten(0, scenes or (1,)) for k in range(2)
    )
    return (images, alphas, {}) if scenes else (images[0], alphas[0], {})
