"""Bounds of tangent rays for scans over a short arc."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from invtoolbox.jobs.images.decisions.case import (
    HAS_PRIOR,
    IS_KNOWN,
    IS_SQUARES,
    STAY,
    Case,
    Proposal,
    Step,
    Trait,
)
from invtoolbox.jobs.images.decisions.one_material import empty_level, is_absorption
from invtoolbox.operators.tomography.arcs import arc_of
from invtoolbox.priors.base import Prior
from invtoolbox.priors.images.tangent_bound import TangentBound
from invtoolbox.problem import Problem


class ShortArc(Step):
    """Add the bound of tangent rays to total variation by name, if the arc of a scan is short."""

    name = "short-arc"
    question = "is the arc short, and no measurement negative?"
    price = "none"
    needs = (
        HAS_PRIOR,
        IS_SQUARES,
        IS_KNOWN,
        Trait("no scan over a short arc", lambda case: _is_short(case.problem)),
        Trait("the prior is not total variation by its name", lambda case: _is_bare(case.names)),
    )

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _propose_one)


def _is_short(problem: Problem) -> bool:
    arc = arc_of(problem.operator)
    return arc is not None and arc.is_limited


def _is_bare(names: Sequence[str]) -> bool:
    return "tv" in names and set(names) <= {"tv", "nonnegative"}


def _propose_one(case: Case) -> Proposal:
    problem = case.problem.without_skipping()
    if not is_absorption(problem):
        return STAY
    sentence = (
        "the arc is short, and no measurement is negative: x is kept nonnegative, and 0 where rays "
        "pass that nothing absorbs; automatic='-short-arc' leaves these bounds out"
    )
    return Proposal(dataclasses.replace(case, prior=bound(problem, case.sum_of_priors)), sentence)


def bound(problem: Problem, prior: Prior) -> Prior:
    """Add the bound of tangent rays to a prior.

    Args:
        problem: measurements and operator of a scan.
        prior: sum of the priors.
    """
    return prior + TangentBound(empty_level(problem))


def bound_if_short(problem: Problem, prior: Prior, name: str) -> Prior:
    """Add the bound to a prior by name if the arc is short and no measurement is negative.

    Args:
        problem: measurements and operator of a scan, with least squares.
        prior: the prior.
        name: its name.
    """
    is_bounded = _is_bare([name]) and _is_short(problem) and is_absorption(problem)
    return bound(problem, prior) if is_bounded else prior
