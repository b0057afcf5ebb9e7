"""Blurred pictures that go on beyond their edges, although the operator mirrors them there.

At low noise a mirrored scene that was none rings: up to 18 dB below the blurred picture. The scene
beyond the edges can be unknowns of its own (the boundary "valid"). The residual does not show which
model is right, because the image explains both, but the wrong one has the larger total variation.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution

#: Total variation of the image under the boundary "valid", relative to that under "reflect", below
#: which the scene goes on. It was 0.85 and less in pictures of the even half of `benchmarks/zoo.py`
#: that lost by the mirror, and 0.93 and more in pictures that were mirrored.
_LESS = 0.88


def open_edges(problem: Problem) -> Problem | None:
    """Return the problem of a blurred picture with unknowns beyond its edges, None for others.

    Args:
        problem: measurements, operator and data term.
    """
    A, term = problem.operator, problem.data_term
    if not isinstance(A, Blur) or A.boundary != "reflect" or problem.unknown:
        return None
    if type(term) is not LeastSquares or term.weights is not None or problem.skipped is not None:
        return None
    rows, columns = (n + m - 1 for n, m in zip(A.domain_shape[-2:], A.kernel.shape[-2:]))
    larger = Blur(A.kernel, (A.domain_shape[0], rows, columns), "valid", A.tile)
    return Problem(problem.y, larger, term)


def goes_on(mirrored: Solution, opened: Solution, problem: Problem) -> Tensor:
    """Return in which items the scene goes on beyond the edges, booleans ``(batch,)``.

    Args:
        mirrored: solution with the boundary "reflect".
        opened: solution of the problem of `open_edges`.
        problem: that problem.
    """
    assert isinstance(problem.operator, Blur)
    return _variation(problem.operator.crop(opened.x)) < _LESS * _variation(mirrored.x)


def _variation(x: Tensor) -> Tensor:
    """Return the sum of the differences of neighbours of every item, ``(batch,)``."""
    down, right = (x.diff(dim=axis).abs().flatten(1).double().sum(1) for axis in (-2, -1))
    return down + right


def crop_edges(problem: Problem, opened: Problem, solution: Solution) -> Solution:
    """Return a solution of the problem of `open_edges` in the shape of the picture, with a note.

    Args:
        problem: the problem of the user.
        opened: the problem with unknowns beyond the edges.
        solution: its solution.
    """
    A = opened.operator
    assert isinstance(A, Blur)
    note = (
        "edges ring less if the scene goes on beyond the picture: boundary='valid' took the place of "
        "'reflect'; regularization= a number keeps 'reflect'"
    )
    posterior = solution.posterior
    return dataclasses.replace(
        solution,
        x=A.crop(solution.x).contiguous(),
        posterior=None if posterior is None else MappedPosterior(posterior, A.crop),
        problem=problem,
        notes=(*solution.notes, note),
    )
