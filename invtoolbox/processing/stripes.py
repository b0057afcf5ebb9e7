"""Removal of stripes of every kind from sinograms, which cause rings: full, partial, wide, dead cells.

A stripe has edges: the step between two neighbouring cells is the same in many views. The object has
such steps only where it is round about the axis, because its edges move from cell to cell.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.processing.artifacts import check_sinogram, local_median
from invtoolbox.processing.flat_field import interpolate

#: The median of |n| is 0.6745 standard deviations of normal noise.
_DEVIATIONS = 1 / 0.6744897501960817
#: The median of ``2 n + 1`` steps on either side predicts a step; number of steps on either side that
#: show the usual size of a difference to this prediction.
_NEAR, _USUAL = 2, 30
#: Number of passes over stripes of all views.
_PASSES = 2
#: Ratios of the change from view to view of a cell to that of its neighbours, below and above which a
#: cell is dead or fluctuates; number of neighbours on either side; least spread of a fluctuating
#: cell about its neighbours, in units of its mean distance to them.
_DEAD, _FLUCTUATING, _NEIGHBOURS, _SPREAD = 0.3, 4.0, 15, 0.5
#: Least number of views of a partial stripe, its largest width, and number of averages of neighbouring
#: views in the window of the median along the views.
_FEWEST, _NARROW, _AVERAGES = 16, 2, 48


def remove_stripes(
    sinogram: Tensor, width: int = 20, threshold: float = 5.0, shortest: float = 0.125
) -> tuple[Tensor, Tensor]:
    r"""Remove stripes of every kind from line integrals, and leave other cells as they are.

    1. A cell whose readings change far less or far more from view to view than those of its
       neighbours is dead or fluctuates. Its readings are interpolated from its neighbours.
    2. The median over the views of the step ``y[v, c + 1] - y[v, c]`` shows the edges of a stripe. An
       edge is a step that differs from the medians of five steps on the left and on the right,
       in one direction, by more than `threshold` times the spread of such differences. The sum of
       the edges from the first cell to cell ``c``, less its median over ``2 width + 1`` cells, is the
       stripe; it is subtracted. A single edge, which belongs to the object, survives that median
       and leaves nothing to subtract.
    3. The same with a median over a part of the views finds stripes of one or two cells that begin or
       end within the scan. Their edges must also exceed the spread of the step over these views.

    Cells without an edge in a window of ``2 width + 1`` cells are returned bitwise.

    The method does not find stripes whose profile across the cells is smooth (blurred ones), stripes below
    the noise of a median over the views, nor dead cells with the noise of good ones. It mistakes thin
    circles around the axis for stripes.

    Args:
        sinogram: line integrals ``(batch, channel, view, *rows, cell)``, without unit.
        width: width of the widest stripe in cells.
        threshold: threshold in units of the spread of the neighbouring steps.
        shortest: share of the views of the shortest partial stripe; 0 leaves out step 3.

    Returns:
        the corrected line integrals, and a boolean mask of the cells that were interpolated,
        ``(batch, channel, 1, *rows, cell)``. Give these cells the weight 0 in a fit.

    Sources: Vo, Atwood & Drakopoulos, Optics Express 26, 2018, for the kinds of stripes and the dead cells;
    the sum of the edges is our own.

    >>> generator = torch.Generator().manual_seed(0)
    >>> clean = torch.linspace(0, 1, 60) + 0.01 * torch.randn(1, 1, 40, 60, generator=generator)
    >>> striped = clean.clone()
    >>> striped[..., 20:26] += 0.3
    >>> striped[..., 40] = 0.7
    >>> repaired, dead = remove_stripes(striped)
    >>> bool((repaired - clean)[..., 20:26].abs().max() < 0.02), dead.nonzero()[:, -1].tolist()
    (True, [40])
    """
    check_sinogram(sinogram)
    check_range("remove_stripes", "[1, inf)", width=width)
    check_range("remove_stripes", "(0, inf]", threshold=threshold)
    check_range("remove_stripes", "[0, 0.5]", shortest=shortest)
    # One plane (view, cell) per item, channel and row.
    rows = sinogram.movedim(2, -2)
    planes = rows.flatten(0, -3)
    views, cells = planes.shape[-2:]
    bad = torch.zeros_like(planes[:, :1], dtype=torch.bool)
    if views > 2 and cells > 2:
        bad = _bad_cells(planes)
        planes = interpolate(planes, ~bad.expand_as(planes))
        for _ in range(_PASSES):
            steps = planes.diff(dim=-1).median(1, keepdim=True).values
            planes = planes - _stripes(steps, width, threshold)
        if shortest * views >= _FEWEST:
            planes = planes - _partial_stripes(planes, min(width, _NARROW), threshold, shortest)
    corrected = planes.view(rows.shape).movedim(-2, 2).contiguous()
    return corrected, bad.view(*rows.shape[:-2], 1, cells).movedim(-2, 2)


def _bad_cells(planes: Tensor) -> Tensor:
    """Return the dead and the fluctuating cells, ``(plane, 1, cell)``."""
    change = planes.diff(n=2, dim=1).abs().mean(1, keepdim=True)
    usual = local_median(change, (1, 2 * _NEIGHBOURS + 1))
    dead, wild = change < _DEAD * usual, change > _FLUCTUATING * usual
    if not bool(wild.any()):
        return dead
    # A thin wire on the axis is noisier than the air next to it, but far from it in every view.
    away = planes - interpolate(planes, ~(dead | wild).expand_as(planes))
    return dead | (wild & (away.std(1, keepdim=True) > _SPREAD * away.mean(1, keepdim=True).abs()))


def _stripes(steps: Tensor, width: int, threshold: float, least: Tensor | float = 0.0) -> Tensor:
    """Return stripes from the steps between their cells.

    Args:
        steps: typical step from every cell to the next one, ``(plane, view, cell - 1)``.
        width: width of the widest stripe.
        threshold: threshold of an edge, in units of the spread of the neighbouring steps.
        least: further least size of an edge, broadcast against the steps.
    """
    # An edge exceeds the steps on either side of it, so the rim of a round object has no second one.
    sides = F.pad(local_median(steps, (1, 2 * _NEAR + 1)), (_NEAR + 1, _NEAR + 1), mode="replicate")
    shift = 2 * (_NEAR + 1)
    left, right = (steps - side for side in (sides[..., :-shift], sides[..., shift:]))
    edges = torch.where(left.abs() < right.abs(), left, right)
    edges = torch.where(left * right > 0, edges, 0)
    size = torch.minimum(left.abs(), right.abs())
    usual = torch.maximum(
        local_median(size, (1, 2 * _USUAL + 1)),
        # Where nothing changes, half the spread of the whole plane counts.
        size.flatten(1).median(1).values.view(-1, 1, 1) / 2,
    )
    least = torch.maximum(threshold * _DEVIATIONS * usual, torch.as_tensor(least))
    edges = torch.where(edges.abs() > least, edges, 0)
    total = torch.cat([torch.zeros_like(edges[..., :1]), edges.cumsum(-1)], -1)
    return total - local_median(total, (1, 2 * width + 1))


def _partial_stripes(planes: Tensor, width: int, threshold: float, shortest: float) -> Tensor:
    """Return the stripes of a part of the views.

    A median over twice the views of the shortest stripe keeps the places where a stripe begins and
    ends. It runs over averages of a few views, which saves time.
    """
    views = planes.shape[1]
    window = 2 * shortest * views
    group = max(1, round(window / _AVERAGES))
    count = -(-views // group)
    # The last group is filled up with the last view.
    tail = planes[:, -1:].expand(-1, count * group - views, -1)
    means = torch.cat([planes, tail], 1).unflatten(1, (count, group)).mean(2)
    length = round(window / group) // 2 * 2 + 1
    differences = means.diff(dim=-1)
    steps = local_median(differences, (length, 1))
    # An edge of the object moves, so the steps of its cell differ from view to view.
    spread = _DEVIATIONS * local_median((differences - steps).abs(), (length, 1))
    stripes = _stripes(steps, width, threshold, spread)
    return stripes.repeat_interleave(group, 1)[:, :views]
