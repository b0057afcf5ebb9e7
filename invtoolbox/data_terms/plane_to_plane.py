"""Robust distance between the surfaces that two point sets sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import Problem
from invtoolbox.data_terms.chamfer import PointSetTerm
from invtoolbox.geometry.surface_normals import Surface, append_times


class _Partners(NamedTuple):
    """Partners of the points of a prediction: solvers evaluate a term at one point repeatedly.

    Attributes:
        settings: objects that the partners depend on, in addition to the places.
        place: the prediction, ``(batch, N, 3)``.
        partner: measured points, ``(batch, N, 3)``.
        metric: matrices of the squared distance, ``(batch, N, 3, 3)``.
    """

    settings: tuple[object, ...]
    place: Tensor
    partner: Tensor
    metric: Tensor

    def belongs_to(self, settings: tuple[object, ...], place: Tensor) -> bool:
        """Return whether another prediction has the same settings, shape and type."""
        return (
            len(settings) == len(self.settings)
            and all(a is b for a, b in zip(settings, self.settings))
            and (place.shape, place.dtype, place.device)
            == (self.place.shape, self.place.dtype, self.place.device)
        )


class PlaneToPlane(PointSetTerm):
    r"""Mean robust distance between the surfaces of predicted points p and measured points q.

    .. math:: \frac12 \sum_i w_i \, \frac{d_i^2}{1 + d_i^2 / \tau^2} \Big/ \sum_i w_i, \qquad
              d^2 = 2 \alpha \, (p - q)^T (C_p + C_q)^{-1} (p - q)

    q is the measured point nearest to p, and C are the `geometry.surface_normals.covariances` of
    both: generalized ICP (Segal, Haehnel and Thrun 2009) with Geman and McClure's function. If both
    surfaces have the same normal, d is the distance along the normal, plus the small share alpha of
    the distance along the surface: a lidar samples other places of a surface in every sweep, so its
    lines must be free to slide. If the normals differ, the two points hardly belong to the same
    surface, and count little.

    The scale tau falls from ``scale[0]`` to ``scale[1]`` by the factor ``decay`` per iteration
    (graduated non-convexity). For solvers with a Gauss-Newton matrix, the curvature is that of the
    majorizing quadratic (iteratively reweighted least squares).

    The prediction is ``(batch, N, 3)``, the measurements are ``(batch or 1, M, 3)``, in metres.

    Args:
        scale: tau in metres, at the first and at the last iteration.
        decay: factor of the scale per iteration.
        along: the share alpha.
        covariances: covariances of the predicted points, ``(batch or 1, N, 3, 3)``; without them
            the measured surface alone decides.
        weights: weights of the points, ``(batch or 1, N)``, at least 0; points that only pad an
            item have weight 0.
        times: times at which the points of the prediction and of the measurements were measured
            within their sweeps, seconds, ``(batch or 1, N)`` and ``(batch or 1, M)``. Two lidars on
            one roof see an object at different times, so in different places; neighbours are then
            also sought in time.
        surface: surface of the measurements, ``geometry.surface_normals.Surface.of(y[0], ...)``, if
            several problems share it; computed by `prepare` otherwise.

    >>> axes = torch.arange(9.0), torch.arange(9.0), torch.zeros(1)
    >>> target = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)
    >>> term = PlaneToPlane(scale=(10.0, 10.0), along=1e-3)
    >>> term.value(torch.tensor([[[4.3, 4.0, 1.0]]]), target)  # one metre above the plane
    tensor([0.4951])
    """

    cache_fields: ClassVar[tuple[str, ...]] = ("_known",)
    item_fields: ClassVar[tuple[str, ...]] = (
        "weights",
        "covariances",
        "source_times",
        "target_times",
        "_surfaces",
    )

    def __init__(
        self,
        scale: tuple[float, float] = (1.0, 0.1),
        decay: float = 0.7,
        along: float = 0.005,
        covariances: Tensor | None = None,
        weights: Tensor | None = None,
        times: tuple[Tensor, Tensor] | None = None,
        surface: Surface | None = None,
    ) -> None:
        check_range(self, "(0, inf]", scale=min(scale))
        check_range(self, "(0, 1]", decay=decay, along=along)
        self.scale, self.decay, self.along = scale, decay, along
        self.weights, self.covariances = weights, covariances
        self.source_times: Tensor | None = None if times is None else times[0]
        self.target_times: Tensor | None = None if times is None else times[1]
        self._iteration = 0
        self._surfaces: tuple[Surface, ...] = () if surface is None else (surface,)
        # A bound term keeps the partners of its last prediction, in a list of one that its copies
        # for other iterations share.
        self._known: list[_Partners | None] = []

    # -- value -------------------------------------------------------------------------------------

    def misfits(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Compute the robust distance of each point, square metres, ``(batch, N)``."""
        apart, metric = self._partners(prediction, y)
        squared = torch.einsum("bni,bnij,bnj->bn", apart, metric, apart)
        # Geman and McClure's function of d, d^2 / (1 + d^2 / tau^2) / 2.
        return 0.5 * squared / (1 + squared / self.tau**2)

    def value(self, prediction: Any, y: Any) -> Tensor:
        return (self._shares(prediction) * self.misfits(prediction, y)).sum(1)

    def gauss_newton(self, prediction: Any, y: Any) -> Callable[[Any], Any]:
        apart, metric = self._partners(prediction, y)
        squared = torch.einsum("bni,bnij,bnj->bn", apart, metric, apart)
        # rho'(d) / d = 1 / (1 + d^2 / tau^2)^2, the weight of the majorizing quadratic.
        shares = self._shares(prediction) / (1 + squared / self.tau**2).square()
        weighted = shares[..., None, None] * metric
        return lambda v: torch.einsum("bnij,bnj->bni", weighted, v)

    @property
    def tau(self) -> float:
        """Scale of the robust function at the present iteration, metres."""
        return max(self.scale[1], self.scale[0] * self.decay**self._iteration)

    def _shares(self, prediction: Tensor) -> Tensor:
        if self.weights is None:
            return prediction.new_full(prediction.shape[:2], 1 / prediction.shape[1])
        return self.weights / self.weights.sum(1, keepdim=True).clamp_min(
            torch.finfo(prediction.dtype).tiny
        )

    def _partners(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the offsets of the points from their partners, and the metric there.

        The shapes are ``(batch, N, 3)`` and ``(batch, N, 3, 3)``. Both are zero for points without
        weight.
        """
        surfaces = self._surfaces or tuple(self._surface(points, k) for k, points in enumerate(y))
        place = prediction.detach()
        # The points that need a new partner: all with a weight, or those that have moved since.
        searched = torch.ones(place.shape[:2], dtype=torch.bool, device=place.device)
        if self.weights is not None:
            searched &= self.weights > 0
        settings = (self.weights, self.covariances, self.source_times, *surfaces)
        last = self._known[0] if self._known else None
        if last is not None and last.belongs_to(settings, place):
            searched &= (place != last.place).any(2)
            if not bool(searched.any()):
                return prediction - last.partner, last.metric
            partner, metric = last.partner.clone(), last.metric.clone()
        else:
            partner, metric = place.clone(), place.new_zeros(*place.shape, 3)
        inputs = append_times(place, self.source_times)
        predicted = None if self.covariances is None else self.covariances.expand_as(metric)
        groups = [(surface, slice(k, k + 1)) for k, surface in enumerate(surfaces)]
        if len(surfaces) == 1:  # all items share one cloud, so one search suffices
            groups = [(surfaces[0], slice(None))]
        for surface, items in groups:
            rows = searched[items]
            index = surface.tree.query(inputs[items][rows])[1]
            spread = surface.covariances[index]
            together = spread + (spread if predicted is None else predicted[items][rows])
            partner[items][rows] = surface.points[index]
            metric[items][rows] = 2 * self.along * _inverse(together)
        if self._known:
            self._known[0] = _Partners(settings, place, partner, metric)
        return prediction - partner, metric

    def _surface(self, points: Tensor, k: int) -> Surface:
        times = (
            self.target_times
            if self.target_times is None
            else self.target_times[min(k, len(self.target_times) - 1)]
        )
        return Surface.of(points, times, self.along)

    # -- methods called by the loop ----------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        surfaces = self._surfaces or tuple(self._surface(p, k) for k, p in enumerate(problem.y))
        return self._replace(_known=[None], _surfaces=surfaces)

    def at(self, iteration: int) -> Self:
        return self._replace(_iteration=iteration)

    def __repr__(self) -> str:
        return f"PlaneToPlane(scale={self.scale}, decay={self.decay:g}, along={self.along:g})"


def _inverse(matrices: Tensor) -> Tensor:
    """Invert symmetric positive definite ``(..., 3, 3)`` by cofactors.

    This is many times as fast as a factorisation of each matrix.
    """
    a, b, c = matrices.unbind(-2)
    cofactors = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1
    )
    return cofactors / (a * cofactors[..., 0]).sum(-1)[..., None, None]
