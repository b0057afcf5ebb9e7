"""Gains of detector cells, which make rings: found, and subtracted."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import MeasurementWarning, warn_user
from invtoolbox.jobs.images.decisions.case import (
    IS_KNOWN,
    IS_REAL,
    IS_SCAN,
    IS_SQUARES,
    IS_UNMENDED,
    IS_WHOLE,
    STAY,
    Case,
    Proposal,
    Step,
)
from invtoolbox.jobs.images.decisions.thresholds import (
    GAIN_ITERATIONS,
    GAIN_STAGES,
    GAIN_STAGES_SMOOTHED,
    GAIN_WINDOW,
)
from invtoolbox.jobs.images.decisions.wide_grid import find_wider
from invtoolbox.measurements.detector import fill
from invtoolbox.measurements.findings import Subject, find
from invtoolbox.measurements.readings import check_gains
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.priors.images.constraints import NonNegative
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.processing.artifacts import remove_rings
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.pdhg import PDHG

#: Findings next to which gains are still subtracted: the object exceeds the grid, it has dense parts, or
#: the angles include both ends.
_HARMLESS = {"outside", "metal", "end"}


class Gains(Step):
    """Subtract gains of the cells if no image explains them, and no other check finds a mistake."""

    name = "gains"
    question = "do cells differ as gains make them, which no image explains?"
    price = "9 solves of 50 iterations if gains are found"
    needs = (IS_UNMENDED, IS_SCAN, IS_SQUARES, IS_KNOWN, IS_WHOLE, IS_REAL)

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _propose_one)


def _propose_one(case: Case) -> Proposal:
    problem = case.problem
    subject, y = Subject(problem), problem.y0
    # Whole numbers are counts, in whose logarithm alone a gain adds a constant.
    if bool((y == y.round()).all()) or check_gains(subject) is None:
        return STAY
    whole = cover_object(problem)
    if whole is not problem and check_gains(Subject(whole)) is None:
        return STAY
    # Another mistake, such as an axis in the wrong place, may have made the cells differ.
    other_findings = find(subject, without=check_gains)
    if not {f.name for f in other_findings if not f.is_remark} <= _HARMLESS:
        return STAY
    mended, sentence = without_gains(whole)
    sentence += "; automatic='-gains' keeps them"
    warn_user(sentence, MeasurementWarning)
    mended = mended.with_operator(problem.operator)
    return Proposal(dataclasses.replace(case, problem=mended, is_mended=True), sentence)


def cover_object(problem: Problem) -> Problem:
    """Return the problem on a larger grid if its object reaches beyond the image.

    On the grid of the user, what the rays measure outside of it makes cells differ as gains do. Gains
    in turn look like an object outside, which is gone without them.

    Args:
        problem: measurements of one item, operator and data term.
    """
    wider = find_wider(problem)
    if wider is None or find_wider(subtract_gains(problem)[0]) is None:
        return problem
    return problem.with_operator(wider.operator)


def without_gains(problem: Problem) -> tuple[Problem, str]:
    """Return the problem of one item without gains of the cells, and the sentence about them.

    Args:
        problem: measurements of one item, operator and data term.
    """
    problem, gains = subtract_gains(problem)
    sentence = (
        "repaired: gains of the cells were found and subtracted, with a standard deviation of "
        f"{float(gains.std()):.3g}"
    )
    return problem, sentence


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
    for stage in range(GAIN_STAGES):
        level = (noise.square() + (spread * 0.5**stage).square()).sqrt()
        trial = Problem(y - gains, A, LeastSquares(noise_std=level, weights=counted))
        start = inner_solve(
            trial,
            prior,
            PDHG(),
            "discrepancy",
            max_iterations=GAIN_ITERATIONS,
            initial=start,
            progress=False,
        ).x
        gains = ((y - A(start)) * counted).sum(2, keepdim=True)
        gains = gains / counted.sum(2, keepdim=True).clamp_min(1)
        if stage < GAIN_STAGES_SMOOTHED:
            rows = gains.reshape(-1, 1, gains.shape[-1])
            padded = F.pad(rows, (GAIN_WINDOW // 2, GAIN_WINDOW // 2), mode="reflect")
            gains = gains - F.avg_pool1d(padded, GAIN_WINDOW, 1).view(gains.shape)
    return problem.with_measurements(y - gains), gains
