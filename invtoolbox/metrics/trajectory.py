"""Errors of trajectories: how far tracked points are from where they went."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of tracked points in metres.

    Attributes:
        mean: the mean displacement error (ADE): over all points and all times but the first, which is given.
        final: the final displacement error (FDE): over all points at the last time at which each is known.
        over_time: the mean error at each time, ``(times,)``; NaN where no point is known.
    """

    mean: float
    final: float
    over_time: Tensor


def trajectory_errors(
    tracks: Tensor, truth: Tensor, valid: Tensor | None = None
) -> TrajectoryErrors:
    """The displacement errors of tracks, in one frame (that of the first sweep, or the world's).

    Args:
        tracks: where each point is at each time, ``(times, points, 3)``, metres; the first time is the given one.
        truth: likewise.
        valid: boolean ``(times, points)``, false where the truth is not known; such places do not count.

    Source: the mean and final errors of motion forecasting; Vidanapathirana, Chng, Li, Lucey, "Multi-body neural scene flow", 3DV 2024.

    >>> truth = torch.zeros(3, 1, 3)
    >>> tracks = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1) * torch.tensor([1.0, 0.0, 0.0])
    >>> errors = trajectory_errors(tracks, truth)
    >>> errors.mean, errors.final
    (1.5, 2.0)
    """
    if tracks.ndim != 3 or tracks.shape[-1] != 3 or tracks.shape != truth.shape:
        raise InputError(
            f"the tracks have shape {tuple(tracks.shape)} and the truth {tuple(truth.shape)}; expected the same "
            "(times, points, 3) of both"
        )
    if len(tracks) < 2:
        raise InputError(
            f"the tracks have {len(tracks)} times; an error of a trajectory needs the first and one more"
        )
    error = (tracks.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)
    known = torch.ones_like(error, dtype=torch.bool) if valid is None else valid
    if known.shape != error.shape or known.dtype != torch.bool:
        raise InputError(
            f"valid is {known.dtype} of shape {tuple(known.shape)}; give booleans of shape {tuple(error.shape)}"
        )
    later, seen = error[1:], known[1:]
    if not bool(seen.any()):
        raise InputError(
            "no point is known at any time after the first; there is no error of the trajectories"
        )
    error = torch.where(known, error, torch.zeros_like(error))
    # The last time at which each point is known, counted from the first.
    times = torch.arange(len(later), device=later.device)[:, None]
    last = torch.where(seen, times, torch.full_like(times, -1)).amax(0)
    final = later.gather(0, last.clamp_min(0)[None])[0][last >= 0]
    return TrajectoryErrors(
        float(later[seen].mean()), float(final.mean()), error.sum(1) / known.sum(1)
    )
