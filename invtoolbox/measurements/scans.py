"""Checks of sinograms: counts, axis of rotation, angles, detector, and objects beyond the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.measurements.sinogram import Sinogram
from invtoolbox.operators.tomography.arcs import arc_of
from invtoolbox.operators.tomography.filtered_backprojection import arc_weights
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D

#: Largest brightness of a shadow relative to the unweakened beam, and the median change of the beam
#: from view to view.
_SHADOW, _FLAT = 0.85, 0.08
#: Largest distance of an axis from the mirror image of the stated one, in cells.
_MIRRORED = 0.75
#: Least numbers of views and of cells that show the fan angle, least gain of coherence that shows a
#: reversed detector, and the least change of spacing (the factor's logarithm).
_VIEWS, _CELLS, _REVERSED, _CHANGE = 16, 32, 0.03, 0.07
#: Least coherence that shows another fan angle, its least gain, also in units of the distance from 1,
#: and largest distance of the angles that either half of the rays shows (the factor's binary logarithm).
_SHOWN, _LEAST, _SHARE, _APART = 0.6, 0.0015, 0.1, 0.26
#: Fan angles, to either side, with which views of less than a turn are compared, and the least arc.
_FANS, _HALF_TURN = (math.radians(7), math.radians(14)), math.radians(150)
#: Least residual that another beam may explain.
_ROUGH = 0.015
#: Least part of an offset detector, on the short side of the axis, that shows its spacing.
_BOTH_SIDES = 0.4
#: Least residual of a coarse reconstruction that another geometry may explain, and the ratio of the
#: residuals of two geometries above which the better one is believed.
_UNEXPLAINED, _RATIO = 0.025, 1.6
#: Largest distance of an arc from half a turn, or a full one, in half turns.
_ABOUT = 0.08
#: Largest change of the views, relative to a view, over an arc of a few degrees.
_SIMILAR = 0.25
#: Angles of at most two turns in degrees, read as radians; and the other way round.
_SMALL_ARC = math.radians(4 * math.pi)
#: Least gain of the moments by other angles, relative to the misfit, times the number of views.
_DOUBT = 4.0
#: Least part of the data, relative to the data of rays through the image, that rays next to the
#: image must not measure.
_OUTSIDE = 0.15
#: Least brightness of the outermost cells in one view of ten, relative to the brightest cell, that
#: shows an object beyond the detector; an offset and scattered rays leave less.
_CUT = 0.1


@register(Scan)
def check_counts(subject: Subject) -> Finding | None:
    """Find counts or transmissions in place of line integrals: bright next to the object."""
    S = subject.plane
    if S is None or S.values.shape[1] < 16:
        return None
    values = S.values
    mean, outer = values.mean(0), max(1, values.shape[1] // 33)
    edges = torch.cat([values[:, :outer], values[:, -outer:]], 1).mean(1)
    air, shadow = float(edges.median()), float(mean.min())
    if not (
        air > 0
        and float(values.min()) >= -0.05 * air
        and air >= 0.85 * float(mean.max())
        and shadow < _SHADOW * air
        and float((edges / air - 1).abs().median()) < _FLAT
    ):
        return None
    name = "transmitted shares of the beam" if air <= 1.5 else "counts of photons"
    remedy = "y" if air <= 1.5 else f"y / {air:.4g}"
    are_counts = air > 100 and bool((subject.problem.y0 == subject.problem.y0.round()).all())
    emission = isinstance(subject.problem.data_term, Poisson)
    return Finding(
        "counts",
        f"the sinogram is brightest next to the object ({air:.4g}, and {shadow:.4g} in its shadow), "
        f"so these look like {name} and not like line integrals; pass -log({remedy}), or "
        "it.processing.line_integrals(counts, flat, dark)",
        is_fatal=are_counts and not emission,
        is_conclusive=True,
    )


@register(Scan)
def check_orientation(subject: Subject) -> Finding | None:
    """Find a sinogram with views in its columns, if it has as many views as cells."""
    S = subject.plane
    if S is None or S.values.shape[0] != S.values.shape[1]:
        return None
    residual = S.residual()
    if residual < 2 * _UNEXPLAINED or residual < _RATIO * S.change(values=S.values.T).residual():
        return None
    return Finding(
        "transposed",
        "the sinogram fits the geometry only if its axes are exchanged; it must be (views, cells), "
        "so pass y.transpose(-1, -2)",
        is_conclusive=True,
    )


@register(Scan)
def check_axis(subject: Subject) -> Finding | None:
    """Find an axis of rotation that is not where the geometry places it."""
    S = subject.plane
    if S is None or not subject.is_shifted or subject.axis is None:
        return None
    cell, mirrored = subject.axis.cell, S.values.shape[1] - 1 - S.axis
    hint = (
        "; the detector seems to be reversed (flip its axis)"
        if abs(cell - mirrored) < _MIRRORED
        else ""
    )
    name = (
        "detector_shift" if subject.problem.y0.ndim == 4 else "the first number of detector_shift"
    )
    return Finding(
        "axis",
        f"the axis of rotation projects to cell {cell:.2f} of {S.values.shape[1]}, but the "
        f"geometry places it at {S.axis:.2f}; {name} = {S.shift_of(cell):.5g} would fit{hint}",
    )


@register(Scan)
def check_end_view(subject: Subject) -> Finding | None:
    """Find a last angle that repeats the first if the views do not, or the other way round."""
    S = subject.plane
    if S is None or len(S.angles) < 8 or S.values.shape[1] < 12:
        return None
    steps = S.angles.diff()
    step = float(steps.abs().median())
    if not bool((steps * steps[0] > 0).all()):
        return None
    span = float((S.angles[-1] - S.angles[0]).abs())
    for turn in (2 * math.pi,) if S.source is not None else (math.pi, 2 * math.pi):
        off = (span - turn) / step
        if min(abs(off), abs(off + 1)) < 0.2:
            is_closed = abs(off) < 0.5
            between = (
                _steps_of_opposite_rays(S, subject.cell)
                if turn > 4
                else _steps_by_moments(S, is_closed)
            )
            return _judge_ends(between, is_closed)
    return None


@register(Scan)
def check_angle_unit(subject: Subject) -> Finding | None:
    """Find angles in radians that were converted once too often, or degrees that were not."""
    S = subject.plane
    if S is None or len(S.angles) < 8:
        return None
    largest = float(S.angles.abs().max())
    scale = 180 / math.pi if largest <= 1.01 * _SMALL_ARC else math.pi / 180
    if scale < 1:
        # Views within a few degrees of each other are nearly the same.
        change = (S.values - S.values[0]).norm(dim=1).amax() / S.values[0].norm().clamp_min(1e-30)
        if largest < 0.5 or float(change) > _SIMILAR:
            return None
    residual = S.residual()
    if residual < _UNEXPLAINED or residual < _RATIO * S.change(angles=S.angles * scale).residual():
        return None
    if scale > 1:
        text = (
            f"the angles reach only {math.degrees(largest):.3g} degrees, but the views differ as "
            f"if they reached {math.degrees(largest * scale):.3g}; these radians were converted "
            "once too often, or their unit is radians and not degrees"
        )
    else:
        text = (
            f"the angles reach {largest:.3g} radians, but the views differ as little as if these "
            "were degrees; pass torch.deg2rad(angles)"
        )
    return Finding("angles", text, is_conclusive=True)


@register(Scan)
def check_turn(subject: Subject) -> Finding | None:
    """Find half a turn that is given as a full one, and a full turn that is given as half of one."""
    S = subject.plane
    if S is None or len(S.angles) < _VIEWS:
        return None
    steps = S.angles.diff()
    arc = float((S.angles[-1] - S.angles[0]).abs() + steps.abs().median())
    is_half = abs(arc - math.pi) < _ABOUT * math.pi
    if not is_half and not abs(arc - 2 * math.pi) < _ABOUT * math.pi:
        return None
    residual = S.residual()
    if subject.is_shifted:
        # An axis in the wrong place makes the two halves of a turn differ, too.
        residual = min(residual, S.change(shift=S.shift_of(subject.cell)).residual())
    factor = 2.0 if is_half else 0.5
    # Compared around the first view, from which the angles were counted.
    angles = S.angles[0] + factor * (S.angles - S.angles[0])
    if residual < _UNEXPLAINED or residual < _RATIO * S.change(angles=angles).residual():
        return None
    return Finding(
        "turn",
        f"the angles cover {math.degrees(arc):.3g} degrees, but the views fit "
        f"{math.degrees(factor * arc):.3g}; give the angles of the scan, for example "
        f"torch.arange({len(S.angles)}) * {'2 * ' if is_half else ''}torch.pi / {len(S.angles)}",
        is_conclusive=True,
    )


@register(Scan)
def check_detector(subject: Subject) -> Finding | None:
    """Find a beam of another kind, a reversed detector, and a spacing that opposite rays contradict."""
    S = subject.plane
    if S is None or len(S.angles) < _VIEWS or S.values.shape[1] < _CELLS:
        return None
    last, turn = S.values.shape[1] - 1, S.even_turn()
    if min(subject.cell, last - subject.cell) < _BOTH_SIDES * last:
        return None
    if turn is None:
        return _compare_residuals(S)
    if S.source is None:
        return _find_fan(turn, subject.cell)
    assert turn.source is not None
    factors = torch.logspace(-2, 2, 33, base=2, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    trials = turn.coherences(subject.cell, torch.cat([factors, -factors, ends]))
    parallel, stated, forward, backward = (
        trials[:, -2],
        trials[:, -1],
        trials[:, :33],
        trials[:, 33:66],
    )
    best = int(forward[0].argmax())
    if float(backward[0].max()) > max(_SHOWN, _REVERSED + float(forward[0].max())):
        return Finding(
            "reversed",
            "opposite rays agree only if the detector, the order of the views or the rotation runs the "
            "other way; flip the detector axis (y.flip(-1)) or pass -angles",
        )
    # Where a small fan angle fits as well as none, the rays are parallel.
    margin = _margin(float(parallel[0]))
    near = float(factors[best]) < 0.35 and float(parallel[0]) > float(forward[0, best]) - margin
    if near and _is_better(parallel, stated):
        return Finding(
            "beam",
            "opposite rays agree only if all rays of a view are parallel; these are views of a parallel "
            "beam (also after rebinning), so pass ParallelBeam",
            is_conclusive=True,
        )
    peaks = factors[forward[1:].argmax(1)].log2()
    if not _is_better(forward[:, best], stated) or float((peaks[0] - peaks[1]).abs()) > _APART:
        return None
    # An axis that is off by a part of a cell, which is no finding, also delays opposite rays.
    if subject.axis is not None:
        pair = torch.tensor([float(factors[best]), 1.0], dtype=torch.float64)
        if not _is_better(*turn.coherences(subject.axis.cell, pair).unbind(1)):
            return None
    near_best = float(factors[best]) * torch.logspace(
        -0.125, 0.125, 21, base=2, dtype=torch.float64
    )
    fine = turn.coherence_of_turn(subject.cell, near_best)
    factor = float(near_best[int(fine.argmax())])
    if (
        abs(math.log(factor)) < _CHANGE
        or S.residual()
        < S.change(spacing=factor * S.spacing, shift=S.shift_of(subject.cell) * factor).residual()
    ):
        return None
    return Finding(
        "spacing",
        f"the fan angle measured from opposite rays is {factor:.3g} times that of the geometry; "
        f"check detector_spacing ({factor * turn.spacing:.4g} would fit) and source_detector "
        f"({turn.source[1] / factor:.4g} would fit), in one unit of length",
    )


def _find_fan(turn: Sinogram, cell: float) -> Finding | None:
    """Find views of a fan that were given as views of a parallel beam."""
    last = turn.values.shape[1] - 1
    reach = min(cell, last - cell) * turn.spacing
    angles = torch.deg2rad(torch.arange(2, 31, dtype=torch.float64))
    factors = torch.cat([angles.tan(), torch.zeros(1, dtype=torch.float64)])
    trials = turn.change(source=(1e9, reach)).coherences(cell, factors)
    best = int(trials[0, :-1].argmax())
    peaks = trials[1:, :-1].argmax(1)
    if not _is_better(trials[:, best], trials[:, -1]) or int((peaks[0] - peaks[1]).abs()) > 3:
        return None
    return _fan_finding(float(angles[best]))


def _fan_finding(angle: float) -> Finding:
    return Finding(
        "beam",
        f"opposite rays agree only if the rays of a view spread over about {math.degrees(angle):.0f} "
        "degrees to either side; these are views of a fan, so pass FanBeam with its source distances",
        is_conclusive=True,
    )


def _is_better(trial: Tensor, stated: Tensor) -> bool:
    """Whether another geometry fits all opposite rays better, and both halves of them too."""
    margin, gain = _margin(float(trial[0])), trial - stated
    return (
        float(trial[0]) > _SHOWN and float(gain[0]) > margin and bool((gain[1:] > margin / 2).all())
    )


def _margin(coherence: float) -> float:
    # Data that agree well show smaller errors.
    return max(_LEAST, _SHARE * (1 - coherence))


def _compare_residuals(S: Sinogram) -> Finding | None:
    """Find the geometry of less than a turn that explains the views much better than the stated one."""
    if S.arc < _HALF_TURN:
        return None
    residual = S.residual()
    if residual < _ROUGH:
        return None
    half = float(S.places.abs().max())
    fans = (
        {}
        if S.source
        else {angle: S.change(source=(3 * half, half / math.tan(angle))) for angle in _FANS}
    )
    trials: dict[str | float, float] = {angle: fan.residual() for angle, fan in fans.items()}
    if S.source is not None:
        trials["parallel"] = S.change(source=None).residual()
        trials["reversed"] = S.change(values=S.values.flip(1), shift=-S.shift).residual()
    best = min(trials, key=lambda name: trials[name])
    if residual < 1.5 * trials[best]:
        return None
    if isinstance(best, float):
        return _fan_finding(best)
    names = {
        "parallel": "the views fit parallel rays, and not a fan; pass ParallelBeam",
        "reversed": "the views fit only if the detector, their order or the rotation runs the other way; "
        "flip the detector axis (y.flip(-1)) or pass -angles",
    }
    return Finding("beam" if best == "parallel" else "reversed", names[best], is_conclusive=True)


@register(Scan)
def check_rays_outside_image(subject: Subject) -> Finding | None:
    """Find an object that reaches beyond the image: rays that miss the image are not dark."""
    S = subject.plane
    if S is None:
        return None
    misses = S.distances.abs() > math.hypot(*S.sides) / 2 + S.spacing
    if not bool(misses.any()) or not bool((~misses).any()):
        return None
    outside = float(S.values[:, misses].mean(0).max())
    through = float(S.values[:, ~misses].mean())
    if not (through > 0 and outside > _OUTSIDE * through):
        return None
    return Finding(
        "outside",
        f"rays that miss the image measure up to {outside / through:.0%} of what the others measure "
        "on average; the object reaches beyond the image (give a larger image_shape or "
        "pixel_size), detector_spacing is too large, or an offset was not subtracted",
    )


@register(Scan)
def check_truncation(subject: Subject) -> Finding | None:
    """Find a detector that is narrower than the object: the outermost cells are not dark."""
    y = subject.filled
    is_counts = isinstance(subject.problem.data_term, PoissonTransmission)
    if is_counts or y.is_complex() or y.shape[-1] < 16 or check_counts(subject) is not None:
        return None
    # Views of every item, means over channels and rows: (batch, view, cell).
    views = y.detach().mean(1).flatten(2, -2).mean(2) if y.ndim > 4 else y.detach().mean(1)
    outer = max(1, y.shape[-1] // 50)
    edges = torch.stack([views[..., :outer].mean(2), views[..., -outer:].mean(2)], 1)
    # One view in ten may be brighter, by chance.
    brightest = views.amax(2).median(1, keepdim=True).values.clamp_min(1e-30)
    if bool((views.sum((1, 2)) <= 0).any()):  # not the measurements of an object that absorbs
        return None
    shares = edges.quantile(0.9, dim=2) / brightest
    if (S := subject.plane) is not None and arc_weights(S.angles, 2 * math.pi).closed:
        # In a full turn, the side that reaches farther from the axis sees all of the object.
        offset = S.axis - (y.shape[-1] - 1) / 2
        shares = shares[:, 1:] if offset < -1 else shares[:, :1] if offset > 1 else shares
    share = float(shares.max())
    if share <= _CUT:
        return None
    return Finding(
        "truncated",
        f"the outermost cells of the detector measure up to {share:.0%} of the brightest ones, so "
        "the object is wider than the detector; for a filtered back-projection, continue the views by "
        "it.processing.extend_truncated(y, operator=A); for a solver, give the added cells the weight "
        "0.01, as it.reconstruct does for 2D scans, and an image that covers the object (or an offset "
        "was not subtracted)",
        is_remark=True,
    )


@register(Scan)
def check_arc(subject: Subject) -> Finding | None:
    """Find views over so short an arc that edges of some directions are not determined."""
    arc = arc_of(subject.operator)
    angles = getattr(subject.operator, "angles", None)
    if arc is None and isinstance(angles, torch.Tensor) and angles.ndim == 1 and len(angles) < 3:
        views = "one view shows" if len(angles) == 1 else "two views show"
        return Finding(
            "arc",
            f"{views} where rays are weakened, but hardly where along them: what lies along the rays "
            "comes from the prior alone",
            is_remark=True,
        )
    if arc is None or not arc.is_limited:
        return None
    covered, needed = math.degrees(arc.covered), math.degrees(arc.needed)
    which = "those across other directions come from the prior alone"
    if isinstance(subject.operator, Scan2D):
        # The rays of a view run across (cos, sin); directions of edges count modulo half a turn.
        first = (math.degrees(arc.start) + 90) % 180
        which = (
            f"edges that run at {first:.0f} to {first + covered:.0f} degrees to the rows, "
            "counterclockwise, and all others come from the prior alone"
        )
    return Finding(
        "arc",
        f"the views cover {covered:.0f} of {needed:.0f} degrees, and determine only edges to which a "
        f"ray is tangent: {which}",
        is_remark=True,
    )


def _judge_ends(steps: float | None, is_closed: bool) -> Finding | None:
    """Compare the steps from the last view to the first with the steps of the angles, 0 or 1."""
    if steps is None or not (steps > 0.5 if is_closed else steps < 0.3):
        return None
    if is_closed:
        return Finding(
            "end",
            "the last angle is the direction of the first, but their views differ as much as "
            "neighbours do; the angles probably end one step earlier (linspace without its end)",
            is_conclusive=True,
        )
    return Finding(
        "end",
        "the last view repeats the first, although the angles end one step before the turn is "
        "complete; the angles probably include the end (linspace with its end), or the last view "
        "is a duplicate",
        is_conclusive=True,
    )


def _steps_of_opposite_rays(S: Sinogram, cell: float) -> float | None:
    """Decide by the opposite rays whether the turn has a step between its last and first view."""
    if len(S.angles) < _VIEWS:
        return None
    # Another spacing must not explain the rays: both turns are judged with the spacing that suits them.
    factors = torch.logspace(-1.2, 1.2, 25, base=2, dtype=torch.float64)
    turn = S if float(S.angles[-1]) > float(S.angles[0]) else S.change(values=S.values.flip(0))
    best = []
    for views in (turn, turn.change(values=turn.values[:-1])):
        trials = views.coherences(cell, factors)
        best.append(trials[:, int(trials[0].argmax())])
    opened, closed = best if float(best[0][0]) > float(best[1][0]) else best[::-1]
    margin = 0.002 + 1.5 * _SHARE * (1 - float(opened[0]))
    if float((opened - closed)[0]) < margin or bool((opened - closed < margin / 2).any()):
        return None
    return 1.0 if opened is best[0] else 0.0


def _steps_by_moments(S: Sinogram, is_closed: bool) -> float | None:
    """Decide by the moments of half a turn whether it has a step between its ends."""
    views = len(S.angles)
    if views < _VIEWS or not S.is_complete:
        return None
    factor = (views - 1) / views
    misfit = S.moment_misfit(S.angles * (factor if is_closed else 1 / factor))
    if S.moment_misfit(S.angles) < misfit * (1 + _DOUBT / views):
        return None
    return 1.0 if is_closed else 0.0
