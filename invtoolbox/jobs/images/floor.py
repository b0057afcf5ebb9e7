"""Compare the default answer for a picture with the simple answer, without the truth.

The simple answer to missing pixels is an interpolation, to a noisy or blurred picture and to counts
the picture itself, to a small picture bicubic interpolation, to k-space zero filling, and to a scan
its filtered back-projection. Answers are compared by pixels or views that neither has seen, an
enlarged picture by the enlargement of a smaller one, denoised pictures by Stein's estimate of the
risk, and blurred ones, counts and k-space by simulated measurements, k-space by held-out samples as
well. Fine detail of a blurred picture has to agree with its coarser detail, and an enlargement may
neither add more detail than the picture has nor leave structure as its residual. Numbers here were
chosen on the even half of `benchmarks/zoo.py`.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.jobs.images.by_noise import compare_by_simulation, compare_with_measurements
from invtoolbox.jobs.images.enlargement import (
    compare_at_half_size,
    doubt_detail,
    doubt_structure,
)
from invtoolbox.jobs.images.fine_grid import has_smooth_views
from invtoolbox.jobs.images.held_out import (
    Again,
    Verdict,
    compare_in_gaps,
    may_give_way,
    repeat,
)
from invtoolbox.jobs.images.held_out_views import WithoutViews, compare_views
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
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver

#: End of the note on an item whose answer is the simple one.
KEPT = "regularization= a number keeps the prior's answer"


def keep_floor(
    problem: Problem,
    solution: Solution,
    prior: Prior | None,
    solver: Solver | str | None,
    max_iterations: int | None = None,
    held_out: WithoutViews | None = None,
) -> Solution:
    """Return the solution, with the simple answer in the items in which the prior is no better.

    The solution is returned as it is if no comparison is known, if the user wrote a weight, or if
    the answer was drawn by a sampler. A simple answer has no posterior.

    Args:
        problem: measurements, operator and data term.
        solution: its solution, with ``regularization="auto"``.
        prior: the prior of the solution.
        solver: the solver of the solution.
        max_iterations: largest number of iterations of the solution.
        held_out: answers to a scan from the views that are not held out, if they are known.
    """
    kind = _kind(problem)
    if prior is None or kind is None or not may_give_way(solution, prior):
        return solution
    terms = prior.as_sum().terms
    valid = torch.tensor([status != "invalid" for status in solution.status])
    problem = problem.without_skipping().to(device=solution.x.device, dtype=solution.x.real.dtype)
    again = repeat(solution, prior, solver, max_iterations)
    sampled = measured(problem)
    try:
        if kind is Scan:
            verdict = _compare_scan(problem, prior, again, held_out)
        elif kind in (Blur, Poisson, CartesianMRI):
            verdict = compare_by_simulation(problem, solution, again)
        elif kind is Downsampling:
            every = torch.ones_like(problem.y0, dtype=torch.bool)
            half = compare_at_half_size(problem, again) if sampled is None else None
            by_pixels = every if sampled is None else sampled
            verdict = half or compare_in_gaps(problem, by_pixels, again)
            verdict = doubt_structure(problem, solution.x, verdict)
            verdict = doubt_detail(problem, solution.x, verdict)
        elif sampled is not None:
            verdict = compare_in_gaps(problem, sampled, again)
        else:
            verdict = compare_with_measurements(problem, solution, again)
    except OutOfTime:
        late = "the time limit left no time for the comparison with a simple answer"
        return dataclasses.replace(solution, notes=(*solution.notes, late))
    replaced = (verdict.wins.cpu() & valid).nonzero().flatten().tolist()
    notes = solution.notes + verdict.notes
    images = list(solution.x.split(1))
    for k in replaced:
        where = "" if problem.batch == 1 else f" of item {k}"
        images[k] = verdict.simple(k)
        for term in terms:
            if term.prior.is_constraint and "prox" in term.prior.offers:
                images[k] = term.prior.prox(images[k], 1.0)
        # Remarks on the residual and on the pixels of an answer that is not returned.
        remarks = (f"the residual{where},", f"predict held-out views{where} with")
        notes = tuple(n for n in notes if not any(remark in n for remark in remarks))
        notes += (f"{verdict.reason(k)}{where}; {KEPT}",)
    posterior = solution.posterior
    if replaced and posterior is not None:
        posterior = None
        notes += ("the simple answer has no posterior",)
    return dataclasses.replace(solution, x=torch.cat(images), notes=notes, posterior=posterior)


def _compare_scan(
    problem: Problem, prior: Prior, again: Again, held_out: WithoutViews | None
) -> Verdict:
    """Compare an answer to a scan with its filtered back-projection.

    An image may have the edges of an object that is made of its pixels unless the views are smooth.
    Squares have them only if smaller pixels show that the object is made of large ones. Else they gain
    little from many views, so they must be clearly better.
    """
    bodies = [term.prior for term in prior.as_sum().terms if not term.prior.is_constraint]
    is_square = all("quadratic" in body.offers for body in bodies) and bool(bodies)
    image, is_of_pixels = held_out or (None, torch.tensor(False))
    if is_square:
        return compare_views(problem, again, image, is_of_pixels, ~is_of_pixels)
    is_simple = type(problem.data_term) is LeastSquares
    has_edges = ~has_smooth_views(problem) if is_simple else True
    return compare_views(problem, again, image, has_edges)


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
