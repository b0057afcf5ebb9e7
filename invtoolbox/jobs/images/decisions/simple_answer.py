"""Compare the default answer for a picture with the simple answer, without the truth.

The simple answer to missing pixels is an interpolation, to a noisy or blurred picture and to counts
the picture itself, to a small picture bicubic interpolation, to k-space zero filling, and to a scan
its filtered back-projection. Answers are compared by pixels or views that neither has seen, an
enlarged picture by the enlargement of a smaller one, denoised pictures by Stein's estimate of the
risk, and blurred ones, counts and k-space by simulated measurements, k-space by held-out samples as
well. Fine detail of a blurred picture has to agree with its coarser detail, and an enlargement may
neither add more detail than the picture has nor leave structure as its residual.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.jobs.images.decisions.by_noise import (
    compare_by_simulation,
    compare_with_measurements,
)
from invtoolbox.jobs.images.decisions.case import MAY_CHANGE, Case, Proposal, Step, Trait
from invtoolbox.jobs.images.decisions.enlargement import (
    compare_at_half_size,
    doubt_detail,
    doubt_structure,
)
from invtoolbox.jobs.images.decisions.finer_grid import has_smooth_views
from invtoolbox.jobs.images.decisions.held_out_pixels import compare_in_gaps
from invtoolbox.jobs.images.decisions.held_out_views import compare_views
from invtoolbox.jobs.images.decisions.judge import Verdict
from invtoolbox.objective.gaps import measured
from invtoolbox.operators.base import Operator
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.operators.mri.cartesian import CartesianMRI
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.held_out import LEAST_BLOCKS, LEAST_MEASUREMENTS
from invtoolbox.parameter_choice.noise import has_noise_windows
from invtoolbox.problem import Problem

#: End of the note on an item whose answer is the simple one.
KEPT = "automatic='-simple-answer' keeps the prior's answer"


class SimpleAnswer(Step):
    """Take the simple answer for items in which the prior is no better; it has no posterior."""

    name = "simple-answer"
    question = "does the prior predict measurements better than the simple answer?"
    evidence = "error of held-out or simulated measurements, or the estimated risk"
    price = "1 to 4 solves with held-out or simulated measurements"
    needs = (
        *MAY_CHANGE,
        Trait(
            "no comparison is known for this operator, misfit or size",
            lambda case: _kind(case.problem) is not None,
        ),
    )

    def propose(self, case: Case) -> list[Proposal]:
        verdict, solution = _compare(case, case.posed), case.answer
        valid = torch.tensor([status != "invalid" for status in solution.status])
        wins = (verdict.wins.cpu() & valid).tolist()
        images = list(solution.x.split(1))
        for k, is_simple in enumerate(wins):
            if is_simple:
                images[k] = self._constrain(case, verdict.simple(k))
        # Remarks on the residual and on the pixels of an answer that is not returned.
        decisions = tuple(
            dataclasses.replace(d, sentence="")
            if d.step in ("finer-grid", "open-edges") and d.outcome == "taken"
            else d
            for d in solution.decisions
            if d.step != "residual"
        )
        ending = f"; {KEPT}" if solution.posterior is None else f"; it has no posterior; {KEPT}"
        simple = dataclasses.replace(
            case,
            solution=dataclasses.replace(
                solution, x=torch.cat(images), posterior=None, decisions=decisions
            ),
        )
        return [
            Proposal(
                simple if is_simple else None,
                f"{verdict.reason(k)}{ITEM}{ending}" if is_simple else verdict.remark(k),
                before=float(verdict.by_prior[k]),
                after=float(verdict.by_simple[k]),
            )
            for k, is_simple in enumerate(wins)
        ]

    @staticmethod
    def _constrain(case: Case, image: Tensor) -> Tensor:
        for term in case.sum_of_priors.as_sum().terms:
            if term.prior.is_constraint and "prox" in term.prior.offers:
                image = term.prior.prox(image, 1.0)
        return image


def _compare(case: Case, problem: Problem) -> Verdict:
    """Compare the answer by the measure that suits the operator and the misfit."""
    kind, sampled = _kind(case.problem), measured(problem)
    if kind is Scan:
        return _compare_scan(case, problem)
    if kind in (Blur, Poisson, CartesianMRI):
        return compare_by_simulation(problem, case.answer, case.again)
    if kind is Downsampling:
        half = compare_at_half_size(problem, case.again) if sampled is None else None
        if half is not None:
            return doubt_structure(problem, case.answer.x, half)
        every = torch.ones_like(problem.y0, dtype=torch.bool)
        verdict = compare_in_gaps(problem, every if sampled is None else sampled, case.again)
        verdict = doubt_structure(problem, case.answer.x, verdict)
        return doubt_detail(problem, case.answer.x, verdict)
    if sampled is not None:
        return compare_in_gaps(problem, sampled, case.again)
    return compare_with_measurements(problem, case.answer, case.again)


def _compare_scan(case: Case, problem: Problem) -> Verdict:
    """Compare an answer to a scan with its filtered back-projection.

    An image may have the edges of an object that is made of its pixels unless the views are smooth.
    Squares have them only if smaller pixels show that the object is made of large ones. Else they gain
    little from many views, so they must be clearly better.
    """
    bodies = [t.prior for t in case.sum_of_priors.as_sum().terms if not t.prior.is_constraint]
    is_square = all("quadratic" in body.offers for body in bodies) and bool(bodies)
    image, is_of_pixels = case.without_views or (None, torch.tensor(False))
    if is_square:
        return compare_views(problem, case.again, image, is_of_pixels, ~is_of_pixels)
    is_simple = type(problem.data_term) is LeastSquares
    has_edges = ~has_smooth_views(problem) if is_simple else True
    return compare_views(problem, case.again, image, has_edges)


def _kind(problem: Problem) -> type[Operator | DataTerm] | None:
    """Return the kind of operator or misfit whose simple answer is known, None for others."""
    A, y, term = problem.operator, problem.y, problem.data_term
    # A small picture may be enlarged to many pixels.
    if not isinstance(y, Tensor) or math.prod(problem.image_shape) < LEAST_MEASUREMENTS:
        return None
    if y.is_complex():
        is_known = isinstance(A, CartesianMRI) and type(term) is LeastSquares
        return CartesianMRI if is_known and not problem.unknown else None
    if isinstance(A, Scan):
        is_known = type(term) in (LeastSquares, PoissonTransmission)
        enough = not problem.unknown and (A.blocks or 0) >= LEAST_BLOCKS
        return Scan if is_known and enough else None
    is_picture = not problem.unknown and A.domain_shape == A.range_shape
    if type(term) is Poisson:
        return Poisson if isinstance(A, (Identity, Blur)) and is_picture else None
    if type(term) is not LeastSquares or not has_noise_windows(y):
        return None
    if isinstance(A, Blur):
        is_picture |= A.boundary == "valid" and not problem.unknown
        return Blur if is_picture else None
    if isinstance(A, Downsampling):
        return Downsampling if y.ndim == 4 else None
    return Identity if isinstance(A, (Identity, Inpainting)) else None
