"""Every fault of a prior is found and named; sound ones pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.operators.elementary import ChannelSlices
from invtoolbox.priors import ExplicitPrior, ImplicitPrior, PriorSum
from invtoolbox.testing import check_prior


def _squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


class Ridge(ExplicitPrior):
    """Sound: 1/2 |x|^2 with its prox."""

    is_convex = True

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * _squares(x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / (1 + expand(step, x))


class MeanOverBatch(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().mean()


class MixedItems(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * _squares(x - 0.1 * x.mean(0))


class WrongProx(Ridge):
    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / (1 + 1.1 * expand(step, x))


class SharedStep(Ridge):
    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / (1 + torch.as_tensor(step).to(x).max())


class WrongGradient(Ridge):
    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return 2 * x


class MovesPrecision(Ridge):
    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return super().prox(x.double(), step)


class RoundsToSingle(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        return super().energy(x.float())


class WritesInput(Ridge):
    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x.div_(1 + expand(step, x))


class WarmStart(Ridge):
    """What the main rival does: a result that depends on the calls before."""

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        exact = super().prox(x, step)
        last = getattr(self, "last", None)
        self.last = exact.detach()
        return (
            exact if last is None or last.shape != x.shape else exact + 1e-4 * (last.to(x) - exact)
        )


class Unseeded(ExplicitPrior):
    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return x + 0.1 * torch.randn(x.shape, dtype=x.dtype)


class NotFirm(ExplicitPrior):
    is_convex = True

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 1.2 * x


class WrongSplit(Ridge):
    def split(self) -> tuple[it.operators.LinearOperator, ExplicitPrior]:
        return 2.0 * it.operators.Identity((1, 6, 5)), Ridge()


class WrongQuadratic(Ridge):
    def quadratic(self) -> tuple[None, Tensor]:
        return None, torch.ones(1, 1, 6, 5, dtype=torch.float64)


class WrongJoint(Ridge):
    def joint(self, image_shape: tuple[int, ...]) -> tuple[int, PriorSum]:
        return 1, (0.5 * (Ridge() @ ChannelSlices((2, 6, 5), ((0, 1),))))


class WrongConjugate(Ridge):
    def prox_conjugate(self, v: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        return v / (1 + expand(step, v))


class ImageShapedEnergy(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * x.square()


class Nothing(ExplicitPrior):
    pass


@pytest.mark.parametrize(
    ("kind", "finding", "words"),
    [
        (MeanOverBatch, "energy has the shape", "one number for each of 3 items"),
        (ImageShapedEnergy, "energy has the shape", "x.flatten(1).sum(1)"),
        (MixedItems, "energy item by item", "another result alone than in a batch"),
        (WrongProx, "prox at step 0.1 minimizes", "does not minimize"),
        (SharedStep, "prox takes a level per item", "one level per item"),
        (WrongGradient, "gradient belongs to energy", "not the gradient of energy"),
        (MovesPrecision, "prox (float32) keeps the precision", "float32 gives torch.float64"),
        (RoundsToSingle, "energy (float64) keeps the precision", "float64 gives torch.float32"),
        (WritesInput, "prox (float32) leaves argument 1 alone", "writes into its argument"),
        (WarmStart, "prox (float32) twice", "earlier calls"),
        (Unseeded, "gradient (float32) twice", "unseeded draws"),
        (NotFirm, "prox at step 0.1 is firm", "firmly nonexpansive"),
        (WrongSplit, "split has the same energy", "they differ"),
        (WrongQuadratic, "quadratic has the same energy", "they differ"),
        (WrongJoint, "joint lies above the energy", "its least value"),
        (WrongConjugate, "prox_conjugate", "step * prox"),
        (Nothing, "offers something", "write one of energy"),
    ],
)
def test_a_fault_is_found_and_named(kind: type[ExplicitPrior], finding: str, words: str) -> None:
    x = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    report = check_prior(kind(), x.clone(), raise_error=False)
    assert not report.ok and not report[finding].ok, str(report)
    assert words in report[finding].sentence
    with pytest.raises(AssertionError) as error:
        check_prior(kind(), x)
    assert "\n" not in str(error.value)


def test_sound_priors_pass() -> None:
    x = torch.rand(1, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    check_prior(Ridge(), x)
    priors = it.priors
    for prior in (
        priors.Tikhonov(),
        priors.L1(),
        priors.NonNegative(),
        priors.SmoothedNorm(),
        priors.TotalVariation(),
        priors.Denoiser(torch.nn.AvgPool2d(3, 1, 1)),
        0.1 * priors.L1() + 2 * priors.Tikhonov(),
    ):
        check_prior(prior, x - 0.3)


def test_one_wrong_term_of_a_sum_is_found() -> None:
    with pytest.raises(AssertionError, match="not the gradient of energy"):
        check_prior(0.1 * it.priors.L1() + WrongGradient(), torch.rand(2, 1, 6, 5))


class Pixels(ImplicitPrior):
    """Sound: the image is exp of the parameters."""

    def initial(self) -> dict[str, Tensor]:
        return {"z": torch.zeros(1, 1, 6, 5)}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return parameters["z"].exp()

    def to(self, target: object = None, **_: object) -> Pixels:  # type: ignore[override]
        other = type(self)()
        dtype = target if isinstance(target, torch.dtype) else torch.float32
        other.initial = lambda: {"z": torch.zeros(1, 1, 6, 5, dtype=dtype)}  # type: ignore[method-assign]
        return other


class DecodeMixes(Pixels):
    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return (parameters["z"] - parameters["z"].mean(0)).exp()


class DecodeDetaches(Pixels):
    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return parameters["z"].detach().exp()


class DecodeForgets(Pixels):
    """Only half of the derivative gets through."""

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return (0.5 * parameters["z"] + 0.5 * parameters["z"].detach()).exp()


class ScalarEnergy(Pixels):
    def energy(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return x.sum()


class KeepsFirst(ExplicitPrior):
    """The mean of the first images that it sees."""

    def __init__(self) -> None:
        self.memory: dict[str, Tensor] = {}

    def energy(self, x: Tensor) -> Tensor:
        mean = self.memory.setdefault("mean", x.mean().detach())
        return (x - mean.to(x)).square().flatten(1).sum(1)


class RootOfZero(ExplicitPrior):
    def energy(self, x: Tensor) -> Tensor:
        return x.diff(dim=-1).square().sqrt().flatten(1).sum(1)


class WithoutGenerator(ExplicitPrior):
    def gradient(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x


class PredictsNoise(ExplicitPrior):
    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x - torch.nn.functional.avg_pool2d(x, 3, 1, 1)


class OtherScale(ExplicitPrior):
    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 255 * x


@pytest.mark.parametrize(
    ("kind", "finding", "words"),
    [
        (KeepsFirst, "energy (float32) changes nothing", "memory.mean"),
        (RootOfZero, "gradient (float32) gives numbers", "a root has no derivative at 0"),
        (
            WithoutGenerator,
            "gradient takes its arguments",
            "write def gradient(self, x, generator)",
        ),
        (PredictsNoise, "denoise keeps the image (float32)", "subtract a predicted noise"),
        (OtherScale, "denoise keeps the image (float32)", "the scale of its argument"),
    ],
)
def test_habits_of_other_packages_are_named(
    kind: type[ExplicitPrior], finding: str, words: str
) -> None:
    x = 0.5 + 0.2 * torch.linspace(-1, 1, 8).expand(2, 1, 8, 8).clone()
    x[:, :, 2:4, 2:4] = 0.7  # neighbours of the same value
    report = check_prior(kind(), x, raise_error=False, precisions=(torch.float32,))
    assert words in report[finding].sentence, str(report)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((Ridge, torch.rand(2, 1, 4)), "the class Ridge; make an object of it"),
        ((torch.sum, torch.rand(2, 1, 4)), "it.as_prior"),
        ((Ridge(), torch.rand(4, 4)), "add axes in front"),
    ],
)
def test_arguments_of_check_prior(arguments: tuple[Any, Tensor], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_prior(*arguments)


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (DecodeMixes, "decode item by item"),
        (DecodeDetaches, "decode is differentiable"),
        (DecodeForgets, "decode has the right derivative"),
        (ScalarEnergy, "energy has shape (batch,)"),
    ],
)
def test_faults_of_implicit_priors(kind: type[ImplicitPrior], finding: str) -> None:
    x = torch.rand(2, 1, 6, 5)
    check_prior(Pixels(), x)
    report = check_prior(kind(), x, raise_error=False)
    assert not report[finding].ok, str(report)


class ComplexPixels(ImplicitPrior):
    """Sound: complex parameters, without an energy."""

    def __init__(self) -> None:
        self.start = torch.zeros(1, 1, 6, 5, dtype=torch.complex64)

    def initial(self) -> dict[str, Tensor]:
        return {"z": self.start}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return parameters["z"].exp()


class ComplexForgets(ComplexPixels):
    """The derivative of the conjugate part does not get through."""

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        z = parameters["z"]
        return z.exp() + z.conj().detach().exp()


def test_implicit_priors_with_complex_parameters() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.complex(*torch.rand(2, 2, 1, 6, 5, generator=draw))
    check_prior(ComplexPixels(), x)
    report = check_prior(ComplexForgets(), x, raise_error=False)
    assert not report["decode has the right derivative"].ok, str(report)
    problem = it.Problem(x, it.operators.Identity((1, 6, 5)))
    found = it.solve(problem, ComplexPixels(), "gradient-descent", progress=False, check=False).x
    assert float((found - x).norm()) < 1e-2 * float(x.norm())


class NotConvexFarAway(ExplicitPrior):
    """log(1 + x^2 / 4) bends down for |x| > 2 only."""

    is_convex = True

    def energy(self, x: Tensor) -> Tensor:
        return (0.25 * x.square()).log1p().flatten(1).sum(1)


class NotMonotone(ExplicitPrior):
    """No energy, and a gradient that is not that of a convex function."""

    is_convex = True

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.sin(3 * x)


class MutatingSchedule(Ridge):
    weight = 1.0

    def at(self, iteration: int) -> MutatingSchedule:
        self.weight = 0.9**iteration
        return self


class RemembersTheLast(Ridge):
    def at(self, iteration: int) -> RemembersTheLast:
        return self  # sound


class ReseedsTorch(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().energy(x + 0 * torch.rand(1).to(x))


class ReseedsNumPy(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        np.random.seed(0)
        return super().energy(x)


class SwitchesGradOff(Ridge):
    def energy(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return super().energy(x)


class GivesNumPy(ExplicitPrior):
    def energy(self, x: Tensor) -> Tensor:
        return (x.detach().numpy() ** 2).sum((1, 2, 3))  # type: ignore[no-any-return]


class LeavesTheGraph(ExplicitPrior):
    def energy(self, x: Tensor) -> Tensor:
        return torch.from_numpy((x.detach().numpy() ** 2).sum((1, 2, 3)))


class Elsewhere(ExplicitPrior):
    """Its weights stay on another device than the image."""

    def energy(self, x: Tensor) -> Tensor:
        return (x * torch.ones(1, device="meta")).square().flatten(1).sum(1)


class Raises(ExplicitPrior):
    def energy(self, x: Tensor) -> Tensor:
        raise RuntimeError("size mismatch,\nm1: [3 x 4]")


class RaisesInPrepare(Ridge):
    def prepare(self, problem: object, solve: object) -> RaisesInPrepare:
        raise ValueError("no graph")


@pytest.mark.parametrize(
    ("kind", "finding", "words"),
    [
        (NotConvexFarAway, "is_convex: midpoints lie below", "leave is_convex out"),
        (NotMonotone, "is_convex: the gradient is monotone", "leave is_convex out"),
        (MutatingSchedule, "at leaves the prior alone", "return it"),
        (ReseedsTorch, "energy (float32) leaves the process alone", "generator of torch"),
        (ReseedsNumPy, "energy (float32) leaves the process alone", "generator of NumPy"),
        (SwitchesGradOff, "energy (float32) leaves the process alone", "grad mode"),
        (GivesNumPy, "energy (float32) gives tensors", "numpy.ndarray; write it in torch"),
        (LeavesTheGraph, "gradient (float32) runs", "leaves torch or detaches"),
        (Elsewhere, "energy (float32) runs", "raises"),
        (Raises, "energy (float32) runs", "RuntimeError: size mismatch, m1: [3 x 4]"),
        (RaisesInPrepare, "prepare runs", "ValueError: no graph"),
    ],
)
def test_what_a_careless_author_does_is_reported(
    kind: type[ExplicitPrior], finding: str, words: str
) -> None:
    x = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    report = check_prior(kind(), x, raise_error=False)
    assert not report.ok and not report[finding].ok, str(report)
    assert words in report[finding].sentence
    assert torch.is_grad_enabled() and torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        assert check_prior(kind(), x, raise_error=False)[finding] == report[finding]


def test_sound_priors_pass_in_any_grad_mode() -> None:
    x = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    for mode in (torch.no_grad(), torch.enable_grad()):
        with mode:
            check_prior(RemembersTheLast(), x)
            check_prior(it.priors.SmoothedNorm(), x)
