"""Gaussians seen along rays: what pixels show, on all sides, with derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, rasterization, ray_rasterization
from invtoolbox.geometry.rigid import rigid, rotation
from invtoolbox.kernels.rendering.splat_binning import bin_splats
from invtoolbox.kernels.rendering.splat_compositing import Rays, composite
from invtoolbox.kernels.rendering.splat_projection import Projection, project
from tests.device_jobs import deterministic
from tests.geometry.test_splatting import need_blocks

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def around(count: int, seed: int = 0, channels: int = 3) -> list[Tensor]:
    """Gaussians on all sides of the origin."""
    means = (
        3
        * torch.nn.functional.normalize(normal(count, 3, seed=seed), dim=1)
        * (1 + 0.3 * normal(count, 1, seed=seed + 1).abs())
    )
    return [
        means,
        normal(count, 4, seed=seed + 2),
        (0.3 * normal(count, 3, seed=seed + 3) - 1).exp(),
        torch.sigmoid(normal(count, seed=seed + 4)),
        normal(count, channels, seed=seed + 5),
    ]


def test_rays_through_the_centres_of_pixels_see_what_the_pixels_show() -> None:
    side = 40
    given = around(500)
    given[2] = 0.3 * given[2]
    view = rigid(rotation(0.2 * normal(1, 3)), 0.3 * normal(1, 3, seed=7))
    K = torch.tensor([[[side / 2, 0, side / 2], [0, side / 2, side / 2], [0, 0, 1.0]]], dtype=F64)
    image, alpha, more = rasterization(
        *given, view, K, side, side, render_mode="RGB+ED", median_depth=True
    )
    _, directions = Cameras(torch.eye(4, dtype=F64)[None], K, (side, side)).rays()
    # In any order, and with rays between that have no direction.
    order = torch.randperm(side * side, generator=torch.Generator().manual_seed(1))
    rays = torch.zeros(1, 2 * side * side, 3, dtype=F64)
    rays[0, ::2] = 7 * directions.reshape(-1, 3)[order]
    color, stopped, info = ray_rasterization(
        *given, view, rays, beam=math.sqrt(0.3) / (side / 2), median_range=True
    )
    assert torch.allclose(color[0, ::2], image[0, ..., :3].reshape(-1, 3)[order], atol=1e-12)
    assert torch.allclose(stopped[0, ::2], alpha[0].reshape(-1, 1)[order], atol=1e-12)
    length = directions.reshape(-1, 3)[order].norm(dim=1, keepdim=True)
    assert torch.allclose(
        info["range"][0, ::2], length * image[0, ..., 3:].reshape(-1, 1)[order], atol=1e-11
    )
    assert torch.allclose(
        info["median_range"][0, ::2],
        length * more["median_depth"][0].reshape(-1, 1)[order],
        atol=1e-11,
    )
    assert (
        not color[0, 1::2].any() and not stopped[0, 1::2].any() and not info["range"][0, 1::2].any()
    )
    assert float(stopped.max()) > 0.9


def test_a_turned_sensor_with_turned_rays_sees_the_same() -> None:
    given, rays = around(300, channels=1), normal(2, 200, 3, seed=9)
    view = torch.eye(4, dtype=F64).expand(2, 4, 4)
    color, alpha, info = ray_rasterization(*given, view, rays)
    # By a quarter about z the faces of the cube lie where others did.
    turn = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=F64)
    again, stopped, more = ray_rasterization(*given, turn @ view, rays @ turn[:3, :3].T)
    for one, other in ((color, again), (alpha, stopped), (info["range"], more["range"])):
        assert torch.allclose(one, other, atol=1e-11)
    assert 0.2 < float((alpha > 0.5).double().mean()) < 0.9


def test_ranges_are_those_of_a_wall() -> None:
    """A wall of flat Gaussians at x = 4, from all over a sensor's field of view."""
    y, z = torch.meshgrid(torch.linspace(-6, 6, 61), torch.linspace(-3, 3, 31), indexing="ij")
    means = torch.stack([torch.full_like(y, 4.0), y, z], -1).reshape(-1, 3)
    count = len(means)
    turns, sizes = (
        torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        torch.tensor([1e-3, 0.15, 0.15]).expand(count, 3),
    )
    azimuth, up = torch.meshgrid(
        torch.linspace(-0.9, 0.9, 50), torch.linspace(-0.3, 0.3, 8), indexing="ij"
    )
    rays = torch.stack([azimuth.cos() * up.cos(), azimuth.sin() * up.cos(), up.sin()], -1).reshape(
        1, -1, 3
    )
    _, alpha, info = ray_rasterization(
        means,
        turns,
        sizes,
        torch.full((count,), 0.95),
        torch.ones(count, 1),
        torch.eye(4)[None],
        rays,
        median_range=True,
    )
    assert float(alpha.min()) > 0.95
    expected = 4 / rays[..., 0:1]
    # A Gaussian stands at the depth of its mean, and before faces at the sides that of its
    # neighbours on the ray differs.
    for name in ("range", "median_range"):
        assert (
            float((info[name] / expected - 1).abs().max()) < 0.1
            and float((info[name] / expected - 1).abs().median()) < 0.01
        )


@pytest.mark.parametrize("degree", [-1, 1])
def test_derivatives_reach_every_parameter_and_the_pose(degree: int) -> None:
    given = around(6, seed=3)
    given[2] = 2 * given[2]
    if degree >= 0:
        given[4] = 0.3 * normal(6, (degree + 1) ** 2, 3)
    view = rigid(rotation(0.2 * normal(2, 3)), 0.3 * normal(2, 3, seed=7))
    rays = torch.cat(
        [given[0][None].expand(2, -1, -1) + 0.1 * normal(2, 6, 3, seed=8), normal(2, 4, 3, seed=9)],
        1,
    )

    def render(*free: Tensor) -> tuple[Tensor, ...]:
        color, alpha, info = ray_rasterization(
            *free, rays, beam=0.05, sh_degree=None if degree < 0 else degree, median_range=True
        )
        return color, alpha, info["range"], info["median_range"]

    free = [t.clone().requires_grad_(True) for t in (*given, view)]
    assert torch.autograd.gradcheck(render, free, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
    for gradient in torch.autograd.grad(sum(part.sum() for part in render(*free)), free):
        assert float(gradient.abs().max()) > 0


def test_what_a_gpu_runs_gives_the_same() -> None:
    need_blocks()
    means, quats, scales, opacities, colors = around(200)
    means[:, 2] = means[:, 2].abs() + 0.5
    views = torch.eye(4, dtype=F64).expand(1, 2, 4, 4)
    K = torch.tensor([[20.0, 0, 20], [0, 20, 20], [0, 0, 1]], dtype=F64).expand(1, 2, 3, 3)
    splats, boxes, reaches = project(
        *(t[None] for t in (means, quats, scales, opacities, colors)),
        views,
        K,
        Projection(40, 40, depth=True, anywhere=True),
    )
    tiles = bin_splats(boxes, reaches, 40, 40)
    # Some tiles with more rays than one group has, some with none.
    places = torch.cat(
        [
            40 * torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=F64),
            5 + torch.rand(700, 2, dtype=F64),
        ]
    )
    rays = Rays.sort(torch.arange(1200) % 2, places, 2, 40, 40)
    results = []
    for tasks, ordered in (("tile", False), ("pixel", False), ("block", False), ("block", True)):
        free = splats.detach().requires_grad_(True)
        planes = composite(free, boxes, reaches, tiles, 40, 40, 3, tasks, rays)
        slope = torch.randn(planes.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
        with deterministic(ordered):
            results.append((planes.detach(), *torch.autograd.grad(planes, free, slope)))
    for tile, *gpu, ordered in zip(*results):
        for values in gpu:
            assert (tile - values).abs().max() < 1e-10 * float(tile.abs().max())
        assert torch.equal(gpu[-1], ordered)  # blocks always add in the same order


def test_scenes_of_a_batch_are_equal_to_themselves_alone() -> None:
    rays = normal(2, 300, 3, seed=9).float()
    many = [
        torch.stack(parts).float() for parts in zip(*(around(80, seed=10 * k) for k in range(3)))
    ]
    view = torch.eye(4).expand(3, 2, 4, 4)
    color, alpha, info = ray_rasterization(*many, view, rays)
    for k in range(3):
        one, stopped, more = ray_rasterization(*(t[k] for t in many), view[k], rays)
        assert (
            torch.equal(one, color[k])
            and torch.equal(stopped, alpha[k])
            and torch.equal(more["range"], info["range"][k])
        )


def test_what_does_not_fit_is_said() -> None:
    given = around(4)
    with pytest.raises(InputError, match="directions have the shape"):
        ray_rasterization(*given, torch.eye(4, dtype=F64)[None], torch.zeros(2, 5, 3))
    with pytest.raises(InputError, match="beam of ray_rasterization must be positive"):
        ray_rasterization(*given, torch.eye(4, dtype=F64)[None], torch.zeros(1, 5, 3), beam=0.0)
    color, alpha, _ = ray_rasterization(*given, torch.eye(4, dtype=F64)[None], torch.zeros(1, 5, 3))
    assert color.shape == (1, 5, 3) and not alpha.any()
