"""Scans of objects that are wider than the detector: solve again with continued views.

The measured views of such an object do not determine the level of the image, since material outside
of the field of view adds a smooth function to it (Natterer, The Mathematics of Computerized
Tomography, 1986, chapter VI.4). A prior takes the lowest level. Views that are continued by a guess
give a better one if one image explains the guess and the measurements.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.case import (
    IS_FREE,
    IS_KNOWN,
    IS_OPEN,
    IS_REAL,
    IS_SQUARES,
    STAY,
    Case,
    Proposal,
    Step,
    Trait,
    require_time,
)
from invtoolbox.jobs.images.decisions.thresholds import (
    ADDED_MISFIT,
    ADDED_WEIGHT,
    MEASURED_GROWTH,
)
from invtoolbox.measurements.findings import Subject
from invtoolbox.measurements.scans import check_truncation
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D
from invtoolbox.problem import Problem
from invtoolbox.processing.detector import extend_truncated


class LongerViews(Step):
    """Continue the views of an object that is wider than the detector by `extend_truncated`."""

    name = "longer-views"
    question = "does one image explain the views of a wide object and a guess of what is outside?"
    price = "1 solve per item that is wider than the detector"
    needs = (
        IS_OPEN,
        IS_FREE,
        IS_SQUARES,
        IS_KNOWN,
        IS_REAL,
        Trait("no parallel or fan beam of one geometry", lambda case: _is_plane(case.problem)),
        Trait("parameters belong to the answer", lambda case: not case.answer.parameters),
    )

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, self._propose_one)

    def _propose_one(self, case: Case) -> Proposal:
        problem, solution = case.problem, case.answer
        if solution.status[0] == "invalid" or check_truncation(Subject(problem)) is None:
            return STAY
        require_time()
        try:
            longer, added = _continue(problem)
            x = case.again(longer)
        except InputError:  # no room for the added cells, such as a source within the image
            return STAY
        if not _is_explained(problem, longer, added, solution.x, x):
            return Proposal(
                sentence=f"the object{ITEM} is wider than the detector, and no image explains its views "
                "and a guess of what is outside: the level of the image is not known"
            )
        changed = dataclasses.replace(
            case, solution=dataclasses.replace(solution, x=x), is_continued=True
        )
        return Proposal(
            changed,
            f"the object{ITEM} is wider than the detector: its views are continued by a guess "
            "(extend_truncated), which gives the level of the image",
        )


def _is_plane(problem: Problem) -> bool:
    return isinstance(problem.operator, Scan2D) and problem.operator.items is None


def _continue(item: Problem) -> tuple[Problem, int]:
    """Return the problem of the longer views, and the number of cells added at either end."""
    A, term, y = item.operator, item.data_term, item.y0
    assert isinstance(A, Scan) and isinstance(term, LeastSquares)
    longer, wide = extend_truncated(y, operator=A)
    added = (longer.shape[-1] - y.shape[-1]) // 2
    weights = torch.full_like(longer, ADDED_WEIGHT)
    weights[..., added:-added] = 1 if term.weights is None else term.weights
    changed = item.with_operator(wide).with_measurements(longer)
    return changed.with_data_term(LeastSquares(term.noise_std, weights)), added


def _is_explained(item: Problem, longer: Problem, added: int, before: Tensor, x: Tensor) -> bool:
    """Return whether an image explains the continued views, and the measured ones as before."""
    residual = longer.operator(x) - longer.y0
    outside = torch.ones_like(residual, dtype=torch.bool)
    outside[..., added:-added] = False
    misfit = residual[outside].norm() / longer.y0[outside].norm().clamp_min(1e-30)
    measured = torch.ones_like(item.y0)
    if isinstance(item.data_term, LeastSquares) and item.data_term.weights is not None:
        measured = item.data_term.weights.sqrt().expand_as(item.y0)
    now = (measured * residual[..., added:-added]).norm()
    then = (measured * (item.operator(before) - item.y0)).norm()
    return bool(misfit <= ADDED_MISFIT) and bool(now <= MEASURED_GROWTH * then)
