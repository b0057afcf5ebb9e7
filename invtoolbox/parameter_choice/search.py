"""Base class of the rules that compare the solutions of several weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.trials import Trials


@dataclass(frozen=True)
class WeightSearch(ABC):
    """A rule that compares the solutions of several weights.

    It is deterministic: draws have a seed in its settings. A user's own rule writes ``choose``, or
    is a `ScoreSearch` and writes ``score``.
    """

    name: ClassVar[str] = "a search for the weight"
    separate: bool = False  # whether every prior has a weight of its own

    @abstractmethod
    def choose(self, trials: Trials) -> WeightCurve:
        """Try several weights and choose one for each item."""

    @abstractmethod
    def describe(self, objective: Objective) -> str:
        """Return one sentence that names this rule and the reason for it."""

    def _refuse_separate(self) -> None:
        if self.separate:
            raise InputError(f"{self.name!r} chooses one weight; use 'gcv' or 'sure' for several")
