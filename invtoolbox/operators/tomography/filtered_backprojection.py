"""Parts of filtered back-projection: ramp filter, weights of views, weights of a short scan.

`FanBeam` and `ParallelBeam` use these parts with a pixel-driven back-projection of their own, and
not as the one-slice case of the Feldkamp code. Both give the same reconstruction (the same PSNR to
0.001 dB, with differences of 1e-5 of the largest value), but the one-slice case takes 18 to 23
times as long for parallel beams and flat fans, and 4 times as long for curved detectors (256 x 256
pixels, 240 to 360 views, one CPU thread; ``benchmarks/one_slice.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError, check_name

FILTERS = ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")

#: An arc has a gap if the largest step between neighbouring views exceeds the mean of the other
#: steps this many times.
_GAP = 4.0


def filter_projections(
    y: Tensor, spacing: float, filter: str = "ram-lak", cutoff: float = 1.0, curved: bool = False
) -> Tensor:
    r"""Convolve ``(..., D)`` with the ramp filter along the detector.

    The ramp is the band-limited kernel in space, ``h_0 = 1 / (4 d^2)``, ``h_k = -1 / (pi k d)^2``
    for odd k, 0 for even k (Kak and Slaney, eq. 3.61), so it has no bias at frequency 0; zero
    padding keeps the convolution from wrapping around. A window then multiplies its spectrum:

    =============  ==========================================
    ram-lak        1
    shepp-logan    sin(pi u / 2) / (pi u / 2)
    cosine         cos(pi u / 2)
    hamming        0.54 + 0.46 cos(pi u)
    hann           0.5 + 0.5 cos(pi u)
    =============  ==========================================

    with ``u = |f| / (cutoff * Nyquist)``, and 0 where u > 1.

    Args:
        y: projections, ``(..., D)``.
        spacing: d, the distance of cells; for ``curved`` the angle between rays.
        filter: name of the window, out of `FILTERS`.
        cutoff: share of the Nyquist frequency that is kept, in (0, 1].
        curved: use the kernel for equiangular rays, ``(k d / sin(k d))^2 h_k`` (Kak and Slaney, eq.
            3.104, which puts a factor 1/2 elsewhere).

    >>> line = torch.ones(1, 64)
    >>> float(filter_projections(line, 1.0)[0, 32]) < 0.01      # a constant is filtered away
    True
    """
    check_name("filter", filter, FILTERS)
    check_range("filtered back-projection", "(0, 1]", cutoff=cutoff)
    cells = y.shape[-1]
    # 2 D - 1 samples keep the D outputs from wrapping around.
    size = 1 << max(2 * cells - 1, 2).bit_length()
    k = torch.arange(size, dtype=torch.float64, device=y.device)
    k = torch.minimum(k, size - k)
    kernel = torch.where(
        k % 2 == 1, -1 / (math.pi * k.clamp_min(1) * spacing).square(), torch.zeros_like(k)
    )
    kernel[0] = 1 / (4 * spacing**2)
    if curved:
        # Only |k| < cells is multiplied with data; beyond, the sine may vanish.
        angle = k.clamp(1, cells) * spacing
        if float(angle.max()) >= math.pi:
            raise InputError(
                "the detector's arc around the source spans half a turn or more; "
                "check source_detector and detector_spacing (one unit of length)"
            )
        kernel = kernel * torch.where(k == 0, 1.0, (angle / angle.sin()).square())
    u = torch.fft.rfftfreq(size, dtype=torch.float64, device=y.device) * 2 / cutoff
    window = {
        "ram-lak": torch.ones_like(u),
        "shepp-logan": torch.sinc(u / 2),
        "cosine": (math.pi * u / 2).cos(),
        "hamming": 0.54 + 0.46 * (math.pi * u).cos(),
        "hann": 0.5 + 0.5 * (math.pi * u).cos(),
    }[filter]
    response = torch.fft.rfft(kernel).real * spacing * torch.where(u <= 1 + 1e-9, window, 0.0)
    spectrum = torch.fft.rfft(y, n=size) * response.to(y.dtype)
    return cast(Tensor, torch.fft.irfft(spectrum, n=size)[..., :cells])


@dataclass(frozen=True, eq=False)
class Arc:
    """Angles of a scan on their circle.

    Attributes:
        weights: angle that each view represents by the trapezoidal rule, (V,).
        start: angle at which the arc begins; it runs anticlockwise.
        length: length of the arc; the whole circle if the arc is closed.
        closed: whether the views leave no gap.
    """

    weights: Tensor
    start: Tensor
    length: float
    closed: bool


def arc_weights(angles: Tensor, period: float) -> Arc:
    """Compute the weight of each view in an integral over the angle.

    It is half the sum of the steps to its neighbours on the circle. Angles may have any order,
    spacing and number of turns. If the largest gap is far larger than the other steps, the scan
    covers an arc, whose ends have one neighbour each.

    Args:
        angles: angles, radians, (V,).
        period: pi for a parallel beam, whose view from behind is the same; 2 pi for a fan.

    >>> arc_weights(torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.pi).weights
    tensor([0.0500, 0.1000, 0.1000, 0.0500])
    >>> bool(arc_weights(torch.arange(8) * torch.pi / 8, torch.pi).closed)
    True
    """
    views = angles.shape[0]
    # The tolerance joins an angle just below a full turn with its twin at zero.
    wrapped = (angles + 1e-9) % period
    ordered, order = wrapped.sort()
    if views == 1:
        return Arc(torch.full_like(angles, period), ordered[0], period, True)
    gaps = torch.cat([ordered[1:], ordered[:1] + period]) - ordered  # after each view
    largest = int(gaps.argmax())
    length = period - float(gaps[largest])
    closed = float(gaps[largest]) <= _GAP * (length / (views - 1))
    if not closed:
        # No view represents the angles of the gap.
        gaps = gaps.clone()
        gaps[largest] = 0
    weights = torch.empty_like(angles)
    weights[order] = (gaps + gaps.roll(1)) / 2
    if closed:
        return Arc(weights, ordered[0], period, True)
    return Arc(weights, ordered[(largest + 1) % views], length, False)


def parker_weights(beta: Tensor, gamma: Tensor, length: float) -> Tensor:
    r"""Compute weights of the rays of a short fan scan.

    With these weights, rays that are measured twice count once. The ray at view ``beta`` and fan
    angle ``gamma`` is measured again, backwards, at ``beta + pi - 2 gamma`` and ``-gamma``. The
    weights of the two sum to 1 and fall smoothly to 0 at either end of the arc (Parker 1982, Med.
    Phys. 9(2); for arcs longer than ``pi`` plus the fan, Silver 2000, Med. Phys. 27(4)). If a
    shorter arc does not see every ray, all weights are 1.

    Args:
        beta: angle since the beginning of the arc, (V, 1).
        gamma: fan angle, which rises along the detector, (V or 1, D).
        length: length of the arc.

    Returns:
        Weights, (V, D).

    >>> beta, gamma = torch.tensor([[0.1]]), torch.tensor([[0.05]])
    >>> partner = parker_weights(beta + torch.pi - 2 * gamma, -gamma, torch.pi + 0.3)
    >>> round(float(parker_weights(beta, gamma, torch.pi + 0.3) + partner), 5)
    1.0
    """
    beta, gamma = torch.broadcast_tensors(beta, gamma)
    excess = (length - math.pi) / 2
    if excess < float(gamma.abs().max()) * (1 - 1e-6):
        return torch.ones_like(gamma)

    # With delta, half the excess of the arc over pi: sin^2(pi / 4 beta / (delta + gamma)) up to
    # beta = 2 (delta + gamma), then 1, and sin^2(pi / 4 (length - beta) / (delta - gamma)) from
    # beta = pi + 2 gamma on.
    def ramp(angle: Tensor, width: Tensor) -> Tensor:
        return (math.pi / 4 * angle / width.clamp_min(1e-12)).clamp(0, math.pi / 2).sin().square()

    end = torch.where(beta >= math.pi + 2 * gamma, ramp(length - beta, excess - gamma), 1.0)
    return torch.where(beta <= 2 * (excess + gamma), ramp(beta, excess + gamma), end)
