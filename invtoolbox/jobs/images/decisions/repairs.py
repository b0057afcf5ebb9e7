"""All that can be mended without harm, if the user asks for it."""

from __future__ import annotations

import dataclasses

from invtoolbox.jobs.images.decisions.case import STAY, Case, Proposal, Step
from invtoolbox.jobs.images.decisions.gains import cover_object, without_gains
from invtoolbox.measurements import check_measurements, repair_measurements
from invtoolbox.operators.tomography.scan_2d import Scan


class Repairs(Step):
    """Give dead and hot readings weight 0, and subtract gains of the cells, certain or not."""

    name = "repairs"
    question = "which faults can be mended?"
    price = "9 solves of 50 iterations if gains are found"
    is_asked_for = True

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _propose_one)


def _propose_one(case: Case) -> Proposal:
    problem, sentences = repair_measurements(case.problem)
    if isinstance(problem.operator, Scan):
        whole = cover_object(problem)
        if any(finding.name == "gains" for finding in check_measurements(whole)):
            mended, sentence = without_gains(whole)
            problem, sentences = mended.with_operator(problem.operator), (*sentences, sentence)
    if not sentences:
        return STAY
    is_scan = isinstance(problem.operator, Scan)
    changed = dataclasses.replace(case, problem=problem, is_mended=is_scan)
    return Proposal(changed, "; ".join(sentences))
