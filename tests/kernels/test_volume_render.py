"""Voxels along rays: against a brute-force renderer, gradients in everything, skipping, batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, look_at
from invtoolbox.geometry.gaussians import spherical_harmonics
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.kernels.rendering.voxel_rendering import Rendering, render_voxels

LOW, HIGH = (-1.0, -0.8, -0.6), (1.0, 0.8, 0.6)


def scene(
    shape: tuple[int, int, int] = (5, 6, 4),
    degree: int = 1,
    batch: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Voxels:
    space = VoxelSpace.box(shape, LOW, HIGH)
    g = torch.Generator().manual_seed(0)
    density = torch.randn(batch, space.rows, generator=g, dtype=torch.float64) - 0.5
    color = torch.randn(batch, space.rows, (degree + 1) ** 2, 3, generator=g, dtype=torch.float64)
    return Voxels(density.to(dtype), color.to(dtype), space)


def cameras(
    count: int = 2, size: tuple[int, int] = (3, 4), dtype: torch.dtype = torch.float64
) -> Cameras:
    centres = torch.tensor(
        [[0.4, -0.3, -2.9], [2.5, 0.2, 1.1], [-1.7, 1.9, 1.3]], dtype=torch.float64
    )[:count]
    return look_at(centres, size=size, field_of_view=40.0).to(dtype)


def rays(which: Cameras) -> tuple[Tensor, Tensor]:
    origins, directions = which.rays()
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def brute_force(
    voxels: Voxels, origins: Tensor, directions: Tensor, step: float, offset: float = 0.5
) -> Rendering:
    """All samples of all rays at once, for one item and a dense grid."""
    low, high = (
        torch.tensor(side, dtype=origins.dtype) for side in (voxels.space.low, voxels.space.high)
    )
    length = directions.norm(dim=-1, keepdim=True)
    unit = directions / length
    t = (torch.arange(math.ceil(8 / step), dtype=origins.dtype) + offset) * step
    places = (origins[:, None] + t[:, None] * unit[:, None] - low) / (
        high - low
    ) * 2 - 1  # (R, K, 3)
    inside = (places.abs() <= 1).all(-1)
    grid = torch.cat([voxels.density[0, :, None], voxels.color[0].flatten(1)], dim=1).unflatten(
        0, voxels.space.shape
    )
    looked = functional.grid_sample(
        grid.movedim(-1, 0)[None], places.flip(-1)[None, None], align_corners=True
    )[0, :, 0].movedim(0, -1)
    tau = functional.softplus(looked[..., 0]) * voxels.space.scale * step * inside
    basis = spherical_harmonics(unit, math.isqrt(voxels.color.shape[2]) - 1)
    color = torch.einsum(
        "rb,rkbc->rkc", basis, looked[..., 1:].unflatten(-1, voxels.color.shape[2:])
    ).sigmoid()
    thickness = tau.cumsum(1)
    weight = (tau - thickness).exp() * -torch.expm1(-tau)
    alpha = weight.sum(1)
    depth = (weight * t).sum(1) / alpha.clamp_min(1e-12) / length[:, 0]
    apart = (t[:, None] - t).abs()
    distortion = torch.einsum("rj,rk,jk->r", weight, weight, apart) + step / 3 * (
        weight.square().sum(1)
    )
    entropy = torch.special.entr(weight / alpha.clamp_min(1e-12)[:, None]).sum(1)
    return Rendering(
        (weight[..., None] * color).sum(1),
        alpha,
        depth,
        depth,
        thickness[:, -1],
        distortion / length[:, 0],
        entropy,
    )


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_it_renders_what_a_brute_force_renderer_does(degree: int) -> None:
    voxels = scene(degree=degree)
    o, d = rays(cameras(3, size=(9, 7)))
    wanted = brute_force(voxels, o, d, 0.07)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        lower = Voxels(voxels.density.to(dtype), voxels.color.to(dtype), voxels.space)
        found = render_voxels(lower, o.to(dtype), d.to(dtype), step=0.07, stop=0.0, spread=True)
        for name in ("color", "alpha", "depth", "thickness", "distortion", "entropy"):
            # In float32 a sample on a face of the box may fall on its other side: density there is
            # of order 1.
            error = (getattr(found, name)[0].double() - getattr(wanted, name)).abs()
            assert float(error.quantile(0.97)) < tolerance, name
            if dtype == torch.float64:
                assert float(error.max()) < tolerance, name


def test_median_depth_is_where_half_of_the_light_is_left() -> None:
    space = VoxelSpace.box(33, LOW, HIGH, scale=1.0)
    thick = torch.full((1, space.rows), math.log(math.expm1(3.0)), dtype=torch.float64)
    fog = Voxels(thick, torch.zeros(1, space.rows, 1, 3, dtype=torch.float64), space)
    o = torch.tensor(
        [[-4.0, 0.03, 0.02], [-4.0, 0.79, 0.59], [-4.0, 5.0, 0.0]], dtype=torch.float64
    )
    d = torch.tensor([[2.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    seen = render_voxels(fog, o, d, step=0.01)
    assert seen.median_depth[0, :2].tolist() == pytest.approx(
        [(3 + math.log(2) / 3) / 2] * 2, abs=2e-3
    )  # in lengths of d
    assert seen.median_depth[0, 2] == math.inf and seen.alpha[0, 2] == 0 and seen.depth[0, 2] == 0


@pytest.mark.parametrize("degree", [0, 2])
def test_gradients_in_every_parameter_the_rays_and_the_background(degree: int) -> None:
    voxels = scene((3, 3, 2), degree=degree, batch=2 if degree == 0 else 1)
    o, d = rays(cameras(1, size=(2, 2)))
    shade = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def all_outputs(
        density: Tensor, color: Tensor, origins: Tensor, directions: Tensor, background: Tensor
    ) -> tuple[Tensor, ...]:
        seen = render_voxels(
            Voxels(density, color, voxels.space),
            origins,
            directions,
            step=0.11,
            background=background,
            spread=True,
        )
        assert seen.distortion is not None and seen.entropy is not None
        return seen.color, seen.alpha, seen.depth, seen.thickness, seen.distortion, seen.entropy

    inputs = [t.clone().requires_grad_(True) for t in (voxels.density, voxels.color, o, d, shade)]
    assert torch.autograd.gradcheck(all_outputs, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_gradient_in_the_pose() -> None:
    voxels = scene((4, 4, 4), degree=2)
    fixed = cameras(2, size=(2, 2))

    def picture(twist: Tensor) -> Tensor:
        return render_voxels(voxels, *rays(fixed.rotate(twist)), step=0.11).color

    twist = 0.01 * torch.ones(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        picture, [twist.requires_grad_(True)], eps=1e-6, atol=1e-7, rtol=1e-5
    )


def test_gradient_of_rays_that_every_item_shares_and_of_its_own() -> None:
    voxels = scene((3, 3, 3), degree=0, batch=2)
    o, d = rays(cameras(1, size=(1, 2)))
    shared, own = o.clone().requires_grad_(True), o.expand(2, -1, -1).clone().requires_grad_(True)
    for origins in (shared, own):
        render_voxels(
            voxels, origins, d.expand_as(origins), step=0.1
        ).color.square().sum().backward()
    assert shared.grad is not None and own.grad is not None
    assert torch.allclose(shared.grad, own.grad.sum(0), atol=1e-14) and own.grad[0].abs().sum() > 0


def test_light_that_hardly_anything_stops_has_finite_derivatives() -> None:
    space = VoxelSpace.box(5, LOW, HIGH)
    o, d = torch.tensor([[[0.0, 0.0, -4.0]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
    for raw in (-60.0, -88.0, -100.0, -200.0):
        density = torch.full((1, space.rows), raw, requires_grad=True)
        seen = render_voxels(
            Voxels(density, torch.zeros(1, space.rows, 1, 1), space), o, d, stop=0.0, spread=True
        )
        assert seen.entropy is not None
        (slope,) = torch.autograd.grad((seen.depth + seen.entropy).sum(), density)
        assert bool(slope.isfinite().all())


def test_skipping_changes_nothing() -> None:
    voxels = scene((17, 15, 13), degree=0)
    # Two far corners are occupied; elsewhere the density is zero to the last bit.
    occupied = torch.zeros(16, 14, 12, dtype=torch.bool)
    occupied[2:4, 3:5, 1:4] = occupied[11:14, 8:12, 7:10] = True
    sparse = voxels.space.keep_cells(occupied)
    kept = torch.zeros(voxels.space.shape, dtype=torch.bool)
    kept[2:5, 3:6, 1:5] = kept[11:15, 8:13, 7:11] = True
    # In a cell that is not occupied the density is 0 only where none of its nodes is kept: the
    # dense twin stops at the faces.
    density = torch.where(kept.flatten(), voxels.density, torch.full_like(voxels.density, -1e4))
    o, d = rays(cameras(3, size=(12, 12)))
    packed = Voxels(density[:, kept.flatten()], voxels.color[:, kept.flatten()], sparse)
    with_mask = Voxels(
        sparse.spread(packed.density, -1e4).flatten(1, 3),
        sparse.spread(packed.color).flatten(1, 3),
        VoxelSpace(
            sparse.shape, LOW, HIGH, sparse.scale, None, (~occupied).to(torch.uint8).contiguous()
        ),
    )
    fast, slow = (render_voxels(v, o, d, step=0.013, spread=True) for v in (packed, with_mask))
    assert float(fast.alpha.max()) > 0.5 and int((sparse.clearance == 0).sum()) == int(
        occupied.sum()
    )  # type: ignore[union-attr]
    for one, other in zip(fast, slow):
        assert torch.equal(one, other)


def test_where_the_density_is_zero_it_need_not_be_looked_at() -> None:
    voxels = scene((9, 9, 9), degree=0)
    density = voxels.space.spread(voxels.density)
    density[:, :4], density[:, :, 6:] = -1e4, -1e4
    o, d = rays(cameras(3, size=(8, 8)))
    empty = (
        torch.stack(
            [
                density[0, i : i + 8, j : j + 8, k : k + 8]
                for i in (0, 1)
                for j in (0, 1)
                for k in (0, 1)
            ]
        ).amax(0)
        < -9e3
    )
    sparse = voxels.space.keep_cells(~empty)
    whole = render_voxels(Voxels(density.flatten(1), voxels.color, voxels.space), o, d)
    part = render_voxels(
        Voxels(sparse.gather(density), sparse.gather(voxels.space.spread(voxels.color)), sparse),
        o,
        d,
    )
    assert torch.equal(whole.color, part.color) and torch.equal(whole.depth, part.depth)
    assert sparse.rows < voxels.space.rows


def test_a_batch_is_its_items_and_threads_do_not_matter() -> None:
    voxels = scene((6, 6, 6), degree=1, batch=3, dtype=torch.float32)
    o, d = rays(cameras(3, size=(20, 20), dtype=torch.float32))

    def outcome(some: Voxels) -> list[Tensor]:
        density, color = (
            some.density.clone().requires_grad_(True),
            some.color.clone().requires_grad_(True),
        )
        seen = render_voxels(Voxels(density, color, some.space), o, d, step=0.05)
        (seen.color.square().flatten(1).sum() + seen.depth.sum()).backward()
        assert density.grad is not None and color.grad is not None
        return [seen.color.detach(), seen.depth.detach(), density.grad, color.grad]

    together = outcome(voxels)
    for k in range(3):
        for one, other in zip(
            outcome(Voxels(voxels.density[k : k + 1], voxels.color[k : k + 1], voxels.space)),
            together,
        ):
            assert torch.equal(one[0], other[k])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = outcome(voxels), outcome(voxels)
    finally:
        torch.set_num_threads(before)
    for a, b, c in zip(together, first, second):
        assert torch.equal(b, c) and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_early_stop_and_thin_samples_change_little() -> None:
    voxels = scene((8, 8, 8), degree=0)
    voxels = voxels._replace(density=voxels.density * 4)
    o, d = rays(cameras(3, size=(10, 10)))
    exact = render_voxels(voxels, o, d, stop=0.0)
    assert float((render_voxels(voxels, o, d, stop=1e-3).color - exact.color).abs().max()) < 1e-3
    assert (
        0
        < float(
            (render_voxels(voxels, o, d, least_alpha=1e-3, stop=0.0).alpha - exact.alpha)
            .abs()
            .max()
        )
        < 2e-2
    )


def test_near_and_far_and_offsets() -> None:
    voxels = scene(degree=0)
    o, d = rays(cameras(1, size=(4, 4)))
    d = torch.nn.functional.normalize(d, dim=-1)
    whole = render_voxels(voxels, o, d, step=0.05, stop=0.0)
    parts = [
        render_voxels(voxels, o, d, step=0.05, stop=0.0, near=a, far=b)
        for a, b in ((0.0, 2.8), (2.8, 9.0))
    ]
    assert torch.allclose(parts[0].thickness + parts[1].thickness, whole.thickness, atol=1e-12)
    offsets = torch.linspace(0, 1, 16, dtype=torch.float64)
    moved = render_voxels(voxels, o, d, step=0.05, stop=0.0, offset=offsets)
    alone = brute_force(voxels, o[5:6], d[5:6], 0.05, float(offsets[5]))
    assert torch.allclose(moved.color[:, 5], alone.color, atol=1e-12)


def test_what_does_not_fit_is_said() -> None:
    voxels = scene(degree=0)
    o, d = rays(cameras(1))
    with pytest.raises(InputError, match="120 nodes"):
        render_voxels(voxels._replace(density=voxels.density[:, 1:]), o, d)
    with pytest.raises(InputError, match="rays are origins"):
        render_voxels(voxels, o, d[:, :2])
    with pytest.raises(InputError, match="float32"):
        render_voxels(voxels, o.float(), d.float())
