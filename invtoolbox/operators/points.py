"""Operators on point sets.

`PointWarp` and `PointWarpBothWays` move points by a flow, `EulerRollout` moves the points of a
sequence through a flow field, sweep after sweep, and `ObservedPoints` selects the displacements of
some points.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import FlowField
from invtoolbox.operators.algebra import take_blocks
from invtoolbox.operators.base import LinearOperator, Operator, check_shape, count_items, expand


class PointWarp(Operator):
    r"""Points p moved by their flow x, ``A(x) = p + x``, metres, ``(batch, N, 3)`` both.

    The predictions are compared with another sweep by a distance of point sets, such as
    `data_terms.Chamfer`; the two sweeps may differ in the number of points.

    Args:
        points: the points p, ``(1, N, 3)``, or ``(batch, N, 3)`` if every item has its own points.

    >>> import torch
    >>> A = PointWarp(torch.zeros(1, 4, 3))
    >>> A(torch.ones(1, 4, 3)).sum()
    tensor(12.)
    """

    def __init__(self, points: Tensor) -> None:
        self.points = check_points(points, type(self).__name__)
        self.domain_shape = self.range_shape = tuple(self.points.shape[1:])
        self.items = len(points) if len(points) > 1 else None

    def _forward(self, x: Tensor) -> Tensor:
        return self.points + x

    def parameters(self) -> dict[str, Tensor]:
        return {"points": self.points}


class PointWarpBothWays(Operator):
    r"""Points moved by their flow and back, ``A(x) = (p + f, p + f - b)`` for ``x = (f, b)``.

    The second flow is evaluated at the places where the points arrive, so the points that come back
    should be the points themselves (Li, Pontes and Lucey 2021, equation 6). The measurements are
    ``y = (target, source)`` with `data_terms.Stack`.

    Args:
        points: the points p, ``(1, N, 3)``, or ``(batch, N, 3)`` if every item has its own points.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = check_points(points, type(self).__name__)
        shape = tuple(self.points.shape[1:])
        self.domain_shape: Any = (shape, shape)
        self.range_shape = (shape, shape)
        self.items = len(points) if len(points) > 1 else None

    def __call__(self, x: Any) -> Any:
        check_shape(x, self.domain_shape, f"{self} takes x", self.channelwise, self.items)
        return self._forward(x)

    def _forward(self, x: Any) -> Any:
        forward, backward = x
        arrivals = self.points + forward
        return arrivals, arrivals - backward

    def parameters(self) -> dict[str, Tensor]:
        return {"points": self.points}


class EulerRollout(Operator):
    r"""Positions of the points of each sweep after 1 to ``steps`` sweeps of time in a flow field F.

    ``p_k = p_{k-1} + F(p_{k-1}, t + d (k-1), d)`` in both directions d of time, as far as there are
    sweeps. In addition, the positions of the points after one step forth and one step back. The
    prediction is a tuple of the arrivals in the order of `legs`, followed by the returns of the
    first legs; each is ``(batch, N, 3)``. The measurements are the sweeps, compared by
    `data_terms.RolloutChamfer`.

    ``x`` is a `geometry.sweeps.FlowField`, as `priors.SpaceTimeFlow` decodes it. Blocks are sweeps:
    a subset of a number of sweeps is a window of the sequence, drawn evenly.

    Source: Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025.

    Args:
        sweeps: points in a fixed frame, in the order of time, ``(1, N_t, 3)`` each.
        steps: largest number of steps, from sweep to sweep.
        times: times of the sweeps, in sweeps; 0, 1, 2, ... by default.
    """

    def __init__(
        self, sweeps: Sequence[Tensor], steps: int = 3, times: Sequence[float] | None = None
    ) -> None:
        if len(sweeps) < 2 or steps < 1:
            raise InputError(
                "EulerRollout needs at least two sweeps and one step, got "
                f"{len(sweeps)} and {steps}"
            )
        self.sweeps = tuple(
            check_points(points, f"EulerRollout (sweep {k})") for k, points in enumerate(sweeps)
        )
        if any(len(points) != 1 or not points.shape[1] for points in self.sweeps):
            raise InputError(
                "EulerRollout takes sweeps (1, N, 3) with at least one point: one sequence that "
                "all items share"
            )
        self.steps = steps
        self.times = tuple(map(float, range(len(sweeps)) if times is None else times))
        if len(self.times) != len(self.sweeps):
            raise InputError(
                f"EulerRollout has {len(self.sweeps)} sweeps and {len(self.times)} times"
            )
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        ways = legs(len(self.sweeps), self.steps)
        self.range_shape = tuple(
            tuple(self.sweeps[leg.start].shape[1:])
            for leg in [*ways, *(leg for leg in ways if leg.step == 1)]
        )

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, FlowField):
            raise InputError(
                f"{self} takes a flow field, as decoded by priors.SpaceTimeFlow(), got "
                f"{type(x).__name__}"
            )
        return self._forward(x)

    def _forward(self, x: Any) -> tuple[Tensor, ...]:
        ways = legs(len(self.sweeps), self.steps)
        arrivals: dict[Leg, Tensor] = {}
        returns: tuple[Tensor, ...] = ()
        for step in range(1, self.steps + 1):
            now = [leg for leg in ways if leg.step == step]
            if not now:
                break
            begin = [
                self.sweeps[leg.start] if step == 1 else arrivals[leg._replace(step=step - 1)]
                for leg in now
            ]
            ends = self._move(
                x, begin, [leg.end - leg.direction for leg in now], [leg.direction for leg in now]
            )
            arrivals |= dict(zip(now, ends))
            if step == 1:
                returns = self._move(
                    x, list(ends), [leg.end for leg in now], [-leg.direction for leg in now]
                )
        return (*(arrivals[leg] for leg in ways), *returns)

    def _move(
        self, field: FlowField, points: list[Tensor], sweeps: list[int], directions: list[int]
    ) -> tuple[Tensor, ...]:
        """Move point clouds by one step, all of them in one evaluation of the field."""
        sizes = [cloud.shape[1] for cloud in points]
        count, like = torch.tensor(sizes, device=points[0].device), points[0]
        time, direction = (
            torch.tensor(values, dtype=like.dtype, device=like.device).repeat_interleave(count)
            for values in ([self.times[k] for k in sweeps], directions)
        )
        joined = torch.cat(points, dim=1)
        return (joined + field.displacement(joined, time, direction)).split(sizes, dim=1)

    # -- windows of the sequence -------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Number of sweeps."""
        return len(self.sweeps)

    def draw_blocks(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw a window of consecutive sweeps, at least two."""
        device = generator.device if generator is not None else "cpu"
        start = torch.randint(
            len(self.sweeps) - count + 1, (1,), generator=generator, device=device
        )
        return start + torch.arange(count, device=device)

    def subset(self, index: Any) -> EulerRollout:
        """Return the operator for some of the sweeps, which follow each other."""
        rollout = copy.copy(self)
        rollout.sweeps = tuple(take_blocks(self.sweeps, index))
        rollout.times = tuple(take_blocks(self.times, index))
        if len(rollout.sweeps) < 2:
            raise InputError(
                f"a window of {self} must hold at least two sweeps, got {len(rollout.sweeps)}"
            )
        rollout._set_range()
        return rollout

    def parameters(self) -> dict[str, Tensor]:
        return {f"sweep{k}": points for k, points in enumerate(self.sweeps)}

    def __repr__(self) -> str:
        return f"EulerRollout of {len(self.sweeps)} sweeps, {self.steps} steps"


class ObservedPoints(LinearOperator):
    r"""Displacements of observed points, ``(A x)_k = x_{i_k}``: ``(batch, N, 3) -> (batch, m, 3)``.

    x are the displacements of all points, and ``i_1, ..., i_m`` the numbers of the observed points.
    If positions of points were measured, such as vertices of a mesh or handles that a user moves,
    ``A.displacements(positions)`` computes the measurements.

    Args:
        points: points at rest, ``(1, N, 3)``, or ``(batch, N, 3)`` if every item has its own
            points; displacements have their unit.
        index: numbers of the observed points, ``(m,)``, or ``(batch, m)``; no point twice.

    Raises:
        InputError: if points are not finite, or if an index is out of range or occurs twice.

    >>> A = ObservedPoints(torch.zeros(1, 4, 3), torch.tensor([2, 0]))
    >>> A(torch.arange(12.0).view(1, 4, 3))
    tensor([[[6., 7., 8.],
             [0., 1., 2.]]])
    """

    normal_is_diagonal = True

    def __init__(self, points: Tensor, index: Tensor) -> None:
        self.points = check_points(points, type(self).__name__)
        index = torch.as_tensor(index, device=points.device)
        index = check_index(index, points.shape[1], type(self).__name__)
        self.index = index.reshape(-1, index.shape[-1])
        for item, row in enumerate(self.index):
            numbers, counts = row.unique(return_counts=True)
            if bool((counts > 1).any()):
                raise InputError(
                    f"point {int(numbers[counts > 1][0])} is observed {int(counts.max())} times"
                    + (f" in item {item}" if len(self.index) > 1 else "")
                    + "; give it once"
                )
        self.items = count_items("the points and the index", self.points, self.index)
        self.domain_shape = tuple(self.points.shape[1:])
        self.range_shape = (self.index.shape[1], 3)

    def displacements(self, positions: Tensor) -> Tensor:
        """Compute the measurements of points observed at ``positions``, ``(batch or 1, m, 3)``."""
        batch = max(len(self.points), len(self.index))
        points = self.points.expand(batch, *self.domain_shape)
        at_rest = points.gather(1, self._spread(points))
        return positions - at_rest.to(positions)

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        fields = {name: getattr(self, name) for name in ("points", "index")}
        return self._replace(
            {k: t.index_select(0, index) if len(t) > 1 else t for k, t in fields.items()}
        )._with_items(len(index))

    def _spread(self, like: Tensor) -> Tensor:
        return self.index[..., None].expand(len(like), -1, 3)

    def _forward(self, x: Tensor) -> Tensor:
        return x.gather(1, self._spread(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), *self.domain_shape).scatter(1, self._spread(y), y)

    def _known_norm(self) -> Tensor:
        return torch.ones(self.items or 1)

    def normal_diagonal(self) -> Tensor:
        ones = torch.ones(
            len(self.index),
            self.index.shape[1],
            3,
            dtype=self.points.dtype,
            device=self.points.device,
        )
        return self._adjoint(ones)

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``v / (weight * observed + rho)``."""
        return v / (expand(weight, v) * self.normal_diagonal().to(v) + expand(rho, v))

    def pseudo_inverse(self, y: Any) -> Tensor:
        """Return the observed displacements, and 0 for the other points."""
        self._check_measurements("pseudo-inverse", y)
        return self._adjoint(y)

    def __repr__(self) -> str:
        return f"ObservedPoints({self.index.shape[1]} of {self.points.shape[1]})"


def check_points(points: Tensor, what: str) -> Tensor:
    """Return points ``(batch, N, 3)``; raise an `InputError` unless all of them are finite."""
    if points.ndim != 3 or points.shape[-1] != 3 or not points.is_floating_point():
        raise InputError(
            f"{what} takes points of shape (batch, N, 3), got {tuple(points.shape)} of "
            f"{points.dtype}"
        )
    if not bool(points.isfinite().all()):
        raise InputError(
            f"{what} takes finite points, and {int((~points.isfinite()).any(-1).sum())} of them "
            "are not finite; leave them out"
        )
    return points


def check_index(index: Tensor, count: int, what: str) -> Tensor:
    """Return numbers of points; raise an `InputError` unless all are below ``count``."""
    if index.ndim not in (1, 2) or index.is_floating_point() or not index.numel():
        raise InputError(
            f"{what} takes the whole numbers of points, (m,), or one row per item or time, got "
            f"{tuple(index.shape)} of {index.dtype}"
        )
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise InputError(
            f"{what} takes the point {int(wrong[0])}, but the points are numbered 0..{count - 1}"
        )
    return index.long()


class Leg(NamedTuple):
    """One step on the path of a sweep's points.

    Attributes:
        start: number of the sweep that the points come from.
        direction: direction in time, 1 or -1.
        step: number of the step, from 1.
    """

    start: int
    direction: int
    step: int

    @property
    def end(self) -> int:
        """Number of the sweep at which the points arrive."""
        return self.start + self.direction * self.step


def legs(sweeps: int, steps: int) -> list[Leg]:
    """Return every leg among ``sweeps`` sweeps, in the order of steps."""
    return [
        Leg(start, direction, step)
        for step in range(1, steps + 1)
        for direction in (1, -1)
        for start in range(sweeps)
        if 0 <= start + direction * step < sweeps
    ]
