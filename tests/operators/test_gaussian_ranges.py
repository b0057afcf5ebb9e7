"""Lidar ranges of Gaussians as an operator: sweeps are blocks, sensors have poses, and ranges alone make a scene."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Splats
from invtoolbox.geometry.rigid import rigid, rotation
from invtoolbox.operators import GaussianRanges
from invtoolbox.simulation import SpinningLidar


def rays() -> Tensor:
    return (
        SpinningLidar(rings=8, azimuths=60, elevation=(-20.0, 20.0))
        .directions.float()
        .reshape(-1, 3)
    )


def poses(count: int = 3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return rigid(
        rotation(0.3 * torch.randn(count, 3, generator=g)), 0.3 * torch.randn(count, 3, generator=g)
    )


def room(batch: int = 2, count: int = 400, seed: int = 1) -> Splats:
    """Gaussians on a sphere around the sensors."""
    g = torch.Generator().manual_seed(seed)
    points = 5 * torch.nn.functional.normalize(torch.randn(batch, count, 3, generator=g), dim=-1)
    return Splats.of_points(points, torch.rand(batch, count, 3, generator=g), 0.4, 0.9)


def test_sweeps_are_blocks_and_outputs_channels() -> None:
    A = GaussianRanges(rays(), poses(), outputs=("range", "alpha", "median_range", "color"))
    x = room()
    y = A(x)
    assert y.shape == (2, *A.range_shape) == (2, 6, 3, 480)
    assert torch.equal(A.subset([2, 0])(x), y[:, :, [2, 0]]) and torch.equal(
        A.subset([2, 0]).poses, A.poses[[2, 0]]
    )
    assert torch.equal(
        A(
            Splats(
                *(getattr(x, f)[1:] for f in ("means", "quats", "scales", "opacities", "colors"))
            )
        ),
        y[1:],
    )
    met = y[:, 1] > 0.9
    assert float(met.float().mean()) > 0.2 and 4 < float(y[:, 0][met].median()) < 6
    assert torch.equal(GaussianRanges(rays()[None].expand(3, -1, -1), poses())(x), y[:, :1])


def test_a_pose_is_found_by_the_ranges() -> None:
    truth, x = poses(2), room(1, 1500)
    y = GaussianRanges(rays(), truth)(x)
    step = 0.02 * torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    A = GaussianRanges(rays(), truth @ rigid(rotation(step[:, :3]), step[:, 3:]), pose_step=0.1)
    start = {
        "means": x.means,
        "quats": x.quats,
        "log_scales": x.scales.log(),
        "logit_opacities": torch.logit(x.opacities),
        "colors": x.colors,
    }
    prior = it.priors.Gaussians(
        x.means[0], degree=0, strategy=None, rates=dict.fromkeys(start, 0.0)
    )
    solution = it.solve(
        it.Problem(y, A, it.data_terms.LeastSquares(), unknown={"twist": None}),
        prior,
        it.solvers.Adam(decay=0.05),
        initial=start,
        max_iterations=120,
        tolerance=0.0,
        progress=False,
    )
    off, before = ((p - truth).abs().max() for p in (solution.problem.operator.poses, A.poses))
    assert float(off) < 0.3 * float(before)


def test_a_scene_is_learned_from_ranges_alone() -> None:
    A, x = GaussianRanges(rays(), poses(), outputs=("range", "alpha")), room(1)
    y = A(x)
    g = torch.Generator().manual_seed(2)
    start = it.priors.Gaussians(
        4 * torch.nn.functional.normalize(torch.randn(400, 3, generator=g), dim=1),
        degree=0,
        strategy=None,
        scale=0.4,
        opacity=0.8,
        extent=5.0,
        decay_over=None,
        rates={"means": 30.0},
    )
    solution = it.solve(
        it.Problem(y, A), start, it.solvers.Adam(), max_iterations=80, tolerance=0.0, progress=False
    )
    met = y[:, 1] > 0.9
    errors = [
        float((A(s)[:, 0] - y[:, 0])[met].abs().mean())
        for s in (start.decode(start.initial()), solution.x)
    ]
    assert errors[1] < 0.4 * errors[0]


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="directions"):
        GaussianRanges(torch.zeros(2, 5, 3), poses(3))
    with pytest.raises(InputError, match="did you mean 'range'"):
        GaussianRanges(rays(), outputs=("rang",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes Splats"):
        GaussianRanges(rays())(torch.zeros(1, 3))
