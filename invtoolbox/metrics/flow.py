"""Errors of flows."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.region import like


def end_point_error(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean end-point error, ``mean over points of |flow - truth|``, in the unit of the flow (metres).

    Args:
        flow: the flow of every point, ``(points, 3)``, or ``(batch, points, 3)`` (2 components for optical
            flow).
        truth: the same for the true flow. Both include ego motion, or neither does.
        mask: boolean, ``(points,)`` or ``(batch, points)``: true where a point counts.

    Returns:
        A number (a tensor without axes) for one flow, or ``(batch,)``.

    >>> end_point_error(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), torch.zeros(2, 3))
    tensor(3.)
    """
    if flow.ndim not in (2, 3) or flow.shape[-1] not in (2, 3):
        raise InputError(f"the flow has shape {tuple(flow.shape)}; expected (points, 3) or (batch, points, "
                         "3)")
    if flow.shape != truth.shape:
        raise InputError(f"the flow has shape {tuple(flow.shape)} and the truth {tuple(truth.shape)}; they "
                         "must agree, a vector for every point of the source")
    error = (flow.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)
    if mask is None:
        if error.shape[-1] == 0:
            raise InputError("the flow has no points; there is no mean error")
        return like(error.mean(-1), flow)
    if mask.dtype != torch.bool or mask.shape not in (error.shape, error.shape[-1:]):
        raise InputError(f"the mask has shape {tuple(mask.shape)} and {mask.dtype}; give a boolean one of "
                         f"shape {tuple(error.shape)}")
    mask = mask.expand(error.shape)
    if not bool(mask.any(-1).all()):
        raise InputError("the mask leaves no point; widen it")
    return like(torch.where(mask, error, torch.zeros_like(error)).sum(-1) / mask.sum(-1), flow)
