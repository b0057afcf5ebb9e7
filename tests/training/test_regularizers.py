"""Regularizers of a training: the largest gain of a linear network, item by item."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.training import L1, L2, EveryWeight, WorstDirection


def network(values: tuple[float, ...]) -> nn.Linear:
    result = nn.Linear(len(values), len(values), bias=False)
    with torch.no_grad():
        result.weight.copy_(torch.diag(torch.tensor(values)))
    return result


def test_the_penalty_lies_between_the_mean_and_the_largest_gain() -> None:
    y = torch.zeros(200, 8)
    values = (3.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    found = WorstDirection(1.0, 0.2).penalty(network(values), y, Generator().manual_seed(0))
    mean = sum(v**2 for v in values) / 8
    assert mean < float(found.mean().detach()) and float(found.max().detach()) <= 9.0001


def test_the_derivative_of_the_weights_lowers_the_gain() -> None:
    f, y = network((3.0, 1.0, 1.0)), torch.randn(4, 3, generator=Generator().manual_seed(1))
    loss = WorstDirection(1.0, 0.1, L1())
    loss.of_network(f, y, y, Generator().manual_seed(0)).mean().backward()
    assert f.weight.grad is not None and float(f.weight.grad[0, 0]) > 0


def test_an_item_gets_the_same_penalty_alone() -> None:
    f, y = network((2.0, 1.0, 0.1)), torch.randn(3, 3, generator=Generator().manual_seed(1))
    loss = WorstDirection(0.5, 0.1)
    together = loss.penalty(f, y, Generator().manual_seed(0))
    first = loss.penalty(f, y[:1], Generator().manual_seed(0))
    torch.testing.assert_close(together[:1], first)


def test_a_constant_network_has_no_penalty() -> None:
    f, y = network((0.0, 0.0)), torch.ones(2, 2)
    found = WorstDirection(1.0, 10.0).penalty(f, y, Generator().manual_seed(0))
    assert found.tolist() == [0, 0]


def test_bad_input_is_refused() -> None:
    for weight, size in ((0.0, 0.1), (1.0, 0.0)):
        with pytest.raises(InputError, match="positive"):
            WorstDirection(weight, size, L2())
    with pytest.raises(InputError, match="complex"):
        y = torch.zeros(1, 3, dtype=torch.complex64)
        WorstDirection(1.0, 0.1).penalty(network((1.0, 1.0, 1.0)), y, Generator())


def test_a_network_that_knows_the_weight_is_penalized_at_the_weights_of_its_range() -> None:
    A, y = it.operators.Identity((3,)), torch.ones(4, 3)
    conditioned = it.unrolling.Conditioned(network((2.0, 2.0, 2.0)), weights=(0.1, 10.0))
    loss = WorstDirection(0.5, 0.1, EveryWeight(A, it.priors.Tikhonov()))
    plain = loss.loss.of_network(conditioned, y, y, Generator().manual_seed(0))
    found = loss.of_network(conditioned, y, y, Generator().manual_seed(0))
    torch.testing.assert_close(found - plain, torch.full((4,), 2.0))


def test_a_network_that_returns_no_image_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return y, y

    with pytest.raises(InputError, match="return a tensor"):
        WorstDirection(0.5, 0.1).penalty(Pair(), torch.ones(1, 3), Generator())
