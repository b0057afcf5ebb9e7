"""Gaussians through a lens: the limit of small Gaussians, straightened pictures, derivatives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry import Splats, look_at, rasterization
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.lens import Lens, Straightening
from invtoolbox.geometry.lens_splatting import Path, project_through_lens
from invtoolbox.geometry.rigid import rigid
from invtoolbox.kernels.rendering.splat_projection import Projection, project
from invtoolbox.operators import GaussianRenderer, VoxelRenderer

F64 = torch.float64
FISHEYE = Lens("fisheye", (0.05, -0.02, 0.01))
BARREL = Lens("perspective", (-0.2, 0.04), (0.002, -0.003))


def cloud(count: int, scale: float, dtype: torch.dtype = F64) -> Splats:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(1, count, 3, generator=generator, dtype=dtype) * 2 - 1
    quats = torch.randn(1, count, 4, generator=generator, dtype=dtype)
    scales = scale * (0.5 + torch.rand(1, count, 3, generator=generator, dtype=dtype))
    colors = torch.randn(1, count, 4, 3, generator=generator, dtype=dtype) / 2
    return Splats(means, quats, scales, torch.full_like(means[..., 0], 0.8), colors)


def cameras(side: int, dtype: torch.dtype = F64) -> Cameras:
    # In float64, because a rotation that was made in float32 is orthogonal to its rounding only.
    places = torch.tensor([[0.0, 0.5, -2.2], [1.5, -0.5, -1.6]], dtype=F64)
    return look_at(places, size=(side, side), field_of_view=70.0).to(dtype)


def leaves(x: Splats) -> tuple[Tensor, ...]:
    return x.means, x.quats, x.scales, x.opacities, x.colors


@pytest.mark.parametrize("antialiased", [False, True])
def test_small_gaussians_are_linearized(antialiased: bool) -> None:
    """The difference to the linearization falls with the square of the size."""
    views = cameras(40)
    how = Projection(40, 40, degree=1, depth=True, antialiased=antialiased)
    apart = []
    for scale in (0.02, 0.01):
        given = *leaves(cloud(60, scale)), views.world_to_camera[None], views.intrinsics[None]
        linear, boxes, reaches = project(*given, how)
        unscented, other_boxes, other_reaches = project_through_lens(*given, how, Lens())
        assert torch.allclose(reaches[..., 0], other_reaches[..., 0])
        assert int((boxes - other_boxes).abs().max()) <= 1
        assert torch.allclose(linear[..., 6:], unscented[..., 6:])
        apart.append(float((linear[..., :2] - unscented[..., :2]).abs().max()))
        assert torch.allclose(linear[..., 2:6], unscented[..., 2:6], atol=20 * scale**2)
    assert apart[0] < 0.05 and 3.5 < apart[0] / apart[1] < 4.5


@pytest.mark.parametrize("lens", [FISHEYE, BARREL])
def test_a_straightened_picture_is_that_of_a_pinhole(lens: Lens) -> None:
    views, x = cameras(96, torch.float32), cloud(150, 0.08, torch.float32)
    bent = GaussianRenderer(views, lens=lens)(x)[0].transpose(0, 1)
    straight = Straightening.of(lens, views.intrinsics[0], views.size)
    pinhole = Cameras(
        views.world_to_camera, straight.intrinsics.float().expand(2, 3, 3), views.size
    )
    wanted = GaussianRenderer(pinhole)(x)[0].transpose(0, 1)
    found = torch.stack([straight(picture) for picture in bent])

    def decibel(picture: Tensor) -> float:
        return float(-10 * (picture - wanted).square().mean().log10())

    assert decibel(found) > 40 and decibel(found) > decibel(bent) + 15


def test_derivatives_pass_through_a_lens_and_a_pinhole_lens_changes_nothing() -> None:
    views, x = cameras(8), cloud(3, 0.2)

    def render(*free: Tensor) -> tuple[Tensor, ...]:
        *rest, pose = free
        image, alpha, _ = rasterization(
            *rest, pose[None], views.intrinsics[None], 8, 8, sh_degree=1, lens=BARREL
        )
        return image, alpha

    free = [t.clone().requires_grad_(True) for t in (*leaves(x), views.world_to_camera)]
    assert torch.autograd.gradcheck(render, free, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
    assert GaussianRenderer(views, lens=Lens()).lenses == ()
    with pytest.raises(InputError, match="rendered by a pinhole"):
        GaussianRenderer(views, ("normal",), lens=FISHEYE)(x)


def test_what_a_lens_does_not_see_is_not_folded_into_the_picture() -> None:
    """A Gaussian far off the axis, which the polynomial of the lens maps into the picture."""
    view = look_at(torch.tensor([[0.0, 0.0, -2.0]]), size=(40, 40), field_of_view=60.0)
    lens = Lens("perspective", (-0.35,))
    off = torch.tensor([[[3.2, 0.0, 0.0]]])  # x / z = 1.6, and 1.6 (1 - 0.35 * 1.6^2) = 0.17
    x = Splats.of_points(off, torch.ones(1, 1, 3), 0.05, 0.9)
    assert float(GaussianRenderer(view, ("alpha",), lens=lens)(x).max()) == 0
    assert float(replace(view, lenses=(lens,)).project(off[0])[0][0, 0, 0]) > 40
    near = Splats.of_points(off / 8, torch.ones(1, 1, 3), 0.05, 0.9)
    assert float(GaussianRenderer(view, ("alpha",), lens=lens)(near).max()) > 0.5


def test_the_lenses_of_cameras_are_used() -> None:
    """Cameras with a lens each: project, rays, renderer and its subsets agree."""
    views, x = cameras(24, torch.float32), cloud(20, 0.1, torch.float32)
    mixed = replace(views, lenses=(FISHEYE, BARREL))
    A = GaussianRenderer(mixed)
    for k, lens in enumerate((FISHEYE, BARREL)):
        alone = GaussianRenderer(views[k], lens=lens)(x)
        assert torch.equal(A(x)[:, :, k : k + 1], alone)
        assert torch.equal(A.subset(torch.tensor([k]))(x), alone)
        assert torch.equal(GaussianRenderer(mixed[k])(x), alone)
    assert A.cameras.lenses == mixed.lenses and mixed.pinholes().lenses == ()
    mixed = replace(cameras(24), lenses=(FISHEYE, BARREL))
    origins, directions = mixed.rays()
    far = origins + 2.5 * directions
    for k in range(2):
        pixels, depth = mixed[k].project(far[k].reshape(-1, 3))
        columns, rows = pixels[0].T.reshape(2, 24, 24)
        middles = torch.arange(24, dtype=F64) + 0.5
        assert (columns - middles).abs().max() < 1e-6 and (rows.T - middles).abs().max() < 1e-6
        assert torch.allclose(depth, torch.full_like(depth, 2.5))
    with pytest.raises(InputError, match="straighten=True"):
        VoxelRenderer(mixed)
    with pytest.raises(InputError, match="one per camera"):
        replace(views, lenses=(BARREL,))


@pytest.mark.parametrize("lens", [None, BARREL])
def test_a_rolling_shutter_sees_each_row_from_its_own_pose(lens: Lens | None) -> None:
    height = 24
    view, x = cameras(height, torch.float32)[0], cloud(80, 0.06, torch.float32)
    motion = torch.tensor([[0.05, -0.12, 0.06, 0.3, -0.2, 0.1]])
    rolling = GaussianRenderer(view, lens=lens, rolling=motion)
    found = rolling(x)[0, :, 0]
    last = view.rotate(motion)
    path = Path.between(view.world_to_camera[None], last.world_to_camera[None])
    rows = []
    for row in range(height):
        time = torch.full((1, 1, 1, 1, 1), (row + 0.5) / height)
        # The pose maps 0 and the unit vectors of the world as a rigid motion does.
        frame = torch.cat([torch.zeros(1, 3), torch.eye(3)])
        local = frame @ view.world_to_camera[0, :3, :3].T + view.world_to_camera[0, :3, 3]
        moved = path.at(local[None, None, :, None], time)[0, 0, :, 0]
        pose = rigid((moved[1:] - moved[:1]).T, moved[0])
        one = replace(view, world_to_camera=pose[None])
        rows.append(GaussianRenderer(one, lens=lens or Lens(radial=(1e-9,)))(x)[0, :, 0, row])
    wanted = torch.stack(rows, 1)

    def decibel(picture: Tensor) -> float:
        return float(-10 * (picture - wanted).square().mean().log10())

    still = GaussianRenderer(view, lens=lens)(x)[0, :, 0]
    assert decibel(found) > 35 and decibel(found) > decibel(still) + 15
    ends = path.at(local[None, None, :, None], torch.ones(1, 1, 1, 1, 1))[0, 0, :, 0]
    goal = frame @ last.world_to_camera[0, :3, :3].T + last.world_to_camera[0, :3, 3]
    assert torch.allclose(ends, goal, atol=1e-5)
    with pytest.raises(InputError, match="one motion per camera"):
        GaussianRenderer(view, rolling=motion[0])
