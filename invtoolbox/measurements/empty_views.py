"""Views of a scan that hold one number, because they were not measured or not filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.data_terms.base import ResidualTerm
from invtoolbox.measurements.detector import sinograms
from invtoolbox.measurements.findings import Finding, Subject, leave_out, register
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.problem import Problem

#: Least number of cells of a view that can look alike by mistake only, and least sum of the nearest
#: views that vary, relative to the median, next to views that were not measured.
_CELLS, _SUM = 8, 0.5


def empty_views(problem: Problem) -> Tensor | None:
    """Return which views hold a single number, while others vary; booleans ``(batch, 1, view, ...)``.

    None if no view does, if views have a weight of their own, or if the problem is no scan. Views
    from which the object has moved away count as measured: the sums of the views next to them are
    small.

    Args:
        problem: measurements, operator and data term.
    """
    y, D = problem.y, problem.data_term
    if not isinstance(y, Tensor) or not isinstance(problem.operator, Scan) or y.is_complex():
        return None
    if not isinstance(D, ResidualTerm) or D.weights is not None:
        return None
    if sinograms(y, problem.operator) is None or y[0, 0, 0].numel() < _CELLS:
        return None
    values = y.flatten(3)
    flat = (values.amax(3) == values.amin(3)).all(1, keepdim=True)
    # A scan of nothing has no view that varies.
    flat = flat & ~flat.all(2, keepdim=True) & ~_shows_nothing(values, flat)
    if not bool(flat.any()):
        return None
    return flat.view(*flat.shape, *[1] * (y.ndim - 3))


def _shows_nothing(values: Tensor, flat: Tensor) -> Tensor:
    """Return whether the object is small in the views that vary before and after each view.

    Args:
        values: views ``(batch, channel, view, cells)``.
        flat: views without variation, booleans ``(batch, 1, view)``.
    """
    sums = (values - values.amin(3, keepdim=True)).sum((1, 3)).unsqueeze(1)
    usual = sums.masked_fill(flat, torch.nan).nanmedian(2, keepdim=True).values
    before = _latest(sums, flat)
    after = _latest(sums.flip(2), flat.flip(2)).flip(2)
    return torch.maximum(before, after) < _SUM * usual


def _latest(sums: Tensor, flat: Tensor) -> Tensor:
    """Return the sum of the latest view that varies; 0 before the first one."""
    places = torch.arange(flat.shape[2], device=flat.device).expand_as(flat)
    latest = places.masked_fill(flat, -1).cummax(2).values
    return sums.gather(2, latest.clamp_min(0)).masked_fill(latest < 0, 0)


@register(Scan)
def check_empty_views(subject: Subject) -> Finding | None:
    """Find views of a single number in a scan whose other views show an object."""
    empty = empty_views(subject.problem)
    if empty is None:
        return None
    numbers = empty[int(empty.flatten(1).sum(1).argmax())].flatten().nonzero().flatten().tolist()
    shown = ", ".join(map(str, numbers[:4])) + (", ..." if len(numbers) > 4 else "")
    return Finding(
        "empty",
        f"{len(numbers)} views ({shown}) hold the same number in all cells, so they were not "
        "measured; leave them and their angles out, or give them weight 0 (the step repairs, "
        "or repair=True of it.solve)",
        is_conclusive=True,
        repair=lambda problem: leave_out(problem, empty),
    )
