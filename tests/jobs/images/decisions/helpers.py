"""One step alone, asked about the answer to a problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import invtoolbox as it
from invtoolbox.jobs.images.decisions.case import Case, Step
from invtoolbox.jobs.images.decisions.join import join
from invtoolbox.jobs.images.decisions.order import ask
from invtoolbox.problem import Problem


def case_of(
    problem: Problem,
    solution: it.Solution | None = None,
    prior: it.priors.Prior | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Case:
    case = Case.of(problem, prior, None, settings or {})
    return dataclasses.replace(case, solution=solution)


def answer_of(step: Step, *arguments: Any, **more: Any) -> it.Solution:
    """Return the answer that a step leaves; the arguments are those of `case_of`."""
    case = case_of(*arguments, **more)
    cases = ask(step, case, {})
    return join(case.problem, [(c.places, c.restore()) for c in cases])


def mended(step: Step, problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """Return the problem of one item that a step leaves, and its sentence."""
    (case,) = ask(step, case_of(problem), {})
    notes = tuple(d.text(1) for d in case.decisions if d.outcome == "taken")
    return case.problem, notes
