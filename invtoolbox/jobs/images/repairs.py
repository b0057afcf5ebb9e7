"""Repairs: dead and hot readings get weight 0, and gains of detector cells are subtracted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import MeasurementWarning, warn_user
from invtoolbox.jobs.images.join import join
from invtoolbox.jobs.images.kernel_width import scale_certain
from invtoolbox.jobs.images.wide_grid import cover_field, find_wider
from invtoolbox.measurements import check_measurements, repair_measurements
from invtoolbox.measurements.detector import fill
from invtoolbox.measurements.empty_views import empty_views
from invtoolbox.measurements.findings import Subject, find, leave_out
from invtoolbox.measurements.readings import check_gains
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.priors.images.constraints import NonNegative
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.processing.artifacts import remove_rings
from invtoolbox.solution import Solution
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.lsmr import CGLS
from invtoolbox.solvers.pdhg import PDHG

#: Number of solves, and their iterations.
_STAGES, _ITERATIONS = 9, 50
#: Number of fits to the readings that are not in doubt, and their iterations; largest share of a fault
#: that they may follow, and least share of the readings at the largest value that they have to exceed.
_PASSES, _FIT, _CERTAIN, _EXCEEDED = 2, 30, 0.25, 0.5
#: Number of stages whose gains are compared with their neighbours, and number of these cells.
_SMOOTHED, _WINDOW = 3, 11
#: Findings next to which gains are still subtracted: the object exceeds the grid, it has dense parts, or
#: the angles include both ends.
_HARMLESS = {"outside", "metal", "end"}


def solve_repaired(
    problem: Problem, solve: Callable[[Problem, Tensor], Solution], repair: bool | None = True
) -> Solution:
    """Mend every item of a batch that can be mended, and solve.

    Every item is mended as it is alone, and an item without faults is solved without weights.

    Args:
        problem: measurements, operator and data term.
        solve: solves the problem of some items of the batch, whose places are the second argument.
        repair: mend all that can be mended, or nothing, or if None leave out what is certain.

    Returns:
        The solution, with a note per repair.
    """
    every = torch.arange(problem.batch, device=problem.y0.device)
    if repair is False:
        return solve(problem, every)
    mend = _repair if repair else _mend_certain
    mended: list[tuple[Tensor, Problem, tuple[str, ...]]] = []
    clean: list[Tensor] = []
    solutions: list[tuple[Tensor, Solution]] = []
    for place in every.split(1):
        single, notes = mend(problem if len(every) == 1 else problem.select(place))
        if notes:
            mended.append((place, single, notes))
        else:
            clean.append(place)
    if clean:
        items = torch.cat(clean)
        whole = problem if len(items) == len(every) else problem.select(items)
        solutions.append((items, solve(whole, items)))
    for place, single, notes in mended:
        solution = solve(single, place)
        solution = dataclasses.replace(solution, notes=(*solution.notes, *notes))
        solutions.append((place, solution))
    return join(problem, solutions)


def _repair(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """Return the problem of one item without faults that can be mended, and a sentence per repair."""
    problem, notes = repair_measurements(problem)
    problem, width_notes = scale_certain(problem)
    notes += width_notes
    if isinstance(problem.operator, Scan):
        whole = _cover_object(problem)
        if any(finding.name == "gains" for finding in check_measurements(whole)):
            mended, note = _without_gains(whole, "")
            return mended.with_operator(problem.operator), (*notes, note)
    return problem, notes


def _cover_object(problem: Problem) -> Problem:
    """Return the problem on a larger grid if its object reaches beyond the image.

    On the grid of the user, what the rays measure outside of it makes cells differ as gains do. Gains
    in turn look like an object outside, which is gone without them.
    """
    wider = find_wider(problem)
    if wider is None or find_wider(subtract_gains(problem)[0]) is None:
        return problem
    return problem.with_operator(wider.operator)


def _mend_certain(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """Return the problem of one item without faults that are certain, and a sentence per repair."""
    problem, notes = leave_out_empty(problem)
    if not notes:
        problem, notes = leave_out_certain(problem)
    if not notes and isinstance(problem.operator, Blur):
        return scale_certain(problem)
    is_simple = type(problem.data_term) is LeastSquares and isinstance(problem.y, Tensor)
    if notes or not is_simple or not isinstance(problem.operator, Scan):
        return problem, notes
    if problem.skipped is not None or problem.unknown or problem.y0.is_complex():
        return problem, notes
    subject, y = Subject(problem), problem.y0
    # Whole numbers are counts, in whose logarithm alone a gain adds a constant.
    if bool((y == y.round()).all()) or check_gains(subject) is None:
        return problem, notes
    whole = _cover_object(problem)
    if whole is not problem and check_gains(Subject(whole)) is None:
        return problem, notes
    # Another mistake, such as an axis in the wrong place, may have made the cells differ.
    other_findings = find(subject, without=check_gains)
    if {f.name for f in other_findings if not f.is_remark} <= _HARMLESS:
        mended, note = _without_gains(whole, "; repair=False keeps them")
        warn_user(note, MeasurementWarning)
        return mended.with_operator(problem.operator), (*notes, note)
    return problem, notes


def _without_gains(problem: Problem, ending: str) -> tuple[Problem, str]:
    """Return the problem of one item without gains of the cells, and the sentence about them."""
    problem, gains = subtract_gains(problem)
    note = (
        "repaired: gains of the cells were found and subtracted, with a standard deviation of "
        f"{float(gains.std()):.3g}{ending}"
    )
    return problem, note


def leave_out_empty(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    """Give views of a scan weight 0 that hold a single number, and warn of it.

    Args:
        problem: measurements, operator and data term.

    Returns:
        The problem, and a sentence if it was changed.
    """
    empty = None if problem.skipped is not None or problem.unknown else empty_views(problem)
    if empty is None:
        return problem, ()
    note = (
        f"left out: {int(empty.sum())} views of {empty.shape[2]} hold the same number in all cells, so "
        "they were not measured; they got weight 0; repair=False keeps them"
    )
    warn_user(note, MeasurementWarning)
    return leave_out(problem, empty), (note,)


def leave_out_certain(problem: Problem) -> tuple[Problem, tuple[str, ...]]:
    r"""Give readings of one item weight 0 if the others predict another value, and warn of it.

    x is fitted to the other readings. A small structure that a reading y shows, with the mean f of its
    neighbours, also acts on other readings, so ``A x`` follows it and ``(A x - f) / (y - f)`` is near 1;
    of a fault it is near 0. Readings that were cut off are certain if ``A x`` exceeds most of them.

    Args:
        problem: measurements, operator and data term.

    Returns:
        The problem, and a sentence if it was changed.
    """
    subject, y = Subject(problem), problem.y0
    is_simple = type(problem.data_term) is LeastSquares and isinstance(problem.y, Tensor)
    if not is_simple or problem.skipped is not None or problem.unknown:
        return problem, ()
    with torch.no_grad():
        clipped = torch.zeros_like(y, dtype=torch.bool)
        faults = subject.bad_pixels
        if subject.bad_readings is not None:
            dead, hot, clipped = subject.bad_readings
            faults = dead | hot
        if faults is None or not bool((faults | clipped).any()):
            return problem, ()
        findings = find(subject)
        if len(findings) != 1:  # another mistake may have made the readings implausible
            return problem, ()
        A = cover_field(problem.operator, y) or problem.operator
        whole = problem.with_operator(A).with_data_term(LeastSquares())
        certain = faults
        for _ in range(_PASSES):  # readings that are true after all explain others
            bad = certain | clipped
            around = fill(y, bad)
            around = torch.where(bad & (around == y), fill(y.mT, bad.mT).mT, around)
            trial = leave_out(whole, bad)
            prediction = A(inner_solve(trial, None, CGLS(), max_iterations=_FIT, progress=False).x)
            followed, fault = prediction - around, y - around
            share = followed / fault
            for axis in (-2, -1):  # a line is certain as a whole
                total = (followed * fault).sum(axis, True) / fault.square().sum(axis, True)
                share = torch.where(certain.all(axis, True), total, share)
            certain = certain & (share.abs() < _CERTAIN)
        if bool((prediction > y)[clipped].double().mean() > _EXCEEDED):
            certain = certain | clipped
    if not bool(certain.any()):
        return problem, ()
    note = (
        f"left out: {findings[0].sentence.partition(';')[0]}; {int(certain.sum())} of them, of which the "
        "others predict another value, got weight 0; repair=False keeps them"
    )
    warn_user(note, MeasurementWarning)
    return leave_out(problem, certain), (note,)


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
