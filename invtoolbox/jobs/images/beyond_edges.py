"""Blurred pictures that go on beyond their edges, although the operator mirrors them there.

At low noise the answer rings if the scene was not mirrored. The scene beyond the edges can be unknowns
of its own (the boundary "valid"). The residual does not show which model is right, because the image
explains both, but the right one predicts pixels that were held out. Priors that are squares predict
too badly beyond the edges for that; of their two answers the wrong one has the larger total variation.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.floor import keep_floor
from invtoolbox.jobs.images.held_out import Again, judge, may_give_way, repeat
from invtoolbox.jobs.images.join import ITEM, NO_POSTERIOR, join, take
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.parameter_choice.held_out import LEAST_MEASUREMENTS, divide_weights
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers.base import Solver

#: Standard errors of the paired difference by which unknowns beyond the edges must predict held-out
#: pixels better than the mirror, chosen on parts of photographs of BSD400, half of them mirrored; and
#: certificate of these predictions.
_ERRORS, _TOLERANCE = 1.0, 1e-2
#: Total variation of an answer of squares under the boundary "valid", relative to that under "reflect",
#: below which the scene goes on. It was 0.85 and less in pictures of the even half of
#: `benchmarks/zoo.py` that lost by the mirror, and 0.93 and more in pictures that were mirrored.
_LESS = 0.88
#: Notes on one answer.
_OF_ANSWER = re.compile("the residual|no weight was given")


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
    if math.prod(problem.image_shape) < LEAST_MEASUREMENTS:  # keep_floor compares no smaller ones
        return None
    rows, columns = (n + m - 1 for n, m in zip(A.domain_shape[-2:], A.kernel.shape[-2:]))
    larger = Blur(A.kernel, (A.domain_shape[0], rows, columns), "valid", A.tile)
    return problem.without_skipping().with_operator(larger)


def solve_open(
    problem: Problem,
    solution: Solution,
    prior: Prior | None,
    solver: Solver | str | None,
    settings: Mapping[str, Any],
) -> tuple[Solution, bool]:
    """Solve a blurred picture with unknowns beyond its edges, and take that answer where it fits.

    Args:
        problem: measurements, operator and data term.
        solution: its solution, with ``regularization="auto"``.
        prior: the prior of the solution.
        solver: the solver of the solution.
        settings: further keywords of `invtoolbox.solve`.

    Returns:
        The solution, and whether scenes go on beyond the edges in some items. If so, `keep_floor`
        has compared all items with their simple answers.
    """
    opened, limit = open_edges(problem), settings.get("max_iterations")
    is_tried = limit != 0 and settings.get("initial") is None and may_give_way(solution, prior)
    if opened is None or not is_tried:
        return solution, False
    kind = {"device": solution.x.device, "dtype": solution.x.real.dtype}
    opened, closed = opened.to(**kind), problem.without_skipping().to(**kind)
    is_square = prior is not None and _is_square(prior)
    keys = ("regularization", "max_iterations", "tolerance")  # a checkpoint is that of the mirror
    some = {key: settings[key] for key in keys if key in settings}
    try:
        if budget().is_spent:
            raise OutOfTime
        is_open = None
        if not is_square:
            again = repeat(solution, prior, solver, limit, tolerance=_TOLERANCE)
            is_open = goes_on(closed, opened, again)
            if not bool(is_open.any()):
                return solution, False
        beyond = solve(
            opened, prior, solver, **some, seed=solution.seed, progress=False, check=False
        )
        if is_open is None:
            assert isinstance(opened.operator, Blur)
            is_open = _variation(opened.operator.crop(beyond.x)) < _LESS * _variation(solution.x)
        if budget().is_spent:
            raise OutOfTime
    except OutOfTime:
        late = "the time limit left no time for a scene that goes on beyond the edges"
        return dataclasses.replace(solution, notes=(*solution.notes, late)), False
    except Exception as error:  # a prior of the user that takes images of one size raises any error
        reason = f"no scene beyond the edges was compared: {str(error).partition(chr(10))[0]}"
        return dataclasses.replace(solution, notes=(*solution.notes, reason)), False
    has_failed = [status in ("invalid", "diverged") for status in beyond.status]
    is_open = is_open.cpu() & ~torch.tensor(has_failed)
    if not bool(is_open.any()):
        return solution, False
    # Remarks on the weight and on the residual are those of the answer that is returned.
    remarks = [text for text in solution.notes if not _OF_ANSWER.search(text)]
    beyond = dataclasses.replace(beyond, notes=tuple(dict.fromkeys((*beyond.notes, *remarks))))
    image = beyond.x
    beyond = keep_floor(opened, beyond, prior, solver, limit)
    # A simple answer depends on no boundary.
    is_noted = is_open & (image == beyond.x).flatten(1).all(1).cpu()
    beyond = crop_edges(problem, opened, beyond)
    seconds = solution.seconds + beyond.seconds
    if bool(is_open.all()):
        notes = [_note(problem, k) for k in is_noted.nonzero().flatten().tolist()]
        return dataclasses.replace(beyond, notes=(*beyond.notes, *notes), seconds=seconds), True
    mirrored = keep_floor(problem, solution, prior, solver, limit)
    places, parts = torch.arange(len(is_open)), []
    for answer, is_taken in ((mirrored, ~is_open), (beyond, is_open)):
        items = places[is_taken]
        notes = [text for text in answer.notes if _concerns(text, is_taken)]
        if answer is beyond:
            notes += [_note(problem, k) for k in is_noted.nonzero().flatten().tolist()]
        if solution.posterior is not None:
            notes.append(NO_POSTERIOR)
        parts.append((items, dataclasses.replace(take(answer, items), notes=tuple(notes))))
    joined = join(problem, parts, is_renumbered=False)
    return dataclasses.replace(joined, seconds=seconds), True


def _concerns(note: str, is_taken: Tensor) -> bool:
    """Return whether a note is about all items, or about one of some items."""
    item = ITEM.search(note)
    return item is None or bool(is_taken[int(item[1])])


def _note(problem: Problem, item: int) -> str:
    where = "" if problem.batch == 1 else f" of item {item}"
    return (
        f"edges{where} ring less if the scene goes on beyond the picture: boundary='valid' took the "
        "place of 'reflect'; regularization= a number keeps 'reflect'"
    )


def goes_on(problem: Problem, opened: Problem, again: Again) -> Tensor:
    """Return in which items the scene goes on beyond the edges, booleans ``(batch,)``.

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
    wins, errors = judge(torch.stack([*squares, held.expand_as(problem.y0)], 1), _ERRORS)
    return wins & errors[1].isfinite()


def _is_square(prior: Prior) -> bool:
    return all(
        "quadratic" in term.prior.offers or term.prior.is_constraint
        for term in prior.as_sum().terms
    )


def _variation(x: Tensor) -> Tensor:
    """Return the sum of the differences of neighbours of every item, ``(batch,)``."""
    down, right = (x.diff(dim=axis).abs().flatten(1).double().sum(1) for axis in (-2, -1))
    return down + right


def crop_edges(problem: Problem, opened: Problem, solution: Solution) -> Solution:
    """Return a solution of the problem of `open_edges` in the shape of the picture.

    Args:
        problem: the problem of the user.
        opened: the problem with unknowns beyond the edges.
        solution: its solution.
    """
    A, posterior = opened.operator, solution.posterior
    assert isinstance(A, Blur)
    return dataclasses.replace(
        solution,
        x=A.crop(solution.x).contiguous(),
        posterior=None if posterior is None else MappedPosterior(posterior, A.crop),
        problem=problem,
    )
