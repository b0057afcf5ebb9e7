"""Mutes and data windows of a survey: weights of its samples by time and offset."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators import AcousticWaves

#: A line of times over the offset, (seconds at offset 0, velocity in m/s), or times of every record.
Times = tuple[float, float] | Tensor


def data_window(
    survey: AcousticWaves,
    begin: Times | None = None,
    end: Times | None = None,
    offsets: tuple[float, float] | None = None,
    taper: float = 0.0,
) -> Tensor:
    r"""Compute weights of the samples of a survey, from 0 for muted ones to 1.

    A linear mute is ``t_0 + offset / velocity``; a picked one is a time per record, such as those of
    `pick_first_arrivals`. Times count from the first sample. A record without a pick (NaN) is muted
    as a whole. The weight rises over ``taper`` seconds before ``begin`` and falls over as many after
    ``end``, as the square of a sine.

    Args:
        survey: the survey.
        begin: times from which on samples count: ``(t_0, velocity)``, or ``(shots, receivers)`` with
            any axes of length 1 in front.
        end: times up to which samples count, of the same shape.
        offsets: least and largest distance of shot and receiver, metres.
        taper: seconds of the transition.

    Returns:
        Weights ``(1, 1, shots, receivers, samples)``.

    Raises:
        InputError: a velocity or a taper that is not positive, times of another shape, offsets in the
            wrong order, or a window that mutes every sample.

    >>> from invtoolbox.simulation import ricker
    >>> place = torch.tensor([[0.0, 0.0]])
    >>> apart = torch.tensor([[0.0, 100.0], [0.0, 200.0]])
    >>> A = AcousticWaves((5, 21), 10.0, place, apart, ricker(10.0, 0.002, 110), 0.002, (1000, 2000))
    >>> data_window(A, begin=(0.05, 1000.0)).sum(-1)  # from 0.15 and from 0.25 s on
    tensor([[[[35.,  0.]]]])
    """
    check_range("data_window", "[0, inf)", taper=taper)
    offset = _offsets(survey)
    time = torch.arange(survey.samples, dtype=torch.float64) * survey.time_step
    weights = torch.ones(*offset.shape, survey.samples, dtype=torch.float64)
    for name, times, sign in (("begin", begin, 1.0), ("end", end, -1.0)):
        if times is not None:
            # Seconds inside the window; rounding must not decide about a sample.
            edge = _edge(name, times, offset)[..., None]
            inside = sign * (time - edge) + 1e-6 * survey.time_step
            share = (1 + inside / taper).clamp(0, 1) if taper else (inside >= 0).double()
            weights = weights * (0.5 * math.pi * share).sin().square().nan_to_num(0.0)
    if offsets is not None:
        low, high = offsets
        if not 0 <= low <= high:
            raise InputError(
                f"offsets are the least and the largest distance in metres, got {tuple(offsets)}"
            )
        weights = weights * ((offset >= low) & (offset <= high))[..., None]
    if not bool(weights.any()):
        raise InputError(
            "the window mutes every sample of the survey; its offsets go from "
            f"{float(offset.min()):.4g} to {float(offset.max()):.4g} m and its times to "
            f"{float(time[-1]):.4g} s"
        )
    return weights.float()[None, None]


def shift_window(weights: Tensor, delay: float, time_step: float) -> Tensor:
    """Move a window to later samples; the first samples keep the first weight.

    Args:
        weights: weights ``(..., samples)``.
        delay: seconds.
        time_step: seconds between two samples.

    >>> shift_window(torch.tensor([0.0, 1.0, 1.0, 0.0]), 0.2, 0.1)
    tensor([0., 0., 0., 1.])
    """
    count = min(round(delay / time_step), weights.shape[-1] - 1)
    first = weights[..., :1].expand(*weights.shape[:-1], max(count, 0))
    return torch.cat([first, weights[..., : weights.shape[-1] - count]], -1)


def _offsets(survey: AcousticWaves) -> Tensor:
    """Return the distances of shots and receivers in metres, ``(shots, receivers)``."""
    receivers = survey.receivers.expand(len(survey.shots), -1, -1).double()
    apart = receivers - survey.shots.double()[:, None]
    return (apart * apart.new_tensor(survey.spacing)).square().sum(-1).sqrt().cpu()


def _edge(name: str, times: Times, offset: Tensor) -> Tensor:
    """Return the time of an edge of the window for every record."""
    if isinstance(times, Tensor):
        if tuple(times.shape[-2:]) != tuple(offset.shape) or times.numel() != offset.numel():
            raise InputError(
                f"times of {name} are one per record, {tuple(offset.shape)}, got "
                f"{tuple(times.shape)}"
            )
        return times.double().cpu().reshape(offset.shape)
    start, velocity = times
    check_range("data_window", "(0, inf)", **{f"velocity of {name}": velocity})
    return start + offset / velocity
