"""Events along a flow: the contract, exact motions, batches of slices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Events
from invtoolbox.operators import EventWarp


def drawn(seed: int, count: int, size: tuple[int, int] = (9, 12)) -> Events:
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] - 1, size[0] - 1])
    times = torch.rand(count, generator=generator).double().sort()[0]
    return Events.of(*place.unbind(1), times, polarity=torch.ones(len(times)), size=size)


def test_the_contract_of_an_operator() -> None:
    A = EventWarp([drawn(0, 30), drawn(1, 20)], references=3, grid=(2, 3, 3))
    generator = torch.Generator().manual_seed(5)
    x = 2 * torch.randn(2, *A.domain_shape, generator=generator, dtype=torch.float64)
    it.testing.check_operator(A, x)
    it.testing.check_operator(EventWarp(drawn(2, 25), references=2, grid=(2, 3, 3)), x)


def test_events_of_one_moving_point_meet() -> None:
    times = torch.linspace(0, 1, 21).double()
    events = Events.of(2 + 4 * times, 3 + 2 * times**2, times, size=(8, 10))
    A = EventWarp(events, references=3, grid=(41, 2, 2))
    down = (4 * torch.linspace(0, 1, 41)).view(1, 1, -1, 1, 1).expand(1, 1, 41, 2, 2)
    x = torch.cat([torch.full_like(down, 4.0), down], 1)
    places = A.move(x)[0]
    for reference, place in zip((0.0, 0.5, 1.0), places):
        goal = torch.tensor([2 + 4 * reference, 3 + 2 * reference**2])
        assert torch.allclose(place, goal.expand_as(place), atol=1e-5)
    gain = it.data_terms.Contrast().contrast(A(x)) / it.data_terms.Contrast().contrast(A(0 * x))
    assert bool((gain > 1.5).all())
    assert torch.equal(A(0 * x), A.measurements())
    assert torch.allclose(A(x).flatten(2).sum(2), torch.tensor(63.0))


def test_the_flow_is_linear_between_the_points_of_its_grid() -> None:
    size, grid = (9, 12), (3, 4, 5)
    A = EventWarp(drawn(4, 30, size), references=2, grid=grid)
    x = torch.randn(1, *A.domain_shape, generator=torch.Generator().manual_seed(6))
    axes = [np.linspace(0, last, n) for last, n in zip((1, size[0] - 1, size[1] - 1), grid)]
    columns, rows = A.places[0].T.numpy()
    points = np.stack([A.times[0].numpy(), rows, columns], 1)
    values = RegularGridInterpolator(axes, x[0].movedim(0, -1).numpy())(points)
    np.testing.assert_allclose(A.flow_at(x, A.places, A.times)[0], values, atol=1e-5)


def test_blocks_are_reference_times() -> None:
    A = EventWarp(drawn(3, 40), references=4, grid=(2, 2, 2))
    x = torch.ones(1, *A.domain_shape)
    assert A.blocks == 4
    assert torch.equal(A.subset(torch.tensor([3, 1]))(x), A(x)[:, :, [3, 1]])
    solver = it.solvers.Adam(learning_rate=0.1, subset_size=2)
    problem = it.Problem(A.measurements(), A, it.data_terms.Contrast())
    prior = it.priors.FlowSpline()
    solution = it.solve(problem, prior, solver, max_iterations=2, progress=False, check=False)
    assert solution.x.shape == (1, 2, 2, 2, 2)


def test_bad_events_are_refused() -> None:
    with pytest.raises(InputError, match="sensors of one size"):
        EventWarp([drawn(0, 5), drawn(0, 5, (9, 9))])
    with pytest.raises(InputError, match="without a duration"):
        EventWarp(Events.of([1, 2], [1, 2], [0.5, 0.5]))
    with pytest.raises(InputError, match="at least one reference"):
        EventWarp(drawn(0, 5), references=0)
