"""Priors trained on CT slices, in the unit of the scan that they are used for."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import torch

from invtoolbox.core.decision import Decision
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.decisions.case import HAS_PRIOR, STAY, Case, Proposal, Step, Trait
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.priors.base import ExplicitPrior, Prior, PriorSum
from invtoolbox.priors.settings import replace
from invtoolbox.priors.trained_on import UNITS, TrainedOn, find_unit
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution

#: Length of a pixel of size 1 in mm, in units of the image that state a length; images in Hounsfield
#: units have their pixels in mm.
_LENGTHS = {"HU": 1.0, "1/mm": 1.0, "1/cm": 10.0, "1/m": 1000.0}


def units_of(problem: Problem) -> list[str | None]:
    """Return the units in which the items of a 2D scan show soft tissue, None if an item does not.

    The filtered back-projections of the items show it. Skipped items take the unit of another one.

    Args:
        problem: measurements, operator and data term.
    """
    A, y = problem.operator, problem.y0
    is_scan = isinstance(A, Scan2D) and type(problem.data_term) is LeastSquares
    if not is_scan or problem.unknown or y.is_complex() or y.shape[1] != 1:
        return [None] * problem.batch
    skipped = problem.skipped
    valid = [k for k in range(problem.batch) if skipped is None or not bool(skipped[k])]
    units: dict[int, str | None] = {}
    for k in valid:
        item = problem.select(torch.tensor([k], device=y.device)).without_skipping()
        units[k] = find_unit(item.operator.pseudo_inverse(item.y0))  # type: ignore[attr-defined]
    usual = units[valid[0]] if valid else None
    return [units.get(k, usual) for k in range(problem.batch)]


def needs_unit(prior: Prior | None) -> bool:
    """Return whether a sum of priors holds one that was trained on CT slices, without a range."""
    return prior is not None and any(_training(term.prior) for term in prior.as_sum().terms)


class TrainedRange(Step):
    """Give priors that were trained on CT slices the range of the training, in the scan's unit."""

    name = "trained-range"
    question = "in which unit does the scan show soft tissue?"
    price = "1 filtered back-projection per item"
    needs = (
        HAS_PRIOR,
        Trait("no prior was trained on CT slices", lambda case: needs_unit(case.prior)),
    )

    def propose(self, case: Case) -> list[Proposal]:
        units = units_of(case.problem)
        proposals = {unit: _propose(case, unit) for unit in dict.fromkeys(units)}
        return [proposals[unit] for unit in units]


def _propose(case: Case, unit: str | None) -> Proposal:
    """Propose a range for the items in a unit."""
    fitted = fit_range(case.problem, case.prior, unit, is_free=case.solver is None)
    if not fitted.notes:
        return STAY
    restores = case.restores
    if fitted.offset:
        restores = (*restores, partial(_add, fitted.offset))
    changed = dataclasses.replace(
        case, problem=fitted.problem, prior=fitted.prior, restores=restores
    )
    records = [Decision(step="trained-range", sentence=note) for note in fitted.notes[1:]]
    return Proposal(changed, fitted.notes[0], records=tuple(records))


def _add(offset: float, solution: Solution) -> Solution:
    return dataclasses.replace(solution, x=solution.x + offset)


class Fitted(NamedTuple):
    """A problem whose prior has the range of its image.

    Attributes:
        problem: the problem; of an image in Hounsfield units, that of values above air.
        prior: sum of the priors.
        offset: value to add to the image of the problem.
        notes: sentences for the user.
    """

    problem: Problem
    prior: Prior | None
    offset: float = 0.0
    notes: tuple[str, ...] = ()


def fit_range(
    problem: Problem, prior: Prior | None, unit: str | None, is_free: bool = True
) -> Fitted:
    """Give priors that were trained on CT slices the range of the training, in the scan's unit.

    In Hounsfield units everything outside of the body is -1000. Denoisers with few steps do not
    reach this level from 0, so the image is solved for as ``x + 1000``, which is 0 in air.

    Args:
        problem: measurements, operator and data term.
        prior: sum of the priors; those of cards with ``trained_on`` are changed, unless they were
            loaded with an ``intensity_range``.
        unit: unit of the image, of all items; None if it is not known.
        is_free: whether the problem may be changed, too.
    """
    if prior is None or unit is None or not needs_unit(prior):
        return Fitted(problem, prior)
    total, notes, terms = prior.as_sum(), [], []
    offset = UNITS[unit][0] if unit == "HU" and is_free and len(total.terms) == 1 else 0.0
    for term in total.terms:
        training = _training(term.prior)
        if training is not None:
            low, high = training.range_in(unit)
            term = dataclasses.replace(term, prior=_scale(term.prior, low - offset, high - offset))
            notes.append(
                f"the image shows soft tissue in the unit {unit!r}, so the prior has the range "
                f"{low:.4g} to {high:.4g}; it.priors.load(name, {{'intensity_range': ...}}) sets "
                "another"
            )
            if unit in _LENGTHS:
                A: Scan2D = problem.operator  # type: ignore[assignment]
                remark = training.explain_pixels(_LENGTHS[unit] * max(A.pixel_size))
                notes += [f"the prior was made for CT: {remark}"] if remark else []
        terms.append(term)
    if offset:
        air = problem.operator(torch.full_like(problem.zeros(), -offset))
        problem = problem.with_measurements(problem.y0 + air)
    return Fitted(problem, PriorSum(tuple(terms), total.implicit), offset, tuple(notes))


def _training(prior: ExplicitPrior) -> TrainedOn | None:
    return getattr(prior, "trained_on", None)


def _scale(prior: ExplicitPrior, low: float, high: float) -> ExplicitPrior:
    """Return the prior with another range; its noise level changes with the length of the range."""
    old_low, old_high = prior.intensity_range  # type: ignore[attr-defined]
    factor = (high - low) / (old_high - old_low)
    sigma = prior.sigma * factor  # type: ignore[attr-defined]
    return replace(prior, intensity_range=(low, high), sigma=sigma)
