"""A prior image: every prior moved, in every form that solvers use, and few views with an earlier scan."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import (
    L1,
    Box,
    GroupL1,
    HuberTV,
    NuclearNorm,
    PriorImage,
    Tikhonov,
    TotalVariation,
)
from invtoolbox.testing import check_prior

SHAPE = (2, 3, 6, 7)


def images(seed: int, *shape: int) -> Tensor:
    return torch.randn(
        shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


INNER: dict[str, Callable[[], it.priors.ExplicitPrior]] = {
    "tv": lambda: TotalVariation(tolerance=1e-8, max_iterations=20000),
    "l1": L1,
    "nonnegative change": lambda: L1(lower=0.0),
    "group": GroupL1,
    "nuclear": NuclearNorm,
    "huber-tv": lambda: HuberTV(0.2, tolerance=1e-8, max_iterations=20000),
    "tikhonov": lambda: Tikhonov("gradient"),
    "tikhonov-reference": lambda: Tikhonov(reference=images(5)),
    "box": lambda: Box(-1.0, torch.tensor([0.5, 1.0])),
}


@pytest.mark.parametrize("name", INNER)
def test_keeps_the_contracts(name: str) -> None:
    prior = PriorImage(images(1), INNER[name]())
    check_prior(prior, images(0), steps=(0.05, 0.5))
    assert prior.offers == INNER[name]().offers - {"weights"}


@pytest.mark.parametrize("shared", [True, False])
def test_it_is_the_prior_moved(shared: bool) -> None:
    x, reference = images(0), images(1)[:1] if shared else images(1)
    prior = PriorImage(reference, L1())
    torch.testing.assert_close(prior.energy(x), L1().energy(x - reference))
    torch.testing.assert_close(prior.prox(x, 0.3) - reference, L1().prox(x - reference, 0.3))
    alone = prior.select(torch.tensor([1]))
    torch.testing.assert_close(alone.energy(x[1:]), prior.energy(x)[1:])


def test_every_solver_moves_with_the_reference() -> None:
    """The problem of ``x`` with a prior image is that of ``x - reference``, by the prox, the split and the quadratic form."""
    A = it.operators.Blur(torch.ones(3, 3, dtype=torch.float64) / 9, (1, 8, 9))
    y, reference = images(0, 2, 1, 8, 9), images(1, 1, 1, 8, 9)
    problem, moved = it.Problem(y, A), it.Problem(y - A(reference), A)
    tv = TotalVariation(tolerance=1e-10, max_iterations=20000)
    for prior, solver, tolerance in (
        (tv, it.solvers.PDHG(), 1e-8),
        (L1(), it.solvers.FISTA(), 1e-8),
        (L1(), it.solvers.ADMM(), 1e-8),
        (Tikhonov("gradient"), it.solvers.ConjugateGradient(), 1e-10),
    ):
        settings = {
            "solver": solver,
            "regularization": 0.1,
            "tolerance": tolerance,
            "max_iterations": 20000,
            "progress": False,
        }
        x = it.solve(problem, PriorImage(reference, prior), **settings).x
        torch.testing.assert_close(
            x - reference, it.solve(moved, prior, **settings).x, rtol=0, atol=1e-5
        )


def test_few_views_and_an_earlier_scan() -> None:
    """PICCS: with 8 views, an earlier scan that lacks one lesion is worth many decibels, and does not hide the lesion."""
    from skimage import data

    earlier = torch.from_numpy(data.camera()[100:196:2, 180:276:2].copy()).float()[None, None] / 255
    truth = earlier.clone()
    truth[..., 28:34, 22:28] = 0.9
    angles = torch.arange(8) * torch.pi / 8
    A = it.operators.ParallelBeam((48, 48), angles, 72)
    problem = it.Problem(A.simulate(truth, 0.05), A)
    solver = it.solvers.PDHG(max_iterations=400)
    tv = it.solve(problem, TotalVariation(), solver, 0.05, progress=False).x
    piccs = it.solve(
        problem, 0.5 * PriorImage(earlier) + 0.5 * TotalVariation(), solver, 0.05, progress=False
    ).x
    assert float(it.metrics.psnr(piccs, truth)) > float(it.metrics.psnr(tv, truth)) + 6
    lesion = (..., slice(29, 33), slice(23, 27))
    assert abs(float((piccs - truth)[lesion].mean())) < 0.3 * abs(
        float((earlier - truth)[lesion].mean())
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: PriorImage(torch.full((1, 1, 2), float("nan"))),
        lambda: PriorImage(torch.zeros(1, 1, 2), 0.1 * L1()),  # type: ignore[arg-type]
        lambda: it.solve(
            it.Problem(torch.zeros(2, 1, 4), it.operators.Identity((1, 4))),
            PriorImage(torch.zeros(1, 1, 5)),
            progress=False,
        ),
        lambda: it.solve(
            it.Problem(torch.zeros(2, 1, 4), it.operators.Identity((1, 4))),
            PriorImage(torch.zeros(3, 1, 4)),
            progress=False,
        ),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
