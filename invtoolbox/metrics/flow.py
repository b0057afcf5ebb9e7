"""Errors of flows, point by point: end-point error, accuracies, outliers."""

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
    return mean_over(point_errors(flow, truth), mask, flow)


def accuracy_strict(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of points that are off by less than 0.05 m **or** by less than 5 % of the true flow's length.

    Shapes and errors are those of `end_point_error`. The relative test depends on whether the sensor's own motion is in the flows:
    it makes a standing point's true flow long. The figures of `evaluate` are without it.

    Source: Liu, Qi, Guibas, "FlowNet3D", CVPR 2019, section 6.

    >>> accuracy_strict(torch.tensor([[1.04, 0.0, 0.0], [0.2, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    return _accuracy(flow, truth, mask, 0.05)


def accuracy_relax(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of points that are off by less than 0.1 m **or** by less than 10 %; see `accuracy_strict`.

    >>> accuracy_relax(torch.tensor([[1.08, 0.0, 0.0], [0.2, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    return _accuracy(flow, truth, mask, 0.1)


def outliers(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of points that are off by more than 0.3 m **or** by more than 10 % of the true flow's length.

    A point whose true flow is zero is an outlier as soon as its flow is not exactly zero: with the sensor's motion removed this
    figure says little about the static world. Shapes and errors are those of `end_point_error`.

    Source: Gu, Wang, Wu, Lee, Wang, "HPLFlowNet", CVPR 2019, section 4.

    >>> outliers(torch.tensor([[1.05, 0.0, 0.0], [0.01, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    error = point_errors(flow, truth)
    return mean_over(
        ((error > 0.3) | (error > 0.1 * truth.to(torch.float64).norm(dim=-1))).to(torch.float64),
        mask,
        flow,
    )


def point_errors(flow: Tensor, truth: Tensor) -> Tensor:
    """``|flow - truth|`` of every point in float64: ``(points,)`` or ``(batch, points)``.

    >>> point_errors(torch.tensor([[3.0, 4.0, 0.0]]), torch.zeros(1, 3))
    tensor([5.], dtype=torch.float64)
    """
    check_flows(flow, truth)
    return (flow.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)


def check_flows(flow: Tensor, truth: Tensor) -> None:
    """Refuse flows that are none, or that cannot be compared point by point."""
    if flow.ndim not in (2, 3) or flow.shape[-1] not in (2, 3):
        raise InputError(
            f"the flow has shape {tuple(flow.shape)}; expected (points, 3) or (batch, points, 3)"
        )
    if flow.shape != truth.shape:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)} and the truth {tuple(truth.shape)}; they "
            "must agree, a vector for every point of the source"
        )


def mean_over(values: Tensor, mask: Tensor | None, flow: Tensor) -> Tensor:
    """The mean of values ``(points,)`` or ``(batch, points)`` where the mask is true, in the precision of the flow."""
    if mask is None:
        if values.shape[-1] == 0:
            raise InputError("the flow has no points; there is no mean error")
        return like(values.mean(-1), flow)
    if mask.dtype != torch.bool or mask.shape not in (values.shape, values.shape[-1:]):
        raise InputError(
            f"the mask has shape {tuple(mask.shape)} and {mask.dtype}; give a boolean one of "
            f"shape {tuple(values.shape)}"
        )
    mask = mask.expand(values.shape)
    if not bool(mask.any(-1).all()):
        raise InputError("the mask leaves no point; widen it")
    # Not values * mask: outside the mask there may be NaN.
    return like(torch.where(mask, values, torch.zeros_like(values)).sum(-1) / mask.sum(-1), flow)


def _accuracy(flow: Tensor, truth: Tensor, mask: Tensor | None, limit: float) -> Tensor:
    error = point_errors(flow, truth)
    return mean_over(
        ((error < limit) | (error < limit * truth.to(torch.float64).norm(dim=-1))).to(
            torch.float64
        ),
        mask,
        flow,
    )
