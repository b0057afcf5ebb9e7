"""Make the depths of several views of one scene agree; `it.align_depths`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms import LeastSquares, Student
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.operators import DepthGaps, Identity
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

#: Ratio of the standard deviation of Gaussian noise to its median modulus, and of the standard
#: deviation of gaps, one end of which is interpolated, to the standard deviation of the maps. The
#: squared weights of a bilinear interpolation add up to (2 / 3)^2 in the mean.
_MEDIAN, _DIFFERENCE = 1.4826, (1 + 4 / 9) ** 0.5


@dataclass(frozen=True, eq=False)
class AlignedDepths:
    """Depths of several views that agree.

    Attributes:
        depths: depths, ``(batch, C, rows, columns)``, in the unit of the cameras; 0 where unknown.
        aligned: the given maps, ``(map - shift) / scale``, NaN where unknown.
        scale: scale of every map, ``(batch, C)``: ``map = scale * depth + shift``.
        shift: shift of every map, ``(batch, C)``.
        noise: relative noise of the depths, ``(batch,)``, as given or estimated.
        alignments: `Solution` of scales and shifts of every item.
        solutions: `Solution` of the depths of every item.
    """

    depths: Tensor
    aligned: Tensor
    scale: Tensor
    shift: Tensor
    noise: Tensor
    alignments: tuple[Solution, ...]
    solutions: tuple[Solution, ...]


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
    batch = torch.as_tensor(maps)
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
    tensors = ("depths", "aligned", "scale", "shift", "noise")
    return AlignedDepths(
        **{name: torch.cat([getattr(item, name) for item in items]) for name in tensors},
        alignments=tuple(solution for item in items for solution in item.alignments),
        solutions=tuple(solution for item in items for solution in item.solutions),
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
    alignment = _find_scales(maps, cameras)
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
    )


def _find_scales(maps: Tensor, cameras: Cameras) -> Solution:
    """Return the solution for logarithms of scales, and shifts, from maps of few pixels."""
    A = DepthGaps(*_shrink(maps.double(), cameras))
    centres = A.cameras.centres
    apart = float(torch.cdist(centres, centres).max())
    if apart < 1e-9:
        raise InputError(
            "the cameras are all at one position, so their depths have no scale; give views from "
            "different positions"
        )
    y = A.measurements()
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
            scale = share * factor * apart / width
            starts.append(torch.stack([scale.log(), factor * apart - scale * middle]))
    x = min(starts, key=lambda start: _cost(A, start))
    for view in [*range(A.domain_shape[1])] * _SWEEPS:
        x = min(_vary(x, view, float(middle[view])), key=lambda trial: _cost(A, trial))
    guess = x[None]
    for noise_std in _WIDTHS:
        # What a view sees is found again for every width, and fixed in between.
        term = Student(1.0, noise_std=noise_std, weights=A.with_seen(guess)[1].to(y))
        solution = solve(
            Problem(y, A, term),
            None,
            LevenbergMarquardt(inner_iterations=4 * A.domain_shape[1], inner_tolerance=1e-3),
            initial=guess,
            max_iterations=20,
            tolerance=1e-3,
            progress=False,
            check=False,
        )
        guess = solution.x
    return solution


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
