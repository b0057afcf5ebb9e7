"""A run loses nothing: failed checkpoints are warnings, SIGTERM is Ctrl-C, stale files go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import invtoolbox as it
from invtoolbox.core.interrupts import check_time, limit, terminate_as_interrupt
from invtoolbox.datasets.output import remove_stale, writing, writing_folder
from invtoolbox.errors import InputError
from invtoolbox.loop import checkpoint as module


def solve(path: Path, **settings: Any) -> it.Solution:
    y = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    problem = it.Problem(y, it.operators.Blur(torch.ones(3, 3) / 9, (8, 8)))
    return it.solve(
        problem,
        it.priors.Tikhonov(),
        it.solvers.Adam(tolerance=0.0),
        regularization=0.1,
        checkpoint=it.Checkpoint(path, every=0.0),
        progress=False,
        **{"max_iterations": 6, **settings},
    )


def fail_writes(monkeypatch: pytest.MonkeyPatch, numbers: set[int], error: Exception) -> None:
    """Let the writes of checkpoints with these numbers fail."""
    whole, count = module.write_bytes, iter(range(10**6))

    def write(*arguments: Any, **settings: Any) -> Path:
        if next(count) in numbers:
            raise error
        return whole(*arguments, **settings)

    monkeypatch.setattr(module, "write_bytes", write)


@pytest.mark.parametrize(
    "error",
    [
        InputError("no room left on the disk"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
    ],
)
def test_an_answer_is_returned_although_its_last_checkpoint_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    whole = solve(tmp_path / "whole")
    fail_writes(monkeypatch, {4, 5, 6}, error)
    failed = "iteration {} could not be written .* goes on and tries"
    with (
        pytest.warns(UserWarning, match=failed.format(6)),
        pytest.warns(UserWarning, match=failed.format(5)),
    ):
        solution = solve(tmp_path / "run")
    assert torch.equal(solution.x, whole.x) and solution.status == whole.status
    assert "is not of the last iteration" in solution.notes[-1]
    monkeypatch.undo()
    # The file is the one of iteration 4.
    again = solve(tmp_path / "run", max_iterations=6)
    assert torch.equal(again.x, whole.x) and len(again.notes) == len(whole.notes)


def test_a_checkpoint_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_writes(monkeypatch, {1}, InputError("no room left on the disk"))
    with pytest.warns(UserWarning, match="iteration 2 could not be written"):
        solution = solve(tmp_path / "run")
    assert not any("not of the last iteration" in note for note in solution.notes)
    assert int(solve(tmp_path / "run", max_iterations=6).iterations[0]) == 6


def test_a_folder_that_cannot_be_made_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the folder .* cannot be made"):
        solve(tmp_path / "file" / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_writes_the_checkpoint(
    tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def send(progress: Any) -> None:
        if progress.iteration == 3:
            os.kill(os.getpid(), number)

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        solve(path, callbacks=[send])
    assert signal.getsignal(number) is before
    assert path.exists()
    assert torch.equal(solve(path).x, solve(tmp_path / "whole").x)


@dataclass(frozen=True)
class Slow(it.solvers.GradientDescent):
    """Steps that take long, in parts that `check_time` separates, and that write over the state."""

    seconds: float = 10.0
    signal_at: int = -1
    tolerance: float = 0.0

    def step(self, objective: Any, state: Any) -> Any:
        if objective.iteration == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        state.x.add_(1.0)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(0.01)
            check_time()
        state.x.sub_(1.0)
        return super().step(objective, state)


def slow_solve(path: Path | None = None, **settings: Any) -> it.Solution:
    y = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    problem = it.Problem(y, it.operators.Blur(torch.ones(3, 3) / 9, (8, 8)))
    return it.solve(
        problem,
        it.priors.Tikhonov(),
        regularization=0.1,
        checkpoint=None if path is None else it.Checkpoint(path, every=0.0),
        progress=False,
        **settings,
    )


def test_a_signal_cuts_a_long_step_and_leaves_the_one_before(tmp_path: Path) -> None:
    path, began = tmp_path / "run", time.monotonic()

    class FirstFast(Slow):
        def step(self, objective: Any, state: Any) -> Any:
            quick = objective.iteration < 3
            return (it.solvers.GradientDescent if quick else Slow).step(self, objective, state)

    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        slow_solve(path, solver=FirstFast(signal_at=3), max_iterations=6)
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["iteration"] == "3"


def test_a_time_limit_cuts_a_long_step_and_keeps_the_state_before_it() -> None:
    began = time.monotonic()
    none = slow_solve(solver=Slow(), time_limit=0.3)
    assert time.monotonic() - began < 5
    assert none.status == ("limit",) and int(none.iterations[0]) == 0
    two = slow_solve(solver=Slow(seconds=0.4), time_limit=1.1)
    done = int(two.iterations[0])
    assert two.status == ("limit",) and 1 <= done <= 2
    whole = slow_solve(solver=Slow(seconds=0.0), max_iterations=done)
    assert torch.equal(two.x, whole.x)


def test_a_time_limit_in_a_step_keeps_the_statuses_of_finished_items() -> None:
    class Stalls(it.solvers.GradientDescent):
        def step(self, objective: Any, state: Any) -> Any:
            # Steps of a millisecond, and one that nothing announces.
            end = time.monotonic() + (10.0 if objective.iteration == 8 else 0.0)
            while time.monotonic() < end:
                time.sleep(0.01)
                check_time()
            return super().step(objective, state)

    y = torch.zeros(3, 1, 8, 8)
    y[2] = torch.linspace(0, 1, 64).view(1, 8, 8)
    problem = it.Problem(y, it.operators.Blur(torch.ones(3, 3) / 9, (8, 8)))
    solution = it.solve(
        problem,
        it.priors.Tikhonov(),
        Stalls(max_iterations=50, tolerance=1e-12),
        0.1,
        time_limit=1.0,
        progress=False,
    )
    assert solution.status == ("converged", "converged", "limit")
    assert solution.iterations.tolist() == [0, 0, 8] and bool(solution.x[2].any())


def test_a_time_limit_ends_search_and_solve_together() -> None:
    y = torch.linspace(0, 1, 1024).view(1, 1, 32, 32)
    problem = it.Problem(y, it.operators.Blur(torch.ones(3, 3) / 9, (32, 32)))
    for rule in ("validation", "sure", "l-curve", "compensated-discrepancy"):
        began = time.monotonic()
        solution = it.solve(
            problem,
            it.priors.Tikhonov(),
            Slow(seconds=0.1, max_iterations=200),
            regularization=rule,
            time_limit=0.5,
            progress=False,
        )
        assert time.monotonic() - began < 4, rule
        assert solution.status == ("limit",)
        assert any("ended the search for the weight" in note for note in solution.notes), rule
        assert float(solution.regularization[0]) > 0


@pytest.mark.parametrize("rule", ["sure", "validation"])
def test_the_budget_of_a_command_bounds_the_search(
    monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    step, longest = it.solvers.GradientDescent.step, [0]

    def count(self: Any, objective: Any, state: Any) -> Any:
        longest[0] = max(longest[0], objective.iteration + 1)
        return step(self, objective, state)

    monkeypatch.setattr(it.solvers.GradientDescent, "step", count)
    y = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, it.operators.Blur(torch.ones(3, 3) / 9, (24, 24)))
    solver = it.solvers.GradientDescent(max_iterations=400)
    settings: dict[str, Any] = {"max_iterations": 3, "tolerance": 0.0, "progress": False}
    with limit(iterations=3):
        it.solve(problem, it.priors.Tikhonov(), solver, rule, **settings)
    # A walk has four iterations at each of at most 24 weights.
    assert longest[0] == 3 if rule == "sure" else longest[0] <= 96


def test_a_command_ends_although_a_library_does_not_return(tmp_path: Path) -> None:
    script = (
        "import ctypes, os\n"
        "from invtoolbox.core.interrupts import end_without_return, terminate_as_interrupt\n"
        "with end_without_return(), terminate_as_interrupt():\n"
        "    print('ready', flush=True)\n"
        "    lib = ctypes.CDLL(None)\n"
        "    wait = lib.pthread_mutex_lock\n"
        "    mutex = ctypes.create_string_buffer(64)\n"
        "    wait(mutex), wait(mutex)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.terminate()
        began = time.monotonic()
        assert process.wait(20) == 130
        assert time.monotonic() - began < 10
        assert "stopped within a step" in process.stderr.read()


def test_sigterm_between_steps_interrupts_a_block() -> None:
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_only_files_of_dead_processes_are_stale(tmp_path: Path) -> None:
    (tmp_path / ".run.0123abcd.tmp").write_bytes(b"left by a killed process")
    (tmp_path / ".other.0123abcd.tmp").touch()
    (tmp_path / ".run.tmp").touch()
    stack = tmp_path / ".stack.0123abcd.tmp"
    stack.mkdir()
    (stack / "slice_0000.tif").touch()
    with writing(tmp_path / "run") as stream:
        assert remove_stale(tmp_path, "run") == [tmp_path / ".run.0123abcd.tmp"]
        stream.write(b"whole")
    with writing_folder(tmp_path / "stack") as folder:
        (folder / "a").touch()
        assert remove_stale(tmp_path, "stack") == []
    assert sorted(os.listdir(tmp_path)) == [".other.0123abcd.tmp", ".run.tmp", "run", "stack"]
    assert remove_stale(tmp_path) == [tmp_path / ".other.0123abcd.tmp"]
    assert remove_stale(tmp_path / "missing") == []


def test_a_resumed_run_removes_what_a_killed_write_left(tmp_path: Path) -> None:
    left = tmp_path / ".run.0123abcd.tmp"
    left.touch()
    solve(tmp_path / "run")
    assert not left.exists()


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    for name in ("a", "b"):
        with writing_folder(folder) as hidden:
            (hidden / name).touch()
    assert os.listdir(folder) == ["b"]
    with pytest.raises(KeyError), writing_folder(folder):
        raise KeyError
    assert os.listdir(folder) == ["b"] and os.listdir(tmp_path) == ["stack"]
