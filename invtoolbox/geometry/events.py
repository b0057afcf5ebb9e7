"""Events of an event camera: pixels whose brightness changed, with times and signs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError

#: Largest number of rows or columns of a sensor.
_LARGEST = 16384


@dataclass(frozen=True, eq=False)
class Events:
    """N events of one camera, in the order of time.

    The centre of the first pixel is (0, 0), the convention of camera matrices of OpenCV; x grows to
    the right and y down.

    Attributes:
        places: column and row of every event, ``(N, 2)`` float32, pixels; not whole if they were
            undistorted.
        times: times, ``(N,)`` float64, seconds.
        polarity: 1 for brighter and -1 for darker, ``(N,)`` int8.
        size: rows and columns of the sensor.
        source: path of the file, or another word on the origin.
        notes: remarks on what the file leaves open, one sentence each.

    Raises:
        InputError: shapes do not fit, a value is not finite, an event lies outside of the sensor,
            or time runs backwards.

    >>> events = Events.of(x=[3, 4], y=[0, 1], t=[0.0, 0.1], size=(2, 5))
    >>> events
    Events(2 in 0.1 s, 2 x 5 pixels)
    >>> events.counts()
    tensor([[0., 0., 0., 1., 0.],
            [0., 0., 0., 0., 1.]])
    """

    places: Tensor
    times: Tensor
    polarity: Tensor
    size: tuple[int, int]
    source: str = "events"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count, (rows, columns) = len(self.times), self.size
        if not (1 <= rows <= _LARGEST and 1 <= columns <= _LARGEST):
            raise InputError(
                f"{self.source}: a sensor has 1 to {_LARGEST:,} rows and columns, got {rows} and "
                f"{columns}; give the size of the sensor"
            )
        shapes = tuple(tuple(t.shape) for t in (self.places, self.times, self.polarity))
        if shapes != ((count, 2), (count,), (count,)):
            raise InputError(
                f"{self.source}: places, times and polarities of events have the shapes (N, 2), "
                f"(N,) and (N,), got {', '.join(map(str, shapes))}"
            )
        if not (self.places.isfinite().all() and self.times.isfinite().all()):
            raise InputError(f"{self.source}: places or times of events are not finite; cut them")
        backwards = (self.times[1:] < self.times[:-1]).nonzero()
        if len(backwards):
            first = int(backwards[0]) + 1
            raise InputError(
                f"{self.source}: time runs backwards at event {first:,}, from "
                f"{float(self.times[first - 1]):.6f} to {float(self.times[first]):.6f} s; sort the "
                "events, or cut the recording where the clock was set back"
            )
        # Pixel (row, column) covers half a pixel to either side of its centre (column, row).
        low, high = self.places.new_tensor(-0.5), self.places.new_tensor([columns, rows]) - 0.5
        outside = ((self.places < low) | (self.places > high)).any(1).nonzero()
        if len(outside):
            first = int(outside[0])
            raise InputError(
                f"{self.source}: event {first:,} lies at column {float(self.places[first, 0]):g} "
                f"and row {float(self.places[first, 1]):g}, outside of {rows} rows and {columns} "
                "columns; give the size of the sensor"
            )

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        t: Any,
        polarity: Any = None,
        size: tuple[int, int] | None = None,
        source: str = "events",
    ) -> Self:
        """Return events from arrays of any numeric type.

        Args:
            x: columns, ``(N,)``.
            y: rows, ``(N,)``.
            t: times, ``(N,)``, seconds.
            polarity: positive for brighter, 0 or negative for darker; None for all brighter.
            size: rows and columns of the sensor; None for the smallest that holds the events.
            source: origin of the events, for messages.
        """
        column, row = (torch.as_tensor(numbers).to(torch.float32) for numbers in (x, y))
        times = torch.as_tensor(t).to(torch.float64).contiguous()
        if column.ndim != 1 or column.shape != row.shape or column.shape != times.shape:
            raise InputError(
                f"{source}: columns, rows and times of events differ in shape: "
                f"{tuple(column.shape)}, {tuple(row.shape)} and {tuple(times.shape)}"
            )
        if polarity is None:
            sign = torch.ones(len(times), dtype=torch.int8)
        else:
            # Files write the darker sign as 0, False or -1.
            sign = torch.where(torch.as_tensor(polarity) > 0, 1, -1).to(torch.int8)
        if size is None:
            # The last pixel is the one whose centre is nearest: floor(place + 1/2), counted from 0.
            ends = [v.nan_to_num().clamp(0, 1e6).amax() if len(v) else 0.0 for v in (row, column)]
            size = (int(ends[0] + 1.5), int(ends[1] + 1.5))
        return cls(torch.stack([column, row], 1), times, sign, size, source)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Return some events, chosen by a slice or a mask."""
        return replace(
            self,
            places=self.places[index],
            times=self.times[index],
            polarity=self.polarity[index],
        )

    def between(self, start: float, stop: float) -> Self:
        """Return the events with ``start <= t < stop``.

        Args:
            start: first time, seconds.
            stop: end, seconds.
        """
        # Times are sorted, so the events of a window lie between two binary searches.
        ends = torch.tensor([start, stop], dtype=torch.float64, device=self.times.device)
        first, last = torch.searchsorted(self.times, ends).tolist()
        return self[first:last]

    @property
    def duration(self) -> float:
        """Time from the first event to the last one, seconds."""
        return float(self.times[-1] - self.times[0]) if len(self) else 0.0

    def counts(self) -> Tensor:
        """Return the number of events at every pixel, ``(rows, columns)`` float32."""
        rows, columns = self.size
        # An event on the edge of the sensor rounds to a pixel beyond it, and counts in the last one.
        column, row = self.places.round().long().unbind(1)
        place = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
        return torch.bincount(place, minlength=rows * columns).view(rows, columns).float()

    def undistort(self, intrinsics: Tensor, lens: Any) -> Self:
        """Move events to where a lens without distortion would have seen them.

        Events that leave the sensor are dropped.

        Args:
            intrinsics: matrix of the camera, ``(3, 3)``, pixels.
            lens: distortion, a `geometry.Lens`.
        """
        # Pixels to focal length 1 by K^-1, through the inverse lens, and back by the same K.
        K = intrinsics.double()
        goal = torch.linalg.solve(K[:2, :2], (self.places.double() - K[:2, 2]).T).T
        places = (lens.undistort(goal) @ K[:2, :2].T + K[:2, 2]).float()
        rows, columns = self.size
        high = places.new_tensor([columns, rows]) - 0.5
        inside = ((places >= -0.5) & (places <= high)).all(1)
        return replace(self[inside], places=places[inside])

    def __repr__(self) -> str:
        rows, columns = self.size
        return f"Events({len(self):,} in {self.duration:.4g} s, {rows} x {columns} pixels)"
