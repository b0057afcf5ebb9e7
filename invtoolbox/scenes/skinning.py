"""Skinning: how much each point follows each of some bones or control nodes, and how rigid that makes the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def farthest_points(points: Tensor, count: int) -> Tensor:
    """The numbers of ``count`` of the points ``(N, 3)``, each as far as can be from those before it; the first is farthest from the mean.

    >>> farthest_points(torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]), 2)
    tensor([2, 0])
    """
    if not 1 <= count <= len(points):
        raise InputError(f"of {len(points)} points 1 to {len(points)} can be chosen, got {count}")
    chosen = [int((points - points.mean(0)).square().sum(1).argmax())]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, device=points.device)


def blend_weights(
    points: Tensor, nodes: Tensor, neighbours: int = 3, width: float | None = None
) -> tuple[Tensor, Tensor]:
    r"""Gaussian weights ``exp(-d^2 / (2 width^2))`` of each point's nearest nodes, made to add up to 1.

    Args:
        points: ``(N, 3)``.
        nodes: ``(K, 3)``.
        neighbours: how many nodes a point follows.
        width: in the unit of the points; the mean distance of a node to its nearest one where not given.

    Returns:
        the numbers of the nodes and their weights, ``(N, neighbours)`` both.
    """
    count = min(neighbours, len(nodes))
    if count < 1 or not bool(nodes.isfinite().all()):
        raise InputError(
            f"blend weights need at least one neighbour and finite nodes, got {neighbours} and {len(nodes)} nodes"
        )
    if width is None:
        between = torch.cdist(nodes, nodes) + torch.diag(nodes.new_full((len(nodes),), torch.inf))
        width = float(between.amin(1).mean()) if len(nodes) > 1 else 1.0
    squared, index = (
        (points[:, None] - nodes[None]).square().sum(2).topk(count, dim=1, largest=False)
    )
    # Relative to the nearest one, so that a point far from all of them has weights too.
    weights = torch.exp(-(squared - squared[:, :1]) / (2 * width**2))
    return index, weights / weights.sum(1, keepdim=True)


def rigidity_coefficients(skinning: Tensor, edges: Tensor, floor: float = 0.05) -> Tensor:
    r"""How rigid edges are, given how much points follow B bones: 1 within a part, down to ``floor`` at joints; ``(E,)``.

    .. math:: H_i = -\sum_b W_{ib} \log W_{ib} / \log B, \qquad
              R_{ij} = f + (1 - f) (1 - H_i)(1 - H_j) \sum_b W_{ib} W_{jb} / \max

    The floor keeps points of joints that nobody has seen from being undetermined.

    Args:
        skinning: ``(N, B)``, not negative; its rows are made to add up to 1.
        edges: ``(2, E)``.
        floor: f.

    >>> follows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    >>> rigidity_coefficients(follows, torch.tensor([[0, 1], [1, 2]]))
    tensor([1.0000, 0.0500])
    """
    if (
        skinning.ndim != 2
        or not bool(((skinning >= 0) & skinning.isfinite()).all())
        or not bool((skinning.sum(1) > 0).all())
    ):
        raise InputError(
            f"skinning weights are not negative, with a positive one in every row of (N, B), got {tuple(skinning.shape)}"
        )
    if not 0 <= floor <= 1:
        raise InputError(f"the floor of rigidity coefficients lies between 0 and 1, got {floor}")
    W = skinning.detach() / skinning.detach().sum(
        1, keepdim=True
    )  # detached: a network could switch the prior off by even weights
    entropy = -(W * W.clamp_min(torch.finfo(W.dtype).tiny).log()).sum(1) / torch.log(
        torch.tensor(max(W.shape[1], 2))
    )
    i, j = edges
    common = (1 - entropy[i]).clamp_min(0) * (1 - entropy[j]).clamp_min(0) * (W[i] * W[j]).sum(1)
    return floor + (1 - floor) * common / common.amax().clamp_min(1e-30)
