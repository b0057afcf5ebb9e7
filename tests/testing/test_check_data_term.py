"""Every fault of a data term is found and named; sound ones pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import DataTerm, LeastSquares
from invtoolbox.operators.base import expand
from invtoolbox.testing import check_data_term


def _sum(r: Tensor) -> Tensor:
    return r.flatten(1).sum(1)


class Quartic(DataTerm):
    """Sound."""

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return _sum((prediction - y) ** 4) / 4


class ScalarValue(Quartic):
    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (prediction - y).square().sum()


class MixedItems(Quartic):
    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return super().value(prediction, y) * (1 + prediction.mean())


class WrongGrad(Quartic):
    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (prediction - y) ** 3 * 1.01


class WrongProx(LeastSquares):
    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        return prediction + expand(step, prediction) / (1.2 + expand(step, prediction)) * (
            y - prediction
        )


class SmallCurvature(LeastSquares):
    def curvature(self, y: Tensor) -> Tensor:
        return 0.9 * super().curvature(y)


class WrongWeighted(LeastSquares):
    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return 2 * super().value(prediction, y)


class NotSymmetric(LeastSquares):
    def weighted(self, residual: Tensor) -> Tensor:
        return residual.roll(1, -1)

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return 0.5 * _sum((prediction - y) * self.weighted(prediction - y))


@pytest.mark.parametrize(
    ("term", "finding", "words"),
    [
        (ScalarValue(), "value has shape (batch,)", "one number for each of 2 items"),
        (MixedItems(), "value item by item", "another result alone"),
        (WrongGrad(), "grad belongs to value", "not the gradient"),
        (WrongProx(), "prox at step 1 minimizes", "does not minimize"),
        (SmallCurvature(), "curvature bounds grad", "too small"),
        (WrongWeighted(), "weighted makes the value", "is not value"),
        (NotSymmetric(), "weighted is symmetric", "not symmetric"),
    ],
)
def test_a_fault_is_found_and_named(term: DataTerm, finding: str, words: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p, y = (torch.rand(2, 1, 4, 5, generator=generator) + 0.5 for _ in range(2))
    report = check_data_term(term, p, y, raise_error=False)
    assert not report[finding].ok, str(report)
    assert words in report[finding].sentence
    with pytest.raises(AssertionError):
        check_data_term(term, p, y)


def test_sound_terms_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    p, y, w = (torch.rand(2, 1, 4, 5, generator=generator) + 0.5 for _ in range(3))
    check_data_term(Quartic(), p, y)
    check_data_term(LeastSquares(noise_std=torch.tensor([0.1, 0.3]), weights=w), p, y)
    check_data_term(it.data_terms.Sobolev(-0.5), p, y)
    check_data_term(
        it.data_terms.Stack(LeastSquares(), LeastSquares(0.5), weights=(1.0, 2.0)),
        (p, 2 * p),
        (y, y),
    )


class BelowTheTerm(it.data_terms.Huber):
    """Weights that make the gradient of least squares, and say that they majorize."""

    def residual_weights(self, prediction: Tensor, y: Tensor) -> Tensor:
        return 0.5 * super().residual_weights(prediction, y)

    def grad(self, prediction: Tensor, y: Tensor) -> Tensor:
        return 2 * (prediction - y) * self.residual_weights(prediction, y)


def test_counts_are_asked_for_nonnegative_predictions_only() -> None:
    generator = torch.Generator().manual_seed(0)
    p = 3 * torch.rand(2, 1, 4, 5, generator=generator) + 1e-3
    y = torch.poisson(4 * torch.ones(2, 1, 4, 5), generator=generator)
    for term in (
        it.data_terms.Poisson(),
        it.data_terms.Poisson(torch.tensor([0.5, 2.0])),
        it.data_terms.PoissonTransmission(50.0),
        it.data_terms.PoissonTransmission(50.0, background=5.0),
    ):
        check_data_term(term, p, y)
    report = check_data_term(it.data_terms.Poisson(), p - 1, y, raise_error=False)
    assert "outside of its domain" in report["value is finite"].sentence

    class TooFlat(it.data_terms.Poisson):
        def curvature(self, y: Tensor) -> Tensor:
            return 0.05 * y.flatten(1).amax(1)

    assert not check_data_term(TooFlat(0.5), p, y, raise_error=False)["curvature bounds grad"].ok


def test_wrong_weights_of_reweighting_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    p, y = (torch.randn(2, 1, 4, 5, generator=generator) for _ in range(2))
    report = check_data_term(BelowTheTerm(), p, y, raise_error=False)
    assert (
        not report["residual_weights make the gradient"].ok
        and not report["residual_weights majorize"].ok
    )
