"""Points that are carried along a field of flow, sweep after sweep, forward and backward in time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import picked
from invtoolbox.operators.base import Operator
from invtoolbox.operators.point_warp import checked_points
from invtoolbox.scenes.flow_field import FlowField


class Leg(NamedTuple):
    """One step of the way of a sweep's points: the sweep they come from, the direction in time, and which step it is, from 1."""

    start: int
    direction: int
    step: int

    @property
    def end(self) -> int:
        """The sweep that they arrive at."""
        return self.start + self.direction * self.step


def legs(sweeps: int, steps: int) -> list[Leg]:
    """Every leg among so many sweeps, first steps first."""
    return [
        Leg(start, direction, step)
        for step in range(1, steps + 1)
        for direction in (1, -1)
        for start in range(sweeps)
        if 0 <= start + direction * step < sweeps
    ]


class EulerRollout(Operator):
    r"""``A(F)``: where the points of each sweep are after 1, 2, ... ``steps`` sweeps of time under a field of flow F.

    ``p_k = p_{k-1} + F(p_{k-1}, t + d (k-1), d)`` in both directions d of time, as far as there are sweeps; and where the points are
    that have gone one step and come back. The prediction is a tuple of the arrivals in the order of `legs`, followed by the
    returns of the first legs; each is ``(batch, N, 3)``. The measurements are the sweeps, compared by `data_terms.RolloutChamfer`.

    ``x`` is a `scenes.flow_field.FlowField`, as `priors.SpaceTimeFlow` decodes it. Blocks are sweeps: a subset of a number of them is a
    window of the sequence, drawn evenly.

    Source: Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025.

    Args:
        sweeps: points in a frame that stands still, in the order of time, ``(1, N_t, 3)`` each.
        steps: how far points are carried.
        times: of the sweeps, in sweeps; 0, 1, 2, ... where not given.
    """

    def __init__(
        self, sweeps: Sequence[Tensor], steps: int = 3, times: Sequence[float] | None = None
    ) -> None:
        if len(sweeps) < 2 or steps < 1:
            raise InputError(
                f"EulerRollout needs two sweeps and a step at least, got {len(sweeps)} and {steps}"
            )
        self.sweeps = tuple(
            checked_points(points, f"EulerRollout (sweep {k})") for k, points in enumerate(sweeps)
        )
        if any(len(points) != 1 or not points.shape[1] for points in self.sweeps):
            raise InputError(
                "EulerRollout takes sweeps (1, N, 3) with a point at least: one sequence that all items share"
            )
        self.steps, self.times = (
            steps,
            tuple(map(float, range(len(sweeps)) if times is None else times)),
        )
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
                f"{self} takes a field of flow, as priors.SpaceTimeFlow() makes it, got {type(x).__name__}"
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
            ends = self._carried(
                x, begin, [leg.end - leg.direction for leg in now], [leg.direction for leg in now]
            )
            arrivals |= dict(zip(now, ends))
            if step == 1:
                returns = self._carried(
                    x, list(ends), [leg.end for leg in now], [-leg.direction for leg in now]
                )
        return (*(arrivals[leg] for leg in ways), *returns)

    def _carried(
        self, field: FlowField, points: list[Tensor], sweeps: list[int], directions: list[int]
    ) -> tuple[Tensor, ...]:
        """Clouds after one step, all of them in one evaluation of the field."""
        sizes = [cloud.shape[1] for cloud in points]
        count, like = torch.tensor(sizes, device=points[0].device), points[0]
        time = torch.tensor(
            [self.times[k] for k in sweeps], dtype=like.dtype, device=like.device
        ).repeat_interleave(count)
        direction = torch.tensor(
            directions, dtype=like.dtype, device=like.device
        ).repeat_interleave(count)
        joined = torch.cat(points, dim=1)
        return (joined + field.displacement(joined, time, direction)).split(sizes, dim=1)

    # -- windows of the sequence ---------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """The number of sweeps."""
        return len(self.sweeps)

    def drawn(self, count: int, generator: Generator | None = None) -> Tensor:
        """A window of consecutive sweeps, at least two."""
        device = generator.device if generator is not None else "cpu"
        start = torch.randint(
            len(self.sweeps) - count + 1, (1,), generator=generator, device=device
        )
        return start + torch.arange(count, device=device)

    def subset(self, index: Any) -> EulerRollout:
        """The operator for some of the sweeps, which follow each other."""
        other = copy.copy(self)
        other.sweeps, other.times = (
            tuple(picked(self.sweeps, index)),
            tuple(picked(self.times, index)),
        )
        if len(other.sweeps) < 2:
            raise InputError(
                f"a window of {self} holds two sweeps at least, got {len(other.sweeps)}"
            )
        other._set_range()
        return other

    def parameters(self) -> dict[str, Tensor]:
        return {f"sweep{k}": points for k, points in enumerate(self.sweeps)}

    def __repr__(self) -> str:
        return f"EulerRollout of {len(self.sweeps)} sweeps, {self.steps} steps"
