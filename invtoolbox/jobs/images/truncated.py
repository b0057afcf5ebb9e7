"""Scans of objects that are wider than the detector: solve again with continued views.

The measured views of such an object do not determine the level of the image, since material outside
of the field of view adds a smooth function to it (Natterer, The Mathematics of Computerized
Tomography, 1986, chapter VI.4). A prior takes the lowest level. Views that are continued by a guess
give a better one if one image explains the guess and the measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.measurements.findings import Subject
from invtoolbox.measurements.scans import check_truncation
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D
from invtoolbox.problem import Problem
from invtoolbox.processing.detector import extend_truncated
from invtoolbox.solution import Solution

#: Weight of the added cells. The continued views are believed up to this residual in them, relative
#: to their size, and up to this growth of the residual of the measured cells.
_WEIGHT, _MISFIT, _GROWTH = 0.01, 0.3, 1.1


def continue_views(
    problem: Problem, solution: Solution, again: Callable[[Problem, Tensor], Tensor]
) -> Solution:
    """Return the solution, and of an object wider than the detector that of continued views.

    `extend_truncated` continues the views, and the added cells have the weight 0.01. The numbers
    here were chosen on the tuning seeds of ``benchmarks/truncation.py``.

    Args:
        problem: measurements, operator and data term.
        solution: its solution.
        again: solves a problem of one item, whose place is the second argument, with the weight of
            the solution; raises `OutOfTime` if the time limit ends it.
    """
    A, term = problem.operator, problem.data_term
    is_known = isinstance(A, Scan2D) and A.items is None and type(term) is LeastSquares
    if not is_known or problem.unknown or solution.parameters or problem.y0.is_complex():
        return solution
    images, notes = list(solution.x.split(1)), list(solution.notes)
    for k, status in enumerate(solution.status):
        place = torch.tensor([k], device=problem.y0.device)
        item = problem.select(place)
        if status == "invalid" or check_truncation(Subject(item)) is None:
            continue
        try:
            longer, added = _continue(item)
            x = again(longer, place)
        except InputError:  # no room for the added cells, such as a source within the image
            continue
        except OutOfTime:
            notes.append(
                "the time limit left no time for the views of an object wider than the detector"
            )
            break
        where = "" if problem.batch == 1 else f" of item {k}"
        if _is_explained(item, longer, added, images[k], x):
            images[k] = x
            notes.append(
                f"the object{where} is wider than the detector: its views are continued by a guess "
                "(extend_truncated), which gives the level of the image"
            )
        else:
            notes.append(
                f"the object{where} is wider than the detector, and no image explains its views and "
                "a guess of what is outside: the level of the image is not known"
            )
    return dataclasses.replace(solution, x=torch.cat(images), notes=tuple(notes))


def _continue(item: Problem) -> tuple[Problem, int]:
    """Return the problem of the longer views, and the number of cells added at either end."""
    A, term, y = item.operator, item.data_term, item.y0
    assert isinstance(A, Scan) and isinstance(term, LeastSquares)
    longer, wide = extend_truncated(y, operator=A)
    added = (longer.shape[-1] - y.shape[-1]) // 2
    weights = torch.full_like(longer, _WEIGHT)
    weights[..., added:-added] = 1 if term.weights is None else term.weights
    changed = item.with_operator(wide).with_measurements(longer)
    return changed.with_data_term(LeastSquares(term.noise_std, weights)), added


def _is_explained(item: Problem, longer: Problem, added: int, before: Tensor, x: Tensor) -> bool:
    """Return whether an image explains the continued views, and the measured ones as before."""
    residual = longer.operator(x) - longer.y0
    outside = torch.ones_like(residual, dtype=torch.bool)
    outside[..., added:-added] = False
    misfit = residual[outside].norm() / longer.y0[outside].norm().clamp_min(1e-30)
    measured = torch.ones_like(item.y0)
    if isinstance(item.data_term, LeastSquares) and item.data_term.weights is not None:
        measured = item.data_term.weights.sqrt().expand_as(item.y0)
    now = (measured * residual[..., added:-added]).norm()
    then = (measured * (item.operator(before) - item.y0)).norm()
    return bool(misfit <= _MISFIT) and bool(now <= _GROWTH * then)
