"""Every fault of an operator is found and named; sound ones pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators import LinearOperator, Operator
from invtoolbox.testing import check_operator


class Scale(LinearOperator):
    """Sound: a gain for every pixel."""

    domain_shape = range_shape = (1, 6)

    def __init__(self) -> None:
        self.gain = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        return {"gain": self.gain}

    def _forward(self, x: Tensor) -> Tensor:
        return self.gain.to(x.dtype) * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.gain.to(y.dtype) * y


class WrongAdjoint(Scale):
    def _adjoint(self, y: Tensor) -> Tensor:
        return 1.001 * self.gain.to(y.dtype) * y


class SlightlyWrongAdjoint(Scale):
    """Passes in float32, and is wrong all the same."""

    def _adjoint(self, y: Tensor) -> Tensor:
        return (1 + 1e-9) * self.gain.to(y.dtype) * y


class Affine(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        return super()._forward(x) + 0.1


class MixesItems(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        return super()._forward(x) + 0.1 * (x - x.mean(0))


class Remembers(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super()._forward(x) * (1 + 1e-7 * self.calls)


class WritesParameters(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        self.gain.mul_(1.0).add_(0.0)
        self.gain[0] += 1.0
        return x


class WritesInput(Scale):
    def _adjoint(self, y: Tensor) -> Tensor:
        return y.mul_(self.gain.to(y.dtype))


class Casts(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        return self.gain.double() * x  # float64, whatever x is


class WrongShape(Scale):
    range_shape = (1, 5)


class Unnamed(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        return super()._forward(x.detach())


class WrongGradient(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        return super()._forward(2 * x - x.detach())


class SmallNorm(Scale):
    def norm(self, **_: object) -> Tensor:  # type: ignore[override]
        return torch.ones(1)


class WrongResolvent(Scale):
    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        return v / (
            self.gain.to(v.dtype).square() + torch.as_tensor(rho).reshape(-1, 1, 1).to(v.dtype)
        )  # forgets weight


class ReusesItsBuffer(Scale):
    def _forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return super()._forward(x)
        buffer = getattr(self, "_buffer", None)
        if buffer is None or buffer.shape != x.shape or buffer.dtype != x.dtype:
            self._buffer = buffer = torch.empty_like(x)
        return buffer.copy_(super()._forward(x))


@pytest.mark.parametrize(
    ("kind", "finding", "words"),
    [
        (WrongAdjoint, "dot test (float32)", "the adjoint is not the adjoint"),
        (SlightlyWrongAdjoint, "dot test (float64)", "the adjoint is not the adjoint"),
        (Affine, "linearity", "is not linear"),
        (MixesItems, "A(x) item by item", "another result alone than in a batch"),
        (Remembers, "A(x) (float64) twice", "called twice"),
        (WritesParameters, "A(x) (float32) changes nothing", "gain"),
        (WritesInput, "A.adjoint(y) (float32) leaves argument 1 alone", "writes into its argument"),
        (Casts, "A(x) (float32) keeps the precision", "float32 gives torch.float64"),
        (WrongShape, "range_shape", r"range_shape is"),
        (Unnamed, "differentiable", "does not pass through"),
        (WrongGradient, "gradient", "another gradient than the adjoint"),
        (SmallNorm, "norm (float32)", "too small"),
        (WrongResolvent, "normal_resolvent", "does not solve"),
        (ReusesItsBuffer, "A(x) (float32) returns its own memory", "a later call writes into"),
    ],
)
def test_a_fault_is_found_and_named(kind: type[Operator], finding: str, words: str) -> None:
    report = check_operator(kind(), raise_error=False)
    assert not report.ok and not report[finding].ok
    assert words in report[finding].sentence
    assert finding in str(report) and "FAIL" in str(report)
    with pytest.raises(AssertionError) as error:
        check_operator(kind())
    assert "\n" not in str(error.value)


def test_sound_operators_pass() -> None:
    report = check_operator(Scale())
    assert report.ok and not report.faults and "ok" in str(report)
    blur = it.operators.Blur(torch.rand(2, 1, 3, 3), (1, 9, 8))
    for A in (
        blur,
        2 * blur,
        it.operators.stack([blur, it.operators.FiniteDifference((1, 9, 8))]),
        blur.T,
    ):
        check_operator(A)
    check_operator(it.operators.Blur(torch.rand(3, 3), (1, 9, 8), "periodic"))
    # The power method takes more steps for some items than for others.
    report = check_operator(
        it.operators.Matrix(torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))).T
    )
    assert report["norm item by item"].ok
    check_operator(it.as_operator(torch.sin, (2, 4)))


class WrongJacobian(Operator):
    domain_shape = range_shape = (1, 4)

    def _forward(self, x: Tensor) -> Tensor:
        return x.square() + x.detach()


def test_a_wrong_jacobian_is_found() -> None:
    report = check_operator(WrongJacobian(), raise_error=False)
    assert not report["Jacobian"].ok and "finite differences" in report["Jacobian"].sentence


def test_complex_images() -> None:
    A = it.as_operator(lambda x: torch.fft.fft(x, norm="ortho"), (1, 8), linear=True)
    check_operator(A, torch.randn(2, 1, 8, dtype=torch.complex128))


class Shapeless(LinearOperator):
    domain_shape = (1, 4, 4)

    def _forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (Shapeless(), "Shapeless has no range_shape"),
        (torch.eye(4), "it.as_operator converts"),
    ],
)
def test_what_is_no_operator_is_named(argument: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_operator(argument)
