"""Pictures of events that a flow carries to reference times, and their derivative, on a CPU.

The kernels are ``event_votes.cpp`` and ``event_votes_gradient.cpp``, with one task per item and
reference time. A task adds up its own picture, in the order of the events, so that the bits depend
neither on the batch nor on the number of threads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel


@dataclass(frozen=True, eq=False)
class EventSet:
    """Events of the items of a batch, and the frame of their pictures.

    Attributes:
        places: column and row of every event, ``(batch, N, 2)``, pixels.
        times: times from 0 to 1, ``(batch, N)``.
        weights: 1 for events, 0 for entries that fill the batch, ``(batch, N)``.
        references: reference times, ``(R,)``.
        size: rows and columns of the sensor.
        margin: pixels around the sensor.
    """

    places: Tensor
    times: Tensor
    weights: Tensor
    references: Tensor
    size: tuple[int, int]
    margin: int


@dataclass
class EventArguments:
    """Arguments of the kernels: the votes write pictures, the gradient reads them."""

    places: Tensor  # (batch, N, 2)
    times: Tensor  # (batch, N)
    weights: Tensor  # (batch, N)
    reference_times: Tensor  # (R,)
    flow: Tensor  # (batch, T, h, w, 2)
    pictures: Tensor  # (batch, R, rows, columns)
    slopes: Tensor | None  # (batch, R, T, h, w, 2)
    count: int
    references: int
    height: int
    width: int
    margin: int
    grid_times: int
    grid_rows: int
    grid_columns: int


@functools.cache
def votes_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel of the pictures, for a precision."""
    return native_kernel("points/event_votes.cpp", {"REAL": REAL[dtype]}, EventArguments)


@functools.cache
def gradient_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel of the derivative in the flow, for a precision."""
    return native_kernel("points/event_votes_gradient.cpp", {"REAL": REAL[dtype]}, EventArguments)


def vote(events: EventSet, flow: Tensor) -> Tensor:
    """Return the pictures of events along a flow, ``(batch, R, rows, columns)``.

    Args:
        events: the events.
        flow: flow ``(batch, 2, T, h, w)``, see `operators.EventWarp`.
    """
    rows, columns = (side + 2 * events.margin for side in events.size)
    pictures = flow.new_zeros(len(flow), len(events.references), rows, columns)
    arguments = _arguments(events, flow, pictures, None)
    tasks = len(flow) * arguments.references
    launch(votes_kernel(flow.dtype), tasks, arguments, work=100.0 * tasks * arguments.count)
    return pictures


def vote_gradient(events: EventSet, flow: Tensor, pictures: Tensor) -> Tensor:
    """Return the derivative in the flow, ``(batch, 2, T, h, w)``, from the one in the pictures.

    Args:
        events: the events.
        flow: flow ``(batch, 2, T, h, w)``.
        pictures: derivative in the pictures, ``(batch, R, rows, columns)``.
    """
    count = len(events.references)
    slopes = flow.new_zeros(len(flow), count, *flow.shape[2:], 2)
    arguments = _arguments(events, flow, pictures.contiguous(), slopes)
    tasks = len(flow) * count
    launch(gradient_kernel(flow.dtype), tasks, arguments, work=200.0 * tasks * arguments.count)
    # One by one, so that the order of the sum does not depend on the batch.
    return functools.reduce(torch.add, slopes.unbind(1)).movedim(-1, 1)


def _arguments(
    events: EventSet, flow: Tensor, pictures: Tensor, slopes: Tensor | None
) -> EventArguments:
    batch, count = len(flow), events.places.shape[1]
    return EventArguments(
        places=events.places.to(flow).expand(batch, -1, -1).contiguous(),
        times=events.times.to(flow).expand(batch, -1).contiguous(),
        weights=events.weights.to(flow).expand(batch, -1).contiguous(),
        reference_times=events.references.to(flow).contiguous(),
        flow=flow.movedim(1, -1).contiguous(),
        pictures=pictures,
        slopes=slopes,
        count=count,
        references=len(events.references),
        height=events.size[0],
        width=events.size[1],
        margin=events.margin,
        grid_times=flow.shape[2],
        grid_rows=flow.shape[3],
        grid_columns=flow.shape[4],
    )
