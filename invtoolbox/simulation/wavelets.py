"""Wavelets that sources of waves emit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range


def ricker(frequency: float, time_step: float, samples: int, delay: float | None = None) -> Tensor:
    r"""Return a Ricker wavelet, the negative second derivative of a Gaussian, ``(samples,)``.

    .. math:: w(t) = (1 - 2 \pi^2 f^2 (t - t_0)^2) \exp(-\pi^2 f^2 (t - t_0)^2)

    Args:
        frequency: frequency of its largest amplitude, Hz.
        time_step: seconds between two samples.
        samples: number of samples.
        delay: time t_0 of its peak, seconds; 1.2 periods by default, so that it begins near 0.

    Raises:
        InputError: a frequency, time step or number of samples that is not positive.

    >>> ricker(10.0, 0.02, 12).round(decimals=2)[3:10]
    tensor([-0.1700, -0.4400,  0.1400,  1.0000,  0.1400, -0.4400, -0.1700])
    """
    check_range("ricker", "(0, inf]", frequency=frequency, time_step=time_step, samples=samples)
    delay = 1.2 / frequency if delay is None else delay
    time = torch.arange(samples, dtype=torch.float64) * time_step - delay
    phase = (math.pi * frequency * time).square()
    return ((1 - 2 * phase) * torch.exp(-phase)).float()
