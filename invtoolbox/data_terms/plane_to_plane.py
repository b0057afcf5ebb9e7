"""The distance between the surfaces that two point sets stand for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.chamfer import check_point_sets
from invtoolbox.errors import InputError
from invtoolbox.geometry.surface_normals import Surface, in_time
from invtoolbox.operators.base import Shapes

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class PlaneToPlane(DataTerm):
    r"""The mean over the predicted points p of a robust distance between their surface and that of the measured points q:

    .. math:: \frac12 \sum_i w_i \, \frac{d_i^2}{1 + d_i^2 / \tau^2} \Big/ \sum_i w_i, \qquad
              d^2 = 2 \alpha \, (p - q)^T (C_p + C_q)^{-1} (p - q)

    q is the measured point next to p, and C are the `geometry.surface_normals.covariances` of both: generalised ICP (Segal, Haehnel and Thrun
    2009) with Geman and McClure's function. Where both surfaces have the same normal, d is the distance along it and the
    small share alpha of that along the surface: a lidar meets a surface in other places each time, so its lines must be free to slide.
    Where the normals differ, the two points are hardly the same matter, and count little.

    The scale tau falls from ``scale[0]`` to ``scale[1]`` by the factor ``decay`` an iteration (graduated non-convexity). For solvers
    with a Gauss-Newton matrix its curvature is that of the quadratic that majorises it (iteratively reweighted least squares).

    Prediction ``(batch, N, 3)``, measurements ``(batch or 1, M, 3)``, metres.

    Args:
        scale: tau, metres, at first and at last.
        decay: of the scale, an iteration.
        along: alpha.
        covariances: of the predicted points, ``(batch or 1, N, 3, 3)``; without them the measured surface decides alone.
        weights: of the points, ``(batch or 1, N)``, at least 0: points that only fill up an item have 0.
        times: when the points of prediction and measurements were measured within their sweeps, seconds, ``(batch or 1, N)`` and
            ``(batch or 1, M)``. Two lidars on one roof see an object at different times, so in different places; neighbours are
            then looked for in time too, of which a second counts as ``time_scale`` metres.
        surface: that of the measurements, ``geometry.surface_normals.Surface.of(y[0], ...)``, where several problems share it; made by
            `prepare` otherwise.

    >>> target = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(9.0), torch.zeros(1), indexing="ij"), -1).reshape(1, -1, 3)
    >>> term = PlaneToPlane(scale=(10.0, 10.0), along=1e-3)
    >>> term.value(torch.tensor([[[4.3, 4.0, 1.0]]]), target)  # a metre above the plane, wherever along it
    tensor([0.4951])
    """

    is_convex = False
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
        time_scale: float = 8.0,
        surface: Surface | None = None,
    ) -> None:
        if not min(scale) > 0 or not 0 < decay <= 1 or not 0 < along <= 1:
            raise InputError(
                f"PlaneToPlane takes positive scales, a decay up to 1 and a share along the surface in (0, 1]; "
                f"got {scale}, {decay} and {along}"
            )
        self.scale, self.decay, self.along, self.time_scale = scale, decay, along, time_scale
        self.weights, self.covariances = weights, covariances
        self.source_times: Tensor | None = None if times is None else times[0]
        self.target_times: Tensor | None = None if times is None else times[1]
        self._iteration = 0
        self._surfaces: tuple[Surface, ...] = () if surface is None else (surface,)

    # -- value -----------------------------------------------------------------------------------------------------

    def value(self, prediction: Any, y: Any) -> Tensor:
        apart, metric = self._partners(prediction, y)
        squared = torch.einsum("bni,bnij,bnj->bn", apart, metric, apart)
        return 0.5 * (self._shares(prediction) * squared / (1 + squared / self.tau**2)).sum(1)

    def gauss_newton(self, prediction: Any, y: Any) -> Callable[[Any], Any]:
        apart, metric = self._partners(prediction, y)
        squared = torch.einsum("bni,bnij,bnj->bn", apart, metric, apart)
        weighted = (self._shares(prediction) / (1 + squared / self.tau**2).square())[
            ..., None, None
        ] * metric
        return lambda v: torch.einsum("bnij,bnj->bni", weighted, v)

    @property
    def tau(self) -> float:
        return max(self.scale[1], self.scale[0] * self.decay**self._iteration)

    def _shares(self, prediction: Tensor) -> Tensor:
        if self.weights is None:
            return prediction.new_full(prediction.shape[:2], 1 / prediction.shape[1])
        return self.weights / self.weights.sum(1, keepdim=True).clamp_min(
            torch.finfo(prediction.dtype).tiny
        )

    def _partners(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """How far each point is from its partner, ``(batch, N, 3)``, and the metric there, ``(batch, N, 3, 3)``."""
        surfaces = self._surfaces or tuple(self._surface(points, k) for k, points in enumerate(y))
        inputs = in_time(prediction.detach(), self.source_times, self.time_scale)
        counts = self.weights.expand(prediction.shape[:2]) > 0 if self.weights is not None else None
        apart, spread = [], []
        if len(surfaces) == 1:
            # One cloud for all items: one search.
            groups = [(surfaces[0], slice(None))]
        else:
            groups = [(surface, slice(k, k + 1)) for k, surface in enumerate(surfaces)]
        for surface, items in groups:
            queried = inputs[items].flatten(0, 1)
            wanted = None if counts is None else counts[items].flatten()
            # What has no weight is not looked up.
            found = surface.tree.query(queried if wanted is None else queried[wanted])[1]
            index = (
                found
                if wanted is None
                else found.new_zeros(len(queried)).masked_scatter(wanted, found)
            )
            here = prediction[items]
            index = index.view(here.shape[:2])
            apart.append(here - surface.points[index])
            spread.append(surface.covariances[index])
        together = torch.cat(spread)
        together = together + (together if self.covariances is None else self.covariances)
        return torch.cat(apart), 2 * self.along * _inverse(together)

    def _surface(self, points: Tensor, k: int) -> Surface:
        times = (
            self.target_times
            if self.target_times is None
            else self.target_times[min(k, len(self.target_times) - 1)]
        )
        return Surface.of(points, times, self.time_scale, self.along)

    # -- life in the loop ------------------------------------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if self._surfaces:
            return self
        bound = copy.copy(self)
        bound._surfaces = tuple(self._surface(points, k) for k, points in enumerate(problem.y))
        return bound

    def at(self, iteration: int) -> Self:
        other = copy.copy(self)
        other._iteration = iteration
        return other

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        check_point_sets(y, shape, what, items)

    def __repr__(self) -> str:
        return f"PlaneToPlane(scale={self.scale}, decay={self.decay:g}, along={self.along:g})"


def _inverse(matrices: Tensor) -> Tensor:
    """The inverses of symmetric positive definite ``(..., 3, 3)``, by cofactors: many times as fast as a factorisation each."""
    a, b, c = matrices.unbind(-2)
    cofactors = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1
    )
    return cofactors / (a * cofactors[..., 0]).sum(-1)[..., None, None]
