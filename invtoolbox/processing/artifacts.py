"""Removal of zingers and rings from CT data.

Zingers are single readings far above their surroundings, from photons that hit the camera directly.
Rings come from detector cells that respond a little too strongly or too weakly; such a cell is a
stripe in the sinogram.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError

#: Number of values in all windows of one piece of a median: 128 MB in float64.
_PIECE = 1 << 24


_PASSES = 3


def remove_zingers(
    counts: Tensor, threshold: float = 8.0, excess: float = 0.1, size: int = 3
) -> tuple[Tensor, Tensor]:
    """Replace zingers by the median of their surroundings.

    A reading is a zinger if it exceeds the median ``m`` of the ``size x size`` readings around it
    by more than ``threshold`` standard deviations of the noise **and** by more than ``excess * m``.
    The median runs over the last two axes: view and cell of a sinogram, row and cell of a
    projection. The noise is assumed to be counting noise ``s sqrt(m)``, with ``s`` from the median
    of ``|counts - m| / sqrt(m)`` over the item. One threshold therefore serves bright and dark
    parts.

    Args:
        counts: detector counts or transmissions ``(batch, channel, view, *detector)``, before the
            logarithm.
        threshold: threshold in standard deviations of the noise.
        excess: least relative excess; it protects edges in data with hardly any noise.
        size: side of the window of the median, odd.

    Returns:
        the corrected counts, in their unit, and a boolean mask of the replaced readings.

    >>> counts = torch.full((1, 1, 5, 5), 100.0)
    >>> counts[0, 0, 2, 2] = 900.0
    >>> clean, zingers = remove_zingers(counts)
    >>> float(clean.max()), int(zingers.sum())
    (100.0, 1)
    """
    check_range("remove_zingers", "(0, inf]", threshold=threshold)
    check_range("remove_zingers", "[0, inf]", excess=excess)
    if counts.ndim < 3:
        raise InputError(
            "remove_zingers takes counts (batch, channel, view, *detector), got shape "
            f"{tuple(counts.shape)}"
        )
    values = counts if counts.is_floating_point() else counts.to(torch.float32)
    middle = local_median(values, (size, size))
    scale = middle.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    above = values - middle
    # The median of |n| is 0.6745 standard deviations; the noise of the median itself adds a little.
    spread = (above / scale).abs().flatten(1).median(1).values / 0.6744897501960817
    limit = threshold * spread.view(-1, *[1] * (values.ndim - 1)) * scale
    zingers = (above > limit) & (above > excess * middle.abs())
    return torch.where(zingers, middle, values), zingers


def remove_rings(sinogram: Tensor, width: int = 5, threshold: float = 3.0) -> tuple[Tensor, Tensor]:
    """Subtract the constant fault of every detector cell, which causes rings.

    A gain that is wrong by a factor adds a constant to all line integrals of its cell. The method
    sorts the readings of every cell along the views, so that neighbouring cells are alike at every
    rank (Vo, Atwood & Drakopoulos 2018). At every rank, the excess of a cell is its difference from
    the median of its neighbours in a window of ``width`` cells; the fault is the median of the
    excess over the ranks. A fault is accepted if two conditions hold. The 20 % and the 80 %
    quantile of the excess over the ranks have the same sign as the fault, which is rare at edges of
    the object, and the fault exceeds ``threshold`` standard errors. There are three passes, because
    a fault disturbs the estimates of its neighbours. A cell without a fault is returned bitwise
    unchanged.

    The method does not find stripes as wide as half the window, faults that come and go, and dead
    cells; `remove_stripes` does, but only if most cells have no fault. Faults below the noise of a
    mean over the views are not found either. Edges of the object that are circles around the axis
    are mistaken for faults.

    Args:
        sinogram: line integrals ``(batch, channel, view, *rows, cell)``, without unit.
        width: width of the window in cells, odd.
        threshold: threshold in standard errors of the median over the views.

    Returns:
        the corrected line integrals, and the subtracted faults,
        ``(batch, channel, 1, *rows, cell)``.

    >>> smooth = torch.linspace(0, 1, 40).view(1, 1, 40, 1).expand(1, 1, 40, 20)
    >>> fault = torch.zeros(20); fault[7] = 0.1
    >>> clean, faults = remove_rings(smooth + fault)
    >>> bool(torch.allclose(clean, smooth, atol=1e-6)), faults.flatten().nonzero().flatten().tolist()
    (True, [7])
    """
    check_sinogram(sinogram)
    check_range("remove_rings", "[0, inf]", threshold=threshold)
    fault = torch.zeros_like(sinogram[:, :, :1])
    for _ in range(_PASSES):
        fault = fault + _faults(sinogram - fault, width, threshold)
    return sinogram - fault, fault


def local_median(x: Tensor, size: tuple[int, int], centre: bool = True) -> Tensor:
    """Compute the median in a window around every value, over the last two axes.

    Values at the border are repeated. The result has the shape and the unit of ``x``.

    Args:
        x: real values with two or more axes.
        size: odd numbers of rows and columns of the window.
        centre: whether the window includes its centre. Without the centre, the median is the mean
            of the two middle values of the neighbours. On a slope this is the expected value,
            whereas an outlier in the centre would move the median by one step.

    >>> local_median(torch.tensor([[1.0, 1.0, 9.0, 1.0, 2.0, 2.0]]), (1, 3))
    tensor([[1., 1., 1., 2., 2., 2.]])
    >>> local_median(torch.tensor([[1.0, 2.0, 9.0, 4.0, 5.0]]), (1, 5), centre=False)[0, 2]
    tensor(3.)
    """
    if any(n < 1 or n % 2 == 0 for n in size):
        raise InputError(f"the window of a median has odd sizes, got {size[0]}x{size[1]}")
    if x.ndim < 2 or x.is_complex() or not x.numel():
        raise InputError(
            "the median is taken over the last two axes of real values, got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    planes = x.reshape(1, -1, *x.shape[-2:])
    rows, columns = size
    # Sorting copies the windows, so planes and rows are processed in pieces.
    step = max(1, _PIECE // max(1, x.shape[-1] * rows * columns))
    out = torch.empty_like(planes)
    for k in range(planes.shape[1]):
        padded = F.pad(
            planes[:, k : k + 1],
            (columns // 2, columns // 2, rows // 2, rows // 2),
            mode="replicate",
        )[0, 0]
        for r in range(0, x.shape[-2], step):
            windows = (
                padded[r : r + step + rows - 1].unfold(0, rows, 1).unfold(1, columns, 1).flatten(2)
            )
            if centre or windows.shape[2] == 1:
                out[0, k, r : r + step] = windows.median(2).values
                continue
            half = windows.shape[2] // 2
            ranked = torch.cat([windows[..., :half], windows[..., half + 1 :]], 2).sort(2).values
            out[0, k, r : r + step] = (ranked[..., half - 1] + ranked[..., half]) / 2
    return out.reshape(x.shape)


def _faults(sinogram: Tensor, width: int, threshold: float) -> Tensor:
    ordered = sinogram.sort(dim=2).values
    excess = (ordered - local_median(ordered, (1, width), centre=False)).sort(dim=2).values
    views = excess.shape[2]

    def quantile(share: float) -> Tensor:
        return excess.narrow(2, round(share * (views - 1)), 1)

    middle = quantile(0.5)
    spread = (excess - middle).abs().median(2, keepdim=True).values / 0.6744897501960817
    # The standard error of a median is 1.2533 = sqrt(pi / 2) times the standard error of a mean.
    real = (quantile(0.2) * quantile(0.8) > 0) & (
        middle.abs() > threshold * 1.2533 * spread / views**0.5
    )
    return torch.where(real, middle, 0)


def check_sinogram(sinogram: Tensor) -> None:
    """Refuse what is no sinogram, and values that are not finite.

    Args:
        sinogram: line integrals ``(batch, channel, view, *rows, cell)``.
    """
    if sinogram.ndim < 4 or not sinogram.is_floating_point() or not sinogram.numel():
        raise InputError(
            "ring removal takes line integrals (batch, channel, view, *rows, cell), got "
            f"{sinogram.dtype} of shape {tuple(sinogram.shape)}"
        )
    if not bool(torch.isfinite(sinogram).all()):
        raise InputError(
            "the sinogram holds values that are NaN or infinite, which ring removal would spread; "
            "repair them"
        )
