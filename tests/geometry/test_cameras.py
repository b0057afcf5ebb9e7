"""Cameras: pixels and rays undo each other, scaling keeps what is seen, poses carry gradients."""

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, look_at


@pytest.fixture
def cameras():
    centres = torch.tensor([[3.0, 0.5, -2.0], [-1.0, -2.0, 4.0]], dtype=torch.float64)
    return look_at(centres, (0.1, 0.2, 0.3), size=(6, 8), field_of_view=60.0)


def test_a_point_along_a_ray_is_seen_in_its_pixel(cameras):
    origins, directions = cameras.rays()
    points = origins[1, 2, 5] + 3.5 * directions[1, 2, 5]
    pixels, depths = cameras.project(points[None])
    torch.testing.assert_close(pixels[1, 0], torch.tensor([5.5, 2.5], dtype=torch.float64))
    torch.testing.assert_close(depths[1, 0], torch.tensor(3.5, dtype=torch.float64))


def test_axes(cameras):
    R = cameras.world_to_camera[:, :3, :3]
    torch.testing.assert_close(
        R @ R.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    )
    assert bool((torch.linalg.det(R) > 0).all())
    target = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    pixels, depths = cameras.project(target)
    torch.testing.assert_close(pixels[:, 0], torch.tensor([[4.0, 3.0]] * 2, dtype=torch.float64))
    torch.testing.assert_close(depths[:, 0], (cameras.centres - target).norm(dim=1))
    above, _ = cameras.project(target + torch.tensor([[0.0, -0.1, 0.0]], dtype=torch.float64))
    assert bool((above[:, 0, 1] < 3.0).all())  # up in the world is up in the picture: a smaller row


def test_scaled_cameras_see_the_same(cameras):
    points = 0.3 * torch.randn(
        5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    half = cameras.scale(0.5)
    assert half.size == (3, 4)
    torch.testing.assert_close(2 * half.project(points)[0], cameras.project(points)[0])


def test_some_of_the_cameras(cameras):
    named = Cameras(cameras.world_to_camera, cameras.intrinsics, cameras.size, ("a", "b"))
    assert (
        named[1].names == ("b",)
        and len(named[torch.tensor([True, False])]) == 1
        and named[:].names == ("a", "b")
    )


def test_poses_carry_gradients(cameras):
    points = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twist = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: cameras.rotate(t).project(points)[0], (twist,))
    assert torch.autograd.gradcheck(lambda t: cameras.rotate(t).rays()[0][:, 0, 0], (twist,))


def test_errors(cameras):
    with pytest.raises(InputError, match="world_to_camera"):
        Cameras(torch.eye(4), torch.eye(3), (2, 2))
    with pytest.raises(InputError, match="names"):
        Cameras(cameras.world_to_camera, cameras.intrinsics, (6, 8), ("one",))
    with pytest.raises(InputError, match="along up"):
        look_at(torch.tensor([[0.0, 5.0, 0.0]]), size=(2, 2))
