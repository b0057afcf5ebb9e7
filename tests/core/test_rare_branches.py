"""Steps on a GPU guess that rare branches are not taken; where a guess was wrong, they are repeated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.core.rare_branches import RareBranches, is_any
from invtoolbox.priors.images import itemwise_iteration
from tests.emulated_cuda import emulate_cuda


def test_without_guesses_a_flag_is_read() -> None:
    branches, flags = RareBranches(), torch.tensor([False, True])
    assert branches.is_any(flags) and not branches.is_any(~flags.any())
    assert branches.is_used and branches.take_flag() is None


def test_a_flag_of_the_host_is_read() -> None:
    branches = RareBranches()
    branches.may_guess = True
    with branches.open():
        assert is_any(torch.tensor([True]))
    assert branches.take_flag() is None


def test_a_wrong_guess_is_kept_until_it_is_read() -> None:
    branches, flags = RareBranches(), torch.tensor([False, True])
    branches.may_guess = True
    assert not branches.is_any(flags) and not branches.is_any(flags & False)
    assert bool(branches.take_flag()) and branches.take_flag() is None


@dataclass(frozen=True)
class Counting(it.solvers.GradientDescent):
    """Adds 1 to x at every step, and 100 more in a branch that is taken at the steps ``taken``."""

    taken: tuple[int, ...] = ()
    calls: Any = None
    cut: int | None = None  # the step that a time limit ends
    fails_below: float = -math.inf  # step 16 fails if x is smaller

    def init(self, objective: Any, start: Tensor) -> Any:
        state = super().init(objective, start)
        one = torch.ones_like(state.certificate)
        return replace(state, x=torch.zeros_like(start), certificate=one)

    def step(self, objective: Any, state: Any) -> Any:
        self.calls.append(objective.iteration)
        if objective.iteration == self.cut:
            raise OutOfTime
        if objective.iteration == 16 and float(state.x.cpu().max()) < self.fails_below:
            raise RuntimeError("x is too small")
        flag = torch.full((1,), objective.iteration in self.taken, device=state.x.device)
        return self.with_result(state, state.x + (101.0 if is_any(flag) else 1.0))


def run(
    device: str, taken: tuple[int, ...], **options: Any
) -> tuple[Tensor, list[int], list[float]]:
    """Return the answer, the steps that were run, and x as the callbacks see it."""
    calls: list[int] = []
    seen: list[float] = []
    problem = it.Problem(torch.ones(1, 1, 2), it.operators.Identity((1, 2)))
    solver = Counting(taken=taken, calls=calls, **options)
    settings: dict[str, Any] = {"max_iterations": 55, "tolerance": 0.0, "progress": False}
    x = it.solve(
        problem,
        None,
        solver,
        device=device,
        callbacks=[lambda progress: seen.append(float(progress.x.cpu().max()))],
        **settings,
    ).x
    return x.cpu(), calls, seen


def test_steps_with_a_wrong_guess_are_repeated_with_the_same_result() -> None:
    for taken in ((), (3,), (14,), (14, 17, 33), (54,)):
        expected, once, before = run("cpu", taken)
        with emulate_cuda():
            result, calls, after = run("cuda", taken)
        assert torch.equal(result, expected) and after == before, taken
        # The first ten steps do not guess. Ten steps are repeated per wrong guess, and then ten more
        # do not guess.
        late = [k for k in taken if k >= 10]
        assert (len(calls) > len(once)) == bool(late), (taken, calls)


def test_a_step_that_is_cut_leaves_no_wrong_guess_behind() -> None:
    expected, _, before = run("cpu", (14,), cut=16)
    with emulate_cuda():
        result, _, after = run("cuda", (14,), cut=16)
    assert torch.equal(result, expected) and float(expected.max()) == 116
    assert after == before


def test_a_step_that_fails_after_a_wrong_guess_is_repeated() -> None:
    expected, _, before = run("cpu", (14,), fails_below=100.0)
    with emulate_cuda():
        result, _, after = run("cuda", (14,), fails_below=100.0)
        with pytest.raises(RuntimeError, match="too small"):
            run("cuda", (), fails_below=100.0)
    assert torch.equal(result, expected) and after == before


def test_the_host_waits_every_tenth_step() -> None:
    with emulate_cuda() as tally:
        run("cuda", ())
    few = [n for place, n in tally.synchronizations.items() if "rare_branches" in place]
    assert sum(few) == 10  # of the first ten steps


def deblurred(device: str, steps: int = 14) -> Tensor:
    """Return an answer of FISTA, whose prox of total variation is a loop within a step."""
    blur = it.operators.Blur(torch.ones(3, 3) / 9, (10, 10))
    y = torch.rand(2, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, blur)
    return it.solve(
        problem,
        it.priors.TotalVariation(),
        it.solvers.FISTA(),
        regularization=0.05,
        device=device,
        max_iterations=steps,
        tolerance=0.0,
        progress=False,
    ).x.cpu()


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_loops_within_a_step_are_guessed_and_repeated_if_they_were_too_short(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    guesses: list[int] = []
    guess = itemwise_iteration.guess_count

    def shortened(key: Any, like: Tensor) -> int | None:
        count = guess(key, like)
        if count is not None and len(guesses) < 10:
            count = int(share * count)
        if count is not None:
            guesses.append(count)
        return count

    monkeypatch.setattr(itemwise_iteration, "guess_count", lambda key, like: None)
    with emulate_cuda():
        expected = deblurred("cuda")
    torch.testing.assert_close(expected, deblurred("cpu"), rtol=0, atol=1e-4)
    monkeypatch.setattr(itemwise_iteration, "guess_count", shortened)
    with emulate_cuda() as tally:
        result = deblurred("cuda")
    assert torch.equal(result, expected) and guesses
    if share == 1.0:  # after ten steps, the host waits once per ten steps
        late = [n for place, n in tally.synchronizations.items() if "itemwise" in place]
        with emulate_cuda() as few:
            deblurred("cuda", 10)
        early = [n for place, n in few.synchronizations.items() if "itemwise" in place]
        assert sum(late) == sum(early) > 0
