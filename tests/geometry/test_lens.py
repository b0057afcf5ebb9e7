"""Distortion against OpenCV's formula by hand, and straightened pictures against what a pinhole sees."""

from __future__ import annotations

import math

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens, Straightening

K = torch.tensor([[60.0, 0.0, 31.0], [0.0, 62.0, 23.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


def test_the_formula_term_by_term() -> None:
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    k1, k2, p1, p2, k3, k4, k5, k6 = 0.1, -0.05, 0.01, -0.02, 0.03, 0.2, 0.01, -0.03
    c = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    wanted = torch.tensor(
        [
            x * c + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * c + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ]
    ).double()
    lens = Lens(radial=(k1, k2, k3, k4, k5, k6), tangential=(p1, p2))
    assert torch.allclose(lens.distort(torch.tensor([x, y]).double()), wanted, atol=1e-7)
    theta = math.atan(math.sqrt(r2))
    bent = Lens("fisheye", (0.1, 0.02, 0.03, 0.04)).distort(
        torch.tensor([[x, y], [0.0, 0.0]]).double()
    )
    polynomial = theta * (1 + 0.1 * theta**2 + 0.02 * theta**4 + 0.03 * theta**6 + 0.04 * theta**8)
    assert abs(float(bent[0].norm()) - polynomial) < 1e-7 and float(bent[1].norm()) == 0
    assert Lens("fisheye").distorts and not Lens(radial=(0.0,)).distorts


@pytest.mark.parametrize(
    "lens",
    [
        Lens(radial=(-0.2, 0.03), tangential=(0.004, -0.003)),
        Lens(radial=(0.15, 0.02)),
        Lens("fisheye", (0.02,)),
    ],
)
def test_a_straightened_picture_is_that_of_the_pinhole(lens: Lens) -> None:
    """A smooth pattern on a plane, seen through the lens and straightened, against the same pattern through the pinhole."""
    size = (48, 64)

    def pattern(rays: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0.3 * torch.sin(6 * rays[..., 0]) * torch.cos(5 * rays[..., 1])

    # What the lens sees at a pixel is the pattern along the ray that it bends there: inverted by
    # Newton's fixed point.
    rows, columns = torch.meshgrid(
        *(torch.arange(s, dtype=torch.float64) + 0.5 for s in size), indexing="ij"
    )
    target = torch.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]], -1)
    rays = target.clone()
    for _ in range(200):
        rays = rays - 0.5 * (lens.distort(rays) - target)
    assert float((lens.distort(rays) - target).abs().max()) < 1e-9
    seen = pattern(rays)[None]
    plan = Straightening.of(lens, K, size)
    pinhole = plan.intrinsics
    straight_rays = torch.stack(
        [(columns - pinhole[0, 2]) / pinhole[0, 0], (rows - pinhole[1, 2]) / pinhole[1, 1]], -1
    )
    wanted = pattern(straight_rays)
    got = plan(seen)[0]
    assert float((got - wanted).abs().max()) < 4e-3, float((got - wanted).abs().max())
    assert float((seen[0] - wanted).abs().max()) > 0.02  # the lens does something
    margins = plan.source.flatten(0, 1)
    assert (
        float(margins.min()) >= 0.49
        and float((margins - torch.tensor([64.0, 48.0])).max()) <= -0.49
    )  # no pixel is invented
    zoom = float(pinhole[0, 0] / K[0, 0])
    assert (
        zoom >= 1
        and abs(float(pinhole[1, 1] / K[1, 1]) - zoom) < 1e-12
        and torch.equal(pinhole[:2, 2], K[:2, 2])
    )
    assert (zoom > 1.01) == (lens.radial[0] > 0.1)


def test_coefficients_of_another_camera_are_refused() -> None:
    with pytest.raises(InputError, match="folds a picture"):
        Straightening.of(Lens(radial=(-3.0,)), K, (48, 64))
    with pytest.raises(InputError, match="leads out of a picture"):
        Straightening.of(Lens(tangential=(0.0, math.pi * 1e6)), K, (48, 64))
    with pytest.raises(InputError, match="finite radial"):
        Lens(radial=(math.nan,))
    with pytest.raises(InputError, match="no tangential"):
        Lens("fisheye", tangential=(0.1, 0.0))
