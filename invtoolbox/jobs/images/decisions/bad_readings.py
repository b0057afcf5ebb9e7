"""Readings of a scan or a picture that were not measured, or that the others contradict."""

from __future__ import annotations

import dataclasses

import torch

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import MeasurementWarning, warn_user
from invtoolbox.jobs.images.decisions.case import (
    IS_KNOWN,
    IS_SQUARES,
    IS_UNMENDED,
    IS_WHOLE,
    STAY,
    Case,
    Proposal,
    Step,
)
from invtoolbox.jobs.images.decisions.thresholds import (
    EXCEEDED_SHARE,
    FOLLOWED_SHARE,
    READING_FITS,
    READING_ITERATIONS,
)
from invtoolbox.jobs.images.decisions.wide_grid import cover_field
from invtoolbox.measurements.detector import fill
from invtoolbox.measurements.empty_views import empty_views
from invtoolbox.measurements.findings import Subject, find, leave_out
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.lsmr import CGLS


class EmptyViews(Step):
    """Give views of a scan weight 0 that hold a single number, and warn of it."""

    name = "empty-views"
    question = "do views hold the same number in all cells?"
    price = "none"
    needs = (IS_UNMENDED, IS_KNOWN, IS_WHOLE)

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _leave_out_empty)


class BadReadings(Step):
    """Give dead, hot and clipped readings weight 0 if a fit to the others predicts another value."""

    name = "bad-readings"
    question = "do the other readings contradict dead, hot or clipped ones?"
    price = "2 fits of 30 iterations if there are suspicious readings"
    needs = (IS_UNMENDED, IS_SQUARES, IS_KNOWN, IS_WHOLE)

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _leave_out_certain)


def _leave_out_empty(case: Case) -> Proposal:
    empty = empty_views(case.problem)
    if empty is None:
        return STAY
    sentence = (
        f"left out: {int(empty.sum())} views of {empty.shape[2]} hold the same number in all cells, so "
        "they were not measured; they got weight 0; automatic='-empty-views' keeps them"
    )
    warn_user(sentence, MeasurementWarning)
    mended = leave_out(case.problem, empty)
    return Proposal(dataclasses.replace(case, problem=mended, is_mended=True), sentence)


def _leave_out_certain(case: Case) -> Proposal:
    r"""Give readings of one item weight 0 if the others predict another value.

    x is fitted to the other readings. A small structure that a reading y shows, with the mean f of its
    neighbours, also acts on other readings, so ``A x`` follows it and ``(A x - f) / (y - f)`` is near 1;
    of a fault it is near 0. Readings that were cut off are certain if ``A x`` exceeds most of them.

    """
    problem = case.problem
    subject, y = Subject(problem), problem.y0
    with torch.no_grad():
        clipped = torch.zeros_like(y, dtype=torch.bool)
        faults = subject.bad_pixels
        if subject.bad_readings is not None:
            dead, hot, clipped = subject.bad_readings
            faults = dead | hot
        if faults is None or not bool((faults | clipped).any()):
            return STAY
        findings = find(subject)
        if len(findings) != 1:  # another mistake may have made the readings implausible
            return STAY
        A = cover_field(problem.operator, y) or problem.operator
        whole = problem.with_operator(A).with_data_term(LeastSquares())
        certain = faults
        for _ in range(READING_FITS):  # readings that are true after all explain others
            bad = certain | clipped
            around = fill(y, bad)
            around = torch.where(bad & (around == y), fill(y.mT, bad.mT).mT, around)
            trial = leave_out(whole, bad)
            prediction = A(
                inner_solve(
                    trial, None, CGLS(), max_iterations=READING_ITERATIONS, progress=False
                ).x
            )
            followed, fault = prediction - around, y - around
            share = followed / fault
            for axis in (-2, -1):  # a line is certain as a whole
                total = (followed * fault).sum(axis, True) / fault.square().sum(axis, True)
                share = torch.where(certain.all(axis, True), total, share)
            certain = certain & (share.abs() < FOLLOWED_SHARE)
        if bool((prediction > y)[clipped].double().mean() > EXCEEDED_SHARE):
            certain = certain | clipped
    if not bool(certain.any()):
        return STAY
    fact = findings[0].fact or findings[0].sentence
    sentence = (
        f"left out: {fact}; {int(certain.sum())} of them, of which the others predict another value, "
        "got weight 0; automatic='-bad-readings' keeps them"
    )
    warn_user(sentence, MeasurementWarning)
    mended = leave_out(problem, certain)
    return Proposal(dataclasses.replace(case, problem=mended, is_mended=True), sentence)
