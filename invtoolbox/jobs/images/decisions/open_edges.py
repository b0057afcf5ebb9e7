"""Blurred pictures that go on beyond their edges, although the operator mirrors them there.

At low noise the answer rings if the scene was not mirrored. The scene beyond the edges can be unknowns
of its own (the boundary "valid"). The residual does not show which model is right, because the image
explains both, but the right one predicts pixels that were held out. Priors that are squares predict
too badly beyond the edges for that; of their two answers the wrong one has the larger total variation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.decisions.case import (
    ITERATES,
    MAY_CHANGE,
    Case,
    Proposal,
    Step,
    Trait,
    require_time,
)
from invtoolbox.jobs.images.decisions.judge import Again, judge
from invtoolbox.jobs.images.decisions.thresholds import (
    EDGE_ERRORS,
    EDGE_TOLERANCE,
    EDGE_VARIATION,
)
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.parameter_choice.held_out import LEAST_MEASUREMENTS, divide_weights
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve


def open_edges(problem: Problem) -> Problem | None:
    """Return the problem of a blurred picture with unknowns beyond its edges, None for others.

    Args:
        problem: measurements, operator and data term.
    """
    A, term = problem.operator, problem.data_term
    if not isinstance(A, Blur) or A.boundary != "reflect" or problem.unknown:
        return None
    if type(term) is not LeastSquares or term.weights is not None:
        return None
    if math.prod(problem.image_shape) < LEAST_MEASUREMENTS:  # smaller ones are not compared
        return None
    rows, columns = (n + m - 1 for n, m in zip(A.domain_shape[-2:], A.kernel.shape[-2:]))
    larger = Blur(A.kernel, (A.domain_shape[0], rows, columns), "valid", A.tile)
    return problem.without_skipping().with_operator(larger)


class OpenEdges(Step):
    """Solve a blurred picture with unknowns beyond its edges, and take that answer where it fits."""

    name = "open-edges"
    question = "does the scene go on beyond the edges, where the operator mirrors it?"
    evidence = "error of held-out pixels; for squares, total variation"
    price = "2 solves without held-out pixels, 1 with its own weight if the scene goes on"
    needs = (
        *MAY_CHANGE,
        ITERATES,
        Trait("an initial guess was given", lambda case: case.settings.get("initial") is None),
        Trait(
            "no blur with the boundary reflect, least squares and enough pixels",
            lambda case: open_edges(case.problem) is not None,
        ),
    )

    def propose(self, case: Case) -> list[Proposal]:
        require_time()
        opened = open_edges(case.problem)
        assert opened is not None
        x = case.answer.x
        opened = opened.to(device=x.device, dtype=x.real.dtype)
        try:
            return self._compare(case, opened)
        except OutOfTime:
            raise
        except (
            Exception
        ) as error:  # a prior of the user that takes images of one size raises any error
            reason = f"no scene beyond the edges was compared: {str(error).partition(chr(10))[0]}"
            return [Proposal(sentence=reason)] * case.batch

    def _compare(self, case: Case, opened: Problem) -> list[Proposal]:
        """Compare both boundaries, and solve under "valid" if a scene goes on."""
        if _is_square(case.sum_of_priors):
            beyond = _solve_opened(case, opened)
            errors = [_variation(x) for x in (case.answer.x, _crop(opened)(beyond.x))]
            is_open = errors[1] < EDGE_VARIATION * errors[0]
        else:
            is_open, errors = goes_on(
                case.posed, opened, partial(case.again, tolerance=EDGE_TOLERANCE)
            )
            if not bool(is_open.any()):
                return _propose(None, is_open, errors)
            beyond = _solve_opened(case, opened)
        require_time()
        has_failed = [status in ("invalid", "diverged") for status in beyond.status]
        is_open = is_open.cpu() & ~torch.tensor(has_failed)
        restore = partial(crop_edges, opened)
        changed = case.with_answer(beyond, problem=opened, restores=(*case.restores, restore))
        return _propose(changed, is_open, errors)


def _propose(changed: Case | None, is_open: Tensor, errors: Sequence[Tensor]) -> list[Proposal]:
    sentence = (
        f"edges{ITEM} ring less if the scene goes on beyond the picture: boundary='valid' took the "
        "place of 'reflect'; automatic='-open-edges' keeps 'reflect'"
    )
    return [
        Proposal(
            changed if goes else None,
            sentence if goes else "",
            before=float(before),
            after=float(after),
        )
        for goes, before, after in zip(is_open.tolist(), *errors)
    ]


def _solve_opened(case: Case, opened: Problem) -> Solution:
    """Solve with unknowns beyond the edges; a checkpoint is that of the mirror."""
    keys = ("regularization", "max_iterations", "tolerance")
    some = {key: case.settings[key] for key in keys if key in case.settings}
    seed = case.answer.seed
    return solve(opened, case.prior, case.solver, **some, seed=seed, progress=False, check=False)


def goes_on(problem: Problem, opened: Problem, again: Again) -> tuple[Tensor, list[Tensor]]:
    """Return in which items the scene goes on beyond the edges, and both errors, ``(batch,)`` each.

    Both boundaries predict the same held-out sixth of the pixels, at the weight of the mirror.

    Args:
        problem: measurements and an operator that mirrors the picture.
        opened: the problem of `open_edges`.
        again: solves another problem in the same way.
    """
    fitted, held = divide_weights(problem, 0)
    term = LeastSquares(getattr(problem.data_term, "noise_std", None), fitted)
    squares = [
        held * (posed.operator(again(posed.with_data_term(term))) - posed.y0).abs().square()
        for posed in (problem, opened)
    ]
    wins, errors = judge(torch.stack([*squares, held.expand_as(problem.y0)], 1), EDGE_ERRORS)
    return wins & errors[1].isfinite(), errors


def _is_square(prior: Prior) -> bool:
    return all(
        "quadratic" in term.prior.offers or term.prior.is_constraint
        for term in prior.as_sum().terms
    )


def _variation(x: Tensor) -> Tensor:
    """Return the sum of the differences of neighbours of every item, ``(batch,)``."""
    down, right = (x.diff(dim=axis).abs().flatten(1).double().sum(1) for axis in (-2, -1))
    return down + right


def crop_edges(opened: Problem, solution: Solution) -> Solution:
    """Return a solution of the problem of `open_edges` in the shape of the picture.

    Args:
        opened: the problem with unknowns beyond the edges.
        solution: its solution.
    """
    crop, posterior = _crop(opened), solution.posterior
    return dataclasses.replace(
        solution,
        x=crop(solution.x).contiguous(),
        posterior=None if posterior is None else MappedPosterior(posterior, crop),
    )


def _crop(opened: Problem) -> Callable[[Tensor], Tensor]:
    A = opened.operator
    assert isinstance(A, Blur)
    return A.crop
