"""Small calls of every kernel that may run on CUDA, with their derivatives, for any device.

A call takes a device and a precision, and returns tensors to compare. Together with the jobs of
`tests.device_jobs` the calls reach every source of ``kernels/`` that CUDA runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from invtoolbox.geometry.ray_splatting import ray_rasterization
from invtoolbox.geometry.splatting import rasterization
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.kernels.points.rotations import Neighbourhoods
from invtoolbox.kernels.rendering.raycast import Primitives, cast_rays
from invtoolbox.kernels.rendering.splat_binning import bin_splats
from invtoolbox.kernels.rendering.splat_compositing import composite
from invtoolbox.kernels.rendering.splat_projection import Projection
from invtoolbox.kernels.rendering.splat_projection import project as project_splats
from invtoolbox.kernels.rendering.voxel_rendering import render_voxels
from invtoolbox.kernels.rendering.window_blur import blur_planes
from invtoolbox.kernels.tomography.joseph import backproject, project
from invtoolbox.kernels.tomography.pixel_backprojection import PixelViews, pixel_backproject
from invtoolbox.kernels.tomography.rays import Rays
from invtoolbox.kernels.tomography.volume import backproject_volume, project_volume
from invtoolbox.kernels.tomography.voxel_backprojection import VoxelViews, voxel_backproject
from invtoolbox.operators import TravelTimes
from tests.geometry.test_ray_splatting import around
from tests.geometry.test_splatting import scene as splats
from tests.kernels.test_joseph import random_rays, uniform
from tests.kernels.test_volume import KINDS, random_views
from tests.kernels.test_volume_render import cameras
from tests.kernels.test_volume_render import rays as rays_of
from tests.kernels.test_volume_render import scene as voxels

Call = Callable[[str, torch.dtype], tuple[Tensor, ...]]


def _free(device: str, dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    return [t.to(device=device, dtype=dtype).detach().requires_grad_(True) for t in tensors]


def _sum(*tensors: Tensor) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum()


def images(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Joseph's projection of images, its transpose, and two derivatives in the rays."""
    rays = random_rays((19, 22), 8, 50, seed=1)
    x, y, offset = _free(device, dtype, uniform(2, 19, 22), uniform(2, 8, 50, seed=1), rays.offset)
    others = (t.to(device) for t in (rays.slope.to(dtype), rays.step.to(dtype), rays.vertical))
    scan = Rays(offset, *others, rays.shape)
    sinogram, image = project(x, scan), backproject(y, scan)
    first = torch.autograd.grad(_sum(sinogram, image), (x, y, offset), create_graph=True)
    second = torch.autograd.grad(_sum(*first), (x, y, offset))
    return (sinogram, image, *first, *second)


def pixels(device: str, dtype: torch.dtype, curved: bool) -> tuple[Tensor, ...]:
    """Pixel-driven back-projection and its transpose."""
    angle = torch.arange(9.0, dtype=torch.float64) * 0.7
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    depth = [40 * one, angle.sin(), -angle.cos(), 20.0 * one, 30.0 * one]
    table = torch.stack(
        [*([zero] if curved else [800 * one]), 40 * angle.cos(), 40 * angle.sin(), *depth], 1
    )
    table = torch.nn.functional.pad(table, (0, 8 - table.shape[1]))
    (y,) = _free(device, dtype, uniform(2, 9, 41))
    image = pixel_backproject(y, PixelViews(table.to(device), (18, 21), curved))
    return image, *torch.autograd.grad(_sum(image), y)


def voxel_driven(device: str, dtype: torch.dtype, curved: bool) -> tuple[Tensor, ...]:
    """Voxel-driven back-projection and its transpose."""
    angle = torch.arange(5.0, dtype=torch.float64) * 0.9
    table = torch.zeros(5, 15, dtype=torch.float64)
    table[:, 0], table[:, 1], table[:, 3] = 30 * angle.cos(), 30 * angle.sin(), 300.0
    table[:, 6], table[:, 7] = 30.0, 240.0
    table[:, 8], table[:, 9], table[:, 11] = angle.sin(), -angle.cos(), 30.0
    table[:, 12], table[:, 13], table[:, 14] = 10.0, 25.0, 8.0
    (y,) = _free(device, dtype, uniform(2, 5, 17, 21))
    views = VoxelViews(table.to(device), (7, 9, 10), (17, 21), curved)
    volume = voxel_backproject(y, views)
    return volume, *torch.autograd.grad(_sum(volume), y)


def volumes(device: str, dtype: torch.dtype, kind: str) -> tuple[Tensor, ...]:
    """Joseph's projection of volumes, its transpose, and derivatives in the geometry."""
    views = random_views((7, 8, 9), (10, 12), 4, kind, seed=1)
    x, y = _free(device, dtype, uniform(2, 7, 8, 9), uniform(2, 4, 10, 12, seed=1))
    (detector,) = _free(device, torch.float64, views.detector)
    source, u, v = (t.to(device) for t in (views.source, views.u, views.v))
    scan = dataclasses.replace(views, source=source, detector=detector, u=u, v=v)
    projections, volume = project_volume(x, scan), backproject_volume(y, scan)
    first = torch.autograd.grad(_sum(projections, volume), (x, y, detector), create_graph=True)
    # The gradient in the geometry is differentiated in the images alone.
    second = torch.autograd.grad(first[2].square().sum(), (x, y))
    return (projections, volume, *first, *second)


def render_grid(
    device: str, dtype: torch.dtype, degree: int, of_rays: bool, spread: bool = False
) -> tuple[Tensor, ...]:
    """Rays through voxels, and the gradient."""
    grid = voxels(degree=degree, batch=2)
    origins, directions = rays_of(cameras(3, size=(9, 7)))
    density, color, o, d = _free(device, dtype, grid.density, grid.color, origins, directions)
    if not of_rays:
        o, d = o.detach(), d.detach()
    result = render_voxels(Voxels(density, color, grid.space), o, d, spread=spread)
    parts = [result.color, result.alpha, result.depth]
    parts += [result.distortion, result.entropy] if spread else []
    free = (density, color, o, d) if of_rays else (density, color)
    return (*parts, *torch.autograd.grad(_sum(*parts), free))


def splatting(
    device: str, dtype: torch.dtype, degree: int, channels: int = 3, **how: Any
) -> tuple[Tensor, ...]:
    """Gaussians as pictures, and the gradient."""
    *gaussians, width, height = splats(60, 2, degree, seed=2, size=(40, 30), dtype=torch.float64)
    if channels != 3:
        g = torch.Generator().manual_seed(3)
        gaussians[4] = torch.rand(60, channels, generator=g, dtype=torch.float64)
    free = _free(device, dtype, *gaussians[:6])
    K = gaussians[6].to(device=device, dtype=dtype)
    if degree >= 0:
        how["sh_degree"] = degree
    image, alpha, info = rasterization(*free, K, width, height, **how)
    names = ("normals", "median_depth", "plane_depth", "distortion")
    parts = [image, alpha, *(info[name] for name in names if name in info)]
    inputs = [*free, info["absgrad"]] if "absgrad" in info else free
    gradients = torch.autograd.grad(_sum(*parts), inputs)
    return (*parts, *gradients, *(info[k] for k in ("weights",) if k in info))


def splatting_of_rays(device: str, dtype: torch.dtype, median: bool) -> tuple[Tensor, ...]:
    """Gaussians along rays, and the gradient."""
    g = torch.Generator().manual_seed(4)
    directions = torch.randn(2, 300, 3, generator=g, dtype=torch.float64)
    free = _free(device, dtype, *around(60), torch.eye(4).expand(2, 4, 4))
    color, alpha, info = ray_rasterization(
        *free, directions.to(device=device, dtype=dtype), median_range=median
    )
    return color, alpha, info["range"], *torch.autograd.grad(_sum(color, alpha), free)


def single_pixels(device: str, dtype: torch.dtype, features: int) -> tuple[Tensor, ...]:
    """Compositing by one thread per pixel that cooperates with no other, and the gradient."""
    *gaussians, width, height = splats(60, 2, -1, seed=2, size=(40, 30), dtype=torch.float64)
    gaussians[4] = torch.rand(60, features - 1, generator=torch.Generator().manual_seed(3))
    inputs = (t[None].to(device=device, dtype=dtype) for t in gaussians)
    projected, boxes, reaches = project_splats(*inputs, Projection(width, height, depth=True))
    tiles = bin_splats(boxes, reaches, width, height)
    (free,) = _free(device, dtype, projected.detach())
    planes = composite(free, boxes, reaches, tiles, width, height, features - 1, "pixel")
    return planes, *torch.autograd.grad(_sum(planes), free)


def raycast(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rays onto one primitive of each kind."""
    kinds = ["box", "cylinder", "ellipsoid", "plane"]
    poses = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    poses[:, :3, 3] = torch.tensor([[3.0, 0, 0], [0, 4, 0], [-3, 1, 0], [0, 0, -2]])
    world = Primitives.still(kinds, torch.ones(4, 3, dtype=torch.float64), poses)
    g = torch.Generator().manual_seed(5)
    directions = torch.randn(600, 3, generator=g, dtype=torch.float64)
    rays = [torch.zeros(600, 3), directions, torch.zeros(600)]
    return cast_rays(*(t.to(device=device, dtype=dtype) for t in rays), world)


def blur(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The window of local means."""
    planes = uniform(3, 20, 33).to(device=device, dtype=dtype)
    return (blur_planes(planes, torch.linspace(0.1, 1.0, 11, device=device)),)


def rotations(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rotations of neighbourhoods, and the gradient of their energy."""
    g = torch.Generator().manual_seed(6)
    points = torch.rand(70, 3, generator=g, dtype=torch.float64)
    edges = torch.randint(0, 70, (2, 500), generator=g)
    graph = Neighbourhoods(
        edges.to(device),
        torch.rand(500, generator=g).to(device=device, dtype=dtype),
        (points[edges[0]] - points[edges[1]]).to(device=device, dtype=dtype),
        70,
    )
    (displacements,) = _free(device, dtype, 0.1 * uniform(2, 70, 3))
    energy = graph.energy(displacements)
    return energy, *torch.autograd.grad(energy.sum(), displacements)


def travel_times(device: str, dtype: torch.dtype, grid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """First arrivals, their derivative and its adjoint."""
    extent = torch.tensor([(n - 1) * 10.0 for n in grid])
    shots, receivers = (extent * uniform(n, len(grid), seed=n).abs() for n in (2, 5))
    A = TravelTimes(grid, 10.0, shots, receivers, (500.0, 6000.0)).to(device)
    (x,) = _free(device, dtype, 1500 + 30 * uniform(2, 1, *grid))
    y = A(x)
    return y, *torch.autograd.grad(y.sum(), x), A.linearize(x)(x.detach())


def _calls() -> Iterator[tuple[str, Call]]:
    yield "images", images
    for curved in (False, True):
        name = "curved" if curved else "flat"
        yield f"pixels, {name}", lambda d, t, c=curved: pixels(d, t, c)
        yield f"voxel-driven, {name}", lambda d, t, c=curved: voxel_driven(d, t, c)
    for kind in KINDS:
        yield f"volumes, {kind}", lambda d, t, k=kind: volumes(d, t, k)
    for degree, of_rays in ((0, False), (1, True), (2, False)):
        yield (
            f"grid of degree {degree}{', rays' if of_rays else ''}",
            lambda d, t, n=degree, r=of_rays: render_grid(d, t, n, r),
        )
    yield "grid, spread of the rays", lambda d, t: render_grid(d, t, 0, True, True)
    for degree in (-1, 0, 1, 2, 3):
        yield f"splats of degree {degree}", lambda d, t, n=degree: splatting(d, t, n)
    further: dict[str, dict[str, Any]] = {
        "antialiased, median depth": {
            "rasterize_mode": "antialiased",
            "render_mode": "RGB+ED",
            "median_depth": True,
        },
        "normals": {"render_mode": "RGB+D", "normals": True},
        "surface": {"render_mode": "RGB+D", "surface": True},
        "absolute gradients, contributors": {"absgrad": True, "contributors": 4},
        "16 channels": {"channels": 16},
        "1 channel": {"channels": 1},
    }
    for name, how in further.items():
        yield f"splats, {name}", lambda d, t, h=how: splatting(d, t, -1, **h)
    yield "splats, a thread per pixel", lambda d, t: single_pixels(d, t, 4)
    for median in (False, True):
        name = "splats along rays" + (", median range" if median else "")
        yield name, lambda d, t, m=median: splatting_of_rays(d, t, m)
    for grid in ((9, 12), (5, 6, 7)):
        name = f"travel times, {len(grid)} axes"
        yield name, lambda d, t, g=grid: travel_times(d, t, g)
    yield "rays onto primitives", raycast
    yield "blur", blur
    yield "rotations", rotations


#: Calls by their names.
CALLS: dict[str, Call] = dict(_calls())
