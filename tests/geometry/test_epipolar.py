"""The motion of a camera from the flow of its picture: exact, noisy, and turning only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.epipolar import (
    camera_motion,
    epipolar_residual,
    linear_camera_motion,
    motion_field,
)

TWIST = torch.tensor([0.48, -0.6, 0.64, 0.05, -0.1, 0.2], dtype=torch.float64)


def field(seed: int, count: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rays = torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5
    depth = 1 + torch.rand(count, generator=generator, dtype=torch.float64)
    return rays, motion_field(rays, TWIST, 0.2 / depth)


def angle(found: Tensor) -> float:
    cosine = (found[:3] / found[:3].norm()) @ TWIST[:3]
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))


def test_the_field_is_the_derivative_of_the_projection() -> None:
    point = torch.tensor([0.3, -0.2, 2.0], dtype=torch.float64)
    v, w = TWIST[:3], TWIST[3:]

    def place(t: float) -> Tensor:
        moved = point + t * (-v - torch.linalg.cross(w, point))
        return moved[:2] / moved[2]

    exact = (place(1e-6) - place(-1e-6)) / 2e-6
    assert torch.allclose(motion_field(place(0.0), TWIST, 0.5), exact, atol=1e-9)


def test_exact_flow_gives_the_motion_and_has_no_residual() -> None:
    rays, flow = field(0)
    scaled = torch.cat([0.2 * TWIST[:3], TWIST[3:]])
    assert float(epipolar_residual(rays, flow, scaled).abs().max()) < 1e-15
    other = torch.cat([0.2 * TWIST[:3], -TWIST[3:]])  # the other sign of w is no solution
    assert float(epipolar_residual(rays, flow, other).abs().max()) > 1e-3
    for found in (linear_camera_motion(rays, flow), camera_motion(rays, flow).twist):
        assert angle(found) < 1e-4 and torch.allclose(found[3:], TWIST[3:], atol=1e-6)


def test_noise_turns_the_linear_fit_and_hardly_the_other() -> None:
    rays, flow = field(1)
    noise = torch.randn(flow.shape, generator=torch.Generator().manual_seed(2)).double()
    noisy = flow + 0.01 * noise
    found = angle(camera_motion(rays, noisy).twist)
    assert found < 3 and angle(linear_camera_motion(rays, noisy)) > 2 * found


def test_a_camera_that_only_turns_has_no_velocity() -> None:
    rays, _ = field(3)
    turning = torch.cat([torch.zeros(3).double(), TWIST[3:]])
    noise = torch.randn(rays.shape, generator=torch.Generator().manual_seed(4)).double()
    found = camera_motion(rays, motion_field(rays, turning, 1.0) + 1e-3 * noise)
    assert found.turns_only and not bool(found.twist[:3].any())
    assert torch.allclose(found.twist[3:], TWIST[3:], atol=1e-3)
    with pytest.raises(InputError, match="at least 8 points"):
        camera_motion(rays[:7], rays[:7])
