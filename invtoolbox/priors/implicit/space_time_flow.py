"""Fields of flow over a whole sequence of sweeps.

`SpaceTimeFlow` is a network of place and time, `SpaceTimeVoxels` holds velocities at the corners of
voxels and needs no network.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import FlowField
from invtoolbox.kernels.points.sparse_product import weighted_rows
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.implicit.coordinate_network import apply_layers
from invtoolbox.priors.motion.flow_prior import sequence_of
from invtoolbox.priors.settings import replace, require_bound


class SpaceTimeFlow(ImplicitPrior):
    """Field of flow ``x = F(x, y, z, t, direction)`` by one network for a whole sequence.

    Equal motion at neighbouring places and times comes from the same weights: a body that is hidden
    in one sweep is known from the others. The network is decoded to a `geometry.sweeps.FlowField`,
    along which `operators.EulerRollout` carries points.

    Source: Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025: 8 or 18 hidden layers of
    128, Xavier's initialization, positions in metres without scaling.

    Args:
        width: width of the hidden layers.
        depth: number of hidden layers.
        first_scale: factor on the last layer at the start; with a small one, the world starts
            nearly at rest.
        seed: seed of the first weights.
    """

    def __init__(
        self, width: int = 128, depth: int = 8, first_scale: float = 1.0, seed: int = 0
    ) -> None:
        check_range(self, "[1, inf)", width=width, depth=depth)
        check_range(self, "(0, inf]", first_scale=first_scale)
        self.width, self.depth, self.first_scale, self.seed = width, depth, first_scale, seed
        self.first, self.duration = 0.0, 0.0
        self.like = torch.zeros(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        sweeps, times = sequence_of(problem, repr(self))
        return replace(
            self,
            first=times[0],
            duration=max(times[-1] - times[0], 1.0),
            like=sweeps[0].new_zeros(1),
        )

    def initial(self) -> dict[str, Tensor]:
        require_bound(self, self.duration or None)
        generator = torch.Generator().manual_seed(self.seed)
        parameters: dict[str, Tensor] = {}
        for k, (n_in, n_out) in enumerate(itertools.pairwise([5, *[self.width] * self.depth, 3])):
            bound = math.sqrt(6.0 / (n_in + n_out)) * (self.first_scale if k == self.depth else 1.0)
            parameters[f"weight{k}"] = (
                bound * (2 * torch.rand(1, n_in, n_out, generator=generator) - 1)
            ).to(self.like)
            parameters[f"bias{k}"] = torch.zeros(1, 1, n_out).to(self.like)
        return parameters

    def decode(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> NetworkField:
        return NetworkField(parameters, self.first, self.duration)

    def __repr__(self) -> str:
        return f"SpaceTimeFlow(width={self.width}, depth={self.depth})"


class SpaceTimeVoxels(ImplicitPrior):
    """Field of flow over a whole sequence: velocities at the corners of voxels, at knots of time.

    ``F(p, t, d) = d v(p, t) + a(p, t)``, trilinear in space and linear in time, summed over levels.
    Each level is twice as coarse in space and in time as the next one. The velocity v is the same
    in both directions of time, which is right for even motion; a, which has smaller steps, holds
    the difference. This is the counterpart of `SpaceTimeFlow` for a CPU: an evaluation takes a
    fraction of the network's time, but only interpolation ties places and times together.

    Args:
        cell: edge of the smallest voxels, metres.
        span: distance between the knots of time of the finest level, in sweeps.
        levels: number of grids that are summed.
        rate: factor on the step from one level to the next finer one.
        asymmetry: factor on the step of a.
    """

    def __init__(
        self,
        cell: float = 0.5,
        span: float = 2.0,
        levels: int = 3,
        rate: float = 0.25,
        asymmetry: float = 0.1,
    ) -> None:
        check_range(self, "(0, inf]", cell=cell, span=span, rate=rate)
        check_range(self, "[0, inf]", asymmetry=asymmetry)
        check_range(self, "[1, inf)", levels=levels)
        self.cell, self.span, self.levels = cell, span, levels
        self.rate, self.asymmetry = rate, asymmetry
        self.grids: tuple[_Grid, ...] = ()
        self.like = torch.zeros(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        sweeps, times = sequence_of(problem, repr(self))
        factors = [2.0 ** (self.levels - 1 - level) for level in range(self.levels)]
        return replace(
            self,
            grids=tuple(
                _Grid(sweeps, self.cell * f, self.span * f, times[0], times[-1] - times[0])
                for f in factors
            ),
            like=sweeps[0].new_zeros(1),
        )

    def initial(self) -> dict[str, Tensor]:
        """Return ``velocity`` and ``asymmetry`` of each level, the coarsest first; all at rest.

        They are ``(1, corners, knots, 3)`` each.
        """
        require_bound(self, self.grids)
        return {
            f"{name}{level}": self.like.new_zeros(1, grid.count, grid.knots, 3)
            for level, grid in enumerate(self.grids)
            for name in ("velocity", "asymmetry")
        }

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return {
            f"{name}{level}": self.rate**level * (1.0 if name == "velocity" else self.asymmetry)
            for level in range(self.levels)
            for name in ("velocity", "asymmetry")
        }

    def decode(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> VoxelField:
        return VoxelField(parameters, self.grids)

    def __repr__(self) -> str:
        return f"SpaceTimeVoxels(cell={self.cell:g}, span={self.span:g}, levels={self.levels})"


@dataclass(frozen=True, eq=False)
class NetworkField(FlowField):
    """Field of flow by a ReLU network of ``(x, y, z, t, direction)``.

    t runs from -1/2 to 1/2 over the sequence.
    """

    parameters: dict[str, Tensor]
    first: float  # the time of the first sweep
    duration: float

    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        batch, n, _ = points.shape
        place = torch.stack([(time - self.first) / self.duration - 0.5, direction], dim=-1)
        hidden = torch.cat([points, place.expand(batch, n, 2)], dim=-1)
        hidden = hidden.expand(self.parameters["weight0"].shape[0], -1, -1)
        return apply_layers(self.parameters, hidden, torch.relu)


@dataclass(frozen=True, eq=False)
class VoxelField(FlowField):
    """Field of flow by interpolation: ``direction * v + a``, v and a the sums over the levels."""

    parameters: dict[str, Tensor]
    grids: tuple[_Grid, ...]

    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        # Few times and directions occur, at many points each, so the vectors of the corners are
        # computed once per pair.
        kinds, group = (4 * time + direction).unique(return_inverse=True)
        one_of_each = torch.zeros(len(kinds), dtype=torch.long, device=group.device)
        one_of_each[group] = torch.arange(len(group), device=group.device)
        times, directions = time[one_of_each], direction[one_of_each][:, None, None]
        batch = self.parameters["velocity0"].shape[0]
        total: list[list[Tensor]] = [[] for _ in range(batch)]
        for level, grid in enumerate(self.grids):
            for k in range(batch):
                number, weights = grid.corners(points[k if len(points) > 1 else 0])
                velocity = grid.at_times(self.parameters[f"velocity{level}"][k], times)
                asymmetry = grid.at_times(self.parameters[f"asymmetry{level}"][k], times)
                vectors = (directions * velocity + asymmetry).flatten(0, 1)
                rows = number + (grid.count + 1) * group[:, None]
                total[k].append(weighted_rows(vectors, rows, weights))
        return torch.stack([torch.stack(levels).sum(0) for levels in total])


_LARGEST = 1 << 27  # largest number of entries of a table of corners: half a gigabyte


class _Grid(Settings):
    """Corners of a grid that points of the sequence touch, and a table that finds them."""

    def __init__(
        self, sweeps: tuple[Tensor, ...], cell: float, span: float, first: float, duration: float
    ) -> None:
        self.cell, self.span, self.first = cell, span, first
        self.knots = int(duration / span) + 2
        base = torch.cat([(points[0].double() / cell).floor().long() for points in sweeps]).unique(
            dim=0
        )
        self.low = base.amin(0)
        size = (base.amax(0) - self.low + 2).tolist()
        if size[0] * size[1] * size[2] > _LARGEST:
            raise InputError(
                f"a grid of {size[0]} by {size[1]} by {size[2]} cells of {cell:g} m has too large "
                "a table; use a larger cell"
            )
        self.size = torch.tensor(size, device=base.device)
        self.strides = torch.tensor([size[1] * size[2], size[2], 1], device=base.device)
        self.offsets = (
            torch.tensor(
                [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], device=base.device
            )
            @ self.strides
        )
        keys = (((base - self.low) @ self.strides)[:, None] + self.offsets).unique()
        self.count = len(keys)
        # Places without a corner get the number after the last one, which has no motion.
        self.table = torch.full(
            (size[0] * size[1] * size[2],), self.count, dtype=torch.int32, device=base.device
        )
        self.table[keys] = torch.arange(self.count, dtype=torch.int32, device=base.device)

    def corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers and weights of the 8 corners around points ``(n, 3)``: ``(n, 8)``."""
        scaled = points / self.cell - self.low
        base = scaled.detach().floor()
        inside = ((base >= 0) & (base < self.size - 1)).all(-1)
        key = torch.where(inside, (base.long() * self.strides).sum(-1), 0)
        number = torch.where(
            inside[:, None], self.table[key[:, None] + self.offsets].long(), self.count
        )
        share = scaled - base
        x, y, z = torch.stack([1 - share, share], dim=-1).unbind(1)
        return number, (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).flatten(1)

    def at_times(self, vectors: Tensor, times: Tensor) -> Tensor:
        """Interpolate the vectors of the corners at some times.

        The shapes are ``(corners, knots, 3) -> (times, corners + 1, 3)``; the last corner is zero.
        """
        moment = ((times - self.first) / self.span).clamp(0, self.knots - 1)
        knot = moment.floor().clamp_max(self.knots - 2).long()
        late = (moment - knot)[:, None, None]
        by_time = vectors.transpose(0, 1)
        between = (1 - late) * by_time[knot] + late * by_time[knot + 1]
        return torch.cat([between, torch.zeros_like(between[:, :1])], dim=1)
