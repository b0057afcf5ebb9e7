"""Rings: detector cells that answer a little too much or too little, stripes in the sinogram."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.wavelet import OrthogonalWavelet
from invtoolbox.processing.median import local_median

_PASSES = 3


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
