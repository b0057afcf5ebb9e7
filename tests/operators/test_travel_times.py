"""Travel times: closed forms, the peer, derivatives, batches, subsets, and places outside."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import TravelTimes


def line(count: int, length: float, depth: float = 0.0) -> torch.Tensor:
    return torch.stack([torch.full((count,), depth), torch.linspace(0, length, count)], 1)


def operator(grid: tuple[int, ...], seed: int = 0, spacing: float = 10.0) -> TravelTimes:
    """Return a survey of two shots and five receivers at random places between the nodes."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([(n - 1) * spacing for n in grid])
    shots, receivers = (torch.rand(n, len(grid), generator=generator) * extent for n in (2, 5))
    return TravelTimes(grid, spacing, shots, receivers, (500.0, 6000.0))


def media(grid: tuple[int, ...], count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 1500 + 30 * torch.randn(count, 1, *grid, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("grid", [(12, 17), (6, 7, 8)])
def test_contract_and_derivative(grid: tuple[int, ...]) -> None:
    A, x = operator(grid), media(grid)
    it.testing.check_operator(A, x, precisions=[torch.float64])
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    h = 1e-4
    slope = (A(x + h * direction) - A(x - h * direction)) / (2 * h)
    J = A.linearize(x)
    torch.testing.assert_close(J(direction), slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))
    free = x.clone().requires_grad_(True)
    y = torch.linspace(1, 2, slope.numel(), dtype=x.dtype).view(slope.shape)
    (gradient,) = torch.autograd.grad((A(free) * y).sum(), free)
    assert torch.equal(gradient, J.adjoint(y))


@pytest.mark.parametrize("grid", [(9, 11), (5, 6, 7)])
def test_a_homogeneous_medium_is_exact(grid: tuple[int, ...]) -> None:
    A = operator(grid, seed=3)
    distance = 10 * torch.cdist(A.shots, A.receivers)
    times = A(torch.full((1, 1, *grid), 2000.0, dtype=torch.float64))
    torch.testing.assert_close(times[0, 0], distance / 2000, rtol=1e-12, atol=0)


def test_a_gradient_of_the_velocity() -> None:
    """T = arcosh(1 + b^2 d^2 / (2 v_1 v_2)) / b; the error falls with the square of the spacing."""
    shots = torch.tensor([[0.0, 0.0], [117.0, 534.0]], dtype=torch.float64)
    receivers = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    receivers = receivers * torch.tensor([500.0, 1000.0])
    square = (receivers - shots[:, None]).square().sum(-1)
    product = (1500 + 0.8 * shots[:, None, 0]) * (1500 + 0.8 * receivers[:, 0])
    truth = (1 + 0.64 * square / (2 * product)).acosh() / 0.8
    errors = []
    for spacing in (50.0, 25.0):
        grid = (round(1000 / spacing) + 1, round(1000 / spacing) + 1)
        depth = spacing * torch.arange(grid[0], dtype=torch.float64)
        x = (1500 + 0.8 * depth)[:, None].expand(grid)[None, None]
        A = TravelTimes(grid, spacing, shots, receivers, (500.0, 6000.0))
        errors.append(float((A(x)[0, 0] - truth).abs().mean()))
    assert errors[0] < 1e-4 and errors[1] < 0.4 * errors[0], errors


#: fteikpy's times of the first shot at the receivers. It runs in a process of its own, because its
#: import makes deepwave, in the same process, many times slower.
PEER = """
import json, sys
import numpy as np

try:
    from fteikpy import Eikonal2D
except ImportError:
    print("null")
    sys.exit()
cells, shots, receivers = map(np.asarray, json.load(sys.stdin))
(times,) = Eikonal2D(cells, gridsize=(25.0, 25.0)).solve(shots)
print(json.dumps(times(receivers).tolist()))
"""


def test_fteikpy_agrees_on_layers() -> None:
    velocity = np.full((41, 81), 1500.0)
    velocity[16:], velocity[28:] = 2200.0, 3200.0
    velocity[8:20, 30:45] = 1900.0
    cells = 0.25 * (velocity[1:, 1:] + velocity[:-1, 1:] + velocity[1:, :-1] + velocity[:-1, :-1])
    shots, receivers = torch.tensor([[25.0, 500.0]]), line(41, 2000.0, 25.0)
    done = subprocess.run(
        [sys.executable, "-c", PEER],
        input=json.dumps([cells.tolist(), shots.tolist(), receivers.tolist()]),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(done.stdout)
    if expected is None:
        pytest.skip("fteikpy is not installed")
    A = TravelTimes((41, 81), 25.0, shots, receivers, (500.0, 6000.0))
    times = A(torch.from_numpy(velocity)[None, None])[0, 0, 0]
    # Half a cell of a layer's boundary is 6 ms there and back.
    assert float((times - torch.tensor(expected)).abs().max()) < 8e-3


def test_waves_pass_around_a_slow_body() -> None:
    velocity = torch.full((1, 1, 41, 41), 3000.0)
    velocity[..., 10:31, 20:22] = 500.0
    ends = torch.tensor([[200.0, 100.0]]), torch.tensor([[200.0, 300.0]])
    A = TravelTimes((41, 41), 10.0, *ends, (500.0, 6000.0))
    # Straight through, 20 m at 500 m/s cost 33 ms more; the way above is 2 sqrt(100^2 + 110^2).
    around = 2 * float(np.hypot(100, 110)) / 3000
    assert 0.0667 < float(A(velocity)) < 0.0667 + 0.0334
    velocity[..., 10:31, 20:22] = 50.0
    B = TravelTimes((41, 41), 10.0, *ends, (50.0, 6000.0))
    assert abs(float(B(velocity)) - around) < 5e-3
    assert B.times(velocity).shape == (1, 1, 41, 41)


def test_receivers_of_every_shot_and_subsets() -> None:
    shots, receivers = line(3, 100.0), torch.stack([line(4, 100.0, 10.0 * k) for k in range(3)])
    A = TravelTimes((6, 11), 10.0, shots, receivers, (500.0, 6000.0))
    x = media((6, 11), 1)
    y = A(x)
    assert y.shape == (1, 1, 3, 4)
    assert torch.equal(A.subset(torch.tensor([2, 0]))(x), y[:, :, [2, 0]])
    waves = pytest.importorskip("deepwave") and it.operators.AcousticWaves(
        (6, 11), 10.0, shots, receivers, it.simulation.ricker(20.0, 1e-3, 90), 1e-3, (1300, 2000)
    )
    assert torch.allclose(waves.travel_times()(x.clamp(1300, 2000)), A(x.clamp(1300, 2000)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": torch.tensor([[0.0, 500.0]])}, "1 of the shots lie outside of the grid"),
        ({"grid": (5,)}, "a grid of two or three axes"),
        ({"velocities": (0.0, 3000.0)}, "the least and the largest one in m/s, both positive"),
        ({"receivers": torch.zeros(2, 3, 2)}, "receivers are for 2 shots, and there are 1"),
        ({"receivers": torch.zeros(3)}, "positions of 2 coordinates in metres"),
    ],
)
def test_surveys_that_cannot_be(changes: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {
        "grid": (5, 6),
        "spacing": 10.0,
        "shots": torch.zeros(1, 2),
        "receivers": torch.zeros(3, 2),
        "velocities": (1000.0, 3000.0),
    }
    with pytest.raises(it.InputError, match=message):
        TravelTimes(**{**settings, **changes})  # type: ignore[arg-type]
