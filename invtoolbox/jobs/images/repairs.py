"""Repairs on request: dead and hot readings get weight 0, gains of detector cells are subtracted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.join import join
from invtoolbox.measurements import check_measurements, repair_measurements
from invtoolbox.measurements.detector import fill
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.priors.images.constraints import NonNegative
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.processing.artifacts import remove_rings
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.pdhg import PDHG

#: Number of solves, and their iterations.
_STAGES, _ITERATIONS = 6, 150
#: Number of stages whose gains are compared with their neighbours, and number of these cells.
_SMOOTHED, _WINDOW = 3, 11


def solve_repaired(problem: Problem, solve: Callable[[Problem, Tensor], Solution]) -> Solution:
    """Mend every item of a batch that can be mended, and solve.

    Every item is mended as it is alone, and an item without faults is solved without weights.

    Args:
        problem: measurements, operator and data term.
        solve: solves the problem of some items of the batch, whose places are the second argument.

    Returns:
        The solution, with a note per repair.
    """
    every = torch.arange(problem.batch, device=problem.y0.device)
    repaired = [_repair(problem.select(place)) for place in every.split(1)]
    clean = every[[not notes for _, notes in repaired]]
    solutions = []
    if len(clean):
        whole = problem if len(clean) == len(every) else problem.select(clean)
        solutions.append((clean, solve(whole, clean)))
    for place, (mended, notes) in zip(every.split(1), repaired):
        if notes:
            solution = solve(mended, place)
            solution = dataclasses.replace(solution, notes=(*solution.notes, *notes))
            solutions.append((place, solution))
    return join(problem, solutions)


def _repair(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """Return the problem of one item without faults that can be mended, and a sentence per repair."""
    problem, notes = repair_measurements(problem)
    is_scan = isinstance(problem.operator, Scan)
    if is_scan and any(finding.name == "gains" for finding in check_measurements(problem)):
        problem, gains = subtract_gains(problem)
        notes += (
            "repaired: gains of the cells were found and subtracted, with a standard deviation of "
            f"{float(gains.std()):.3g}",
        )
    return problem, notes


def subtract_gains(problem: Problem) -> tuple[Problem, Tensor]:
    r"""Return the problem without the gains of the cells, and the gains, ``(batch, ..., 1, cell)``.

    A gain adds a constant to all line integrals of its cell, ``y = A x + f + n``. Image and gains
    are found in turn: x has the least total variation with ``|A x - (y - f)|^2 = m (s_k^2 + n^2)``
    and no negative value, and f is the mean of ``y - A x`` over the views. The level s_k begins at
    the spread of the gains and is halved at every stage, so that x does not explain them as rings.
    The first three estimates lose their mean over 11 cells, which mostly is a part of the object that
    x does not explain yet.

    Args:
        problem: line integrals with least squares, and the operator of a scan.
    """
    y, A, term = problem.y0, problem.operator, problem.data_term
    weights = getattr(term, "weights", None)
    counted = torch.ones_like(y) if weights is None else (weights > 0).to(y).expand_as(y)
    whole = fill(y, counted == 0)
    noise = estimate_noise_std(whole)
    spread = remove_rings(whole)[1].flatten(1).std(1)
    prior, gains, start = TotalVariation() + NonNegative(), torch.zeros_like(y[:, :, :1]), None
    for stage in range(_STAGES):
        level = (noise.square() + (spread * 0.5**stage).square()).sqrt()
        trial = Problem(y - gains, A, LeastSquares(noise_std=level, weights=counted))
        start = inner_solve(
            trial,
            prior,
            PDHG(),
            "discrepancy",
            max_iterations=_ITERATIONS,
            initial=start,
            progress=False,
        ).x
        gains = ((y - A(start)) * counted).sum(2, keepdim=True)
        gains = gains / counted.sum(2, keepdim=True).clamp_min(1)
        if stage < _SMOOTHED:
            rows = gains.reshape(-1, 1, gains.shape[-1])
            padded = F.pad(rows, (_WINDOW // 2, _WINDOW // 2), mode="reflect")
            gains = gains - F.avg_pool1d(padded, _WINDOW, 1).view(gains.shape)
    return problem.with_measurements(y - gains), gains
