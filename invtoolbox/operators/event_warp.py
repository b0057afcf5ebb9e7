"""The operator of event cameras: events carried along a flow, and the pictures that they make."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.events import Events
from invtoolbox.kernels.native import REAL
from invtoolbox.kernels.points.event_votes import EventSet, vote, vote_gradient
from invtoolbox.operators.base import Operator


class EventWarp(Operator):
    r"""Pictures of events that a flow carries to R reference times, ``(batch, 1, R, rows, columns)``.

    x is the flow on a grid of times, rows and columns over the sensor, ``(batch, 2, T, h, w)``, in
    pixels per duration of the events, columns first. It is linear between the points of the grid.
    An event at the place p and the time t moves to

    .. math:: p' = p + (r - t)\, x(p + \tfrac12 (r - t)\, x(p, t), \tfrac12 (r + t))

    at the reference time r (midpoint rule), and is shared among the four pixels around p'. Under
    the true flow the events of an edge meet, so that the picture is sharp; `data_terms.Contrast`
    measures this. Times run from 0 to 1, from the first event to the last one.

    The blocks are the reference times. The measurements of a problem are `measurements`, the
    pictures of events that stay.

    Args:
        events: events of one item, or of several items on sensors of one size.
        references: number of reference times, evenly from 0 to 1.
        grid: T, h and w of the flow.
        margin: pixels around the sensor into which events may move; a quarter of the shorter side
            by default. Events that leave the picture would make it darker, which is no contrast.

    Raises:
        InputError: sensors of different sizes, or an item without events at two times.

    >>> events = Events.of([1.0, 2.0, 3.0], [2, 2, 2], [0.0, 0.5, 1.0], size=(5, 5))
    >>> A = EventWarp(events, references=1, grid=(2, 2, 2), margin=0)
    >>> flow = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 2, 2)
    >>> A(flow)[0, 0, 0, 2]  # all three events meet in the middle of the time
    tensor([0., 0., 3., 0., 0.])
    """

    def __init__(
        self,
        events: Events | Sequence[Events],
        references: int = 5,
        grid: tuple[int, int, int] = (5, 17, 17),
        margin: int | None = None,
    ) -> None:
        items = [events] if isinstance(events, Events) else list(events)
        if not items or len({item.size for item in items}) > 1:
            raise InputError(
                "EventWarp takes events of sensors of one size, got "
                f"{', '.join(str(item.size) for item in items) or 'none'}"
            )
        if references < 1 or len(grid) != 3 or min(grid) < 2:
            raise InputError(
                "EventWarp takes at least one reference time and a grid (T, h, w) of at least two "
                f"points each, got {references} and {grid}"
            )
        for item in items:
            if not item.duration > 0:
                raise InputError(
                    f"{item.source}: {len(item)} events without a duration have no flow; take "
                    "more events"
                )
        self.size = items[0].size
        self.margin = min(self.size) // 4 if margin is None else margin
        most = max(len(item) for item in items)
        self.places = torch.zeros(len(items), most, 2)
        self.times = torch.zeros(len(items), most)
        self.weights = torch.zeros(len(items), most)  # 0 for events that only fill the batch
        for k, item in enumerate(items):
            self.places[k, : len(item)] = item.places.cpu()
            share = (item.times - item.times[0]) / item.duration
            self.times[k, : len(item)] = share.float().cpu()
            self.weights[k, : len(item)] = 1.0
        self.references = (
            torch.linspace(0, 1, references) if references > 1 else torch.tensor([0.5])
        )
        self.items = len(items) if len(items) > 1 else None
        self.domain_shape = (2, *grid)
        self._set_range()

    def _set_range(self) -> None:
        rows, columns = (side + 2 * self.margin for side in self.size)
        self.range_shape = (1, len(self.references), rows, columns)

    def measurements(self) -> Tensor:
        """Return the pictures of events that stay, ``(batch, 1, R, rows, columns)``."""
        with torch.no_grad():
            return self._forward(self.places.new_zeros(len(self.places), *self.domain_shape))

    def flow_at(self, x: Tensor, places: Tensor, times: Tensor) -> Tensor:
        """Return the flow x at places ``(batch, n, 2)`` and times ``(batch, n)``."""
        rows, columns = self.size
        # Trilinear, by gathers: `grid_sample` has no forward derivative, which `linearize` takes.
        coordinates = (
            times,
            places[..., 1] / max(rows - 1, 1),
            places[..., 0] / max(columns - 1, 1),
        )
        corners = [(torch.zeros_like(times, dtype=torch.long), torch.ones_like(times))]
        for place, count in zip(coordinates, x.shape[2:]):
            scaled = place.clamp(0, 1) * (count - 1)
            low = scaled.detach().floor().clamp_max(count - 2)
            share, index = scaled - low, low.long()
            corners = [
                (before * count + index + step, weight * (share if step else 1 - share))
                for before, weight in corners
                for step in (0, 1)
            ]
        values, total = x.flatten(2), torch.zeros_like(places.transpose(1, 2))
        for number, weight in corners:
            corner_values = values.gather(2, number[:, None].expand(-1, 2, -1))
            total = total + weight[:, None] * corner_values
        return total.transpose(1, 2)

    def move(self, x: Tensor, references: Tensor | None = None) -> Tensor:
        """Return the places of the events at R reference times, ``(batch, R, N, 2)``.

        Args:
            x: flow, ``(batch, 2, T, h, w)``.
            references: reference times in place of the operator's own, ``(R,)``, from 0 to 1.
        """
        references = self.references if references is None else references.to(self.references)
        places = self.places.expand(len(x), -1, -1)
        times = self.times.expand(len(x), -1)
        # Midpoint rule: p' = p + s x(p + s x(p, t) / 2, t + s / 2) with the span s = r - t.
        first = self.flow_at(x, places, times)
        span = references[:, None] - times[:, None]  # (batch, R, N)
        halfway = places[:, None] + 0.5 * span[..., None] * first[:, None]
        middle = self.flow_at(x, halfway.flatten(1, 2), (times[:, None] + 0.5 * span).flatten(1))
        return places[:, None] + span[..., None] * middle.view_as(halfway)

    def _forward(self, x: Tensor) -> Tensor:
        tensors = (self.places, self.times, self.weights)
        if x.is_cuda or x.dtype not in REAL or any(t.requires_grad for t in tensors):
            return self._compose(x)
        events = EventSet(*tensors, self.references, self.size, self.margin)
        return _Votes.apply(x, events, self._compose)[:, None]

    def _compose(self, x: Tensor) -> Tensor:
        """Return the pictures by operations of torch, with derivatives of any order."""
        return self._vote(self.move(x))

    def _vote(self, places: Tensor) -> Tensor:
        """Return the pictures of events at places ``(batch, R, N, 2)``."""
        rows, columns = (side + 2 * self.margin for side in self.size)
        batch, references = places.shape[:2]
        place = places + self.margin
        corner = place.detach().floor()
        share = place - corner
        picture = torch.arange(references, device=place.device)[:, None] * (rows * columns)
        votes, pixels = [], []
        for right in (0, 1):
            for below in (0, 1):
                column, row = (corner[..., 0] + right).long(), (corner[..., 1] + below).long()
                inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
                across = share[..., 0] if right else 1 - share[..., 0]
                down = share[..., 1] if below else 1 - share[..., 1]
                votes.append(across * down * self.weights[:, None] * inside)
                pixels.append(torch.where(inside, row * columns + column, 0) + picture)
        empty = place.new_zeros(batch, references * rows * columns)
        pixel, vote = (torch.stack(blocks, -1).flatten(1) for blocks in (pixels, votes))
        total = empty.scatter_add(1, pixel, vote)
        return total.view(batch, 1, references, rows, columns)

    @property
    def blocks(self) -> int:
        """Number of reference times."""
        return len(self.references)

    def subset(self, index: Any) -> EventWarp:
        """Return the operator for some of the reference times."""
        warp = copy.copy(self)
        warp.references = self.references[index].reshape(-1)
        warp._set_range()
        return warp

    def parameters(self) -> dict[str, Tensor]:
        return {"places": self.places, "times": self.times, "weights": self.weights}

    def __repr__(self) -> str:
        return f"EventWarp({self.places.shape[1]:,} events, {len(self.references)} times)"


class _Votes(torch.autograd.Function):
    """Pictures by the kernels; derivatives of higher order and in forward mode by torch."""

    @staticmethod
    def forward(x: Tensor, events: EventSet, compose: Callable[[Tensor], Tensor]) -> Tensor:
        return vote(events, x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.events, ctx.compose = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _VotesGradient.apply(x, gradients[0], ctx.events, ctx.compose), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.func.jvp(ctx.compose, (x,), (tangents[0],))[1][:, 0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *settings: Any) -> tuple[Tensor, int]:
        return torch.stack([_Votes.apply(one, *settings) for one in x.unbind(in_dims[0])]), 0


class _VotesGradient(torch.autograd.Function):
    """Derivative of `_Votes` in the flow, whose own derivatives are those of torch."""

    @staticmethod
    def forward(
        x: Tensor, pictures: Tensor, events: EventSet, compose: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return vote_gradient(events, x.detach(), pictures)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, pictures, _, ctx.compose = inputs
        ctx.save_for_backward(x, pictures)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        def pull(x: Tensor, pictures: Tensor) -> Tensor:
            return torch.func.vjp(ctx.compose, x)[1](pictures[:, None])[0]  # type: ignore[no-any-return]

        return *torch.func.vjp(pull, *ctx.saved_tensors)[1](gradients[0]), None, None
