"""Fields of experts: a convex, smooth energy of learned filters."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior


class FieldsOfExperts(ExplicitPrior):
    r"""Smoothed lengths of filtered images, ``R(x) = sum_k w_k sum_i phi(|f_k * x|_i; s_k)``.

    ``phi(t; s) = sqrt(t^2 + s^2) - s``, ``*`` is the correlation with a filter f_k at every position
    i where the filter lies inside of the image, and w_k, s_k > 0. R is convex and smooth, and does
    not see constants, because the mean is subtracted from every filter. With the two differences
    of neighbours as one expert (`total_variation`) it is smoothed total variation.

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
        if not weight > 0 or not smoothing > 0 or group < 1:
            raise InputError(
                "FieldsOfExperts needs a positive weight, smoothing and group, got "
                f"{weight}, {smoothing} and {group}"
            )
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
        slope = (weights / root).repeat_interleave(self.group, 1) * outputs
        filters = self._centred().to(x)[:, None]
        gradient = _item_by_item(lambda item: F.conv_transpose2d(item, filters), slope)
        return self._sum(squares, root, weights, smoothing, x), gradient.view(x.shape)

    def curvature(self) -> Tensor:
        """Return an upper bound of the largest second derivative, ``sum_k w_k |f_k|_1^2 / s_k``."""
        sums = self._centred().flatten(1).abs().sum(1).square().view(-1, self.group).sum(1)
        return (self.log_weights - self.log_smoothing).exp().dot(sums)

    def _centred(self) -> Tensor:
        return self.filters - self.filters.mean((1, 2), keepdim=True)

    def _filter(self, x: Tensor) -> Tensor:
        """Return the outputs of all filters, ``(batch * channel, filters, rows, columns)``."""
        rows, columns = self.filters.shape[1:]
        if x.ndim != 4 or x.shape[2] < rows or x.shape[3] < columns:
            raise InputError(
                f"{self!r} takes images (batch, channel, rows, columns) of at least {rows}x"
                f"{columns} pixels, got {tuple(x.shape)}"
            )
        filters = self._centred().to(x)[:, None]
        return _item_by_item(lambda item: F.conv2d(item, filters), x.flatten(0, 1)[:, None])

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared lengths ``(batch * channel, experts, ...)``, weights and smoothing."""
        squares = outputs.square().unflatten(1, (-1, self.group)).sum(2)
        weights = self.log_weights.exp().to(outputs)[:, None, None]
        return squares, weights, self.log_smoothing.exp().to(outputs)[:, None, None]

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


def _item_by_item(function: Any, x: Tensor) -> Tensor:
    """Apply a convolution; on a CPU item by item, because it rounds differently in a batch."""
    if x.device.type != "cpu" or len(x) == 1:
        return function(x)
    return torch.cat([function(item) for item in x.split(1)])


def _cosines(count: int, size: int) -> Tensor:
    """Return the lowest functions of the discrete cosine transform without the constant."""
    if size < 2 or not 0 < count < size * size:
        raise InputError(
            f"filters of {size}x{size} pixels without the constant are {size * size - 1} at most, "
            f"got a count of {count}"
        )
    n = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None])
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = sorted(((a, b) for a in range(size) for b in range(size)), key=lambda ab: (sum(ab), ab))
    return torch.stack([waves[a, :, None] * waves[b] for a, b in order[1 : count + 1]]).float()
