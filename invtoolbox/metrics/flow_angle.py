"""Errors of the direction of flows: the angle in space, and the angle in space and time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.flow import check_flows, mean_over


def angle_error(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean angle between flow and truth **in space**, in radians, 0 to pi.

    A vector without length has no direction: against another one of length zero it counts 0, against any other pi / 2. Where much of
    the world stands still, `space_time_angle_error` says more.

    Args:
        flow: ``(points, 3)`` or ``(batch, points, 3)``.
        truth: likewise. Both include ego motion, or neither does.
        mask: boolean, ``(points,)`` or ``(batch, points)``: true where a point counts.

    >>> angle_error(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]]))
    tensor(1.5708)
    """
    check_flows(flow, truth)
    a, b = flow.to(torch.float64), truth.to(torch.float64)
    still_a, still_b = (a == 0).all(-1), (b == 0).all(-1)
    angle = torch.where(still_a ^ still_b, torch.full_like(a[..., 0], math.pi / 2), _angle(a, b))
    return mean_over(torch.where(still_a & still_b, torch.zeros_like(angle), angle), mask, flow)


def space_time_angle_error(
    flow: Tensor, truth: Tensor, mask: Tensor | None = None, interval: float = 0.1
) -> Tensor:
    """The mean angle between flow and truth **in space and time**, in radians: of ``(x, y, z, interval)``.

    The time between the sweeps, in seconds beside metres, makes a fourth component, so that a vector without length has a direction
    too, and two short vectors enclose a small angle whatever their directions are. This is the angle of the Argoverse 2 code. Shapes are
    those of `angle_error`.

    >>> space_time_angle_error(torch.tensor([[0.1, 0.0, 0.0]]), torch.zeros(1, 3))
    tensor(0.7854)
    """
    check_flows(flow, truth)
    if not interval > 0:
        raise InputError(f"the interval between the sweeps is {interval} s; give a positive one")
    time = torch.full_like(flow[..., :1], interval, dtype=torch.float64)
    a, b = (
        torch.cat([flow.to(torch.float64), time], -1),
        torch.cat([truth.to(torch.float64), time], -1),
    )
    return mean_over(_angle(a, b), mask, flow)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between vectors, exact for small and for large ones (Kahan), where the arc cosine loses half of the digits."""
    a, b = (v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny) for v in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
