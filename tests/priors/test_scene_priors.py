"""Priors of scenes against closed forms: of voxels, and of what renderers make of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Splats, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.operators import GaussianRenderer, VoxelRenderer
from invtoolbox.priors import (
    DensityCorrelation,
    DepthSmoothness,
    Gaussians,
    Misfit,
    NormalConsistency,
    OcclusionPenalty,
    RaySpread,
    ThroughOperator,
    VoxelGrid,
    VoxelSparsity,
)

LOW, HIGH = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)


def voxels(batch: int = 2, n: int = 4, seed: int = 0) -> Voxels:
    g = torch.Generator().manual_seed(seed)
    space = VoxelSpace.box(n, LOW, HIGH)
    return Voxels(
        torch.randn(batch, space.rows, generator=g, dtype=torch.float64),
        torch.randn(batch, space.rows, 1, 3, generator=g, dtype=torch.float64),
        space,
    )


def cameras(count: int = 4, size: tuple[int, int] = (8, 8)) -> Cameras:
    angle = torch.arange(count) * (2 * torch.pi / count)
    return look_at(
        torch.stack([4 * angle.cos(), torch.zeros(count), 4 * angle.sin()], dim=1),
        size=size,
        field_of_view=30.0,
    )


def kept() -> Voxels:
    """Voxels with nodes left out."""
    occupied = torch.zeros(5, 5, 5, dtype=torch.bool)
    occupied[1:3, 2, 2:4] = True
    space = VoxelSpace.box(6, LOW, HIGH).keep_cells(occupied)
    return Voxels(
        torch.randn(2, space.rows, dtype=torch.float64),
        torch.randn(2, space.rows, 1, 3, dtype=torch.float64),
        space,
    )


@pytest.mark.parametrize("x", [voxels(), kept()], ids=["all nodes", "some"])
def test_sparsity_is_the_cauchy_penalty_of_the_thickness_of_cells(x: Voxels) -> None:
    thickness = functional.softplus(x.density) * x.space.scale * x.space.cell[0]
    assert torch.allclose(VoxelSparsity().energy(x), (1 + 2 * thickness**2).log().mean(1))
    assert torch.autograd.gradcheck(
        lambda d: VoxelSparsity(0.3).energy(x._replace(density=d)),
        [x.density.clone().requires_grad_(True)],
    )


@pytest.mark.parametrize("of", ["raw", "activated"])
def test_density_correlation_is_that_of_numpy(of: str) -> None:
    x, reference = kept(), kept()
    prior = DensityCorrelation(reference, of)  # type: ignore[arg-type]
    f, g = (v.density if of == "raw" else functional.softplus(v.density) for v in (x, reference))
    wanted = [1 - torch.corrcoef(torch.stack([f[k], g[k]]))[0, 1] for k in range(2)]
    assert torch.allclose(prior.energy(x), torch.stack(wanted))
    assert torch.allclose(
        prior.select(torch.tensor([1])).energy(Voxels(x.density[1:], x.color[1:], x.space)),
        wanted[1],
    )
    assert torch.autograd.gradcheck(
        lambda d: prior.energy(x._replace(density=d)), [x.density.clone().requires_grad_(True)]
    )
    if of == "raw":  # a factor and an offset do not matter, and where it is least there is no slope
        assert torch.allclose(
            DensityCorrelation(x).energy(x._replace(density=3 * x.density - 7)),
            torch.zeros(2).double(),
            atol=1e-12,
        )
    with pytest.raises(InputError, match="at the same nodes"):
        prior.energy(voxels())
    single = prior.to(torch.float32).energy(Voxels(x.density.float(), x.color.float(), x.space))
    assert single.dtype == torch.float32 and torch.allclose(
        single.double(), prior.energy(x), atol=1e-5
    )
    flat = x._replace(density=torch.full_like(x.density, 0.1).requires_grad_(True))
    (slope,) = torch.autograd.grad(prior.energy(flat).sum(), flat.density)
    assert torch.equal(prior.energy(flat), torch.ones(2).double()) and bool(slope.isfinite().all())


def test_a_renderer_gives_pictures_and_patches() -> None:
    x = voxels(1)._replace()
    rays = VoxelRenderer(cameras(), outputs=("color", "depth"))
    whole = rays(x)
    pictures = VoxelRenderer(cameras(), outputs=("color", "depth"), block="picture")
    assert pictures.range_shape == (4, 4, 8, 8) and pictures.blocks == 4
    assert torch.allclose(pictures(x).flatten(2), whole, atol=1e-12)
    assert torch.allclose(pictures.subset(torch.tensor([2]))(x), pictures(x)[:, :, 2:3], atol=1e-12)
    patches = VoxelRenderer(
        cameras(), outputs=("color", "depth"), block=3
    )  # 8 pixels: patches from 0, 2 and 5
    seen = patches(x)
    assert seen.shape == (1, 4, 4 * 9, 3, 3)
    grid = whole.unflatten(2, (4, 8, 8))
    assert torch.allclose(seen[:, :, 9 + 5], grid[:, :, 1, 2:5, 5:8], atol=1e-12)
    assert torch.allclose(patches.pictures(seen), rays.pictures(whole), atol=1e-12)
    assert torch.equal(patches.measurements(patches.pictures(seen)), seen)
    with pytest.raises(InputError, match="not form whole pictures"):
        patches.subset([0, 1]).pictures(seen[:, :, :2])
    for wrong in ("tile", 1, 9):
        with pytest.raises(InputError, match="block"):
            VoxelRenderer(cameras(), block=wrong)  # type: ignore[arg-type]


def test_smoothness_counts_neighbours_that_both_meet_something() -> None:
    depth = torch.tensor([[1.0, 2.0, 0.0], [1.0, 4.0, 4.0]], dtype=torch.float64).view(
        1, 1, 1, 2, 3
    )
    assert float(DepthSmoothness().energy(depth)) == pytest.approx((1 + 9 + 0 + 0 + 4) / 5)
    assert float(DepthSmoothness(power=1).energy(depth)) == pytest.approx((1 + 3 + 0 + 0 + 2) / 5)
    color = (
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
        .view(1, 1, 1, 2, 3)
        .expand(1, 3, 1, 2, 3)
    )
    seen = torch.cat([color, depth], dim=1)
    jump = math.exp(-2.0)
    assert float(DepthSmoothness(edges=2.0).energy(seen)) == pytest.approx(
        (1 + 9 * jump + 4 * jump) / 5
    )
    assert float(DepthSmoothness().energy(torch.zeros(1, 1, 1, 2, 3))) == 0
    tilted = torch.linspace(1, 2, 8, dtype=torch.float64).expand(1, 1, 1, 8, 8)
    assert float(DepthSmoothness().energy(tilted)) == pytest.approx(0.5 / 49)
    assert torch.autograd.gradcheck(
        DepthSmoothness(edges=0.0).energy,
        [torch.cat([0 * depth, depth + 0.5], 1).requires_grad_(True)],
    )
    with pytest.raises(InputError, match="block='picture'"):
        DepthSmoothness().energy(torch.zeros(1, 1, 64))


def test_the_occlusion_penalty_is_the_mean_thickness_nearby() -> None:
    space = VoxelSpace.box(9, LOW, HIGH, scale=1.0)
    fog = Voxels(
        torch.full((1, space.rows), math.log(math.expm1(1.5)), dtype=torch.float64),
        torch.zeros(1, space.rows, 1, 3, dtype=torch.float64),
        space,
    )
    A = VoxelRenderer(
        look_at(
            torch.tensor([[0.0, 0.0, -1.5]], dtype=torch.float64), size=(2, 2), field_of_view=0.1
        ),
        step=0.01,
    )
    for distance, inside in (
        (0.4, 0.0),
        (0.9, 0.4),
        (1.5, 1.0),
    ):  # the box begins 0.5 before the camera
        assert float(OcclusionPenalty(A, distance).energy(fog)) == pytest.approx(
            1.5 * inside, abs=0.016
        )
    splats = Splats.of_points(
        torch.tensor([[[0.0, 0.0, -0.5], [0.0, 0.0, 1.0]]]), torch.zeros(1, 2, 3), 0.5, 0.6
    )
    B = GaussianRenderer(
        look_at(torch.tensor([[0.0, 0.0, -1.5]]), size=(4, 4), field_of_view=1.0), background=1.0
    )
    assert float(OcclusionPenalty(B, 1.2).energy(splats)) == pytest.approx(0.6, abs=1e-3)
    assert float(OcclusionPenalty(B, 0.8).energy(splats)) == 0
    with pytest.raises(InputError, match="positive"):
        OcclusionPenalty(A, 0.0)
    with pytest.raises(InputError, match="takes a VoxelRenderer"):
        OcclusionPenalty(it.operators.Identity((1, 2)), 1.0)


@pytest.mark.parametrize("spread", ["entropy", "distortion"])
def test_fog_along_rays_has_more_spread_than_a_wall(spread: str) -> None:
    A = VoxelRenderer(cameras(2, size=(4, 4)), outputs=("alpha", spread), stop=0.0)  # type: ignore[arg-type]
    space = VoxelSpace.box(9, LOW, HIGH)
    inside = (space.places() - 4).abs().amax(1) < 1.5
    thin = torch.cat([torch.full((1, space.rows), s) for s in (-1.0, -40.0)])
    thin = torch.cat([thin, torch.where(inside, 8.0, -40.0)[None]])
    x = Voxels(thin.double(), torch.zeros(3, space.rows, 1, 3, dtype=torch.float64), space)
    prior = RaySpread() @ A
    fog, nothing, wall = prior.energy(x).tolist()
    assert fog > 3 * wall > 0 and nothing == 0
    assert torch.equal(prior.energy(Voxels(x.density[:1], x.color[:1], space)), prior.energy(x)[:1])
    seen = A(x)[:1]
    met = seen[:, 0] > 0.1
    assert float(prior.energy(x)[0]) == pytest.approx(float(seen[:, 1][met].mean()))
    # Fog of a constant density sigma over a length L has the entropy of an exponential distribution
    # that ends at L, less the logarithm of the step.
    if spread == "entropy":
        length, sigma, step = 2.0, space.scale * math.log1p(math.exp(-1.0)), 0.01
        camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(1, 1), field_of_view=1.0)
        seen = VoxelRenderer(camera, outputs=("alpha", "entropy"), step=step, stop=0.0)(x)[0]
        alpha = -math.expm1(-sigma * length)
        mean = 1 / sigma - length * (1 - alpha) / alpha
        assert float(seen[1]) == pytest.approx(
            math.log(alpha / sigma / step) + sigma * mean, abs=1e-2
        )
    with pytest.raises(InputError, match="two channels"):
        RaySpread().energy(seen[None, :1])
    with pytest.raises(InputError, match="two channels"):
        RaySpread().energy(torch.ones(3, 2))
    with pytest.raises(InputError, match="least_alpha"):
        RaySpread(1.0)


def test_a_prior_through_a_renderer_draws_views_by_the_iteration_alone() -> None:
    A, x = VoxelRenderer(cameras(6), outputs=("depth",), block="picture"), voxels()
    prior = ThroughOperator(DepthSmoothness(), A, subset_size=2, seed=3)
    assert torch.allclose(
        prior.energy(x), DepthSmoothness().energy(A(x))
    )  # before a solver asks, everything
    seen = [prior.at(k) for k in range(8)]
    assert (
        torch.equal(prior.at(5).energy(x), seen[5].energy(x))
        and len({tuple(p.drawn.tolist()) for p in seen}) > 1
    )  # type: ignore[union-attr]
    one = prior.at(1)
    assert one.drawn is not None
    assert torch.allclose(
        one.energy(x), DepthSmoothness().energy(A(x)[:, :, one.drawn]), atol=1e-12
    )
    slope = one.gradient(x)
    assert isinstance(slope, Voxels) and torch.equal(slope.color, torch.zeros_like(x.color))

    def energy(density: Tensor) -> Tensor:
        return one.energy(x._replace(density=density)).sum()

    (wanted,) = torch.autograd.grad(energy(free := x.density.clone().requires_grad_(True)), free)
    assert torch.allclose(slope.density, wanted)
    with pytest.raises(InputError, match="blocks"):
        ThroughOperator(DepthSmoothness(), A, subset_size=7)


def test_a_misfit_of_blocks_counts_for_all_of_them() -> None:
    A, x = VoxelRenderer(cameras(6), outputs=("depth",), block="picture"), voxels()
    y = torch.ones(1, 1, 6, 8, 8, dtype=torch.float64)
    prior = ThroughOperator(Misfit(y, it.data_terms.LeastSquares()), A, subset_size=2)
    whole = prior.energy(x)
    assert torch.allclose(whole, 0.5 * (A(x) - 1).square().flatten(1).sum(1))
    parts = torch.stack(
        [
            (Misfit(y, it.data_terms.LeastSquares()).subset([k])).energy(A.subset([k])(x))
            for k in range(6)
        ]
    )
    assert torch.allclose(parts.mean(0), whole)
    alone = (
        prior.at(4).select(torch.tensor([1])).energy(Voxels(x.density[1:], x.color[1:], x.space))
    )
    assert torch.allclose(alone, prior.at(4).energy(x)[1:])


def test_priors_of_renderings_steer_a_solve() -> None:
    """Unseen views with smooth depths: the same loop, the same bits twice, and smoother depths than without."""
    seen, unseen = cameras(2), cameras(5)
    A = VoxelRenderer(seen, background=1.0)
    problem = it.Problem(A(voxels(1, 9, 4)._replace()).float(), A)
    grid = VoxelGrid(VoxelSpace.box(9, LOW, HIGH))
    depths = VoxelRenderer(unseen, outputs=("depth",), block=4)
    prior = ThroughOperator(DepthSmoothness(), depths, subset_size=6)
    adam = it.solvers.Adam(learning_rate=0.1, subset_size=64, max_iterations=30, tolerance=0.0)
    runs = [
        it.solve(problem, grid + weight * prior, adam, progress=False)
        for weight in (0.0, 30.0, 30.0)
    ]
    assert torch.equal(runs[1].x.density, runs[2].x.density)
    roughness = [float(DepthSmoothness().energy(depths(run.x))) for run in runs]
    assert roughness[1] < 0.7 * roughness[0]


def wall_seen(
    camera: Cameras, normal: Tensor, distance: float, shown: Tensor, alpha: float = 0.8
) -> Tensor:
    """A plane ``n . x = distance`` seen whole, with normals that are all ``shown``: ``(1, 5, camera, row, column)``."""
    origins, directions = camera.rays()
    depth = (distance - origins @ normal) / (directions @ normal)
    assert bool((depth > 0).all())
    color = (alpha * shown).expand(*depth.shape, 3)
    return torch.cat(
        [color, torch.full_like(depth, alpha)[..., None], depth[..., None]], -1
    ).movedim(-1, 0)[None]


def test_normals_are_compared_with_those_of_the_plane_that_the_depths_make() -> None:
    views = cameras(3, (9, 11)).to(torch.float64)
    # A plane in front of each camera, so of one at a time; tilted, so that depths differ.
    for k in range(3):
        camera = views[k]
        facing = functional.normalize(
            camera.centres[0] + torch.tensor([0.6, 0.8, 0.3], dtype=torch.float64), dim=0
        )
        axis = functional.normalize(
            torch.linalg.cross(facing, torch.tensor([0.0, 1.0, 0.2], dtype=torch.float64)), dim=0
        )
        for angle in (0.0, 0.4, math.pi):
            shown = math.cos(angle) * facing + math.sin(angle) * torch.linalg.cross(axis, facing)
            energy = NormalConsistency(camera).energy(wall_seen(camera, facing, 0.2, shown))
            assert float(energy) == pytest.approx(0.8 * (1 - math.cos(angle)), abs=1e-12)


def test_normals_are_not_compared_over_edges_and_where_nothing_is() -> None:
    camera = cameras(1, (9, 9)).to(torch.float64)
    facing = functional.normalize(camera.centres[0], dim=0)
    tilted = functional.normalize(
        facing + torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64), dim=0
    )
    near, far = (wall_seen(camera, facing, distance, tilted) for distance in (1.0, -1.0))
    half = near.clone()
    half[..., 5:] = far[..., 5:]  # depths 3 and 5
    wanted = 0.8 * (1 - float(facing @ tilted))
    assert float(NormalConsistency(camera).energy(half)) == pytest.approx(wanted, abs=1e-12)
    assert float(NormalConsistency(camera, tolerance=10.0).energy(half)) > 1.01 * wanted
    half[:, 3:, :, :, 5:] = 0
    half[:, :3, :, :, 5:] = 0
    assert float(NormalConsistency(camera).energy(half)) == pytest.approx(wanted, abs=1e-12)
    assert float(NormalConsistency(camera).energy(0 * half)) == 0
    pair = torch.cat([half, near])  # an item is the same alone and in company
    assert torch.equal(
        NormalConsistency(camera).energy(pair)[1:], NormalConsistency(camera).energy(near)
    )
    assert torch.autograd.gradcheck(NormalConsistency(camera).energy, [half.requires_grad_(True)])
    for wrong in (near[:, :4], near[..., :8], near[:, :, [0, 0]]):
        with pytest.raises(InputError, match="normal, alpha and depth"):
            NormalConsistency(camera).energy(wrong)


def test_gaussians_turn_into_the_surface_that_they_make() -> None:
    side = torch.linspace(-0.9, 0.9, 24)
    points = torch.cat([torch.cartesian_prod(side, side), torch.zeros(576, 1)], 1)  # a wall
    views = look_at(
        torch.tensor([[0.0, 0.0, -4.0], [0.8, 0.2, -3.9]]), size=(24, 24), field_of_view=20.0
    )
    A = GaussianRenderer(views, outputs=("normal", "alpha", "depth"))
    whole = NormalConsistency(views) @ A
    gaussians = Gaussians(
        points,
        degree=0,
        strategy=None,
        opacity=0.9,
        rates={"means": 0.0, "log_scales": 0.0, "logit_opacities": 0.0},
    )
    start = {
        **gaussians.initial(),
        "log_scales": torch.tensor([0.06, 0.06, 0.002]).log().expand(1, 576, 3),
    }
    along = gaussians.decode(start)
    start["quats"] = start["quats"] + 0.35 * torch.randn(
        1, 576, 4, generator=torch.Generator().manual_seed(2)
    )
    nothing = it.operators.NoMeasurement()
    prior = gaussians + 1.0 * ThroughOperator(NormalConsistency(views), A, subset_size=1)
    found = it.solve(
        it.Problem(nothing.measurements(), nothing),
        prior,
        it.solvers.Adam(learning_rate=0.5),
        initial=start,
        max_iterations=30,
        tolerance=0.0,
        progress=False,
    )
    before, after = float(whole.energy(gaussians.decode(start))), float(whole.energy(found.x))
    assert float(whole.energy(along)) < 0.01 < 0.1 < before and after < 0.25 * before
