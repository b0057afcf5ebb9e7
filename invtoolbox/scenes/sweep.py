"""A lidar sweep: points, what is known of each, and where the sensor stood; and a sequence of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from invtoolbox.errors import InputError

#: What goes at least so far in the world from a sweep to the next moves, metres: 0.5 m/s at ten sweeps a second, as Argoverse 2 has it.
MOVES = 0.05


@dataclass(frozen=True, eq=False)
class Boxes:
    """Labelled boxes in the frame of a sweep, n of them.

    Attributes:
        pose: the frame of each box in that of the sweep, ``(n, 4, 4)`` float64; its x is the box's length.
        size: length, width, height in metres, ``(n, 3)``.
        track: the object that each one shows, the same word in every sweep.
        category: what it is, in the words of the data set.
    """

    pose: Tensor
    size: Tensor
    track: tuple[str, ...]
    category: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.track)


@dataclass(frozen=True, eq=False)
class FlowLabels:
    """What is known to be true of the motion of each point of a sweep, N of them.

    Attributes:
        flow: where the point's matter is at the next sweep, in that one's frame, less where it is now: metres, ``(N, 3)``;
            the sensor's own motion is included.
        valid: ``(N,)`` false where the flow is not known; such points do not count.
        dynamic: ``(N,)`` the point moves in the world.
        category: ``(N,)`` whole numbers, indices into `categories`; -1 where it is not known.
        categories: the words of the data set.
        ground: ``(N,)`` the point lies on the ground, or None.
        instance: ``(N,)`` whole numbers, the same for the points of one object and in every sweep; -1 for none; or None.
    """

    flow: Tensor
    valid: Tensor
    dynamic: Tensor
    category: Tensor
    categories: tuple[str, ...]
    ground: Tensor | None = None
    instance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of a lidar.

    Rows are those of the file, in its order, whatever they hold: a sensor writes NaN or zeros where nothing came back.

    Attributes:
        points: metres, float32 ``(N, 3)``, x forward, y left, z up, in the sensor's frame at `timestamp` (where the data set
            has removed the sensor's motion within the sweep, or has not: `deskewed` says which).
        timestamp: seconds, of which only differences count.
        time: when each point was measured, seconds from `timestamp`, float32 ``(N,)``; or None.
        intensity: float32 ``(N,)``, in the sensor's unit; or None.
        ring: the laser of each point, int64 ``(N,)``; or None.
        pose: the sensor's frame in the world at `timestamp`, float64 ``(4, 4)``; or None.
        deskewed: whether points stand as if all were measured at `timestamp`; None where it is not known.
        boxes, labels: what the data set says is there, and how it moves.
        source: the file, for messages.
        meta: plain facts.

    >>> import torch
    >>> Sweep(torch.zeros(2, 3), source="nowhere")
    Sweep: 2 points of nowhere
    """

    points: Tensor
    timestamp: float = 0.0
    time: Tensor | None = None
    intensity: Tensor | None = None
    ring: Tensor | None = None
    pose: Tensor | None = None
    deskewed: bool | None = None
    boxes: Boxes | None = None
    labels: FlowLabels | None = None
    source: str = "a sweep"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise InputError(
                f"{self.source}: points have the shape {tuple(self.points.shape)}; expected (N, 3), x, y and z of each"
            )
        for name in ("time", "intensity", "ring"):
            value = getattr(self, name)
            if value is not None and value.shape != self.points.shape[:1]:
                raise InputError(
                    f"{self.source}: {name} has the shape {tuple(value.shape)} for {len(self.points)} points"
                )

    @property
    def finite(self) -> Tensor:
        """Which points are measurements at all: finite, and not at the sensor's own origin, ``(N,)``."""
        return self.points.isfinite().all(1) & (self.points != 0).any(1)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Sweep: {len(self)} points of {self.source}"


class Sweeps(Protocol):
    """Sweeps in the order of time: anything with a length whose items are sweeps, read when they are asked for.

    `names` holds a word for each sweep, all different, which results are named by. The sweep k + 1 follows the sweep k.
    """

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sweep: ...


def pairs(sweeps: Sweeps) -> Iterator[tuple[int, Sweep, Sweep]]:
    """Every sweep with its successor; each is read once."""
    before = sweeps[0] if len(sweeps) else None
    for k in range(1, len(sweeps)):
        after = sweeps[k]
        assert before is not None
        yield k - 1, before, after
        before = after
