"""A point spread function distilled from the image of many beads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.core.arrays import as_tensor
from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.imaging.blur_3d import measured_psf

#: Least correlation of a bead with the median of all, and least number of beads for a median.
_ALIKE, _ENOUGH = 0.8, 3


def psf_from_beads(
    stack: Any, size: Sequence[int], threshold: float = 0.2, saturation: float | None = None
) -> Tensor:
    """Compute a kernel ``(slice, row, column)`` from a stack with several beads; its sum is 1.

    Beads are local maxima. A bead is left out if it lies near the border, has a neighbour within
    ``size``, is saturated, or resembles the median of the others with a correlation below 0.8. The
    rest is shifted to the centroids of their cores, to a fraction of a voxel, and averaged with the
    same weight; noise falls with the root of their number.

    Args:
        stack: image of the beads, ``(slice, row, column)``.
        size: odd numbers of slices, rows and columns of the kernel.
        threshold: least height of a bead above the background, relative to the highest one.
        saturation: value from which a reading is clipped; the largest value of an integer type by
            default, and none for floating point.

    Raises:
        InputError: no bead is left; the sentence counts the reasons.

    >>> beads = torch.zeros(9, 40, 20); beads[4, 10, 10] = beads[4, 28, 9] = 1000
    >>> psf_from_beads(beads, (5, 7, 7)).argmax() == (5 * 7 * 7) // 2
    tensor(True)
    """
    field = as_tensor(stack)
    sizes = tuple(int(n) for n in size)
    check_range("psf_from_beads", "(0, 1)", threshold=threshold)
    if field.ndim != 3 or len(sizes) != 3 or any(n % 2 == 0 or n < 1 for n in sizes):
        raise InputError(
            "psf_from_beads takes a stack (slice, row, column) and three odd sizes, got shape "
            f"{tuple(field.shape)} and size {sizes}"
        )
    if any(n > m for n, m in zip(sizes, field.shape)):
        raise InputError(
            f"a kernel of {sizes} does not fit a stack of {tuple(field.shape)}; give a smaller size"
        )
    if saturation is None and not field.is_floating_point():
        saturation = float(torch.iinfo(field.dtype).max)
    values = field.double()
    values = values - values.median()
    highest = F.max_pool3d(values[None], sizes, 1, tuple(n // 2 for n in sizes))[0]
    peaks = ((values == highest) & (values >= threshold * values.max())).nonzero()
    cuts, lost = [], {"near the border": 0, "saturated": 0, "with a neighbour": 0}
    for peak in peaks:
        low = [int(p) - n // 2 for p, n in zip(peak, sizes)]
        if any(a < 0 or a + n > m for a, n, m in zip(low, sizes, field.shape)):
            lost["near the border"] += 1
            continue
        window = tuple(slice(a, a + n) for a, n in zip(low, sizes))
        is_near = ((peaks - peak).abs() < torch.tensor(sizes)).all(1)
        # A clipped bead has several maxima.
        if saturation is not None and float(field[window].max()) >= saturation:
            lost["saturated"] += 1
        elif int(is_near.sum()) > 1:
            lost["with a neighbour"] += 1
        else:
            cuts.append(_centred(values[window]))
    beads = torch.stack(cuts) if cuts else values.new_zeros(0, *sizes)
    if len(beads) >= _ENOUGH:
        flat = F.normalize((beads - beads.mean((1, 2, 3), keepdim=True)).flatten(1))
        middle = beads.median(0).values
        alike = flat @ F.normalize((middle - middle.mean()).flatten(), dim=0) >= _ALIKE
        lost["unlike the others"] = int((~alike).sum())
        beads = beads[alike]
    if not len(beads):
        reasons = ", ".join(f"{count} {reason}" for reason, count in lost.items() if count)
        raise InputError(
            f"no bead is left for a kernel of {sizes}, of maxima {reasons or 'none'}; give a smaller "
            "size or threshold, or measure sparser beads"
        )
    return measured_psf(beads.mean(0), size=sizes).to(torch.float32)


def _centred(bead: Tensor) -> Tensor:
    """Shift a bead by the phase of its transform so that the centroid of its core is the middle.

    The result has the sum 1.
    """
    dims = tuple(range(bead.ndim))
    middle = [n // 2 for n in bead.shape]
    core = bead.clamp_min(0)
    core = torch.where(core >= 0.5 * core.max(), core, 0.0)
    phase = torch.zeros_like(bead, dtype=torch.complex128)
    for axis, (n, m) in enumerate(zip(bead.shape, middle)):
        place = torch.arange(n, dtype=bead.dtype)
        along = core.sum([d for d in dims if d != axis])
        shift = m - float((place * along).sum() / along.sum())
        ramp = -2j * torch.pi * torch.fft.fftfreq(n, dtype=bead.dtype) * shift
        phase = phase + ramp.view([n if d == axis else 1 for d in dims])
    shifted = torch.fft.ifftn(torch.fft.fftn(bead) * phase.exp()).real
    return shifted / shifted.sum()
