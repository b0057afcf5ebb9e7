"""Options that few runs change do what their docstrings state."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.geometry import look_at, rasterization
from invtoolbox.geometry.voxels import VoxelSpace
from invtoolbox.jobs.shapes.deformation import deformation
from invtoolbox.metrics import meta_class
from invtoolbox.operators import NonUniformFourier, radial_trajectory
from invtoolbox.operators.strain import ElasticStrain
from invtoolbox.plotting import birds_eye
from invtoolbox.solvers import (
    DDRM,
    LBFGS,
    GaussNewton,
    GradientDescent,
    LearnedDirection,
    LocalGlobal,
)
from invtoolbox.training import NormalEquations, RitzVectors


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


# -- operators -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "visible"),
    [
        ({}, (True, True)),
        ({"near_plane": 3.0}, (False, True)),
        ({"far_plane": 5.0}, (True, False)),
        ({"radius_clip": 6.0}, (True, False)),  # the far one is smaller in the picture
    ],
)
def test_gaussians_outside_of_the_planes_or_too_small_are_left_out(
    settings: dict[str, float], visible: tuple[bool, bool]
) -> None:
    """One Gaussian at a depth of 2 on the left, and one of the same size at 8 on the right."""
    means = torch.tensor([[-0.5, 0.0, 2.0], [2.0, 0.0, 8.0]])
    K = torch.tensor([[40.0, 0, 20], [0, 40, 20], [0, 0, 1]])
    picture = rasterization(
        means,
        torch.tensor([1.0, 0, 0, 0]).expand(2, 4),
        torch.full((2, 3), 0.2),
        torch.full((2,), 0.9),
        torch.ones(2, 1),
        torch.eye(4)[None],
        K[None],
        40,
        40,
        **settings,
    )[0][0, 20, :, 0]
    assert (bool(picture[10] > 0.1), bool(picture[30] > 0.1)) == visible


def test_the_added_variance_widens_a_gaussian_in_the_picture() -> None:
    cameras = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(33, 33))
    x = it.geometry.Splats.of_points(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), 0.3, 0.5)
    offset = torch.arange(33.0) - 16
    for blur in (0.3, 4.0):
        row = it.operators.GaussianRenderer(cameras, blur=blur)(x)[0, 0, 0, 16]
        variance = float((row * offset.square()).sum() / row.sum())
        K = cameras.intrinsics[0]
        assert variance == pytest.approx((0.3 * float(K[0, 0]) / 4) ** 2 + blur, rel=0.1)
        raw = rasterization(
            x.means[0],
            x.quats[0],
            x.scales[0],
            x.opacities[0],
            torch.ones(1, 1),
            cameras.world_to_camera.float(),
            cameras.intrinsics.float(),
            33,
            33,
            eps2d=blur,
        )[0]
        torch.testing.assert_close(raw[0, 16, :, 0], row, atol=1e-4, rtol=0)


def test_spokes_without_the_golden_angle_are_evenly_spaced() -> None:
    spokes = radial_trajectory(8, 4, golden=False)[:, -1]
    angles = torch.atan2(spokes[:, 0], spokes[:, 1])
    torch.testing.assert_close(angles, torch.arange(4) * math.pi / 4)


def test_a_finer_grid_brings_the_fourier_transform_nearer_to_the_exact_one() -> None:
    x = torch.complex(rand(1, 1, 12, 12), rand(1, 1, 12, 12, seed=1)).to(torch.complex128)
    where = radial_trajectory(12, 5).double()
    n = torch.arange(12, dtype=torch.float64) - 6
    phase = where[..., 0, None, None] * n[:, None] / 12 + where[..., 1, None, None] * n / 12
    exact = (torch.exp(-2j * math.pi * phase) * x[0, 0]).sum((-2, -1))
    errors = []
    for oversampling in (1.25, 2.0):
        y = NonUniformFourier(where, (1, 12, 12), width=4, oversampling=oversampling)(x)[0, 0]
        scale = (y.conj() * exact).sum() / y.abs().square().sum()  # the norm of A is a convention
        errors.append(float((scale * y - exact).norm() / exact.norm()))
    assert errors[1] < 0.3 * errors[0] and errors[1] < 1e-3


def test_energy_and_stress_are_proportional_to_youngs_modulus() -> None:
    u = rand(1, 2, 6, 6)
    soft, stiff = (it.priors.LinearElastic(young=young) for young in (1.0, 3.0))
    torch.testing.assert_close(stiff.energy(u), 3 * soft.energy(u))
    norms = [ElasticStrain((2, 6, 6), young=young)(u).square().sum() for young in (1.0, 3.0)]
    torch.testing.assert_close(norms[1], 3 * norms[0])


# -- priors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["size", torch.tensor([2.0, 0.5])])
def test_groups_have_weights(weights: Any) -> None:
    prior = it.priors.GroupSparsity(torch.tensor([0, 0, 1, -1]), group_weights=weights)
    w = torch.tensor([2**0.5, 1.0]) if isinstance(weights, str) else weights
    x = torch.tensor([[[3.0, 4.0, 2.0, 7.0]]])
    assert float(prior.energy(x)) == pytest.approx(float(5 * w[0] + 2 * w[1]))
    shrunk = torch.tensor([3.0, 4.0]) * (1 - w[0] / 5)
    torch.testing.assert_close(
        prior.prox(x, 1.0)[0, 0], torch.tensor([*shrunk.tolist(), 2 - float(w[1]), 7.0])
    )


@pytest.mark.parametrize(
    ("prior", "name", "rate"),
    [
        (
            it.priors.RigidClusters(torch.zeros(3, dtype=torch.long), rotation_rate=0.2),
            "rotation",
            0.2,
        ),
        (it.priors.SpaceTimeVoxels(rate=0.5, asymmetry=0.3, levels=2), "asymmetry1", 0.15),
        (it.priors.VoxelGrid(VoxelSpace.box(2, (0, 0, 0), (1, 1, 1)), view_rate=0.5), "view", None),
    ],
)
def test_factors_of_steps(prior: Any, name: str, rate: float | None) -> None:
    expected = rate if rate is not None else 0.5 * prior.color_rate
    assert prior.learning_rates({})[name] == pytest.approx(expected)


def test_the_unit_of_exposures_is_the_one_of_the_solver() -> None:
    cameras = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(4, 4))
    A = it.operators.ExposedRenderer(cameras, exposure_step=0.1)
    assert A.fixed_scales()["exposure"] == 0.1


def test_rigid_bodies_start_at_the_initial_motions() -> None:
    points = rand(1, 8, 3)
    motion = torch.eye(4)
    motion[:3, 3] = torch.tensor([0.3, 0.0, -0.1])
    labels = torch.zeros(8, dtype=torch.long)
    prior = it.priors.RigidClusters(labels, initial_motions=motion[None])
    bound = prior.prepare(it.Problem(points, it.operators.PointWarp(points)), it.solve)
    flow = bound.decode(bound.initial())
    torch.testing.assert_close(flow, motion[:3, 3].expand_as(points), atol=1e-6, rtol=0)


def test_clusters_below_the_smallest_size_are_left_out() -> None:
    points, labels = rand(1, 9, 3), torch.tensor([0] * 6 + [1] * 3)
    flow = torch.cat([torch.zeros(1, 6, 3), rand(1, 3, 3, seed=1)], 1)  # bends the second cluster
    small, large = (
        it.priors.SpatialConsistency(labels, smallest=n).bind(points).energy(flow) for n in (3, 4)
    )
    assert float(small) > 1e-3 > float(large.abs())


@pytest.mark.parametrize("kind", [it.priors.DefaultStrategy, it.priors.MCMCStrategy])
def test_gaussians_below_the_least_opacity_are_of_no_use(kind: Any) -> None:
    strategy = kind(start=0, every=1, least_opacity=0.3)
    parameters = {
        "means": rand(1, 4, 3),
        "log_scales": torch.full((1, 4, 3), -4.0),
        "quats": torch.tensor([1.0, 0, 0, 0]).expand(1, 4, 4).clone(),
        "logit_opacities": torch.logit(torch.tensor([[0.2, 0.9, 0.8, 0.25]])),
        "colors": rand(1, 4, 1, 3),
    }
    statistics = strategy.statistics(parameters)
    after, _ = strategy.adapt(parameters, statistics, 1, Generator().manual_seed(0), 1.0)
    opacity = after["logit_opacities"].sigmoid()
    assert bool(((opacity > 0.29) | (opacity < 1e-6)).all())


def test_filters_of_experts_may_stay_fixed() -> None:
    fixed, free = (it.priors.FieldsOfExperts(count=3, learn_filters=b) for b in (False, True))
    for prior in (fixed, free):
        prior.energy(rand(1, 1, 8, 8)).sum().backward()
    assert fixed.filters.grad is None and free.filters.grad is not None
    assert fixed.log_weights.grad is not None


def test_slack_and_roughness_are_factors_of_the_terms_of_bones() -> None:
    bar = torch.cartesian_prod(torch.arange(10.0), torch.arange(3.0), torch.arange(3.0))
    frames = torch.stack([bar + a * (bar[:, :1] - 5).clamp_min(0) for a in (0.2, 0.4)])
    A = it.operators.TrackedPoints(bar[None], times=2)
    problem = it.Problem(A.displacements(frames[None]), A, it.data_terms.LeastSquares(0.05))

    def energy(**settings: float) -> float:
        bones = it.priors.Bones(3, times=2, acceleration=math.inf, **settings)
        prior = it.priors.Deformation(bar, bones).prepare(problem, it.solve)
        z = prior.initial()
        z = {k: v + 0.1 * rand(*v.shape, seed=5).to(v) for k, v in z.items()}
        return float(prior.energy(z, prior.decode(z)))

    tight, loose, smooth = energy(roughness=0.0), energy(roughness=0.0, slack=0.08), energy()
    assert tight == pytest.approx(4 * loose, rel=1e-4) and smooth > tight


@pytest.mark.parametrize("size", [3, 5])
def test_the_filters_of_a_convex_energy_have_a_size(size: int) -> None:
    network = it.priors.ConvexEnergy(
        filters=[4, 3], widths=[2, 2], strides=[1, 1], filter_size=size
    )
    assert {p.shape[-1] for n, p in network.named_parameters() if p.ndim == 4} >= {size}
    assert network(rand(2, 1, 12, 12)).shape == (2, 1, 12, 12)


# -- solvers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [GradientDescent(), LBFGS(), GaussNewton()],
    ids=lambda solver: type(solver).__name__,
)
def test_every_step_decreases_the_objective_as_armijo_asks(solver: Any) -> None:
    """A constant near 1 refuses the steps that a constant near 0 accepts."""
    cube = it.as_operator(lambda x: x**3, domain_shape=(1, 4), range_shape=(1, 4))
    problem = it.Problem(torch.tensor([[[8.0, 1.0, 2.0, 0.1]]]), cube)
    strict, usual = (
        it.solve(
            problem,
            it.priors.Tikhonov(),
            replace(solver, sufficient_decrease=c),
            0.1,
            initial=torch.full((1, 1, 4), 0.8),
            max_iterations=80,
            progress=False,
        )
        for c in (0.9, 1e-4)
    )
    values = strict.history["objective"][:, 0]
    assert bool((values[1:] <= values[:-1]).all()) and not torch.equal(strict.x, usual.x)


def test_a_plain_step_is_taken_if_the_direction_decreases_too_little() -> None:
    bar = torch.cartesian_prod(torch.arange(8.0), torch.arange(2.0), torch.arange(2.0))
    ends = torch.tensor([0, 1, 2, 3, 28, 29, 30, 31])
    goal = bar[ends] + torch.tensor([0.0, 0.0, 2.0]) * (torch.arange(8) > 3)[:, None]
    strict, usual = (
        deformation(
            bar,
            (ends, goal),
            solver=LocalGlobal(plain_steps=1, sufficient_decrease=c),
            tolerance=1e-6,
        )
        for c in (0.95, 1e-4)
    )
    values = strict.history["objective"][:, 0]
    assert bool((values[1:] <= values[:-1] * (1 + 1e-9)).all())
    assert int(strict.iterations) > int(usual.iterations)
    torch.testing.assert_close(strict.x, usual.x, atol=1e-3, rtol=0)


def test_a_direction_across_the_residual_is_replaced_by_it() -> None:
    residual = torch.tensor([[[1.0, 0.0]]])

    class Across(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 3 * x.flip(2)

    steep, strict = (LearnedDirection(Across(), least_cosine=c) for c in (0.1, 0.9))
    assert not torch.equal(steep.proposal(residual), residual)
    assert torch.equal(strict.proposal(residual), residual)


def test_more_measured_coordinates_follow_their_measurements() -> None:
    mask = torch.arange(16.0).view(1, 4, 4) < 12
    A = it.operators.Inpainting(mask.float(), (1, 4, 4))
    y = (0.5 + 0.1 * rand(1, 1, 4, 4)) * mask
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.01))
    prior = it.priors.Gaussian(torch.full((1, 4, 4), 0.5), 0.01)
    distances = [
        [
            float(
                (it.solve(problem, prior, DDRM(**s), max_iterations=8, progress=False).x - y)[
                    where
                ].norm()
            )
            for where in (mask[None], ~mask[None])
        ]
        for s in ({}, {"eta_measured": 0.0}, {"eta": 0.1})
    ]
    (measured, rest), (ignored, _), (same, fresh) = distances
    assert ignored > 2 * measured and same == pytest.approx(measured, rel=0.2) and fresh != rest


def test_the_lower_end_of_the_spectrum_is_boosted() -> None:
    A = it.operators.Matrix(torch.diag(torch.arange(1.0, 9.0)))
    system = NormalEquations(it.Problem(torch.zeros(1, 1, 8), A))
    for boost in (1.0, 4.0):
        pairs = RitzVectors(system, vectors=8, boost=boost, share=0.5)
        b, _ = pairs.draw(4000, Generator().manual_seed(0))
        lower, upper = b.square().mean((0, 1)).view(2, 4).mean(1).tolist()  # b has unit length
        assert 0.5 * boost**2 < lower / upper < 1.1 * boost**2


# -- readers, metrics, pictures --------------------------------------------------------------------


def test_words_may_have_meanings_of_their_own() -> None:
    category = torch.tensor([0, 1])
    assert meta_class(category, ("TRAM", "CAT"), meaning={"tram": "CAR"}).tolist() == [1, -1]
    with pytest.raises(it.InputError, match="no meta-class"):
        meta_class(category, ("TRAM", "CAT"), meaning={"tram": "TRAM"})


def test_the_unit_of_depths_may_be_given(tmp_path: Path) -> None:
    from skimage.io import imsave

    for name, picture in (
        ("rgb/0.png", np.full((6, 8, 3), 99, np.uint8)),
        ("depth/0.png", np.full((6, 8), 500, np.uint16)),
    ):
        (tmp_path / name).parent.mkdir()
        imsave(tmp_path / name, picture, check_contrast=False)
    (tmp_path / "trajectory.log").write_text("0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    K = torch.tensor([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]])
    for unit, metres in ((None, 0.5), (0.01, 5.0)):
        views = it.datasets.open_rgbd(tmp_path, intrinsics=K, depth_unit=unit)
        assert views.depth is not None and float(views.depth.max()) == pytest.approx(metres)


def test_colors_are_full_at_the_given_speed() -> None:
    points, flow = 20 * rand(200, 3), torch.tensor([1.0, 0.0, 0.0]).expand(200, 3)
    pale, full = (birds_eye(points, flow, full_speed=speed) for speed in (10.0, 1.0))
    assert pale != full


@pytest.mark.parametrize(
    ("job", "name", "meant"),
    [
        ("register", "model", "stages"),
        ("scene_flow", "sources", "source"),
        ("map_slices", "n_jobs", "workers"),
        ("invert_waveforms", "n_iter", "max_iterations"),
        ("event_flow", "cam", "camera"),
    ],
)
def test_jobs_suggest_the_argument_that_is_meant(job: str, name: str, meant: str) -> None:
    with pytest.raises(it.InputError, match=f"no argument '{name}'; did you mean '{meant}'"):
        getattr(it, job)(**{name: 1})
