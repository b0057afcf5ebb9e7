"""Points on the visual hull, and Gaussians that start there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Splats, carve_surface, look_at
from invtoolbox.operators import GaussianRenderer
from invtoolbox.priors import Gaussians

LOW, HIGH = (-1.2, -1.2, -1.2), (1.2, 1.2, 1.2)


def around(count: int = 20, size: tuple[int, int] = (40, 48)) -> Cameras:
    g = torch.Generator().manual_seed(0)
    return look_at(
        4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1), size=size
    )


def ball(cameras: Cameras, radius: float = 0.6) -> Tensor:
    """Red above and green below in front of white, by the distance of the rays from the origin."""
    origins, directions = cameras.rays()
    way = torch.nn.functional.normalize(directions, dim=-1)
    along = -(origins * way).sum(-1, keepdim=True)
    apart = (origins + along * way).norm(dim=-1, keepdim=True)
    place = origins + (along - (radius**2 - apart**2).clamp_min(0).sqrt()) * way
    color = torch.where(place[..., 1:2] < 0, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    return torch.where(apart < radius, color, 1.0).permute(0, 3, 1, 2)


def test_points_lie_on_the_surface_with_its_colors() -> None:
    cameras = around()
    points, colors = carve_surface(
        cameras, ball(cameras), 1.0, 500, LOW, HIGH, torch.Generator().manual_seed(1), cells=48
    )
    apart = points.norm(dim=1)
    assert (
        points.shape == (500, 3)
        and float(apart.median() - 0.6) < 0.12
        and float(apart.min()) > 0.5
        and float(apart.max()) < 0.95
    )
    sure = points[:, 1].abs() > 0.2
    assert torch.equal(colors[sure, 0] > 0.5, points[sure, 1] < 0)


def test_what_leaves_nothing_is_said() -> None:
    cameras = around(3)
    with pytest.raises(InputError, match="leave nothing"):
        carve_surface(cameras, torch.ones(3, 3, 40, 48), 1.0, 10, LOW, HIGH)
    with pytest.raises(InputError, match="those of the cameras"):
        carve_surface(cameras, torch.ones(2, 3, 40, 48), 1.0, 10, LOW, HIGH)


def test_gaussians_start_where_the_pictures_say() -> None:
    cameras = around()
    y = ball(cameras).transpose(0, 1)[None]
    A = GaussianRenderer(cameras, background=1.0)
    problem = it.Problem(y.repeat(2, 1, 1, 1, 1), A, it.data_terms.Photometric(0.0))
    settings = {"degree": 0, "strategy": None, "seed": 3, "opacity": 0.5}
    carved = Gaussians.random(300, LOW, HIGH, carve=True, **settings).prepare(problem, None)
    x = carved.decode(carved.initial())
    assert (
        x.means.shape == (2, 300, 3)
        and torch.equal(x.means[0], x.means[1])
        and float(x.means.norm(dim=-1).max()) < 1
    )
    apart = [
        float((A(p.decode(p.initial())) - y).abs().mean())
        for p in (carved, Gaussians.random(300, LOW, HIGH, **settings))
    ]
    assert apart[0] < 0.3 * apart[1]
    solution = it.solve(
        problem.select(torch.tensor([0])),
        Gaussians.random(300, LOW, HIGH, carve=True, **settings),
        it.solvers.Adam(subset_size=2),
        max_iterations=20,
        tolerance=0.0,
        progress=False,
    )
    assert isinstance(solution.x, Splats) and float((A(solution.x) - y).abs().mean()) < apart[0]
    with pytest.raises(InputError, match="needs the pictures"):
        Gaussians.random(9, LOW, HIGH, carve=True).prepare(
            it.Problem(y[:, :1], GaussianRenderer(cameras, outputs=("alpha",))), None
        )
