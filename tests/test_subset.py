"""`Problem.subset`: operator, data term and measurements of some blocks, together."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError


def scan() -> it.operators.ParallelBeam:
    return it.operators.ParallelBeam((8, 8), torch.arange(6) * torch.pi / 6, 11)


def problems() -> list[it.Problem]:
    A = scan()
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(2, 1, 6, 11, generator=generator)
    weights = torch.rand(1, 1, 6, 11, generator=generator)
    both = it.data_terms.Stack(
        it.data_terms.LeastSquares(), it.data_terms.LeastSquares(), weights=(1.0, 3.0)
    )
    return [
        it.Problem(
            y, A, it.data_terms.LeastSquares(noise_std=torch.tensor([0.5, 2.0]), weights=weights)
        ),
        it.Problem(y, 2.0 * A, it.data_terms.PoissonTransmission(I0=10 * weights[0, 0])),
        it.Problem(
            y, A @ it.operators.Identity((1, 8, 8)), it.data_terms.Sobolev(-1.0, axes=(-1,))
        ),
        it.Problem((y, 2 * y), it.operators.stack([A, 2 * A]), both),
        it.Problem(y[:, :, :, 0], it.operators.Matrix(torch.rand(6, 4, generator=generator))),
    ]


@pytest.mark.parametrize("problem", problems(), ids=repr)
def test_the_misfits_of_disjoint_subsets_add_up(problem: it.Problem) -> None:
    blocks = problem.operator.blocks
    assert blocks is not None
    x = torch.rand(2, *problem.image_shape, generator=torch.Generator().manual_seed(1))
    whole = problem.data_term.value(problem.operator(x), problem.y)
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(2))
    total = torch.zeros(2)
    for index in order.split(-(-blocks // 3)):
        part = problem.subset(index)
        total = total + part.data_term.value(part.operator(x), part.y)
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)


def test_a_subset_is_those_entries_of_the_prediction() -> None:
    problem = problems()[0]
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(problem.subset([4, 1]).operator(x), problem.operator(x)[:, :, [4, 1]])
    assert torch.equal(problem.subset(slice(1, None, 2)).y, problem.y[:, :, 1::2])


def test_a_number_draws_that_many_blocks() -> None:
    problem = problems()[0]
    one, two = (problem.subset(4, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one.y, two.y) and one.y.shape == (2, 1, 4, 11)
    assert len(torch.unique(one.operator.angles)) == 4
    with pytest.raises(InputError, match="1 to 6"):
        problem.subset(7)


def test_what_has_no_blocks_says_so() -> None:
    with pytest.raises(InputError, match="do not fall into blocks"):
        it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))).subset([0])
    sobolev = it.Problem(torch.ones(1, 1, 6, 11), scan(), it.data_terms.Sobolev(-1.0))
    with pytest.raises(InputError, match="other axes="):
        sobolev.subset([0])
