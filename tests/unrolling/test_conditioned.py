"""A network for every weight: its answers per item, its derivative, and learned best responses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.training import EveryWeight
from invtoolbox.unrolling import Conditioned


def conditioned(degree: int = 3) -> Conditioned:
    torch.manual_seed(0)
    network = Conditioned(nn.Linear(3, 2), (0.1, 10.0), degree)
    with torch.no_grad():
        for change in network.changes:
            change.normal_()
    return network.double()


def measured(count: int, size: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, size, generator=draw, dtype=torch.float64)


def test_items_get_their_own_weights_and_a_call_changes_nothing() -> None:
    network, y = conditioned(), measured(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    together = network(y, [0.1, 1.0, 10.0])
    for k, weight in enumerate((0.1, 1.0, 10.0)):
        assert torch.equal(together[k : k + 1], network(y[k : k + 1], weight))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert float((together[0] - network(y, 10.0)[0]).abs().max().detach()) > 0.1


def test_items_alone_have_the_bits_of_a_batch_and_images_may_be_complex() -> None:
    torch.manual_seed(0)
    network, y = Conditioned(nn.Linear(50, 60), (0.1, 10.0)).eval(), measured(5, 50).float()
    together = network(y, 0.5)
    assert all(torch.equal(network(y[k : k + 1], 0.5)[0], together[k]) for k in range(5))
    network, y = Conditioned(nn.Linear(3, 3, dtype=torch.complex64), (0.1, 10.0)), measured(2)
    loss = EveryWeight(it.operators.Identity((1, 3)), it.priors.Tikhonov())
    found = loss.of_network(network, y.to(torch.complex64), y, torch.Generator())
    assert found.shape == (2,) and not found.is_complex()


def test_parameters_are_chebyshev_polynomials_of_the_logarithm() -> None:
    network = conditioned(degree=3)
    t = torch.tensor(0.3, dtype=torch.float64)
    terms = [t, 2 * t**2 - 1, 4 * t**3 - 3 * t]
    with torch.no_grad():
        W, b = (
            p + sum(term * c for term, c in zip(terms, change))
            for p, change in zip(network.network.parameters(), network.changes)
        )
        y = measured(2)
        torch.testing.assert_close(network(y, float(10**t)), y @ W.T + b)


def test_the_weight_has_a_derivative_also_at_the_ends() -> None:
    network, y = conditioned(), measured(1)
    for value in (0.1, 1.0, 10.0):
        weight = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(network(y, weight).sum(), weight)
        step = 1e-6 * value * (1 if value < 10 else -1)
        change = float((network(y, value + step) - network(y, value)).sum().detach()) / step
        assert float(slope) == pytest.approx(change, rel=1e-4)


def test_a_linear_network_learns_the_ridge_solution_for_every_weight() -> None:
    draw = torch.Generator().manual_seed(0)
    A = torch.randn(12, 4, generator=draw) / 12**0.5
    y = torch.randn(60, 1, 12, generator=draw)
    torch.manual_seed(0)
    network = Conditioned(nn.Linear(12, 4, bias=False), (0.1, 1.0), degree=2)
    loss = EveryWeight(it.as_operator(A), it.priors.Tikhonov())
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss.of_network(network, y, y, torch.Generator().manual_seed(0)).mean()
        value.backward()
        return value

    optimizer.step(closure)
    for weight in (0.1, 0.3, 1.0):
        exact = y @ A @ torch.linalg.inv(A.T @ A + weight * torch.eye(4))
        with torch.no_grad():
            assert float((network(y, weight) - exact).norm() / exact.norm()) < 0.03


def test_every_weight_learns_from_the_measurements_and_not_from_the_truth() -> None:
    network, y = conditioned(), measured(2)
    loss = EveryWeight(it.as_operator(torch.eye(3, 2).double()), it.priors.Tikhonov())
    found = [
        loss.of_network(network, y, wanted, torch.Generator().manual_seed(0))
        for wanted in (y, torch.zeros_like(y))
    ]
    assert torch.equal(*found)


def test_bad_input_is_refused() -> None:
    network, y = conditioned(), measured(3)
    for weight in (0.01, 11.0, float("nan"), [0.1, 1.0]):
        with pytest.raises(InputError, match="knows weights from"):
            network(y, weight)
    with pytest.raises(InputError, match="range"):
        Conditioned(nn.Linear(1, 1), (1.0, 1.0))
    with pytest.raises(InputError, match="degree"):
        Conditioned(nn.Linear(1, 1), (0.1, 1.0), degree=0)
    A = it.operators.Identity((1, 3))
    loss = EveryWeight(A, it.priors.Tikhonov())
    with pytest.raises(InputError, match="knows the weight"):
        loss.of_network(nn.Identity(), y, y, torch.Generator())
    with pytest.raises(InputError, match="with an energy"):
        EveryWeight(A, it.priors.Denoiser(lambda x, sigma: x))
    with pytest.raises(InputError, match="without a weight"):
        EveryWeight(A, 0.1 * it.priors.Tikhonov())  # type: ignore[arg-type]
