"""Fields of experts: a convex, smooth energy of learned filters."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior


class FieldsOfExperts(ExplicitPrior):
    r"""Smoothed lengths of filtered images, ``R(x) = sum_k w_k sum_i phi(|f_k * x|_i; s_k)``.

    ``phi(t; s) = sqrt(t^2 + s^2) - s``, ``*`` is the correlation with a filter f_k at every pixel i
    of an image that its border pixels continue, and w_k, s_k > 0. R is convex and smooth, and does
    not see constants, because the mean is subtracted from every filter. With the two differences
    of neighbours as one expert (`total_variation`) it is smoothed total variation. Complex outputs
    count by their modulus.

    Filters and the logarithms of w and s are parameters (`torch.nn.Parameter`), which
    `training.learn_prior` and `unroll` learn. The first filters are the lowest functions of the
    discrete cosine transform (Roth and Black, "Fields of experts", IJCV 82, 2009, with Student's
    distribution in place of phi; Chen, Ranftl and Pock, IEEE TIP 23, 2014).

    Args:
        count: number of experts.
        size: rows and columns of a filter, pixels.
        weight: first weight w of every expert.
        smoothing: first s of every expert, in the units of the image.
        filters: first filters ``(count * group, rows, columns)`` in place of the cosines; they give
            ``count`` and ``size``.
        group: number of successive filters whose outputs form a vector, whose length counts.
        learn_filters: whether the filters are parameters too.

    >>> prior = FieldsOfExperts(count=3, size=3)
    >>> x = torch.rand(2, 1, 8, 8)
    >>> prior.energy(x).shape, bool((prior.energy(torch.ones(1, 1, 8, 8)) < 1e-5).all())
    (torch.Size([2]), True)
    """

    is_convex = True
    is_smooth = True
    gradient_has_graph = True

    def __init__(
        self,
        count: int = 8,
        size: int = 5,
        weight: float = 0.1,
        smoothing: float = 0.05,
        filters: Tensor | None = None,
        group: int = 1,
        learn_filters: bool = True,
    ) -> None:
        check_range(self, "(0, inf]", weight=weight, smoothing=smoothing)
        check_range(self, "[1, inf)", group=group)
        if filters is None:
            filters = _cosines(count * group, size)
        if filters.ndim != 3 or not len(filters) or len(filters) % group:
            raise InputError(
                f"filters are (count * group, rows, columns) with group = {group}, got "
                f"{tuple(filters.shape)}"
            )
        experts, self.group = len(filters) // group, group
        self.filters = nn.Parameter(filters.detach().clone(), requires_grad=learn_filters)
        self.log_weights = nn.Parameter(torch.full((experts,), math.log(weight)))
        self.log_smoothing = nn.Parameter(torch.full((experts,), math.log(smoothing)))

    @classmethod
    def total_variation(cls, weight: float = 0.1, smoothing: float = 0.05) -> Self:
        """Return smoothed total variation, whose weight and smoothing are the only parameters.

        >>> FieldsOfExperts.total_variation().log_weights.shape
        torch.Size([1])
        """
        differences = torch.zeros(2, 2, 2)
        differences[0, 0], differences[1, :, 0] = torch.tensor([-1.0, 1.0]), torch.tensor([-1, 1.0])
        return cls(
            weight=weight, smoothing=smoothing, filters=differences, group=2, learn_filters=False
        )

    def extend(self, count: int, size: int, length: float = 0.05) -> Self:
        """Return this prior with more experts, a start from which learning goes on.

        The filters of the new experts are short cosines, for two filters per expert of a direction
        and the other one. The shorter they are, the less the energy changes. Filters are learned from
        here on.

        Args:
            count: number of new experts.
            size: rows and columns of all filters, at least as many as the present filters have.
            length: norm of the new filters.

        >>> FieldsOfExperts.total_variation().extend(3, 5)
        FieldsOfExperts(4 experts, 5x5)
        """
        rows, columns = self.filters.shape[1:]
        if size < max(rows, columns):
            raise InputError(f"{self!r} does not fit into filters of {size}x{size} pixels")
        before = ((size - 1) // 2 - (columns - 1) // 2, (size - 1) // 2 - (rows - 1) // 2)
        margins = (before[0], size - columns - before[0], before[1], size - rows - before[1])
        old = F.pad(self._centred().detach(), margins)
        new = (
            _turned_cosines(count, size) if self.group == 2 else _cosines(count * self.group, size)
        )
        extended = type(self)(filters=torch.cat([old, length * new.to(old)]), group=self.group)
        for name in ("log_weights", "log_smoothing"):
            present = getattr(self, name).detach()
            getattr(extended, name).data = torch.cat([present, present.mean().expand(count)])
        return extended

    def energy(self, x: Tensor) -> Tensor:
        squares, weights, smoothing = self._parts(self._filter(x))
        return self._sum(squares, (squares + smoothing.square()).sqrt(), weights, smoothing, x)

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.energy_and_gradient(x)[1]

    def energy_and_gradient(
        self, x: Any, generator: Generator | None = None
    ) -> tuple[Tensor | None, Any]:
        outputs = self._filter(x)
        squares, weights, smoothing = self._parts(outputs)
        root = (squares + smoothing.square()).sqrt()
        # phi'(t) / t = 1 / sqrt(t^2 + s^2), times the outputs.
        slope = (weights / root).repeat_interleave(self.group, 1) * outputs
        # The transposed correlation as a correlation with mirrored filters, which is faster here.
        mirrored = self._centred().to(x).flip(1, 2)[None]
        rows, columns = mirrored.shape[2:]
        spread = map_items(
            lambda item: F.conv2d(item, mirrored, padding=(rows - 1, columns - 1)), slope
        )
        gradient = _gather_border(_gather_border(spread, 2, rows), 3, columns)
        return self._sum(squares, root, weights, smoothing, x), gradient.view(x.shape)

    def curvature(self) -> Tensor:
        """Return an upper bound of the largest second derivative, ``sum_k w_k |f_k|_1^2 / s_k``."""
        sums = sum_items(self._centred().abs()).square().view(-1, self.group).sum(1)
        return (self.log_weights - self.log_smoothing).exp().dot(sums)

    def _centred(self) -> Tensor:
        return self.filters - self.filters.mean((1, 2), keepdim=True)

    def _filter(self, x: Tensor) -> Tensor:
        """Return the outputs of all filters, ``(batch * channel, filters, rows, columns)``."""
        rows, columns = self.filters.shape[1:]
        if x.ndim != 4:
            raise InputError(
                f"{self!r} takes images (batch, channel, rows, columns), got {tuple(x.shape)}"
            )
        filters = self._centred().to(x)[:, None]
        margins = ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2)
        continued = F.pad(x.flatten(0, 1)[:, None], margins, mode="replicate")
        return map_items(lambda item: F.conv2d(item, filters), continued)

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared lengths ``(batch * channel, experts, ...)``, weights and smoothing."""
        squares = (outputs * outputs.conj()).real.unflatten(1, (-1, self.group)).sum(2)
        weights = self.log_weights.exp().to(squares)[:, None, None]
        return squares, weights, self.log_smoothing.exp().to(squares)[:, None, None]

    @staticmethod
    def _sum(
        squares: Tensor, root: Tensor, weights: Tensor, smoothing: Tensor, x: Tensor
    ) -> Tensor:
        """Return the energy per item, from ``root - smoothing`` without cancellation."""
        terms = (weights * squares / (root + smoothing)).flatten(1)
        return terms.reshape(len(x), -1).sum(1)

    def __repr__(self) -> str:
        count, (rows, columns) = len(self.log_weights), self.filters.shape[1:]
        return f"FieldsOfExperts({count} experts, {rows}x{columns})"


def _gather_border(spread: Tensor, axis: int, size: int) -> Tensor:
    """Add the values outside of the image to its border pixels, the adjoint of continuing it."""
    before, after = (size - 1) // 2, size // 2
    inside = spread.shape[axis] - before - after
    if inside == 1:
        return spread.sum(axis, True)
    first, middle, last = spread.split([before + 1, inside - 2, after + 1], axis)
    return torch.cat([first.sum(axis, True), middle, last.sum(axis, True)], axis)


def _cosines(count: int, size: int) -> Tensor:
    """Return the lowest functions of the discrete cosine transform without the constant."""
    if size < 2 or not 0 < count < size * size:
        raise InputError(
            f"filters of {size}x{size} pixels without the constant are {size * size - 1} at most, "
            f"got a count of {count}"
        )
    order = sorted(((a, b) for a in range(size) for b in range(size)), key=lambda ab: (sum(ab), ab))
    waves = _waves(size)
    return torch.stack([waves[a, :, None] * waves[b] for a, b in order[1 : count + 1]]).float()


def _turned_cosines(count: int, size: int) -> Tensor:
    """Return pairs of cosines, each followed by itself with rows and columns exchanged."""
    order = sorted(((a, b) for b in range(size) for a in range(b)), key=lambda ab: (sum(ab), ab))
    if not 0 < count <= len(order):
        raise InputError(
            f"pairs of filters of {size}x{size} pixels are {len(order)} at most, got {count}"
        )
    waves = _waves(size)
    products = [waves[a, :, None] * waves[b] for a, b in order[:count]]
    return torch.stack([turned for f in products for turned in (f, f.T)]).float()


def _waves(size: int) -> Tensor:
    """Return the functions of the discrete cosine transform in one dimension, as rows."""
    n = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None])
    return waves / waves.norm(dim=1, keepdim=True)
