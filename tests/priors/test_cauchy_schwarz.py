"""Few levels: known energies, levels that are found, and recovery from few measurements."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import CauchySchwarz
from invtoolbox.testing import check_prior

LEVELS = {"binary": (-1.0, 1.0), "one-sided": (0.0, 1.0), "ternary": (-1.0, 0.0, 1.0)}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("levels", LEVELS)
def test_keeps_the_contracts(levels: str) -> None:
    check_prior(CauchySchwarz(levels), drawn(3, 2, 4, 5))


@pytest.mark.parametrize("levels", LEVELS)
def test_only_levels_have_no_energy_and_the_scale_is_found(levels: str) -> None:
    prior, allowed = CauchySchwarz(levels), torch.tensor(LEVELS[levels], dtype=torch.float64)
    x = 0.7 * allowed[torch.arange(12) % len(allowed)].view(1, 1, 12)
    batch = torch.cat([x, 3 * x, x + 0.1 * drawn(1, 1, 12)])
    energy = prior.energy(batch)
    assert float(energy[:2].max()) < 1e-12 < 1e-3 < float(energy[2])
    torch.testing.assert_close(prior.level(batch[:2]), torch.tensor([0.7, 2.1]).double())


@pytest.mark.parametrize("levels, power", [("binary", 4), ("one-sided", 4), ("ternary", 6)])
def test_is_the_gap_of_the_paper_without_its_factor(levels: str, power: int) -> None:
    x, prior = drawn(2, 1, 9), CauchySchwarz(levels)
    gap = {
        "binary": lambda v: 9 * (v**4).sum() - (v**2).sum() ** 2,
        "one-sided": lambda v: (v**2).sum() * (v**4).sum() - (v**3).sum() ** 2,
        "ternary": lambda v: (v**2).sum() * (v**6).sum() - (v**4).sum() ** 2,
    }[levels]
    factor = torch.tensor(9.0) if levels == "binary" else x.square().sum((1, 2))
    expected = torch.stack([gap(v) for v in x]) / factor
    torch.testing.assert_close(prior.energy(x), expected)
    torch.testing.assert_close(prior.energy(2 * x), 2**power * expected)


def test_binary_vectors_from_fewer_measurements_than_unknowns() -> None:
    matrix, starts = drawn(35, 50), drawn(10, 1, 50, seed=1)
    truth = 2.5 * drawn(1, 1, 50, seed=2).sign()
    A = it.as_operator(matrix)
    problem = it.Problem(A(truth).expand(10, 1, -1), A)
    solution = it.solve(
        problem,
        CauchySchwarz("binary"),
        it.solvers.LBFGS(),
        regularization=0.16,
        initial=starts,
        max_iterations=500,
        progress=False,
    )
    found = solution.x[int(CauchySchwarz("binary").energy(solution.x).argmin())]
    assert float((found - truth[0]).norm() / truth.norm()) < 1e-3
    least = matrix.pinverse() @ (matrix @ truth[0, 0])
    assert float((least - truth[0, 0]).norm() / truth.norm()) > 0.3


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="no levels named 'two'"):
        CauchySchwarz("two")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="complex"):
        CauchySchwarz().energy(torch.ones(1, 1, 3, dtype=torch.complex64))
    assert float(CauchySchwarz().energy(torch.zeros(1, 1, 3))) == 0.0
    assert bool((CauchySchwarz("ternary").gradient(torch.zeros(1, 1, 3)) == 0).all())
