"""The Gaussian renderer as an operator: views are blocks, items keep to themselves, poses are a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry import Cameras, Splats, look_at
from invtoolbox.operators import GaussianRenderer


def around(
    count: int = 4,
    size: tuple[int, int] = (14, 18),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Cameras:
    g = torch.Generator().manual_seed(seed)
    return look_at(
        4
        * torch.nn.functional.normalize(
            torch.randn(count, 3, generator=g, dtype=torch.float64), dim=1
        ),
        size=size,
    ).to(dtype)


def cloud(
    batch: int = 2,
    count: int = 40,
    degree: int = 1,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Splats:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, count, *shape, generator=g, dtype=torch.float64).to(dtype)

    return Splats(
        0.5 * normal(3),
        normal(4),
        (0.3 * normal(3) - 1.5).exp(),
        normal().sigmoid(),
        0.5 * normal((degree + 1) ** 2, 3),
    )


def test_the_outputs_are_channels_and_the_background_stands_behind() -> None:
    A = GaussianRenderer(
        around(), outputs=("color", "alpha", "depth", "median_depth", "normal"), background=0.25
    )
    x = cloud()
    y = A(x)
    assert y.shape == (2, *A.range_shape) == (2, 9, 4, 14, 18)
    black = GaussianRenderer(around())(x)
    assert torch.allclose(y[:, :3], black + 0.25 * (1 - y[:, 3:4]), atol=1e-6)
    seen = y[:, 3] > 0.5
    assert float(y[:, 4][seen].min()) > 2 and float(y[:, 4][seen].max()) < 6
    assert bool((y[:, 5][y[:, 3] > 0.51] > 2).all()) and bool((y[:, 5][y[:, 3] < 0.49] == 0).all())


def test_misfits_of_disjoint_subsets_add_up() -> None:
    A, x = GaussianRenderer(around(6)), cloud(1)
    problem = it.Problem(
        torch.rand(1, 3, 6, 14, 18, generator=torch.Generator().manual_seed(3)),
        A,
        it.data_terms.Photometric(0.3),
    )
    whole = problem.data_term.value(problem.operator(x), problem.y)
    parts = [problem.subset(index) for index in ([0, 3], [1, 2, 4, 5])]
    total = torch.stack([p.data_term.value(p.operator(x), p.y) for p in parts]).sum(0)
    torch.testing.assert_close(total, whole)
    assert torch.equal(A.subset([4, 1])(x), A(x)[:, :, [4, 1]])


def test_items_keep_to_themselves_with_cameras_of_their_own() -> None:
    every = [around(2, seed=k) for k in range(3)]
    A, x = GaussianRenderer(every), cloud(3)
    y = A(x)
    for k in range(3):
        own = Splats(
            x.means[k : k + 1],
            x.quats[k : k + 1],
            x.scales[k : k + 1],
            x.opacities[k : k + 1],
            x.colors[k : k + 1],
        )
        assert torch.equal(GaussianRenderer(every[k])(own), y[k : k + 1])
        assert torch.equal(A.select(torch.tensor([k]))(own), y[k : k + 1])
    with pytest.raises(InputError, match="batch of 3"):
        A(cloud(2))


def test_fifty_scenes_in_a_batch_are_what_they_are_alone() -> None:
    cameras = around(1, size=(32, 32))
    A, x = GaussianRenderer(cameras), cloud(50, 1000, 0)
    small = Splats(x.means, x.quats, 0.2 * x.scales, x.opacities, x.colors)
    y = A(small)
    for k in range(0, 50, 7):
        fields = (small.means, small.quats, small.scales, small.opacities, small.colors)
        assert torch.equal(A(Splats(*(f[k : k + 1] for f in fields))), y[k : k + 1])


def test_a_twist_moves_the_cameras_and_has_a_derivative() -> None:
    cameras, x = around(3, dtype=torch.float64), cloud(1, 12, dtype=torch.float64)
    A = GaussianRenderer(cameras)
    twist = 0.05 * torch.randn(
        3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    moved = A.with_parameters(twist=twist)
    assert torch.allclose(moved(x), GaussianRenderer(cameras.rotate(twist))(x))
    assert torch.equal(moved.subset([2])(x), moved(x)[:, :, [2]])
    weights = torch.rand(
        moved(x).shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )

    def value(twist: Tensor) -> Tensor:
        return (A.with_parameters(twist=twist)(x) * weights).sum()

    assert torch.autograd.gradcheck(
        value, twist.requires_grad_(True), eps=1e-6, atol=1e-5, rtol=1e-4
    )


def test_a_pose_is_found_together_with_the_picture() -> None:
    cameras, x = around(3, size=(30, 30)), cloud(1, 60, 0)
    y = GaussianRenderer(cameras)(x)
    off = 0.03 * torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    off[0] = 0
    A = GaussianRenderer(cameras.rotate(off), pose_step=0.3)
    # Gaussians that hardly move: the poses have to.
    prior = it.priors.Gaussians(
        x.means[0],
        x.colors[0, :, 0] * 0.28209479 + 0.5,
        degree=0,
        strategy=None,
        rates=dict.fromkeys(("means", "quats", "log_scales", "logit_opacities", "colors"), 1e-6),
    )
    start = {
        "means": x.means,
        "quats": x.quats,
        "log_scales": x.scales.log(),
        "logit_opacities": torch.logit(x.opacities),
        "colors": x.colors,
    }
    solution = it.solve(
        it.Problem(y, A, it.data_terms.LeastSquares(), unknown={"twist": None}),
        prior,
        it.solvers.Adam(learning_rate=0.01),
        initial=start,
        max_iterations=150,
        tolerance=0.0,
        progress=False,
    )
    found = solution.problem.operator.cameras.world_to_camera
    before = (A.cameras.world_to_camera - cameras.world_to_camera).abs().max()
    assert (found - cameras.world_to_camera).abs().max() < 0.1 * before


def test_poses_are_found_by_steps_that_look_at_one_picture() -> None:
    cameras, x = around(4, size=(30, 30)), cloud(1, 60, 0)
    y = GaussianRenderer(cameras)(x)
    off = 0.03 * torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    A = GaussianRenderer(cameras.rotate(off), pose_step=0.3)
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
        it.solvers.Adam(subset_size=1, decay=0.02),
        initial=start,
        max_iterations=300,
        tolerance=0.0,
        progress=False,
    )
    assert solution.parameters is not None and torch.equal(solution.parameters["means"], x.means)
    found = solution.problem.operator.cameras.world_to_camera
    before = (A.cameras.world_to_camera - cameras.world_to_camera).abs().max()
    assert (found - cameras.world_to_camera).abs().max() < 0.3 * before


def test_gsplat_is_asked_for_only_where_it_can_run() -> None:
    with pytest.raises((InputError, MissingDependency), match="CUDA"):
        GaussianRenderer(around(1), backend="gsplat")(cloud(1))
    with pytest.raises(InputError, match="did you mean 'depth'"):
        GaussianRenderer(around(1), outputs=("dept",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="blur of GaussianRenderer must be positive"):
        GaussianRenderer(around(1), blur=0.0)
