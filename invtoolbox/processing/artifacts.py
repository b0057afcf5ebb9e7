"""The median in a sliding window over the last two axes.

Zingers: single readings far above their surroundings, from photons that hit the camera directly.

Rings: detector cells that answer a little too much or too little, stripes in the sinogram.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.wavelet import OrthogonalWavelet

#: Values in all windows of a piece: 128 MB in float64.
_PIECE = 1 << 24


_PASSES = 3


def remove_zingers(
    counts: Tensor, threshold: float = 8.0, excess: float = 0.1, size: int = 3
) -> tuple[Tensor, Tensor]:
    r"""Replace readings that stand out above the median of their surroundings by that median; and tell which.

    A reading is a zinger where it exceeds the median m of the ``size x size`` readings about it (over the last two axes: view and
    cell of a sinogram, row and cell of a projection) by more than ``threshold`` standard deviations of the noise **and** by more than
    ``excess * m``. The noise is taken as that of counting, ``s sqrt(m)``, with s from the median of ``|counts - m| / sqrt(m)`` over
    the item, so one threshold serves bright and dark parts.

    Args:
        counts: detector counts or transmissions ``(batch, channel, view, *detector)``, before the logarithm.
        threshold: in standard deviations.
        excess: least relative excess; it protects edges where there is hardly any noise.
        size: of the surroundings, odd.

    Returns:
        the counts, in their unit, and a boolean mask of what was replaced.

    >>> counts = torch.full((1, 1, 5, 5), 100.0)
    >>> counts[0, 0, 2, 2] = 900.0
    >>> clean, found = remove_zingers(counts)
    >>> float(clean.max()), int(found.sum())
    (100.0, 1)
    """
    if not threshold > 0 or not excess >= 0:
        raise InputError(
            f"remove_zingers takes a positive threshold and an excess of at least 0, got {threshold} and {excess}"
        )
    if counts.ndim < 3:
        raise InputError(
            f"remove_zingers takes counts (batch, channel, view, *detector), got shape {tuple(counts.shape)}"
        )
    values = counts if counts.is_floating_point() else counts.to(torch.float32)
    middle = local_median(values, (size, size))
    scale = middle.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    above = values - middle
    # The median of |n| is 0.6745 standard deviations; that the middle itself is noisy makes it a little more.
    spread = (above / scale).abs().flatten(1).median(1).values / 0.6744897501960817
    limit = threshold * spread.view(-1, *[1] * (values.ndim - 1)) * scale
    found = (above > limit) & (above > excess * middle.abs())
    return torch.where(found, middle, values), found


def remove_rings(sinogram: Tensor, width: int = 5, threshold: float = 3.0) -> tuple[Tensor, Tensor]:
    """Line integrals without the stripes of cells that answer wrongly all the time, and the fault of every cell.

    A gain that is off by a factor adds a constant to all line integrals of its cell. The readings of every cell are sorted along
    the views, so that neighbouring cells are alike at every rank (Vo, Atwood & Drakopoulos 2018), and the fault is the median
    over the ranks of what exceeds the median of the neighbours in a window of ``width`` cells. It counts as one where the 20 % and
    the 80 % quantile over the ranks have its sign, which edges of the object seldom do, and where it exceeds ``threshold``
    standard errors; three passes, because a fault misleads its neighbours. A cell without a fault is returned bitwise as it was.

    What it cannot find: stripes as wide as half the window, faults that come and go (`remove_rings_by_sorting`), and faults below
    the noise of a mean over the views. What it takes for a fault: edges of the object that are circles about the axis.

    Args:
        sinogram: ``(batch, channel, view, *rows, cell)``, without unit.
        width: of the window in cells, odd.
        threshold: in standard errors of the median over the views.

    Returns:
        the line integrals, and what was subtracted, ``(batch, channel, 1, *rows, cell)``.

    >>> smooth = torch.linspace(0, 1, 40).view(1, 1, 40, 1).expand(1, 1, 40, 20)
    >>> fault = torch.zeros(20); fault[7] = 0.1
    >>> clean, found = remove_rings(smooth + fault)
    >>> bool(torch.allclose(clean, smooth, atol=1e-6)), found.flatten().nonzero().flatten().tolist()
    (True, [7])
    """
    _check(sinogram)
    if not threshold >= 0:
        raise InputError(
            f"the threshold of remove_rings is a nonnegative number of standard errors, got {threshold}"
        )
    fault = torch.zeros_like(sinogram[:, :, :1])
    for _ in range(_PASSES):
        fault = fault + _faults(sinogram - fault, width, threshold)
    return sinogram - fault, fault


def remove_rings_by_sorting(sinogram: Tensor, width: int = 21) -> Tensor:
    """Line integrals without stripes, by sorting (Vo, Atwood & Drakopoulos, Optics Express 26, 2018, algorithm 3).

    The readings of every cell are sorted along the views, neighbouring cells are then alike at every rank, and a median over
    ``width`` cells takes out those that are not; then the readings go back to where they were. It takes out partial and fluctuating
    stripes, and smooths the object a little along the detector, faults or not; `remove_rings` leaves good cells alone.

    Args:
        sinogram: ``(batch, channel, view, *rows, cell)``, without unit.
        width: of the median in cells, odd; more than twice the width of the widest stripe.

    >>> stripe = torch.zeros(1, 1, 4, 9); stripe[..., 1:3, 4] = 1.0  # in two views of four
    >>> float(remove_rings_by_sorting(stripe, 5).abs().max())
    0.0
    """
    _check(sinogram)
    ordered, place = sinogram.sort(dim=2)
    smooth = local_median(ordered, (1, width))
    return torch.zeros_like(sinogram).scatter(2, place, smooth)


def remove_rings_by_wavelets(
    sinogram: Tensor, levels: int = 4, damping: float = 2.0, wavelet: str = "db5"
) -> Tensor:
    """Line integrals without stripes, by wavelets and Fourier (Munch, Trtik, Marone & Stampanoni, Optics Express 17, 2009).

    Stripes are constant along the views and sharp along the cells: they lie in one detail band of every level, near frequency
    zero of the views, and ``1 - exp(-k^2 / (2 damping^2))`` damps them there. It takes out wide stripes, and takes along what of
    the object is constant over most of the views: anything round about the axis. So it is the last resort.

    Args:
        sinogram: ``(batch, channel, view, cell)``, without unit.
        levels: of the wavelet; stripes up to ``2^levels`` cells wide are seen.
        damping: width of the damping, in cycles over the views.
        wavelet: an orthogonal wavelet of PyWavelets.

    >>> stripe = torch.zeros(1, 1, 64, 64); stripe[..., 30:32] = 1.0
    >>> float(remove_rings_by_wavelets(stripe).abs().max()) < 0.4
    True
    """
    _check(sinogram)
    if sinogram.ndim != 4:
        raise InputError(
            f"remove_rings_by_wavelets takes sinograms (batch, channel, view, cell), got shape {tuple(sinogram.shape)}"
        )
    if not damping > 0:
        raise InputError(f"the damping of stripes is a positive number of cycles, got {damping}")
    views, cells = sinogram.shape[-2:]
    basis, unit = OrthogonalWavelet(wavelet, levels), 2**levels
    # Mirrored to a multiple of the coarsest cell: the transform is periodic, and a jump at the border would be damped too.
    top, left = min(unit, views - 1), min(4 * unit, cells - 1)
    bottom, right = (top + (-views - 2 * top) % unit), (left + (-cells - 2 * left) % unit)
    padded = F.pad(
        sinogram, (left, min(right, cells - 1), top, min(bottom, views - 1)), mode="reflect"
    )
    coefficients = basis.transform(padded)
    for (rows, columns), axes in basis.plan(tuple(padded.shape[2:])):
        if len(axes) < 2:
            continue
        band = coefficients[..., : rows // 2, columns // 2 : 2 * (columns // 2)]
        cycles = torch.arange(rows // 2 // 2 + 1, dtype=sinogram.dtype, device=sinogram.device)
        kept = 1 - torch.exp(-cycles.square() / (2 * damping**2))
        band.copy_(
            torch.fft.irfft(torch.fft.rfft(band, dim=-2) * kept.unsqueeze(1), n=rows // 2, dim=-2)
        )
    return basis.inverse(coefficients)[..., top : top + views, left : left + cells].contiguous()


def local_median(x: Tensor, size: tuple[int, int], centre: bool = True) -> Tensor:
    """The median over a window of odd ``size`` about every value, the border repeated; shape and unit of ``x``.

    Without the centre it is that of the neighbours alone, the mean of their two middle values: on a slope, where a value that
    stands out would move the median by a step, it is what the value should be.

    >>> local_median(torch.tensor([[1.0, 1.0, 9.0, 1.0, 2.0, 2.0]]), (1, 3))
    tensor([[1., 1., 1., 2., 2., 2.]])
    >>> local_median(torch.tensor([[1.0, 2.0, 9.0, 4.0, 5.0]]), (1, 5), centre=False)[0, 2]
    tensor(3.)
    """
    if any(n < 1 or n % 2 == 0 for n in size):
        raise InputError(f"the window of a median has odd sizes, got {size[0]}x{size[1]}")
    if x.ndim < 2 or x.is_complex():
        raise InputError(
            f"the median is taken over the last two axes of real values, got {x.dtype} of shape {tuple(x.shape)}"
        )
    planes = x.reshape(1, -1, *x.shape[-2:])
    rows, columns = size
    # Windows are copied to be sorted, so planes and rows go in pieces.
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
    # The standard error of a median is 1.25 times that of a mean.
    real = (quantile(0.2) * quantile(0.8) > 0) & (
        middle.abs() > threshold * 1.2533 * spread / views**0.5
    )
    return torch.where(real, middle, 0)


def _check(sinogram: Tensor) -> None:
    if sinogram.ndim < 4 or not sinogram.is_floating_point():
        raise InputError(
            f"ring removal takes line integrals (batch, channel, view, *rows, cell), got {sinogram.dtype} of shape "
            f"{tuple(sinogram.shape)}"
        )
    if not bool(torch.isfinite(sinogram).all()):
        raise InputError(
            "the sinogram holds values that are NaN or infinite; ring removal would spread them"
        )
