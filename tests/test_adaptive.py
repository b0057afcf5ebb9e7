"""Implicit priors whose parameters change in number on the way: moments, statistics, checkpoints, items that end early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.priors.adaptive import AdaptivePrior, Intermediate, Transfer


class Watched(it.operators.Identity):
    """Says how much each entry is pulled."""

    def with_info(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        own = x.clone()
        return own, {"entry": own}


class Shares(AdaptivePrior):
    """x is the sum of the rows of a leaf; at set times every row gives half of itself to a new one, so that x stays as it is."""

    def __init__(self, times: tuple[int, ...] = (), forget: bool = False) -> None:
        self.times, self.forget = times, forget

    def initial(self) -> dict[str, Tensor]:
        return {"rows": torch.zeros(1, 1, 1, 4), "offset": torch.zeros(1, 1, 4)}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return parameters["rows"].sum(1) + parameters["offset"]

    def statistics(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"pulled": torch.zeros(len(parameters["offset"]), 4)}

    def gather(
        self,
        statistics: dict[str, Tensor],
        parameters: dict[str, Tensor],
        info: dict[str, Intermediate],
    ) -> dict[str, Tensor]:
        slope = info["entry"].gradient
        assert slope is not None
        return {"pulled": statistics["pulled"] + slope[:, 0].abs()}

    def adapts(self, iteration: int) -> bool:
        return iteration in self.times

    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
    ) -> tuple[dict[str, Tensor], Transfer]:
        seen.append(statistics["pulled"].clone())

        def transfer(name: str, tensor: Tensor) -> Tensor:
            return (
                torch.cat([tensor, torch.zeros_like(tensor) if self.forget else tensor], 1)
                if name == "rows"
                else tensor
            )

        half = parameters["rows"] / 2
        return {"rows": torch.cat([half, half], 1), "offset": parameters["offset"]}, transfer

    def resize(
        self, parameters: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        rows = parameters["rows"]
        fill = rows.new_zeros(len(rows), shapes["rows"][0] - rows.shape[1], *rows.shape[2:])
        return {**parameters, "rows": torch.cat([rows, fill], 1)}

    def __repr__(self) -> str:
        return f"Shares({self.times}, {self.forget})"


seen: list[Tensor] = []


def problem(batch: int = 1) -> it.Problem:
    y = torch.arange(1.0, 1 + 4 * batch).view(batch, 1, 4) / batch
    return it.Problem(y, Watched((1, 4)))


def run(
    prior: Shares, batch: int = 1, its: int = 12, rate: float = 0.1, **more: Any
) -> it.Solution:
    seen.clear()
    given = {"tolerance": 0.0, "progress": False, **more}
    solution: it.Solution = it.solve(
        problem(batch), prior, it.solvers.Adam(learning_rate=rate), max_iterations=its, **given
    )
    return solution


def test_parameters_grow_and_the_answer_does_not_jump() -> None:
    solution = run(Shares((3, 7)), its=400, rate=0.02)
    assert solution.parameters is not None and solution.parameters["rows"].shape == (1, 4, 1, 4)
    assert torch.allclose(solution.x, problem().y, atol=1e-3)
    values = solution.history["objective"][:20, 0]
    assert bool((values[1:] < values[:-1]).all())


def test_moments_go_along_and_what_is_new_stays_for_a_step() -> None:
    plain, split, forgetful = run(Shares()), run(Shares((5,))), run(Shares((5,), forget=True))
    # Before and right after the adaptation the same; then two rows move where one did.
    assert torch.equal(plain.history["objective"][:5], split.history["objective"][:5])
    assert float(split.history["objective"][5]) < float(plain.history["objective"][5])
    assert float(forgetful.history["objective"][5]) > float(split.history["objective"][5])
    assert torch.allclose(forgetful.history["objective"][5], plain.history["objective"][5])


def test_statistics_are_gathered_from_one_adaptation_to_the_next() -> None:
    run(Shares((3, 7)), rate=0.01)
    first, second = seen
    # At 0 the pull is y itself, and it falls: four evaluations to the first adaptation, four more
    # to the second.
    y = problem().y[0, 0]
    assert bool((first[0] < 4 * y).all()) and bool((first[0] > 3 * y).all())
    assert bool((second[0] < first[0]).all()) and bool((second[0] > 0).all())


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole = run(Shares((3, 7)), its=12)
    for stop in (2, 3, 5, 8):
        path = tmp_path / f"{stop}.ckpt"
        run(Shares((3, 7)), its=stop, checkpoint=Checkpoint(path, 0.0))
        resumed = run(Shares((3, 7)), its=12, checkpoint=Checkpoint(path, 0.0))
        assert torch.equal(whole.x, resumed.x) and torch.equal(
            whole.history["objective"], resumed.history["objective"]
        )
        if stop == 5:
            assert torch.equal(seen[0], _second_statistics())


def _second_statistics() -> Tensor:
    run(Shares((3, 7)), its=12)
    return seen[1]


def test_items_keep_to_themselves_and_may_end_before_others_grow() -> None:
    together = run(Shares((6, 30)), batch=3, its=150, rate=0.05, tolerance=0.1)
    assert len(set(together.iterations.tolist())) > 1
    for k in range(3):
        seen.clear()
        alone = it.solve(
            problem(3).select(torch.tensor([k])),
            Shares((6, 30)),
            it.solvers.Adam(learning_rate=0.05),
            max_iterations=150,
            tolerance=0.1,
            progress=False,
        )
        assert torch.allclose(alone.x[0], together.x[k], atol=1e-6)
        assert int(alone.iterations) == int(together.iterations[k])


def test_solvers_that_cannot_go_on_say_so() -> None:
    with pytest.raises(InputError, match="change in number.*Adam"):
        it.solve(problem(), Shares((3,)), "lbfgs", progress=False)
