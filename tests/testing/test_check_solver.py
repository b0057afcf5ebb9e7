"""Every broken promise of a solver is found and named; sound ones pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.solvers.base import Solver, State
from invtoolbox.testing import check_solver


@dataclass(frozen=True)
class Descent(Solver):
    """Sound: gradient descent with a fixed step."""

    max_iterations: int = 400
    tolerance: float = 1e-4
    step_size: float = 0.5

    def init(self, objective: Objective, start: Tensor) -> State:
        return self._at(objective, start)

    def step(self, objective: Objective, state: State) -> State:
        return self._at(objective, state.x - self.step_size * self._slope(objective, state.x))

    def _at(self, objective: Objective, x: Tensor) -> State:
        value, gradient, discrepancy = objective.evaluate(x)
        certificate = self._certificate(objective, x, gradient)
        return State(x=x, value=value, discrepancy=discrepancy, certificate=certificate)

    def _slope(self, objective: Objective, x: Tensor) -> Tensor:
        return objective.evaluate(x).gradient

    def _certificate(self, objective: Objective, x: Tensor, gradient: Tensor) -> Tensor:
        return item_norm(gradient) / item_norm(objective.evaluate(torch.zeros_like(x)).gradient)


@dataclass(frozen=True)
class BatchNorm(Descent):
    """One step for all: what an item does depends on its neighbours."""

    def _slope(self, objective: Objective, x: Tensor) -> Tensor:
        gradient = super()._slope(objective, x)
        return gradient / (1 + gradient.norm())


@dataclass(frozen=True)
class WarmStart(Descent):
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def init(self, objective: Objective, start: Tensor) -> State:
        state = super().init(
            objective, self.memory.get("x", start) if self.memory.get("n") == len(start) else start
        )
        self.memory.update(x=state.x + 1e-3, n=len(start))
        return state


@dataclass(frozen=True)
class WritesSettings(Descent):
    def step(self, objective: Objective, state: State) -> State:
        object.__setattr__(self, "step_size", self.step_size * 0.999)
        return super().step(objective, state)


@dataclass(frozen=True)
class StepLengthCertificate(Descent):
    """Small steps are taken for convergence."""

    step_size: float = 1e-4

    def _certificate(self, objective: Objective, x: Tensor, gradient: Tensor) -> Tensor:
        return self.step_size * super()._certificate(objective, x, gradient)


@dataclass(frozen=True)
class Ascent(Descent):
    step_size: float = -0.01
    max_iterations: int = 20


@dataclass(frozen=True)
class WritesMeasurements(Descent):
    def step(self, objective: Objective, state: State) -> State:
        objective.problem.y.mul_(0.999)
        return super().step(objective, state)


@dataclass(frozen=True)
class Unordered(Descent):
    """Gives the items of a batch different steps by their place."""

    def _slope(self, objective: Objective, x: Tensor) -> Tensor:
        return expand(torch.linspace(0.5, 1.0, len(x)), x) * super()._slope(objective, x)


@dataclass(frozen=True)
class SaysSo(Descent):
    """Calls itself done."""

    def converged(self, state: State, tolerance: float) -> Tensor:
        return torch.ones_like(state.certificate, dtype=torch.bool)


@dataclass(frozen=True)
class WritesX(Descent):
    def step(self, objective: Objective, state: State) -> State:
        x = state.x.sub_(self.step_size * self._slope(objective, state.x))
        return self._at(objective, x.clone())


@dataclass(frozen=True)
class OneCertificate(Descent):
    def step(self, objective: Objective, state: State) -> State:
        state = super().step(objective, state)
        return replace(state, certificate=state.certificate.max())


@dataclass(frozen=True)
class GivesAnImage(Descent):
    def step(self, objective: Objective, state: State) -> State:
        return super().step(objective, state).x  # type: ignore[return-value]


@dataclass(kw_only=True)
class CountedState(State):
    count: int = 0


@dataclass(frozen=True)
class Counts(Descent):
    """A counter that is no tensor does not come back from a checkpoint."""

    def init(self, objective: Objective, start: Tensor) -> CountedState:
        return CountedState(**vars(self._at(objective, start)))

    def step(self, objective: Objective, state: State) -> CountedState:
        assert isinstance(state, CountedState)
        x = state.x - self.step_size / (1 + state.count) * self._slope(objective, state.x)
        return CountedState(**vars(self._at(objective, x)), count=state.count + 1)


def _problem() -> it.Problem:
    generator = torch.Generator().manual_seed(0)
    A = it.operators.Blur(torch.ones(3, 3) / 9, (1, 10, 9))
    x = torch.rand(3, 1, 10, 9, generator=generator) * torch.tensor([1.0, 0.2, 3.0]).view(
        3, 1, 1, 1
    )
    return it.Problem(A.simulate(x, 0.01), A)


@pytest.mark.parametrize(
    ("kind", "finding", "words"),
    [
        (BatchNorm, "item by item", "belong to each item"),
        (WarmStart, "twice", "keep nothing between calls"),
        (WritesSettings, "settings are kept", "its own settings"),
        (StepLengthCertificate, "converged items have converged", "60 iterations more"),
        (Ascent, "objective goes down", "above the objective of the start"),
        (WritesMeasurements, "problem and prior are kept", "writes into 0.y"),
        (Unordered, "permuted batch", "permuted"),
        (Counts, "resumed", "into tensors of the state"),
        (WritesX, "step keeps x", "dataclasses.replace"),
        (SaysSo, "converged obeys the tolerance", "compare it with the tolerance"),
    ],
)
def test_a_fault_is_found_and_named(kind: type[Solver], finding: str, words: str) -> None:
    report = check_solver(kind(), _problem(), 0.1 * it.priors.Tikhonov(), raise_error=False)
    assert not report[finding].ok, str(report)
    assert words in report[finding].sentence


def test_a_fault_is_an_error_of_one_line() -> None:
    with pytest.raises(AssertionError) as error:
        check_solver(Ascent(), _problem(), 0.1 * it.priors.Tikhonov())
    assert "\n" not in str(error.value)


def test_sound_solvers_pass() -> None:
    for solver in (Descent(), it.solvers.LBFGS(), it.solvers.ConjugateGradient()):
        report = check_solver(solver, _problem(), 0.1 * it.priors.Tikhonov())
        assert report.ok


def test_a_problem_of_one_item_shows_nothing() -> None:
    with pytest.raises(it.InputError, match="at least two items"):
        check_solver(Descent(), _problem().select(torch.tensor([0])))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OneCertificate, r"whose certificate has the shape \(\) for 3 items"),
        (GivesAnImage, "step of GivesAnImage returns Tensor, expected a subclass of"),
    ],
)
def test_a_state_without_a_number_per_item_is_refused(kind: type[Solver], words: str) -> None:
    with pytest.raises(it.InputError, match=words):
        check_solver(kind(), _problem(), 0.1 * it.priors.Tikhonov())


def test_a_name_is_no_solver() -> None:
    with pytest.raises(it.InputError, match="the solver with its settings"):
        check_solver("fista", _problem())  # type: ignore[arg-type]
