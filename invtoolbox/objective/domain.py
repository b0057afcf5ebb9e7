"""Domain of a misfit that is infinite for some predictions, such as negative means of counts."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand


def has_domain(objective: Objective) -> bool:
    """Return whether the misfit of some linear predictions of images is infinite.

    Args:
        objective: the objective.
    """
    problem = objective.problem
    is_image = objective.layout is None and problem.is_linear
    return is_image and type(problem.data_term).share_inside is not DataTerm.share_inside


def move_into_domain(objective: Objective, x: Tensor, level: Tensor | None = None) -> Tensor:
    """Return images moved towards constant ones of a level ``(batch,)`` until the misfit is finite.

    Without a level, the constant image that fits the measurements best replaces them.

    Args:
        objective: the objective, with the misfit.
        x: images, ``(batch, channel, *space)``.
        level: value of each constant image.
    """
    if not has_domain(objective):
        return x
    D, A, y = objective.problem.data_term, objective.problem.operator, objective.problem.y
    one = A(torch.ones_like(x))
    is_start = level is None
    if level is None:
        level = mean_items(D.fitting_prediction(y)) / mean_items(one)
    share = D.share_inside(A(x), expand(level, one) * one, y)
    assert share is not None
    share = share.ceil() if is_start else share
    return torch.lerp(x, expand(level, x).expand_as(x), expand(share, x))
