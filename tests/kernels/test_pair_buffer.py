"""A GPU sorts splats in buffers of a guessed size; steps whose buffers were too small are repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.kernels.rendering.pair_buffer import PairBuffers
from invtoolbox.kernels.rendering.splat_binning import _bin_by_torch, bin_splats
from tests import device_jobs
from tests.emulated_cuda import emulate_cuda


def boxes(count: int, views: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    low = torch.randint(0, 40, (views, count, 2), generator=g)
    high = (low + torch.randint(1, 20, (views, count, 2), generator=g)).clamp_max(48)
    pixels = torch.stack([low[..., 0], high[..., 0], low[..., 1], high[..., 1]], -1).int()
    reaches = torch.rand(views, count, 2, generator=g) + 0.1
    reaches[:, -1, 0] = float("nan")  # of a splat that no tile lists
    pixels[:, -1] = 0
    return pixels, reaches


def test_a_buffer_larger_than_the_number_of_pairs_gives_the_same_lists() -> None:
    pixels, reaches = boxes(60)
    exact, buffers = bin_splats(pixels, reaches, 48, 48), PairBuffers()
    buffers.may_guess = True
    for _ in range(2):  # the first call asks for the number, the second one guesses
        with buffers.open():
            guessed = _bin_by_torch(pixels, reaches, 3, 3)
        total = len(exact.entries)
        assert torch.equal(guessed.entries[:total], exact.entries)
        for name in ("starts", "bases", "pairs", "shares"):
            assert torch.equal(getattr(guessed, name), getattr(exact, name)), name
    assert len(guessed.entries) > total and buffers.read(torch.tensor(3)) == (3, True)


def test_a_buffer_that_is_too_small_is_noticed_and_grows() -> None:
    pixels, reaches = boxes(60)
    buffers = PairBuffers()
    buffers.may_guess = True
    with buffers.open():
        _bin_by_torch(pixels, reaches, 3, 3)
        for key in buffers._sizes:
            buffers._sizes[key] = 20
        cut = _bin_by_torch(pixels, reaches, 3, 3)
        # The lists stay within the buffer.
        assert len(cut.entries) == int(cut.starts[-1]) == int(cut.shares.sum()) == 20
        assert buffers.read(torch.tensor(1)) == (1, False)
        _bin_by_torch(pixels, reaches, 3, 3)
        assert buffers.read(torch.tensor(0)) == (0, True)


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sizes of the first ten steps, which are not used yet, be guessed too small."""
    guesses = iter(10 * [0.3])
    monkeypatch.setattr(
        "invtoolbox.kernels.rendering.pair_buffer._enlarge",
        lambda count: int(next(guesses, 2.0) * count) + 1,
    )


def watched_solve(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[it.Solution]:
    """Let the jobs call `solve` with further settings; return the list of the solutions."""
    solve, solutions = it.solve, []

    def watched(*problem: Any, **how: Any) -> Any:
        solutions.append(solve(*problem, **settings, **how))
        return solutions[-1]

    monkeypatch.setattr(it, "solve", watched)
    return solutions


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    step, iterations = it.solvers.Adam.step, []

    def counted(solver: Any, objective: Any, state: Any) -> Any:
        iterations.append(objective.iteration + 1)
        return step(solver, objective, state)

    monkeypatch.setattr(it.solvers.Adam, "step", counted)
    return iterations


def test_steps_that_do_not_fit_are_repeated(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rows: list[tuple[int, float, float]] = []
    written: list[int] = []
    monkeypatch.setattr(
        "invtoolbox.loop.checkpoint.Writer.after_step",
        lambda writer, loop, last: written.append(loop.iteration),
    )

    def look(progress: Any) -> None:
        x, objective = progress.x, float(progress.objective)
        rows.append((progress.iteration, objective, float(x.means.sum())))

    # A repeated step has the bits of the first one only if no sum depends on an order.
    with emulate_cuda(), device_jobs.deterministic(True):
        solutions = watched_solve(monkeypatch, callbacks=[look], checkpoint=tmp_path / "run.ckpt")
        exact = device_jobs.gaussians("cuda", 25).cpu()
        expected, iterations = list(rows), count_steps(monkeypatch)
        rows.clear()
        written.clear()
        request.getfixturevalue("small_buffers")
        repeated = device_jobs.gaussians("cuda", 25).cpu()
    assert torch.equal(exact, repeated)
    assert iterations.count(15) == 2 and iterations.count(5) == 1
    # Callbacks, checkpoints and the history contain final steps only.
    assert rows == expected and [row[0] for row in rows] == list(range(1, 26))
    assert written == [*range(1, 11), 20, 25]
    first, second = (solution.history["objective"].cpu() for solution in solutions)
    assert torch.equal(first, second)


@pytest.mark.parametrize("end", [7, 17, 20, 25])
def test_a_callback_stops_at_its_step(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, end: int
) -> None:
    calls: list[int] = []

    def stop(progress: Any) -> bool:
        calls.append(progress.iteration)
        return bool(progress.iteration == end)

    with emulate_cuda(), device_jobs.deterministic(True):
        exact = device_jobs.gaussians("cuda", end).cpu()
        request.getfixturevalue("small_buffers")
        solutions = watched_solve(monkeypatch, callbacks=[stop])
        stopped = device_jobs.gaussians("cuda", 25).cpu()
    assert torch.equal(exact, stopped) and calls == list(range(1, end + 1))
    assert int(solutions[0].iterations) == end
    assert solutions[0].status == (("limit" if end == 25 else "stopped"),)


def test_few_iterates_wait_for_callbacks(
    monkeypatch: pytest.MonkeyPatch, small_buffers: None
) -> None:
    """If the iterates that wait for their callbacks are large, the host reads more often."""
    calls: list[int] = []
    monkeypatch.setattr("invtoolbox.loop.capture._LARGEST_QUEUE", 1)
    with emulate_cuda():
        watched_solve(monkeypatch, callbacks=[lambda p: calls.append(p.iteration)])
        iterations = count_steps(monkeypatch)
        device_jobs.gaussians("cuda", 25)
    assert calls == list(range(1, 26))
    assert iterations.count(11) == 2 and iterations.count(15) == 1
