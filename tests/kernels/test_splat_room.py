"""A GPU sorts splats in a room of a guessed size, and the loop repeats steps that did not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.core.room import Room
from invtoolbox.kernels.rendering.splat_binning import _bin_by_torch, bin_splats
from invtoolbox.testing import emulate_cuda
from tests import device_jobs


def boxes(count: int, views: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    low = torch.randint(0, 40, (views, count, 2), generator=g)
    high = (low + torch.randint(1, 20, (views, count, 2), generator=g)).clamp_max(48)
    pixels = torch.stack([low[..., 0], high[..., 0], low[..., 1], high[..., 1]], -1).int()
    reaches = torch.rand(views, count, 2, generator=g) + 0.1
    reaches[:, -1, 0] = float("nan")  # of a splat that no tile lists
    pixels[:, -1] = 0
    return pixels, reaches


def test_more_room_than_pairs_gives_the_same_lists() -> None:
    pixels, reaches = boxes(60)
    exact, room = bin_splats(pixels, reaches, 48, 48), Room()
    room.is_trusted = True
    for _ in range(2):  # the first call asks for the number, the second one guesses
        with room.open():
            guessed = _bin_by_torch(pixels, reaches, 3, 3)
        total = len(exact.entries)
        assert torch.equal(guessed.entries[:total], exact.entries)
        for name in ("starts", "bases", "pairs", "shares"):
            assert torch.equal(getattr(guessed, name), getattr(exact, name)), name
    assert len(guessed.entries) > total and room.read(torch.tensor(3)) == (3, True)


def test_too_little_room_is_noticed_and_grows() -> None:
    pixels, reaches = boxes(60)
    room = Room()
    room.is_trusted = True
    with room.open():
        _bin_by_torch(pixels, reaches, 3, 3)
        for key in room._sizes:
            room._sizes[key] = 20
        cut = _bin_by_torch(pixels, reaches, 3, 3)
        # The lists stay within the room.
        assert len(cut.entries) == int(cut.starts[-1]) == int(cut.shares.sum()) == 20
        assert room.read(torch.tensor(1)) == (1, False)
        _bin_by_torch(pixels, reaches, 3, 3)
        assert room.read(torch.tensor(0)) == (0, True)


def test_steps_that_do_not_fit_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with emulate_cuda():
        exact = device_jobs.gaussians("cuda", 25).cpu()
        guesses = iter(10 * [0.3])  # of the first ten steps, before guesses are used
        monkeypatch.setattr(
            "invtoolbox.core.room._enlarge", lambda count: int(next(guesses, 2.0) * count) + 1
        )
        solve = it.solve

        def watched(*problem: Any, **how: Any) -> Any:
            return solve(*problem, callbacks=[lambda p: seen.append(p.iteration)], **how)

        monkeypatch.setattr(it, "solve", watched)
        repeated = device_jobs.gaussians("cuda", 25).cpu()
    assert torch.equal(exact, repeated)
    assert seen[-1] == 25 and seen.count(15) == 2 and seen.count(5) == 1
