"""Closed normal equations of rigid tracks: those of automatic differentiation, and body by body."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.geometry.surface_normals import Surface, normals
from invtoolbox.jobs.flow.tracks import Refinement, Tracks
from invtoolbox.jobs.flow.window import Neighbour
from invtoolbox.objective.linearization import Linearization

STEPS = (-2.0, -1.0, 1.0)
TAU = 0.4


def bodies(seed: int = 0) -> list[torch.Tensor]:
    """Points of two boxes of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((60, [4.0, 1.8, 1.4], [5.0, 2.0, 0.7]), (25, [0.6, 0.5, 1.7], [-3.0, 6.0, 0.9]))
    found = []
    for count, size, place in sizes:
        points = torch.rand(count, 3, generator=generator) - 0.5
        points[:, :1] = torch.where(points[:, :1] > 0.2, 0.5, points[:, :1])
        found.append(points * torch.tensor(size) + torch.tensor(place))
    return found


def scans() -> list[Neighbour]:
    """Noisy copies of the bodies that move and turn, one per step."""
    generator = torch.Generator().manual_seed(1)
    moved = []
    for step in STEPS:
        clouds = [
            points + step * torch.tensor([0.4, 0.1 * (k + 1), 0.0])
            for k, points in enumerate(bodies())
        ]
        cloud = torch.cat(clouds)
        moved.append(Neighbour(cloud + 0.02 * torch.randn(cloud.shape, generator=generator), step))
    return moved


def refinement(chosen: list[int], sweeps: list[Neighbour]) -> Refinement:
    clouds = [bodies()[k] for k in chosen]
    places = torch.cat(clouds)
    sizes = torch.tensor([len(cloud) for cloud in clouds])
    normal, thickness = (torch.cat(columns) for columns in zip(*(normals(c) for c in clouds)))

    def search(moved: torch.Tensor) -> tuple[torch.Tensor, ...]:
        partners = []
        for k, sweep in enumerate(sweeps):
            row = sweep.query(moved[:, k])[1]
            sides = sweep.surface(False)
            partners.append((sweep.points[row], sides[0][row], sides[1][row].clamp_min(0.02)))
        return tuple(torch.stack(columns, 1) for columns in zip(*partners))

    return Refinement(
        places=places,
        body=torch.arange(len(clouds)).repeat_interleave(sizes),
        sizes=sizes,
        normals=normal,
        across=thickness.clamp_min(0.005),
        search=search,
        along=0.005,
        upright=1.0,
        smooth=0.3,
    )


def unknowns(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    names = ("turn", "translation", "bend")
    return {name: 0.2 * torch.randn(2, 3, generator=generator)[:count] for name in names}


def tracks(refine: Refinement, sweeps: list[Neighbour], count: int) -> Tracks:
    return refine.start(unknowns(count), sweeps)


@pytest.mark.parametrize("k", [0, 1])
def test_value_gradient_and_matrix_are_those_of_automatic_differentiation(k: int) -> None:
    """`PlaneToPlane` on a `RigidTrack`, in the one sweep of each time, is the oracle."""
    sweeps = scans()
    refine = refinement([k], sweeps)
    start = refine.start({n: t[k : k + 1] for n, t in unknowns(2).items()}, sweeps)
    arms, apart, metric = refine._at(start)
    value = refine._energy(start, apart, metric, TAU)
    H, g = refine._equations(start, arms, apart, metric, TAU)
    # One cloud of all sweeps, kept apart in time, as `PlaneToPlane` searches it.
    cloud, places = torch.cat([sweep.points for sweep in sweeps]), bodies()[k]
    count = [len(sweep.points) for sweep in sweeps]
    when = torch.arange(3.0).repeat_interleave(torch.tensor(count)) * 100
    normal, thickness = (
        torch.cat(columns) for columns in zip(*(sweep.surface(False) for sweep in sweeps))
    )

    def spread(normal: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        outer = normal[:, :, None] * normal[:, None, :]
        return torch.eye(3) + (across - 1)[:, None, None] * outer

    surface = replace(
        Surface.of(cloud, when), covariances=spread(normal, thickness.clamp_min(0.02))
    )
    term = it.data_terms.PlaneToPlane(
        scale=(TAU, TAU),
        covariances=spread(refine.normals, refine.across)[None].repeat(1, 3, 1, 1),
        surface=surface,
        times=(100 * torch.arange(3.0).repeat_interleave(len(places))[None], when[None]),
    )
    prior = it.priors.RigidTrack(STEPS)
    at_rest = places[None].repeat(1, 3, 1)
    problem = it.Problem(cloud[None], it.operators.PointWarp(at_rest), term)
    seen: dict[str, Any] = {}

    class Look(it.solvers.LevenbergMarquardt):
        """Levenberg-Marquardt whose first evaluation is kept."""

        def init(self, objective, start):
            state = super().init(objective, start)
            columns = [
                Linearization(objective, start).product(torch.eye(9)[j : j + 1]) for j in range(9)
            ]
            # The order of the unknowns is the solver's own: it is read off the parameters.
            seen.update(state=state, H=torch.cat(columns), x=start)
            return state

    initial = {n: t[k : k + 1] for n, t in unknowns(2).items()}
    it.solve(problem, prior, Look(max_iterations=1), initial=dict(initial), progress=False)
    flat = start.unknowns[0]
    order = [int((seen["x"][0] == value).nonzero()[0, 0]) for value in flat]
    assert sorted(order) == list(range(9))
    torch.testing.assert_close(value.float(), seen["state"].value, rtol=1e-4, atol=1e-6)
    gradient, matrix = seen["state"].gradient[0][order], seen["H"][order][:, order]
    torch.testing.assert_close(g[0].float(), gradient, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(H[0].float(), matrix, rtol=1e-3, atol=1e-3)


def test_a_body_alone_gives_what_it_gives_among_others() -> None:
    sweeps = scans()
    both = refinement([0, 1], sweeps)
    together = both(tracks(both, sweeps, 2), 8, 1.0)
    for k in (0, 1):
        one = refinement([k], sweeps)
        start = one.start({n: t[k : k + 1] for n, t in unknowns(2).items()}, sweeps)
        assert torch.equal(one(start, 8, 1.0).unknowns[0], together.unknowns[k])


def test_the_motion_is_found_and_the_energy_falls() -> None:
    sweeps = scans()
    refine = refinement([0, 1], sweeps)
    rest = {name: torch.zeros(2, 3) for name in ("turn", "translation", "bend")}
    start = refine.start(rest, sweeps)
    end = refine(start, 10, 1.0)
    assert bool((refine.misfits(end).mean(1) < 0.1 * refine.misfits(start).mean(1)).all())
    moved = torch.tensor([[0.4, 0.1, 0.0], [0.4, 0.2, 0.0]])
    torch.testing.assert_close(end.unknowns[:, 3:6], moved, atol=0.03, rtol=0)
    # Half of the way is what a body does in one period whose track takes two.
    half = end.ahead(torch.full((2,), 2.0))
    middle = torch.einsum("hij,hj->hi", half[:, :3, :3], end.centre) + half[:, :3, 3] - end.centre
    torch.testing.assert_close(middle, end.unknowns[:, 3:6] / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [1.0, -1.0])
def test_one_sweep_determines_no_change_of_velocity(step: float) -> None:
    sweeps = [scan for scan in scans() if scan.step == step]
    refine = refinement([0, 1], sweeps)
    rest = {name: torch.zeros(2, 3) for name in ("turn", "translation", "bend")}
    end = refine(refine.start(rest, sweeps), 10, 1.0)
    assert not bool(end.unknowns[:, 6:].any())
    torch.testing.assert_close(
        end.unknowns[:, 3:5], torch.tensor([[0.4, 0.1], [0.4, 0.2]]), atol=0.04, rtol=0
    )
