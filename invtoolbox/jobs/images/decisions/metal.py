"""Scans with metal: rays through metal get weight 0, and the metal is put back into the image."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.decisions.case import STAY, Case, Proposal, Step
from invtoolbox.measurements.findings import leave_out
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.processing.metal import reduce_metal
from invtoolbox.solution import Solution


class Metal(Step):
    """Solve a scan without the rays that meet metal, and put the metal back.

    The line integrals of these rays are those of `reduce_metal`, which a filtered back-projection and an
    initial guess use; a fit gives them the weight 0.
    """

    name = "metal"
    question = "do rays meet metal?"
    price = "two filtered back-projections"
    is_asked_for = True

    def propose(self, case: Case) -> list[Proposal]:
        A, y, term = case.problem.operator, case.problem.y0, case.problem.data_term
        if not isinstance(A, Scan) or type(term) is not LeastSquares:
            raise InputError(
                "metal is found in line integrals of a scan with least squares, got "
                f"{type(A).__name__} and {type(term).__name__}; leave metal out"
            )
        reduction = reduce_metal(y, A, None if case.metal is True else case.metal)
        is_metal = reduction.metal.flatten(1).any(1).tolist()
        proposals = [STAY] * case.batch
        for k in (k for k, has_metal in enumerate(is_metal) if has_metal):
            image, mask, hidden = (
                t[k : k + 1] for t in (reduction.image, reduction.metal, reduction.hidden)
            )
            single = case.select(torch.tensor([k]))
            reduced = single.problem.with_measurements(reduction.y[k : k + 1])
            changed = dataclasses.replace(
                single,
                problem=leave_out(reduced, hidden),
                restores=(*single.restores, partial(_put_back, image, mask)),
            )
            sentence = (
                f"metal: {int(mask.sum())} pixels, which {float(hidden.double().mean()):.1%} of the rays "
                "meet; these rays got weight 0, and the metal has the values of the filtered "
                "back-projection"
            )
            proposals[k] = Proposal(changed, sentence)
        return proposals


def _put_back(image: Tensor, mask: Tensor, solution: Solution) -> Solution:
    """Return a solution with the metal of an image."""
    x = torch.where(mask.to(solution.x.device), image.to(solution.x), solution.x)
    return dataclasses.replace(solution, x=x)
