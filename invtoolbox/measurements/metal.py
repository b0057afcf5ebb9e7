"""Metal in a scan: pixels far above the rest of the object, and streaks that no image explains."""

from __future__ import annotations

import torch

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.measurements.bulk import METAL, bulk
from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.operators.tomography.scan_2d import Scan

#: Cells and views of the coarse image, and its rows and columns.
_CELLS, _VIEWS, _SIDE = 192, 180, 128
#: Least arc of the views, in radians, and least number of views: few views have dark streaks of their own.
_HALF_TURN, _MANY = 2.6, 60
#: Least number of pixels of metal, largest share of the object that is metal, and least depth of the
#: dark streaks next to it, relative to the bulk.
_FEWEST, _MOST, _DARK = 3, 0.25, 0.15


@register(Scan)
def check_metal(subject: Subject) -> Finding | None:
    """Find metal: a small part of a coarse image far above the bulk, with dark streaks around it."""
    S = subject.plane
    if S is None or type(subject.problem.data_term) is not LeastSquares or S.arc < _HALF_TURN:
        return None
    if len(S.angles) < _MANY or S.values.shape[1] < 12 or subject.is_shifted:
        return None
    coarse = S.coarsen(_CELLS, _VIEWS)
    if coarse.field_of_view < 8 * coarse.spacing:
        return None
    image = coarse.operator(_SIDE, coarse.field_of_view).pseudo_inverse(
        coarse.values.float()[None, None]
    )
    line = torch.arange(_SIDE) - (_SIDE - 1) / 2
    inside = torch.hypot(line[:, None], line[None, :]) < _SIDE / 2 - 2
    x = image[0, 0][inside]
    level = bulk(x)
    if not bool(level > 0):
        return None
    metal = int((x > METAL * level).sum())
    if not _FEWEST <= metal <= _MOST * int((x > level / 2).sum()):
        return None
    # Of data that an image explains, few pixels are negative, and little.
    depth = -float(x.sort().values[metal // 2] / level)
    if depth < _DARK:
        return None
    return Finding(
        "metal",
        f"a part of the object attenuates more than {METAL:g} times as much as the rest, with dark streaks "
        "around it, as metal does; its rays measure too little, so leave them out by "
        "it.reconstruct(..., metal=True) or --metal, or pass it.processing.reduce_metal(y, A).y to "
        "a filtered back-projection",
    )
