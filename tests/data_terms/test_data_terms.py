"""Data terms that are made of others, and what least squares state about themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import LeastSquares
from invtoolbox.data_terms.base import Stack
from invtoolbox.errors import InputError


def parts() -> tuple[Stack, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 1, 4), (2, 1, 6))
    p, y = (tuple(torch.randn(s, generator=generator) for s in shapes) for _ in range(2))
    return Stack(LeastSquares(0.5), LeastSquares(2.0), weights=(1.0, 3.0)), p, y


def test_a_stack_is_the_weighted_sum_of_its_terms() -> None:
    stack, p, y = parts()
    values = [term.value(a, b) for term, a, b in zip(stack.terms, p, y)]
    torch.testing.assert_close(stack.value(p, y), values[0] + 3 * values[1])
    value, gradients = stack.value_and_grad(p, y)
    torch.testing.assert_close(value, stack.value(p, y))
    torch.testing.assert_close(gradients[1], 3 * stack.terms[1].grad(p[1], y[1]))
    torch.testing.assert_close(gradients[0], stack.grad(p, y)[0])
    near = stack.prox(p, y, 0.7)
    torch.testing.assert_close(near[1], stack.terms[1].prox(p[1], y[1], 2.1))
    with pytest.raises(InputError, match="2 data terms and 1 weights"):
        Stack(LeastSquares(), LeastSquares(), weights=(1.0,))


def test_a_stack_expects_the_noise_of_all_terms() -> None:
    stack, _, y = parts()
    # The squares of the expected discrepancies are 4 and 6 values, weighted by 1 and 3.
    torch.testing.assert_close(stack.expected_discrepancy(y), torch.full((2,), 22.0**0.5))
    assert Stack(LeastSquares(0.5), LeastSquares()).expected_discrepancy(y) is None
    curvature = stack.curvature(y)
    assert curvature is not None
    torch.testing.assert_close(curvature, torch.tensor([4.0]))  # 1 / 0.25 and 3 / 4


def test_least_squares_state_symbol_and_curvature() -> None:
    y = torch.zeros(2, 1, 4)
    torch.testing.assert_close(LeastSquares(0.5).curvature(y), torch.tensor([4.0]))
    symbol, is_exact = LeastSquares(0.5).symbol(y)
    assert is_exact and bool((symbol == 4).all())
    uneven = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4)
    symbol, is_exact = LeastSquares(0.5, weights=uneven).symbol(y)
    assert not is_exact and bool((symbol == 10).all())  # the mean weight, 2.5, over 0.25
    torch.testing.assert_close(LeastSquares(0.5, weights=uneven).curvature(y), torch.tensor([16.0]))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (1, 4, 5), (1, 1, 4, 5), ()])
def test_weights_broadcast_as_tensors_do(shape: tuple[int, ...]) -> None:
    y = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    weights = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
    A = it.operators.Identity((1, 4, 5))

    def run(weights: Tensor) -> Tensor:
        problem = it.Problem(y, A, it.data_terms.LeastSquares(weights=weights))
        return it.solve(problem, "tv", regularization=0.1, max_iterations=5, progress=False).x

    assert torch.equal(run(weights), run(weights.expand(2, 1, 4, 5).clone()))


@pytest.mark.parametrize("shape", [(7,), (3, 1, 4, 5), (1, 1, 1, 4, 5)])
def test_weights_of_other_measurements_are_refused(shape: tuple[int, ...]) -> None:
    term = it.data_terms.LeastSquares(weights=torch.ones(shape))
    with pytest.raises(InputError, match="does not broadcast against the measurements"):
        it.Problem(torch.ones(2, 1, 4, 5), it.operators.Identity((1, 4, 5)), term)
