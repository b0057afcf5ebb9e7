"""Scans on coarser grids, where a solve costs a fraction: for its start and for its weight."""

from __future__ import annotations

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.problem import Problem

#: Least number of pixels per axis of the coarsest grid of a start, and of the grid on which the
#: weight of a large scan is found.
_COARSEST_START, _COARSEST_SEARCH = 64, 128


def coarsen(problem: Problem) -> Problem | None:
    """Return the problem on a grid of half the pixels, with the means of two measurements each.

    Misfit and total variation of an image are both half as large there, so that one weight suits
    both grids. ``None`` if the operator is no 2D scan of even size, or if weights differ along the
    detector.
    """
    A, term = problem.operator, problem.data_term
    coarse = A.coarsen() if isinstance(A, Scan) and type(term) is LeastSquares else None
    if coarse is None or problem.unknown:
        return None
    assert isinstance(term, LeastSquares)
    if term.weights is not None and term.weights.shape[-1] != 1:
        return None
    return Problem(problem.y.unflatten(-1, (-1, 2)).mean(-1), coarse, term)


def coarsen_for_start(problem: Problem) -> Problem | None:
    """Return the problem on a grid of half the pixels, on which a run starts, if it is large."""
    return coarsen(problem) if min(problem.image_shape[1:]) >= 2 * _COARSEST_START else None


def coarsen_for_search(problem: Problem) -> Problem | None:
    """Return the problem on a grid of half or a quarter of the pixels per axis, if it is large."""
    coarsest = None
    for _ in range(2):
        large = min(problem.image_shape[1:]) >= 2 * _COARSEST_SEARCH
        coarse = coarsen(problem) if large else None
        if coarse is None:
            break
        coarsest = problem = coarse
    return coarsest
