"""What cameras look at, and new ones that go around it."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.cameras import focus_point, turntable, upwards

TARGET = (0.3, -0.2, 0.5)


def ring(count: int = 10, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Cameras:
    angle = torch.arange(count) * 2 * torch.pi / count + 0.4
    places = torch.tensor(TARGET) + 3 * torch.stack(
        [angle.cos(), angle.sin(), torch.full_like(angle, 0.6)], 1
    )
    return look_at(places, TARGET, up, size=(40, 60))


def test_the_middle_and_up() -> None:
    views = ring()
    assert torch.allclose(focus_point(views), torch.tensor(TARGET), atol=1e-5)
    assert torch.allclose(upwards(views), torch.tensor([0.0, 0.0, 1.0]), atol=1e-5)
    parallel = Cameras(torch.eye(4).repeat(3, 1, 1), views.intrinsics[:3], views.size)
    with pytest.raises(InputError, match="away from one another"):
        focus_point(
            Cameras(
                torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])) @ views.world_to_camera,
                views.intrinsics,
                views.size,
            )
        )
    with pytest.raises(InputError, match="look all in one direction"):
        focus_point(parallel)


def test_a_turntable_keeps_distance_height_and_attitude() -> None:
    views = ring()
    around = turntable(views, 12, largest_side=30)
    assert len(around) == 12 and around.size == (20, 30)
    arms, given = around.centres - torch.tensor(TARGET), views.centres - torch.tensor(TARGET)
    assert torch.allclose(arms.norm(dim=1), given.norm(dim=1)[:1].expand(12), rtol=1e-4)
    assert torch.allclose(arms[:, 2], given[:1, 2].expand(12), rtol=1e-3)
    assert torch.allclose(around.centres[0], views.centres[0], atol=1e-3)
    pixel, depth = around.project(torch.tensor([TARGET, (TARGET[0], TARGET[1], TARGET[2] + 0.1)]))
    assert torch.allclose(
        pixel[:, 0], torch.tensor([15.0, 10.0]).expand(12, 2), atol=1e-2
    ) and bool((depth > 0).all())
    assert bool((pixel[:, 1, 1] < 10).all())  # up is up


def test_views_from_one_side_are_circled_about() -> None:
    offsets = torch.tensor([[x, y, 0.0] for x in (-0.3, 0.0, 0.3) for y in (-0.2, 0.2)])
    views = look_at(torch.tensor([0.0, 0.0, -4.0]) + offsets, size=(20, 20))
    around = turntable(views, 8)
    apart = (around.centres - views.centres.mean(0)).norm(dim=1)
    assert (
        float(apart.max()) < 0.5
        and float(apart.min()) > 0.1
        and bool((around.centres[:, 2] < -3).all())
    )
    pixel, depth = around.project(torch.zeros(1, 3))
    assert bool((depth > 3).all()) and torch.allclose(
        pixel[:, 0], torch.full((8, 2), 10.0), atol=0.5
    )
