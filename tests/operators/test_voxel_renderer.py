"""The renderer of voxels as an operator: shapes, subsets, poses; and the grid that is found through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace, resample
from invtoolbox.operators import VoxelRenderer
from invtoolbox.priors import VoxelGrid, VoxelVariation

LOW, HIGH = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)


def ring(count: int = 6, size: tuple[int, int] = (12, 12)) -> Cameras:
    angle = torch.arange(count) * (2 * torch.pi / count)
    return look_at(
        torch.stack([4 * angle.cos(), torch.linspace(-1.5, 1.5, count), 4 * angle.sin()], dim=1),
        size=size,
        field_of_view=30.0,
    )


def ball(n: int = 13) -> Voxels:
    """A ball of radius 0.6, red on one side and blue on the other."""
    space = VoxelSpace.box(n, LOW, HIGH)
    p = space.places() / (n - 1) * 2.0 - 1
    density = torch.where(p.norm(dim=1) < 0.6, 4.0, -8.0)
    side = torch.sigmoid(4 * p[:, 0])
    color = 4 * torch.stack([side - 0.5, torch.full_like(side, -0.5), 0.5 - side], dim=1)
    return Voxels(density[None], color[None, :, None], space)


def test_a_subset_is_a_part_of_the_whole() -> None:
    A = VoxelRenderer(ring(), outputs=("color", "alpha", "depth"), background=1.0)
    whole = A(ball())
    index = torch.tensor([5, 100, 431, 863])
    assert whole.shape == (1, 5, 864) and A.range_shape == (5, 864)
    part = A.subset(index)
    assert torch.allclose(part(ball()), whole[:, :, index], atol=2e-5) and part.range_shape == (
        5,
        4,
    )
    assert torch.equal(A.measurements(A.pictures(whole)), whole) and A.pictures(whole).shape == (
        1,
        6,
        5,
        12,
        12,
    )
    assert torch.allclose(part.subset([1, 3])(ball()), whole[:, :, [100, 863]], atol=2e-5)


def test_rays_are_drawn_once_each_and_from_every_picture() -> None:
    A = VoxelRenderer(ring())
    drawn = A.draw_blocks(100, torch.Generator().manual_seed(1))
    assert len(drawn.unique()) == 100 and len((drawn // 144).unique()) == 6
    assert torch.equal(
        drawn, A.draw_blocks(100, torch.Generator().manual_seed(1))
    ) and not torch.equal(drawn, A.draw_blocks(100))
    assert torch.equal(A.draw_blocks(864, torch.Generator().manual_seed(2)), torch.arange(864))


def test_lidar_ranges_come_from_the_same_kernel() -> None:
    o = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    A = VoxelRenderer((o, -o / 3), outputs=("median_depth", "alpha"), step=0.02)
    ranges = A(ball(25))[0]
    assert (ranges[0] - 2.4).abs().max() < 0.1 and ranges[1].min() > 0.99


def test_the_pose_is_a_parameter() -> None:
    A, x = VoxelRenderer(ring(2, (5, 5))), ball()
    twist = torch.zeros(2, 6, requires_grad=True)
    prediction = A.with_parameters(twist=twist)(x)
    assert torch.allclose(prediction.detach(), A(x), atol=2e-5)
    prediction.square().sum().backward()
    assert twist.grad is not None and bool((twist.grad.abs().sum(1) > 0).all())


def test_a_grid_is_found_from_pictures_and_refined() -> None:
    A, truth = VoxelRenderer(ring(8), background=1.0), ball()
    y = A(truth)
    problem = it.Problem(y, A)
    adam = it.solvers.Adam(learning_rate=0.2, beta_square=0.99, subset_size=400)
    coarse = VoxelGrid(VoxelSpace.box(9, LOW, HIGH))
    first = it.solve(problem, coarse, adam, max_iterations=60, tolerance=0, progress=False)
    finer, start = coarse.refine(first.parameters, 13, least_alpha=0.02)
    assert finer.space.shape == (13, 13, 13) and finer.space.rows < 13**3
    second = it.solve(
        problem, finer, adam, initial=start, max_iterations=80, tolerance=0, progress=False
    )
    unseen = VoxelRenderer(
        look_at(torch.tensor([[2.5, 2.0, 2.2]]), size=(12, 12), field_of_view=30.0), background=1.0
    )
    errors = [float((unseen(s.x) - unseen(truth)).square().mean()) for s in (first, second)]
    assert errors[1] < errors[0] < 0.02 and errors[1] < 0.004
    again = it.solve(
        problem, finer, adam, initial=start, max_iterations=80, tolerance=0, progress=False
    )
    assert torch.equal(again.x.density, second.x.density)


def test_a_refined_grid_renders_what_it_started_from() -> None:
    A, x = VoxelRenderer(ring(3), step=0.02), ball(9)
    grid = VoxelGrid(x.space)
    finer, start = grid.refine({"density": x.density, "color": x.color}, 17, least_alpha=1e-3)
    assert finer.space.rows < 17**3
    # Nodes of the finer grid that are those of the coarse one hold the same; between them both
    # interpolate.
    assert torch.allclose(A(finer.decode(start)), A(x), atol=5e-3)


@pytest.mark.parametrize("of", ["density", "color"])
def test_variation_is_that_of_dense_differences(of: str) -> None:
    space = VoxelSpace.box((4, 3, 5), LOW, HIGH)
    g = torch.Generator().manual_seed(0)
    x = Voxels(
        torch.randn(2, 60, generator=g, dtype=torch.float64),
        torch.randn(2, 60, 4, 3, generator=g, dtype=torch.float64),
        space,
    )
    prior = VoxelVariation(of, smoothing=0.1)  # type: ignore[arg-type]
    grid = (x.density if of == "density" else x.color).reshape(2, 4, 3, 5, -1)
    slopes = [
        torch.cat([torch.diff(grid, dim=axis), torch.zeros_like(grid.narrow(axis, 0, 1))], dim=axis)
        for axis in (1, 2, 3)
    ]
    wanted = ((torch.stack(slopes).square().sum(0) + 0.01).sqrt() - 0.1).flatten(1).sum(1) / 60
    assert torch.allclose(prior.energy(x), wanted)

    def energy(values: Tensor) -> Tensor:
        return prior.energy(x._replace(**{of: values}))

    assert torch.autograd.gradcheck(energy, [getattr(x, of).clone().requires_grad_(True)])


def test_variation_of_kept_nodes_knows_no_others() -> None:
    space = VoxelSpace.box(6, LOW, HIGH)
    occupied = torch.zeros(5, 5, 5, dtype=torch.bool)
    occupied[0, 0, 0] = occupied[3, 3, 3] = True
    some = space.keep_cells(occupied)
    values = torch.zeros(1, 16, dtype=torch.float64)
    values[:, 8:] = 5.0  # the second cube, which touches the first one nowhere
    x = Voxels(values.requires_grad_(True), torch.zeros(1, 16, 1, 3, dtype=torch.float64), some)
    assert float(VoxelVariation("density").energy(x).detach()) == pytest.approx(0.0, abs=1e-12)
    bent = values.detach().clone()
    bent[0, 3] = 1.0
    assert torch.autograd.gradcheck(
        lambda v: VoxelVariation("density").energy(x._replace(density=v)),
        [bent.requires_grad_(True)],
    )


def test_grids_go_to_and_fro_between_all_nodes_and_those_kept() -> None:
    space = VoxelSpace.box((4, 5, 3), LOW, HIGH)
    some = space.keep_cells(torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) > 0.7)
    values = torch.randn(2, some.rows, 3)
    assert torch.equal(some.gather(some.spread(values)), values)
    assert torch.equal(some.places(), (some.spread(torch.ones(1, some.rows))[0] > 0).nonzero())
    linear = torch.stack(
        torch.meshgrid(*(torch.linspace(0, 1, n) for n in (4, 5, 3)), indexing="ij"), dim=-1
    )[None]
    finer = torch.stack(
        torch.meshgrid(*(torch.linspace(0, 1, n) for n in (7, 6, 9)), indexing="ij"), dim=-1
    )[None]
    assert torch.allclose(resample(linear, (7, 6, 9)), finer, atol=1e-6)


def test_what_does_not_fit_is_said() -> None:
    A = VoxelRenderer(ring())
    with pytest.raises(InputError, match="takes Voxels"):
        A(torch.zeros(1, 3))
    with pytest.raises(InputError, match="channels"):
        A(ball()._replace(color=ball().color[..., :1]))
    with pytest.raises(InputError, match="output"):
        VoxelRenderer(ring(), outputs=("colors",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing would be left"):
        VoxelGrid(VoxelSpace.box(4, LOW, HIGH)).refine(
            {"density": torch.full((1, 64), -30.0), "color": torch.zeros(1, 64, 1, 3)}
        )
    with pytest.raises(InputError, match="mask"):
        VoxelSpace.box(4, LOW, HIGH).keep_cells(torch.ones(2, 2, 2, dtype=torch.bool))
