"""Points of a prepared sweep, with trees, heights and normals that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invtoolbox.geometry.surface_normals import append_times, normals
from invtoolbox.jobs.flow.clusters import are_alone, height_above
from invtoolbox.jobs.flow.sensor import Rays
from invtoolbox.kernels.points.nearest import Tree


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of a sweep in the frame of its sensor, without ground.

    Windows of a sequence share the clouds of their sweeps, so trees and normals are computed once
    per sweep.

    Attributes:
        points: points, ``(n, 3)``.
        times: times of the points within their sweep, seconds, ``(n,)``; None if one is unknown.
        ground: points of the ground, ``(g, 3)``; none if the ground is unknown.
    """

    points: Tensor
    times: Tensor | None = None
    ground: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def rays(self) -> Rays:
        """Rays of the sensor, and the noise of its ranges."""
        return Rays.of(torch.cat([self.points, self.ground]))

    @cached_property
    def height(self) -> Tensor:
        """Heights of the points above the ground, ``(n,)``; infinite for stray points."""
        height = height_above(self.points, self.ground)
        return height.masked_fill(are_alone(self.points, torch.zeros(3), self.rays), torch.inf)

    def below(self, height: float) -> tuple[Tensor, Cloud]:
        """Return the rows of the points below a height, and their cloud."""

        def low() -> tuple[Tensor, Cloud]:
            rows = (self.height < height).nonzero().squeeze(1)
            return rows, Cloud(self.points[rows], None if self.times is None else self.times[rows])

        return self._once(("below", height), low)

    def tree(self, timed: bool = False) -> Tree:
        """Return the search tree of the points; times are a further coordinate (`append_times`)."""
        times = self.times if timed else None
        return self._once(("tree", timed), lambda: Tree(append_times(self.points, times)))

    def surface(self, timed: bool = False) -> tuple[Tensor, Tensor]:
        """Return normals ``(n, 3)`` and thickness ``(n,)``, see `surface_normals.normals`."""
        times = self.times if timed else None
        return self._once(("surface", timed), lambda: normals(self.points, times))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
