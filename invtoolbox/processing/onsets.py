"""Onsets of waves in records: the times of first breaks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError

#: Samples of the criterion on either side that hold too few values for a variance.
_MARGIN = 2


def pick_onsets(
    records: Tensor,
    time_step: float,
    period: float,
    threshold: float = 4.0,
    floor: float = 0.01,
) -> Tensor:
    r"""Pick the onset of the first wave of every record, in seconds, NaN without a wave.

    A wave is detected where the mean energy of the next half period (short-term average, STA)
    exceeds ``threshold`` times that of all samples before (long-term average, LTA), which includes
    the energy of the quietest period of the record and the square of the floor. The onset is
    then the sample k that divides the record about the detection into two parts of noise of
    different variance best, by Akaike's information criterion

    .. math:: AIC(k) = k \log \operatorname{var}(y_{1..k}) + (m - k) \log \operatorname{var}(y_{k+1..m}).

    Args:
        records: records ``(..., samples)``.
        time_step: seconds between two samples.
        period: main period of the waves, seconds.
        threshold: ratio of the energies from which on a wave is detected.
        floor: amplitude, relative to the largest one of the record, below which nothing counts.

    Returns:
        Times from the first sample on, ``(...)``.

    Raises:
        InputError: records shorter than two periods, or a period of fewer than four samples.

    Sources: Allen, Bulletin of the Seismological Society of America 68, 1978; Maeda, Zisin 38, 1985.

    >>> noise = 1e-3 * torch.randn(1, 200, generator=torch.Generator().manual_seed(0))
    >>> noise[0, 80:] += torch.sin(0.3 * torch.arange(120))
    >>> pick_onsets(noise, time_step=0.01, period=0.2)
    tensor([0.8100])
    """
    check_range("pick_onsets", "(0, inf)", time_step=time_step, period=period, threshold=threshold)
    check_range("pick_onsets", "[0, 1)", floor=floor)
    samples, half = records.shape[-1], round(0.5 * period / time_step)
    if half < 2 or samples < 4 * half:
        raise InputError(
            f"onsets of waves of {period:g} s need a period of four samples and records of two "
            f"periods, got {samples} samples of {time_step:g} s; correct the period or the time step"
        )
    traces = records.reshape(-1, samples).double()
    traces = traces / traces.abs().amax(1, keepdim=True)  # NaN of a record of zeros: no onset
    energy = torch.nn.functional.pad(traces.square().cumsum(1), (1, 0))
    begin = torch.arange(samples, device=records.device)
    short = (energy[:, (begin + half).clamp_max(samples)] - energy[:, begin]) / half
    quiet = (energy[:, 2 * half :] - energy[:, : -2 * half]).amin(1, keepdim=True) / (2 * half)
    quiet = quiet + floor**2
    long = (energy[:, begin] + half * quiet) / (begin + half)
    detected = short > threshold * long
    first = detected.int().argmax(1)
    # The onset lies within the half period that was averaged; the criterion looks one further half
    # period ahead, and a quarter period back.
    ahead = torch.arange(-(half // 2), 2 * half, device=records.device)
    index = first[:, None] + ahead
    inside = (index >= 0) & (index < samples)
    window = torch.where(inside, traces.gather(1, index.clamp(0, samples - 1)), 0.0)
    count, power = len(ahead), window.square().cumsum(1)
    number = torch.arange(1, count, device=records.device)
    before = power[:, :-1] / number + quiet
    after = (power[:, -1:] - power[:, :-1]) / (count - number) + quiet
    criterion = number * before.log() + (count - number) * after.log()
    best = criterion[:, _MARGIN:-_MARGIN].argmin(1) + _MARGIN + 1
    onset = (first + best - half // 2) * time_step
    onset = torch.where(detected.any(1), onset, math.nan)
    return onset.to(records.dtype).view(records.shape[:-1])
