"""Implicit priors of the flow of a picture: a spline, and a spline tied to the motion of a camera."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import mean_items
from invtoolbox.errors import InputError
from invtoolbox.geometry.epipolar import epipolar_distance
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.settings import format_setting, replace, require_bound


class FlowSpline(ImplicitPrior):
    r"""Smooth flow of a picture over a short time: uniform cubic B-splines in time and place.

    x is the flow on the grid of `operators.EventWarp`, ``(batch, 2, T, h, w)``, and z holds its
    control points. The energy is ``S(z) = 1/2 sum_k smooth_k mean(|d_k^2 z|^2)`` with the second
    differences along the time, the rows and the columns. It vanishes for flows that are linear in
    place and time, and decides where and when there are few events.

    Args:
        controls: number of control points in time, rows and columns, at least 4 each.
        smooth: weight of the second differences in time, and in place, in units of the misfit per
            square pixel.

    >>> import invtoolbox as it
    >>> events = it.geometry.Events.of([1, 2, 3], [1, 2, 3], [0.0, 0.5, 1.0], size=(6, 6))
    >>> A = it.operators.EventWarp(events, grid=(3, 9, 9))
    >>> problem = it.Problem(A.measurements(), A, it.data_terms.Contrast())
    >>> prior = FlowSpline((4, 5, 5)).prepare(problem, it.solve)
    >>> prior.decode(prior.initial()).shape
    torch.Size([1, 2, 3, 9, 9])
    """

    def __init__(
        self,
        controls: tuple[int, int, int] = (4, 5, 5),
        smooth: tuple[float, float] = (0.1, 1e-4),
    ) -> None:
        if len(controls) != 3 or min(controls) < 4 or len(smooth) != 2 or not min(smooth) >= 0:
            raise InputError(
                f"{type(self).__name__} takes at least 4 control points in time, rows and columns "
                f"and two weights of at least 0, got {controls} and {smooth}"
            )
        self.controls, self.smooth = tuple(controls), smooth
        self.grid: tuple[int, ...] = ()
        self.like = torch.zeros(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return replace(self, grid=flow_grid(self, problem), like=problem.y0.new_zeros(1))

    def initial(self) -> dict[str, Tensor]:
        """Return the control points of no flow, ``(1, 2, *controls)``."""
        require_bound(self, self.grid)
        return {"controls": self.like.new_zeros(1, 2, *self.controls)}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        flow = parameters["controls"]
        for axis, count in enumerate(require_bound(self, self.grid), start=2):
            flow = sample_spline(flow, axis, torch.linspace(0, 1, count, dtype=torch.float64))
        return flow

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        z = parameters["controls"]
        total = torch.zeros_like(z[:, 0, 0, 0, 0])
        for axis, weight in zip((2, 3, 4), (self.smooth[0], self.smooth[1], self.smooth[1])):
            total = total + weight * mean_items(z.diff(n=2, dim=axis).square())
        return 0.5 * total

    def __repr__(self) -> str:
        return f"{type(self).__name__}(controls={self.controls}, smooth={self.smooth})"


class CameraFlow(FlowSpline):
    r"""Flow of a static world in front of a moving camera, found together with the camera's motion.

    In addition to the control points of the flow, z holds control points of the twist (v, w) of the camera
    over time, a cubic B-spline. The flow is drawn towards the epipolar lines of the twist by
    ``1/2 epipolar mean(huber(d))``, with the distances d of `geometry.epipolar` in pixels: the
    part of the flow that no depth explains. The length of v does not matter.

    Source: Peng et al., "E-MoFlow" (NeurIPS 2025); there the flow is a network, here a spline.

    Args:
        controls: as of `FlowSpline`.
        smooth: as of `FlowSpline`.
        intrinsics: matrix of the camera, ``(3, 3)``, pixels, with the centre of the first pixel at
            (0, 0).
        twist: first guess of v and w, ``(6,)`` or ``(batch, 6)``, w in radians per duration of the
            events; by default the camera moves ahead.
        epipolar: weight of the squared distances, in units of the misfit per square pixel; a number, or
            one number per item.
        huber: distance, in pixels, from which on distances count linearly.
    """

    item_fields: ClassVar[tuple[str, ...]] = ("twist", "epipolar")

    def __init__(
        self,
        controls: tuple[int, int, int] = (4, 5, 5),
        smooth: tuple[float, float] = (0.1, 1e-4),
        intrinsics: Tensor | None = None,
        twist: Tensor | None = None,
        epipolar: float | Tensor = 0.05,
        huber: float = 0.5,
    ) -> None:
        super().__init__(controls, smooth)
        if intrinsics is None or tuple(intrinsics.shape) != (3, 3):
            raise InputError(
                "CameraFlow needs the intrinsics (3, 3) of the camera, because a flow in pixels "
                "does not determine its motion; FlowSpline() does without"
            )
        self.epipolar = torch.as_tensor(epipolar, dtype=torch.float32).reshape(-1)
        check_range(self, "[0, inf]", "epipolar")
        check_range(self, "(0, inf]", huber=huber)
        ahead = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        self.intrinsics = intrinsics
        self.twist = (ahead if twist is None else twist).reshape(-1, 6)
        self.huber = huber
        self.size = (0, 0)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = super().prepare(problem, solve)
        return replace(
            bound,
            size=problem.operator.size,  # type: ignore[attr-defined]
            intrinsics=self.intrinsics.to(bound.like),
            twist=self.twist.to(bound.like),
        )

    def initial(self) -> dict[str, Tensor]:
        """Return no flow, and the first guess of the twist at every control point of time."""
        start = super().initial()
        start["twist"] = self.twist[:, None].repeat(1, self.controls[0], 1)
        return start

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return {"controls": 1.0, "twist": 0.02}

    def twists(self, parameters: dict[str, Tensor], count: int) -> Tensor:
        """Return v, of unit length, and w at some times from 0 to 1, ``(batch, count, 6)``."""
        times = torch.linspace(0, 1, count, dtype=torch.float64)
        twist = sample_spline(parameters["twist"], 1, times)
        length = twist[..., :3].square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
        return torch.cat([twist[..., :3] / length, twist[..., 3:]], -1)

    def distances(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """Return the distances of the flow from the epipolar lines, pixels, ``(batch, T, h, w)``."""
        times, down, across = require_bound(self, self.grid)
        rows, columns = self.size
        K = self.intrinsics
        row, column = torch.meshgrid(
            torch.linspace(0, rows - 1, down).to(x),
            torch.linspace(0, columns - 1, across).to(x),
            indexing="ij",
        )
        # Rays (x, y, 1) of the pixels and their motion, K^{-1} of pixels and of the flow.
        y = (row - K[1, 2]) / K[1, 1]
        rays = torch.stack([(column - K[0, 2] - K[0, 1] * y) / K[0, 0], y], -1)
        second = x[:, 1] / K[1, 1]
        flow = torch.stack([(x[:, 0] - K[0, 1] * second) / K[0, 0], second], -1)
        twist = self.twists(parameters, times)[:, :, None, None]
        shape = (*flow.shape[:-1], 6)
        distance = epipolar_distance(rays.expand_as(flow), flow, twist.expand(shape))
        return distance * (K[0, 0] * K[1, 1]).sqrt()

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        d = self.distances(parameters, x).abs().flatten(1)
        near = d.clamp_max(self.huber)
        far = (near * (2 * d - near)).mean(1)
        return super().energy(parameters, x) + 0.5 * self.epipolar.to(far) * far

    def __repr__(self) -> str:
        return f"CameraFlow(controls={self.controls}, epipolar={format_setting(self.epipolar)})"


def flow_grid(prior: ImplicitPrior, problem: Problem) -> tuple[int, ...]:
    """Return the grid ``(T, h, w)`` of the flow that a problem estimates.

    Args:
        prior: prior of a flow, for the error.
        problem: problem whose image is a flow ``(2, T, h, w)``.

    Raises:
        InputError: for an image of another shape.
    """
    shape = tuple(problem.image_shape)
    if len(shape) != 4 or shape[0] != 2:
        raise InputError(
            f"{prior!r} is a flow of the shape (2, T, h, w), and {problem.operator} takes "
            f"{shape}; use it.operators.EventWarp"
        )
    return shape[1:]


def sample_spline(controls: Tensor, axis: int, places: Tensor) -> Tensor:
    """Return a uniform cubic B-spline at places from 0 to 1, along one axis of its control points.

    Args:
        controls: control points, at least 4 along the axis.
        axis: the axis, which becomes as long as ``places``.
        places: places, ``(n,)`` float64.

    >>> sample_spline(torch.tensor([-1.0, 0.0, 1.0, 2.0]), 0, torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    pieces = controls.shape[axis] - 3
    scaled = places * pieces
    piece = scaled.floor().clamp(0, pieces - 1)
    s = scaled - piece
    weights = (
        (1 - s) ** 3 / 6,
        (3 * s**3 - 6 * s**2 + 4) / 6,
        (-3 * s**3 + 3 * s**2 + 3 * s + 1) / 6,
        s**3 / 6,
    )
    shape = [1] * controls.ndim
    shape[axis] = -1
    # Sums of four instead of a product of matrices, whose rounding depends on the batch.
    index = piece.long().to(controls.device)
    terms = [
        weight.to(controls).view(shape) * controls.index_select(axis, index + k)
        for k, weight in enumerate(weights)
    ]
    return functools.reduce(torch.add, terms)
