"""Steps as a CUDA graph: the same bits as without it, on an emulated GPU that refuses what a graph cannot hold."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.loop.capture import CapturedSteps, _agree
from tests.device_jobs import measured, picture
from tests.emulated_cuda import DeviceError, emulate_cuda

S, P = it.solvers, it.priors


def solved(solver: Any, prior: Any, device: str = "cuda", **how: Any) -> it.Solution:
    A = it.operators.Blur(torch.ones(3, 5) / 15, (12, 12))
    problem = measured(A, picture(2, 1, 12, 12))
    how = {"max_iterations": 14, "tolerance": 0.0, "regularization": 0.05, **how}
    return it.solve(problem, prior, solver, device=device, seed=0, progress=False, **how)


@pytest.mark.parametrize(
    ("solver", "prior"),
    [
        (S.FISTA(), P.TotalVariation()),
        (S.ADMM(), P.TotalVariation()),
        (S.SIRT(), None),
        (S.ConjugateGradient(), P.Tikhonov()),
        (S.Adam(), P.CoordinateNetwork(width=6, depth=1)),
    ],
)
def test_recorded_steps_have_the_bits_of_steps(
    monkeypatch: pytest.MonkeyPatch, solver: Any, prior: Any
) -> None:
    made: list[CapturedSteps] = []
    start = CapturedSteps.__init__
    monkeypatch.setattr(
        CapturedSteps, "__init__", lambda self, of: (made.append(self), start(self, of))[1]
    )
    weight = {} if prior is not None else {"regularization": "auto"}
    with emulate_cuda() as tally:
        plain = solved(solver, prior, **weight)
        before = tally.totals()["launches"]
        tally.clear()
        recorded = solved(solver, prior, capture=True, **weight)
        assert torch.equal(plain.x, recorded.x) and plain.status == recorded.status
        assert plain.history["objective"].equal(recorded.history["objective"])
        assert tally.totals()["launches"] < before
        assert made[0].reason is None and made[0].recordings >= 1
    assert not [note for note in recorded.notes if "capture" in note]


@pytest.mark.parametrize(
    ("solver", "prior", "reason"),
    [
        (S.UnadjustedLangevin(burn_in=1), P.Tikhonov(), "draws during the recording"),
        (S.PDHG(), P.TotalVariation(), "the number of the iteration"),
        (S.LBFGS(), P.Tikhonov(), "cannot be recorded"),
    ],
)
def test_steps_that_no_graph_can_hold_run_as_before_with_a_note(
    solver: Any, prior: Any, reason: str
) -> None:
    weight = {"regularization": "auto"} if solver.samples else {}
    with emulate_cuda():
        plain = solved(solver, prior, max_iterations=6, **weight)
        recorded = solved(solver, prior, capture=True, max_iterations=6, **weight)
        assert torch.equal(plain.x, recorded.x)
    (note,) = [note for note in recorded.notes if "capture" in note]
    assert "had no effect" in note and reason in note


@dataclass(frozen=True)
class Forgetful(S.SIRT):  # type: ignore[name-defined, misc]
    """SIRT whose step adds a number of the host that grows."""

    numbers: Any = None

    def step(self, objective: Any, state: Any) -> Any:
        after = super().step(objective, state)
        return dataclasses.replace(after, x=after.x + next(self.numbers))


def test_a_step_that_depends_on_more_than_its_state_is_found_by_the_second_replay() -> None:
    with emulate_cuda():
        recorded = solved(Forgetful(numbers=itertools.count(1.0)), None, capture=True)
    (note,) = [note for note in recorded.notes if "capture" in note]
    assert "depends on more than its state" in note


def test_flags_and_numbers_that_are_not_finite_agree_with_themselves() -> None:
    """States of solvers hold booleans, whose modulus torch does not compute."""
    flags, values = torch.tensor([True, False]), torch.tensor([torch.nan, torch.inf, 1.0])
    assert _agree((flags, values), (flags, values))
    assert not _agree((flags,), (~flags,)) and not _agree((values,), (values + 1,))
    assert _agree((values * 1j,), (values * 1j,))


def test_on_a_cpu_and_with_few_steps_a_note_states_that_nothing_is_recorded() -> None:
    assert "a CPU none" in solved(S.SIRT(), None, "cpu", capture=True, regularization=1.0).notes[-1]
    with emulate_cuda():
        few = solved(S.ADMM(), P.TotalVariation(), capture=True, max_iterations=2)
        assert "too few steps" in few.notes[-1]


def test_items_that_are_done_let_the_graph_be_recorded_anew() -> None:
    how = {"tolerance": 1e-2, "max_iterations": 40, "regularization": torch.tensor([0.01, 1.0])}
    with emulate_cuda():
        plain = solved(S.ADMM(), P.TotalVariation(), **how)
        recorded = solved(S.ADMM(), P.TotalVariation(), capture=True, **how)
        assert plain.iterations[0] != plain.iterations[1]
        assert torch.equal(plain.x, recorded.x)
        assert torch.equal(plain.iterations, recorded.iterations)


def test_the_emulated_graph_refuses_waits_and_draws_and_repeats_numbers_of_the_host() -> None:
    with emulate_cuda():
        x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
        number = 2.0
        with torch.cuda.graph(graph):
            y = number * x
        number = 5.0
        assert bool(y.isnan().all())
        x.fill_(3.0)
        graph.replay()
        assert y.cpu().tolist() == [6.0, 6.0, 6.0]
        for forbidden in (lambda: float(x.sum()), lambda: torch.rand(2, device="cuda")):
            with (
                pytest.raises(DeviceError, match="recording of a graph"),
                torch.cuda.graph(torch.cuda.CUDAGraph()),
            ):
                forbidden()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("check_every", wrong) for wrong in (0, -3, 2.5, None, "often", torch.ones(2))),
        ("capture", "yes"),
    ],
)
def test_wrong_settings_of_the_loop_on_a_device_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(it.errors.InputError, match=name):
        solved(S.SIRT(), None, "cpu", **{name: wrong})
