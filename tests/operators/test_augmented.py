"""Operators behind random changes of the picture, and classifiers."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.testing import check_data_term


def add_noise(x: Tensor, generator: Generator) -> Tensor:
    return x + torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)


def test_draws_are_blocks_and_functions_of_the_seed() -> None:
    M = it.operators.Matrix(torch.eye(4, dtype=torch.float64))
    A = it.operators.Augmented(M, add_noise, draws=5, seed=3)
    x = torch.rand(2, 1, 4, dtype=torch.float64, generator=Generator().manual_seed(0))
    whole = A(x)
    assert whole.shape == (2, *A.range_shape) == (2, 1, 5, 4)
    assert torch.equal(whole, A(x)) and torch.equal(whole[1:], A(x[1:]))
    assert float((whole - x[:, :, None]).std()) == pytest.approx(1, abs=0.4)
    assert not torch.equal(whole[:, :, 0], whole[:, :, 1])
    part = A.subset(torch.tensor([4, 1]))
    assert part.blocks == 2 and torch.equal(part(x), whole[:, :, [4, 1]])
    doubled = A.with_parameters(matrix=2 * M.matrix)
    torch.testing.assert_close(doubled(x), 2 * whole)
    other = it.operators.Augmented(M, add_noise, draws=5, seed=4)
    assert not torch.equal(other(x), whole)


def test_operators_of_items_are_selected() -> None:
    M = it.operators.Identity((1, 4)) * torch.tensor([1.0, 3.0])
    A, x = it.operators.Augmented(M, add_noise, draws=2), torch.ones(2, 1, 4)
    assert torch.equal(A.select(torch.tensor([1]))(x[1:]), A(x)[1:])
    pair = it.operators.Augmented(it.operators.Matrix(torch.eye(4)), add_noise, draws=2)
    pair = pair.with_parameters(matrix=torch.stack([torch.eye(4), 2 * torch.eye(4)]))
    assert torch.equal(pair.select(torch.tensor([1]))(x[1:]), pair(x)[1:])


def test_the_operator_and_its_draws_are_checked() -> None:
    both = it.operators.stack([it.operators.Identity((1, 4))] * 2)
    with pytest.raises(it.InputError, match="one tensor of measurements"):
        it.operators.Augmented(both, add_noise)
    with pytest.raises(it.InputError, match="draws of Augmented must be at least 1"):
        it.operators.Augmented(it.operators.Identity((1, 4)), add_noise, draws=0)


def test_cross_entropy_is_that_of_torch() -> None:
    generator = Generator().manual_seed(0)
    p = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (3, 5), generator=generator)
    y = nn.functional.one_hot(labels, 4).movedim(-1, 1).double()
    term = it.data_terms.CrossEntropy()
    expected = nn.functional.cross_entropy(p, labels, reduction="none").sum(1)
    torch.testing.assert_close(term.value(p, y), expected)
    check_data_term(term, p, y)
    soft = p.softmax(1)
    torch.testing.assert_close(term.value(p, soft), torch.zeros(3, dtype=torch.float64))
    free = p.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(term.value(free, y).sum(), free)
    torch.testing.assert_close(term.grad(p, y), gradient)
    p[:, 3], y[:, 3], y[:, 0] = -torch.inf, 0, 1 - y[:, 1:3].sum(1)  # a class that cannot be
    assert bool(term.value(p, y).isfinite().all()) and bool(term.grad(p, y).isfinite().all())


def test_cross_entropy_refuses_labels() -> None:
    A = it.as_operator(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 4))
    with pytest.raises(it.InputError, match="one_hot"):
        it.Problem(torch.tensor([[0.0, 1.0, 2.0]]), A, it.data_terms.CrossEntropy())


@pytest.mark.parametrize(
    "solver",
    [
        it.solvers.Adam(learning_rate=0.1, subset_size=2),
        it.solvers.LevenbergMarquardt(inner="dual"),
    ],
    ids=["adam", "dual"],
)
def test_a_classifier_is_inverted(solver: it.solvers.Solver) -> None:
    generator = Generator().manual_seed(1)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    A = it.operators.Augmented(
        it.as_operator(lambda x: x[:, 0] @ weight.T, (1, 4), (3,)), add_noise, draws=4
    )
    y = torch.eye(3, dtype=torch.float64)[:, :, None].expand(-1, -1, 4)
    found = it.solve(
        it.Problem(y, A, it.data_terms.CrossEntropy()),
        0.01 * it.priors.Tikhonov(),
        solver,
        regularization=1.0,
        initial=torch.zeros(3, 1, 4, dtype=torch.float64),
        max_iterations=60,
        progress=False,
    ).x
    assert (found[:, 0] @ weight.T).argmax(1).tolist() == [0, 1, 2]
