"""Make the depths of several views of one scene agree; `it.align_depths`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from invtoolbox.core.guards import as_tensor, check_range
from invtoolbox.core.short_text import ShortText
from invtoolbox.data_terms import LeastSquares, Student
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.operators import DepthGaps, Identity, LinearOperator
from invtoolbox.priors import DepthConsistency
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import Adam, LevenbergMarquardt

#: Number of rows of the maps from which scales and shifts are found. Means of blocks of pixels have
#: little noise.
_ROWS = 32

#: Scales of the robust misfit of gaps, in standard deviations of the maps, from rough to fine; the
#: first ones repeat, because the pixels that a view sees change.
_WIDTHS = (0.3, 0.3, 0.3, 0.2, 0.1, 0.1, 0.05, 0.05)

#: Trial values of the middle depth, in largest distances of two cameras, and of the relative spread
#: of the depths.
_MIDDLES = tuple(2.0 ** (0.5 * k) for k in range(-2, 13))
_SPREADS = (0.05, 0.1, 0.2, 0.4)

#: Number of rounds over the views in which each is moved alone, and the trial changes of the
#: logarithms of its scale and middle depth.
_SWEEPS, _CHANGES = 3, (-0.3, -0.1, 0.0, 0.1, 0.3)

#: Spreads of the prior that the maps are depths already; an infinite one counts as `_WIDEST` in the
#: evidence.
_PRIORS, _WIDEST = (0.03, 0.1, 0.3), 2.0

#: Least scale of the robust misfit by which candidates are compared, and the number of independent
#: measurements that a gap counts as, times the number of views without one: gaps of all pairs share
#: pixels, and an error of an edge or of a network is the same in many pixels. Chosen with `_PRIORS`
#: on generated scenes.
_FINEST, _SHARE = 0.03, 0.125

#: The same number for the pull of a prior, with independent errors of the pixels of all pairs.
_COUNTED = 1.0

#: Largest number of times that the pixels are found which a view sees, and of steps in between.
_ROUNDS, _STEPS = 20, 8

#: Doubt of the logarithm of a scale up to which the scale counts as determined.
_SURE = 0.01

#: Change of the logarithm of a scale that is no error if the change is wrong, and number of standard
#: deviations above which a change is clear. Chosen on walls before two cameras: changes that made the
#: depths worse were 1.2 and 1.4 standard deviations, the others 4 and more.
_SMALL, _CLEAR = 0.03, 2.0

#: Ratio of the standard deviation of Gaussian noise to its median modulus, and of the standard
#: deviation of gaps, one end of which is interpolated, to the standard deviation of the maps. The
#: squared weights of a bilinear interpolation add up to (2 / 3)^2 in the mean.
_MEDIAN, _DIFFERENCE = 1.4826, (1 + 4 / 9) ** 0.5


@dataclass(frozen=True, eq=False, repr=False)
class AlignedDepths(ShortText):
    """Depths of several views that agree.

    Attributes:
        depths: depths, ``(batch, C, rows, columns)``, in the unit of the cameras; 0 where unknown.
        aligned: the given maps, ``(map - shift) / scale``, NaN where unknown.
        scale: scale of every map, ``(batch, C)``: ``map = scale * depth + shift``.
        shift: shift of every map, ``(batch, C)``.
        noise: relative noise of the depths, ``(batch,)``, as given or estimated.
        alignments: `Solution` of scales and shifts of every item.
        solutions: `Solution` of the depths of every item.
        doubt: standard deviation of the logarithm of every scale by the gaps alone,
            ``(batch, C)``.
        status: one word per item. "determined": the gaps determine all scales to 1 % (one standard
            deviation). "supported": the gaps correct the maps, and the assumption that these are
            nearly depths supplies the rest; a note names a change of a scale that is no larger than
            twice its doubt. "unchanged": the gaps show no error of scale or shift
            of the maps. "undetermined": the maps are not depths, and the gaps leave scales open.
        notes: reasons to doubt the answer, one sentence each.
    """

    depths: Tensor
    aligned: Tensor
    scale: Tensor
    shift: Tensor
    noise: Tensor
    alignments: tuple[Solution, ...]
    solutions: tuple[Solution, ...]
    doubt: Tensor
    status: tuple[str, ...]
    notes: tuple[str, ...] = ()


@naming_arguments
def align_depths(
    maps: Any,
    cameras: Cameras,
    *,
    noise: float | None = None,
    consistency: float = 1.0,
    max_iterations: int = 60,
    progress: bool = False,
) -> AlignedDepths:
    """Find scale and shift of the depth map of every view, and depths that agree between views.

    A network that estimates the depth of a picture leaves scale and shift open. Known cameras
    determine them, because the points of one view must lie on the surface of the others
    (`operators.DepthGaps`). Then `priors.DepthConsistency` lets the views correct the noise of each
    other. A batch is aligned item by item.

    Args:
        maps: depth maps up to scale and shift, larger values farther away, ``(C, rows, columns)`` or
            ``(batch, C, rows, columns)``; NaN, infinite or 0 where unknown.
        cameras: cameras of the C views, pinholes at known positions.
        noise: standard deviation of the noise relative to the depth; estimated from the gaps
            between views by default.
        consistency: factor on the weight of the consistency prior; 0 leaves the noise as it is.
        max_iterations: number of iterations for the depths.
        progress: show progress bars.

    Returns:
        Depths in the unit of the cameras, scales and shifts.

    Raises:
        InputError: for maps of another number or size than the cameras, fewer than two views,
            cameras at one position, or a constant map.

    Source: Bai et al., "GeoVideo", 2025 (the multi-view geometric loss).

    >>> from invtoolbox.geometry import look_at
    >>> x = torch.tensor([-0.4, 0.0, 0.4])
    >>> positions = torch.stack([x, 0 * x, -3 + 0 * x], 1)
    >>> cameras = look_at(positions, size=(24, 32), field_of_view=40.0)
    >>> origins, directions = cameras.rays()
    >>> slopes = [torch.tensor(n) for n in ((0.0, -0.6, -0.8), (0.6, 0.0, -0.8))]
    >>> depth = torch.stack([-(origins @ n) / (directions @ n) for n in slopes]).amin(0)
    >>> found = align_depths(2 * depth + 0.5, cameras, max_iterations=2)
    >>> found.scale.round(decimals=1)
    tensor([[2., 2., 2.]])
    """
    if not isinstance(cameras, Cameras):
        raise InputError(
            f"align_depths takes maps and it.geometry.Cameras, in this order, got {type(maps).__name__} "
            f"and {type(cameras).__name__}"
        )
    batch = as_tensor(maps)
    if not batch.is_floating_point():
        batch = batch.float()
    if batch.ndim == 3:
        batch = batch[None]
    count = len(cameras)
    if batch.ndim != 4 or tuple(batch.shape[1:]) != (count, *cameras.size):
        raise InputError(
            f"align_depths with {count} cameras of {cameras.size[0]} by {cameras.size[1]} pixels "
            f"takes maps ({count}, {cameras.size[0]}, {cameras.size[1]}), got {tuple(batch.shape)}"
        )
    check_range("align_depths", "(0, inf]", noise=noise)
    check_range("align_depths", "[0, inf]", consistency=consistency)
    clean = torch.where(batch.isfinite() & (batch != 0), batch, torch.nan)
    items = [
        _align_item(item[None, None], cameras, noise, consistency, max_iterations, progress)
        for item in clean
    ]
    tensors = ("depths", "aligned", "scale", "shift", "noise", "doubt")
    return AlignedDepths(
        **{name: torch.cat([getattr(item, name) for item in items]) for name in tensors},
        alignments=tuple(solution for item in items for solution in item.alignments),
        solutions=tuple(solution for item in items for solution in item.solutions),
        status=tuple(item.status[0] for item in items),
        notes=tuple(
            f"item {k}: {note}" if len(items) > 1 else note
            for k, item in enumerate(items)
            for note in item.notes
        ),
    )


def _align_item(
    maps: Tensor,
    cameras: Cameras,
    noise: float | None,
    consistency: float,
    max_iterations: int,
    progress: bool,
) -> AlignedDepths:
    """Align the maps of one item, ``(1, 1, C, rows, columns)``."""
    alignment, spread, doubt = _find_scales(maps, cameras)
    status, notes = _judge(spread, doubt, alignment.x[0, 0])
    if status == "undetermined":
        notes += _try_other_maps(maps, cameras)
    # The solution holds depth = exp(x_0) map + x_1, and the result map = scale depth + shift.
    gain, offset = alignment.x[0, 0].exp().to(maps), alignment.x[0, 1].to(maps)
    aligned = gain[:, None, None] * maps + offset[:, None, None]
    is_known = aligned > 0  # also false for NaN
    start = torch.where(is_known, aligned, 0.0)
    level = _noise_of_gaps(maps, cameras, alignment.x.to(maps)) if noise is None else noise
    solutions: tuple[Solution, ...] = ()
    depths = start
    if consistency > 0:
        # A pair of views is compared where both are known; the prior is their mean misfit. Its
        # weight makes gaps of a sixth of the noise as costly as the noise itself: with the
        # smoothing s = level, small relative gaps r cost r^2 / (2 s) each.
        pairs = (len(cameras) - 1) * is_known.sum()
        weight = consistency * float(pairs) * level / (level / 6) ** 2
        weights = torch.where(is_known, (level * start.clamp_min(1e-6)).square().reciprocal(), 0.0)
        prior = DepthConsistency(cameras, max(0.05, 5 * level), level)
        solution = solve(
            Problem(start, Identity(tuple(start.shape[1:])), LeastSquares(weights=weights)),
            weight * prior,
            Adam(learning_rate=0.2 * level * float(start[is_known].median())),
            max_iterations=max_iterations,
            initial=start,
            tolerance=0,
            progress=progress,
            check=False,
        )
        solutions, depths = (solution,), torch.where(is_known, solution.x, 0.0)
    scale = 1 / gain
    return AlignedDepths(
        depths=depths[:, 0],
        aligned=aligned[:, 0],
        scale=scale[None],
        shift=(-offset * scale)[None],
        noise=torch.as_tensor([level], dtype=maps.dtype, device=maps.device),
        alignments=(alignment,),
        solutions=solutions,
        doubt=doubt[None].to(maps),
        status=(status,),
        notes=notes,
    )


def _try_other_maps(maps: Tensor, cameras: Cameras) -> tuple[str, ...]:
    """Return a note if disparities, or maps with larger values nearer, determine the scales.

    Args:
        maps: maps of one item whose scales are open, ``(1, 1, C, rows, columns)``.
        cameras: cameras of the views.
    """
    disparities = torch.where(maps > 0, 1 / maps.clamp_min(1e-12), torch.nan)
    for converted, way in ((disparities, "1 / map"), (-maps, "-map")):
        if float(converted.isfinite().sum()) < 0.5 * float(maps.isfinite().sum()):
            continue
        alignment, spread, doubt = _find_scales(converted, cameras)
        if _judge(spread, doubt, alignment.x[0, 0])[0] in ("unchanged", "determined"):
            return (
                f"the views agree on {way}, so the maps probably hold "
                f"{'disparities' if way == '1 / map' else 'larger values for nearer points'}; give "
                f"{way}, whose values are larger farther away",
            )
    return ()


def _judge(spread: float, doubt: Tensor, change: Tensor) -> tuple[str, tuple[str, ...]]:
    """Return the status of an alignment, and reasons to doubt it.

    Args:
        spread: spread of the prior of the chosen candidate.
        doubt: standard deviations of the logarithms of the scales, ``(C,)``.
        change: logarithms of the scales that were found, ``(C,)``.
    """
    if spread == 0:
        return "unchanged", ()
    if bool((doubt <= _SURE).all()):
        return "determined", ()
    if spread < math.inf:
        view = int(change.abs().argmax())
        size = float(change[view].abs())
        if not _SMALL < size < _CLEAR * float(doubt[view]):
            return "supported", ()
        return "supported", (
            f"the scale of map {view} was changed by {math.expm1(size):.0%}, and the views leave it "
            f"open by {float(doubt[view]):.0%}, so the maps as they are may be closer to the truth; "
            "give views that are farther apart",
        )
    view = int(doubt.argmax())
    return "undetermined", (
        f"the views leave the scale of map {view} open by {float(doubt[view]):.0%}; give views that "
        "are farther apart, or maps that are nearly depths in the unit of the cameras",
    )


def _find_scales(maps: Tensor, cameras: Cameras) -> tuple[Solution, float, Tensor]:
    """Return scales and shifts from maps of few pixels.

    Nearly the same gaps follow from scales and shifts of all views that change together, so errors
    at edges may move the minimum far away. The candidates are the maps as depths, the minima with
    priors ``N(0, spread^2)`` on the logarithms of the scales and on the shifts in median depths, and
    the minimum without a prior. The one of the largest evidence (Laplace's approximation) is taken.

    Returns:
        Solution for logarithms of scales, and shifts, ``(1, 2, C)``; spread of its prior, 0 for the
        maps as they are, and infinite without a prior; standard deviations of the logarithms of the
        scales by the gaps alone, ``(C,)``.
    """
    # In the largest distance of two cameras, so that the numbers of all problems are alike.
    length = _largest_distance(cameras) if len(cameras) > 1 else 1.0
    motion = cameras.world_to_camera.clone()
    motion[:, :3, 3] /= length
    small, views = _shrink(maps.double() / length, replace(cameras, world_to_camera=motion))
    A = DepthGaps(_without_edges(small), views)
    guess = _search(A)
    unchanged = torch.zeros_like(guess)
    medians = torch.stack([m[is_known].median() for m, is_known in zip(A.maps[0], A.known[0])])
    unit = torch.stack([torch.ones_like(medians), medians.abs()])
    candidates = {}
    for spread in (*_PRIORS, math.inf):
        x = guess if spread == math.inf else unchanged
        for width in _WIDTHS if spread == math.inf else _WIDTHS[2:-1]:
            x = _descend(A, x, width, spread * unit)
        candidates[spread] = x
    width = max(_FINEST, min(_median_gap(A, x) for x in (unchanged, *candidates.values())))
    share = _SHARE / (len(small[0, 0]) - 1)
    candidates = {s: _descend(A, x, width, s * unit) for s, x in candidates.items()}
    candidates[0.0] = unchanged
    widest = max(float(A.with_seen(x)[1].double().mean()) for x in candidates.values())
    energies = {}
    for spread, x in candidates.items():
        gaps, is_seen = A.with_seen(x)
        if float(is_seen.double().mean()) < 0.5 * widest:
            continue
        # Views that see fewer points are no better for it, hence the mean.
        energy = share * gaps.numel() * float((gaps[is_seen] / width).square().log1p().mean())
        if spread > 0:
            deviations = (min(spread, _WIDEST) * unit).flatten()
            scaled = deviations[:, None] * share * _information(A, x, width) * deviations
            energy += 0.5 * float(torch.logdet(torch.eye(len(scaled)).to(scaled) + scaled))
            energy += 0.5 * float((x.flatten() / deviations).square().sum())
        energies[spread] = energy
    best = min(energies, key=lambda spread: energies[spread])
    x = candidates[best]
    weight = unit.flatten()
    information = share * weight[:, None] * _information(A, x, width) * weight
    information += 1e-12 * information.diagonal().mean() * torch.eye(len(weight)).to(information)
    doubt = torch.linalg.inv(information).diagonal()[: len(medians)].clamp_min(0).sqrt()
    solution = _record(A, x, width, best * unit)
    x = torch.stack([solution.x[:, 0], length * solution.x[:, 1]], 1)
    return replace(solution, x=x), best, doubt


def _descend(
    A: DepthGaps, start: Tensor, width: float, deviations: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Minimize the robust misfit of the gaps and a Gaussian prior around the maps as they are.

    Gauss-Newton steps on the quadratic that majorizes Student's t (EM weights), which stays convex
    for outliers. Pixels that a view sees are found anew in every round, and fixed in between.

    Args:
        A: gaps between the views.
        start: initial logarithms of scales, and shifts, ``(1, 2, C)``.
        width: scale of the robust misfit, in standard deviations of the maps.
        deviations: standard deviations of the prior, ``(2, C)``; infinite without a prior.
        counts: pixels that count, in place of those that are seen.
    """
    share = _COUNTED / (A.domain_shape[1] - 1)
    ridge = (share * deviations.square()).reciprocal().flatten()
    x, damping = start, 1e-6

    def energy(x: Tensor, gaps: Tensor, is_seen: Tensor) -> float:
        misfit = (gaps[is_seen] / width).square().log1p().sum()
        return float(misfit + 0.5 * (ridge * x.flatten().square()).sum())

    def linearize(x: Tensor, is_seen: Tensor) -> tuple[Tensor, Tensor]:
        gaps, J = A.with_derivative(x)
        weights = _weights(gaps, is_seen, width)
        slope = J.adjoint(weights * gaps).flatten() + ridge * x.flatten()
        return slope, _gram(A, J, weights) + ridge.diag()

    for _ in range(_ROUNDS):
        gaps, is_seen = A.with_seen(x)
        is_seen, before = is_seen if counts is None else counts, x
        value = energy(x, gaps, is_seen)
        slope, H = linearize(x, is_seen)
        for _ in range(_STEPS):
            step = torch.linalg.solve(H + damping * H.diagonal().diag(), slope).view_as(x)
            trial = energy(x - step, A(x - step), is_seen)
            if not trial < value:
                damping = min(100 * damping, 1e6)
                continue
            gain, value = value - trial, trial
            x, damping = x - step, max(damping / 100, 1e-9)
            if gain < 1e-9 * abs(value):
                break
            slope, H = linearize(x, is_seen)
        if float((x - before).abs().max()) < 1e-5:
            break
    return x


def _record(A: DepthGaps, start: Tensor, width: float, deviations: Tensor) -> Solution:
    """Return the `Solution` of a minimum near that of `_descend`, for fixed pixels.

    Its certificate is the length of a further Newton step in standard deviations of `doubt`, at
    most 0.1.
    """
    is_seen = A.with_seen(start)[1]
    x = _descend(A, start, width, deviations, is_seen) if bool(deviations.any()) else start
    share = _COUNTED / (A.domain_shape[1] - 1)
    weights = (share * deviations.square()).reciprocal()[None].clamp_max(1e12)
    term = Student(1.0, noise_std=width, weights=is_seen.to(x))
    y = A.measurements()
    solution = solve(
        Problem(y, A, term),
        None,
        LevenbergMarquardt(),
        initial=x,
        max_iterations=0,
        progress=False,
        check=False,
    )

    gaps, J = A.with_derivative(x)
    slope = (J.adjoint(term.grad(gaps, y)) + weights * x).flatten()
    H = _gram(A, J, _weights(gaps, is_seen, width)) + weights.flatten().diag()
    H += 1e-12 * H.diagonal().mean() * torch.eye(len(slope)).to(H)
    # Newton's decrement g^T H^-1 g is the squared length of a further step in standard deviations.
    # The gradient itself jumps at the borders of interpolation cells, and need not vanish.
    decrement = float(slope @ torch.linalg.solve(H, slope))
    is_minimum = _SHARE / _COUNTED * share * decrement <= 0.1**2
    return replace(solution, status=("converged",)) if is_minimum else solution


def _search(A: DepthGaps) -> Tensor:
    """Return a first guess of logarithms of scales, and shifts, ``(1, 2, C)``."""
    # Median and median absolute deviation of every map.
    views = [depth[is_known] for depth, is_known in zip(A.maps[0], A.known[0])]
    middle = torch.stack([view.median() for view in views])
    deviations = [(view - centre).abs().median() for view, centre in zip(views, middle)]
    width = torch.stack(deviations).clamp_min(1e-3 * A.spread[0])
    # Maps whose middle lies at some baselines from the cameras, with some relative relief. The
    # misfit has many minima, so the best trial is improved view by view before it is solved for.
    starts = []
    for factor in _MIDDLES:
        for share in _SPREADS:
            scale = share * factor / width
            starts.append(torch.stack([scale.log(), factor - scale * middle]))
    x = min(starts, key=lambda start: _cost(A, start))
    for view in [*range(A.domain_shape[1])] * _SWEEPS:
        x = min(_vary(x, view, float(middle[view])), key=lambda trial: _cost(A, trial))
    return x[None]


def _largest_distance(cameras: Cameras) -> float:
    centres = cameras.centres.double()
    length = float(torch.cdist(centres, centres).max())
    if length < 1e-9:
        raise InputError(
            "the cameras are all at one position, so their depths have no scale; give views from "
            "different positions"
        )
    return length


def _information(A: DepthGaps, x: Tensor, width: float) -> Tensor:
    """Return the matrix J^T W J of the robust misfit at x, ``(2 C, 2 C)``, of seen pixels."""
    return _gram(A, A.linearize(x), _weights(*A.with_seen(x), width))


def _weights(gaps: Tensor, is_seen: Tensor, width: float) -> Tensor:
    """Return the weights W of Student's t, 0 for pixels that do not count."""
    return torch.where(is_seen, 2 / (width**2 + gaps.square()), 0.0)


def _gram(A: DepthGaps, J: LinearOperator, weights: Tensor) -> Tensor:
    """Return the matrix J^T W J, ``(2 C, 2 C)``."""
    slopes = J.parameters()["slopes"][0]
    # A gap depends on scale and shift of its two views alone: one matrix 4 x 4 per pair of views.
    weighted, plain = ((s.flatten(2).transpose(0, 1)) for s in (slopes * weights[0], slopes))
    blocks = weighted @ plain.mT
    count = A.domain_shape[1]
    places = torch.stack([A.first, count + A.first, A.second, count + A.second], 1)
    matrix = blocks.new_zeros(2 * count, 2 * count)
    index = (places[:, :, None].expand_as(blocks), places[:, None, :].expand_as(blocks))
    return matrix.index_put(index, blocks, accumulate=True)


def _median_gap(A: DepthGaps, x: Tensor) -> float:
    gaps, is_seen = A.with_seen(x)
    return float(gaps[is_seen].abs().median()) if bool(is_seen.any()) else math.inf


def _without_edges(maps: Tensor) -> Tensor:
    """Return maps, NaN at the jumps of depth and next to them, whose points others may not see."""
    is_edge = torch.zeros_like(maps, dtype=torch.bool)
    for axis in (-1, -2):
        n = maps.shape[axis] - 2
        bend = maps.diff(n=2, dim=axis).abs()
        middle = bend.flatten(-2).nanmedian(-1).values[..., None, None]
        deviation = (maps - maps.nanmean((-2, -1), True)).square().nanmean((-2, -1), True).sqrt()
        # A bend of noise of five standard deviations is rare.
        is_bent = bend > torch.maximum(5 * _MEDIAN * middle, 0.02 * deviation)
        for shift in range(3):
            is_edge.narrow(axis, shift, n).logical_or_(is_bent)
    near = max_pool2d(is_edge[0].to(maps), 3, 1, 1)[None] > 0
    # A map of edges only is better than none.
    is_cut = near.flatten(-2).double().mean(-1)[..., None, None] < 0.5
    return torch.where(near & is_cut, torch.nan, maps)


def _cost(A: DepthGaps, x: Tensor) -> float:
    """Return the mean misfit of the pixels that are seen; the others count as grossly wrong."""
    gaps, is_seen = A.with_seen(x[None])
    gaps = torch.where(is_seen, gaps, 1.0)
    # log(1 + (gap / s)^2), the misfit of `Student` with one degree of freedom.
    return float((gaps / _WIDTHS[0]).square().log1p().mean())


def _vary(x: Tensor, view: int, middle: float) -> Tensor:
    """Return x, and x with other scales and middle depths of one view, ``(trials, 2, C)``."""
    depth = x[0, view].exp() * middle + x[1, view]
    trials = [x]
    for change in _CHANGES:
        for further in _CHANGES:
            trial = x.clone()
            trial[0, view] += change
            trial[1, view] = depth * math.exp(further) - trial[0, view].exp() * middle
            trials.append(trial)
    return torch.stack(trials)


def _shrink(maps: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
    """Return means of blocks of pixels, and the cameras of the smaller pictures."""
    rows, columns = cameras.size
    side = max(1, min(rows, columns) // _ROWS)
    low, wide = rows // side, columns // side
    blocks = maps[..., : low * side, : wide * side].unflatten(-1, (wide, side))
    blocks = blocks.unflatten(-3, (low, side)).transpose(-3, -2).flatten(-2)
    is_known = blocks.isfinite().to(maps).mean(-1) > 0.5
    small = torch.where(is_known, blocks.nanmean(-1), torch.nan)
    return small, replace(cameras, size=(low * side, wide * side)).scale(1 / side)


def _noise_of_gaps(maps: Tensor, cameras: Cameras, x: Tensor) -> float:
    """Estimate the relative noise of the depths from the gaps between views."""
    A = DepthGaps(maps, cameras)
    gaps, is_seen = A.with_seen(x)
    median = gaps[is_seen].abs().median()
    # Gaps are in standard deviations of a map, which are exp(x_0) times as large for its depths.
    spread = (x[:, 0].exp() * A.spread)[:, None, :, None, None]
    unit = (A.depths(x) / spread)[A.known.unsqueeze(1)].median()
    return max(1e-4, _MEDIAN / _DIFFERENCE * float(median / unit))
