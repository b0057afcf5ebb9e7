"""Parts of a moving shape that move rigidly, from tracks of its points: `rigid_parts`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rotations import best_rotation

#: Parts of fewer points are not split.
_LEAST_POINTS = 8
#: Share with which the neighbours of a small part count in its motion, so that it is no line.
_BORDER = 0.02
#: Rounds of assignment after every split, and after the last one.
_ROUNDS, _LAST_ROUNDS = 6, 20


class Parts(NamedTuple):
    """Parts and their motions from rest to T times, ``p -> R p + t``.

    Attributes:
        labels: number of the part of each point, ``(N,)``.
        rotations: ``(T, B, 3, 3)``.
        translations: ``(T, B, 3)``.
    """

    labels: Tensor
    rotations: Tensor
    translations: Tensor


def rigid_parts(points: Tensor, tracks: Tensor, count: int, neighbours: Tensor) -> Parts:
    """Divide points into parts that move rigidly.

    It minimizes the sum of ``|R_bt p_i + t_bt - y_it|^2`` over points i and times t, b the part of
    i. Points and motions are assigned in turns, as in k-means, and half of the error of a point is
    the mean over its neighbours. The part with the largest error is split until there are enough. In the
    end, the pair of parts whose union costs least is merged and the worst part split in its place,
    as long as the sum falls.

    Source: Le and Deng, "Smooth skinning decomposition with rigid bones", SIGGRAPH Asia 2012
    (initialization by splits); merging is ours.

    Args:
        points: points at rest, ``(N, 3)``.
        tracks: positions of the points at T times, ``(T, N, 3)``.
        count: number of parts; fewer are returned if no further part can be split.
        neighbours: numbers of the nearest points of each point, itself included, ``(N, k)``.

    Raises:
        InputError: if there are fewer points than parts, or if the shapes do not fit together.

    >>> points = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    >>> lifted = points + (points[:, :1] > 0.5) * torch.tensor([0.0, 0.0, 1.0])
    >>> nearest = torch.cdist(points, points).topk(4, largest=False).indices
    >>> parts = rigid_parts(points, lifted[None], 2, nearest)
    >>> len(parts.labels[points[:, 0] > 0.5].unique())
    1
    """
    if not 1 <= count <= len(points) or tuple(tracks.shape[1:]) != tuple(points.shape):
        raise InputError(
            f"rigid_parts divides N points with tracks (T, N, 3) into 1 to N parts, got "
            f"{len(points)} points, tracks {tuple(tracks.shape)} and {count} parts"
        )
    tracked = _Tracks(points.double(), tracks.double(), neighbours)
    labels = torch.zeros(len(points), dtype=torch.long, device=points.device)
    barren: set[int] = set()  # parts whose split changed nothing
    while (number := int(labels.max()) + 1) < count:
        costs = tracked.part_costs(labels)
        costs[list(barren)] = 0
        worst = int(costs.argmax())
        if not costs[worst] > 0:
            break
        split = tracked.assign(tracked.split(labels, worst), _ROUNDS)
        if int(split.max()) + 1 > number:
            labels, barren = split, set()
        else:
            barren.add(worst)
    labels = _exchange(tracked, tracked.assign(labels, _LAST_ROUNDS))
    rotations, translations = tracked.motions(labels)
    return Parts(labels, rotations.to(points), translations.to(points))


class _Tracks:
    """Points, their tracks and neighbours, and the steps of the division."""

    def __init__(self, points: Tensor, tracks: Tensor, neighbours: Tensor) -> None:
        self.points, self.tracks, self.neighbours = points, tracks, neighbours

    def motions(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Fit the motions ``(T, B, 3, 3)`` and ``(T, B, 3)`` of the parts."""
        # Weights (B, N): 1 in the part, and a little on the neighbours of its points if it is small.
        # 1e-9 keeps the sum of an empty part from being 0.
        inside = torch.nn.functional.one_hot(labels).T.to(self.points)
        border = _BORDER * (inside.sum(1) < _LEAST_POINTS).to(inside)[:, None]
        weights = inside + border * inside[:, self.neighbours].mean(2) + 1e-9
        return fit_motions(weights, self.points, self.tracks)

    def costs(self, labels: Tensor) -> Tensor:
        """Return the error of each point under the motion of each part, ``(B, N)``."""
        R, t = self.motions(labels)
        # e_bn = mean over t of |R_bt p_n + t_bt - y_nt|^2, averaged with its mean over the neighbours
        # of n, which makes parts compact.
        positions = torch.einsum("tbij,nj->tbni", R, self.points) + t[:, :, None]
        errors = (positions - self.tracks[:, None]).square().sum(-1).mean(0)
        return 0.5 * (errors + errors[:, self.neighbours].mean(2))

    def point_costs(self, labels: Tensor) -> Tensor:
        """Return the error of each point under the motion of its part, ``(N,)``."""
        return self.costs(labels).gather(0, labels[None])[0]

    def part_costs(self, labels: Tensor) -> Tensor:
        """Return the sum of the errors of each part, ``(B,)``; 0 for parts too small to split."""
        size = torch.bincount(labels)
        sums = self.points.new_zeros(len(size)).index_add_(0, labels, self.point_costs(labels))
        return torch.where(size < _LEAST_POINTS, 0.0, sums)

    def assign(self, labels: Tensor, rounds: int) -> Tensor:
        """Assign every point to the part that carries it best, and fit the motions again."""
        for _ in range(rounds):
            # Parts that lost all points disappear: the labels are numbered anew.
            nearest = self.costs(labels).argmin(0).unique(return_inverse=True)[1]
            if torch.equal(nearest, labels):
                break
            labels = nearest
        return labels

    def split(self, labels: Tensor, label: int) -> Tensor:
        """Divide a part between its worst point and the point that is farthest from it."""
        inside = (labels == label).nonzero()[:, 0]
        places = self.points[inside]
        worst = places[self.point_costs(labels)[inside].argmax()]
        farthest = places[(places - worst).square().sum(1).argmax()]
        nearer = (places - worst).square().sum(1) < (places - farthest).square().sum(1)
        return labels.index_fill(0, inside[nearer], int(labels.max()) + 1)

    def cheapest_merger(self, labels: Tensor) -> Tensor | None:
        """Return the labels after the union of the two touching parts that costs least."""
        costs = self.point_costs(labels)
        # Pairs of labels of neighbouring points, each once, the smaller label first.
        pairs = torch.stack(
            [labels[:, None].expand_as(self.neighbours), labels[self.neighbours]], -1
        ).flatten(0, 1)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]].unique(dim=0)
        best, union = torch.inf, None
        for a, b in pairs.tolist():
            inside = ((labels == a) | (labels == b)).nonzero()[:, 0]
            points, tracks = self.points[inside], self.tracks[:, inside]
            R, t = fit_motions(torch.ones_like(points[None, :, 0]), points, tracks)
            positions = points @ R[:, 0].transpose(-1, -2) + t
            rise = float((positions - tracks).square().sum(-1).mean(0).sum() - costs[inside].sum())
            if rise < best:
                best, union = rise, (a, b)
        if union is None:
            return None
        merged = torch.where(labels == union[1], union[0], labels)
        return merged.unique(return_inverse=True)[1]


def fit_motions(weights: Tensor, points: Tensor, tracks: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the rigid motions that carry weighted points to their tracks best.

    Args:
        weights: weights of the points for B motions, ``(B, N)``.
        points: points at rest, ``(N, 3)``.
        tracks: positions at T times, ``(T, N, 3)``.

    Returns:
        rotations ``(T, B, 3, 3)`` and translations ``(T, B, 3)`` of ``p -> R p + t``.
    """
    # Kabsch: R from the weighted covariance E[y p^T] - E[y] E[p]^T, and t = E[y] - R E[p].
    shares = weights / weights.sum(1, keepdim=True)
    centre, mean_track = shares @ points, shares @ tracks
    products = torch.einsum("bn,tni,nj->tbij", shares, tracks, points)
    R = best_rotation(products - mean_track[..., :, None] * centre[:, None, :])
    return R, mean_track - (R @ centre[..., None]).squeeze(-1)


def _exchange(tracked: _Tracks, labels: Tensor) -> Tensor:
    """Merge the cheapest pair and split the worst part, as long as the error falls."""
    number, total = int(labels.max()) + 1, float(tracked.point_costs(labels).sum())
    for _ in range(number):
        merged = tracked.cheapest_merger(labels)
        if merged is None:
            break
        worst = int(tracked.part_costs(merged).argmax())
        trial = tracked.assign(tracked.split(merged, worst), _LAST_ROUNDS)
        cost = float(tracked.point_costs(trial).sum())
        if int(trial.max()) + 1 < number or not cost < total:
            break
        labels, total = trial, cost
    return labels
