"""Events of a camera that moves in front of a smooth surface, with the exact flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.epipolar import motion_field
from invtoolbox.geometry.events import Events


@dataclass(frozen=True, eq=False)
class SimulatedEvents:
    """Events and the truth behind them.

    Attributes:
        events: the events.
        flow: motion of every event's point at its time, ``(N, 2)`` float64, pixels per second.
        twist: velocity v, in units of the mean depth, and rate of rotation w, in radians, of the
            camera in its own frame, ``(6,)`` float64, per second.
        intrinsics: matrix of the camera, ``(3, 3)`` float64, pixels.
        picture_flow: flow of the surface in the middle of the time, ``(rows, columns, 2)`` float64,
            pixels per second.
    """

    events: Events
    flow: Tensor
    twist: Tensor
    intrinsics: Tensor
    picture_flow: Tensor

    @property
    def rays(self) -> Tensor:
        """Places of the events at focal length 1, ``(N, 2)`` float64; exact to float32."""
        return _rays(self.events.places.double(), self.intrinsics)


def simulate_events(
    seed: int = 0,
    count: int = 12_000,
    points: int = 250,
    size: tuple[int, int] = (64, 64),
    focal: float = 60.0,
    duration: float = 0.05,
    whole: bool = False,
) -> SimulatedEvents:
    """Simulate the events of bright points on a smooth surface under a constant twist.

    A point makes events at random times wherever it is then. The camera moves by a sixth of the
    mean depth and turns by 0.06 radians within the duration, about random axes.

    Args:
        seed: seed of the surface, the points, the twist and the times.
        count: number of events.
        points: number of points.
        size: rows and columns of the sensor.
        focal: focal length, pixels.
        duration: time of the recording, seconds.
        whole: round the places to whole pixels, as a sensor does.

    >>> simulated = simulate_events(seed=1, count=500)
    >>> simulated.events, simulated.flow.shape
    (Events(500 in 0.0499 s, 64 x 64 pixels), torch.Size([500, 2]))
    """
    rows, columns = size
    check_range("simulate_events", "[2, inf)", count=count, rows=rows, columns=columns)
    check_range("simulate_events", "[1, inf)", points=points)
    check_range("simulate_events", "(0, inf]", focal=focal, duration=duration)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    axes = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    twist = torch.cat([axes[0] / 6, 0.06 * axes[1]]) / duration
    phase = 2 * torch.pi * draw(3)
    K = torch.tensor(
        [[focal, 0, (columns - 1) / 2], [0, focal, (rows - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )

    def depth(rays: Tensor) -> Tensor:
        """Return the depth of the surface in the middle of the time; its mean is about 1."""
        x, y = rays.unbind(-1)
        waves = 0.2 * torch.sin(5 * x + phase[0]) * torch.cos(4 * y + phase[1])
        return 1 + waves + 0.15 * torch.sin(3 * y + phase[2])

    # Points from beyond the edge come into view.
    side = torch.tensor([columns, rows], dtype=torch.float64)
    rays = _rays(1.2 * side * draw(points, 2) - 0.1 * side, K)
    surface = torch.cat([rays, torch.ones_like(rays[:, :1])], 1) * depth(rays)[:, None]
    at = duration * draw(8 * count)
    which = torch.randint(points, (8 * count,), generator=generator)
    place, flow = _see(surface[which], at - duration / 2, twist, K)
    inside = ((place >= 0) & (place <= side - 1)).all(1).nonzero()[:count, 0]
    if len(inside) < count:
        raise InputError(f"only {len(inside)} of {count} events lie in the picture; draw again")
    inside = inside[at[inside].argsort(stable=True)]
    place = place[inside].round() if whole else place[inside]
    x, y = place.unbind(1)
    sign = torch.randint(2, (count,), generator=generator)
    events = Events.of(x, y, at[inside], sign, size, source=f"simulated events, seed {seed}")
    row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij"
    )
    grid = _rays(torch.stack([column, row], -1), K)
    return SimulatedEvents(
        events, flow[inside], twist, K, motion_field(grid, twist, 1 / depth(grid)) * focal
    )


def _rays(places: Tensor, K: Tensor) -> Tensor:
    return (places - K[:2, 2]) / K.diagonal()[:2]


def motions_of(twist: Tensor, times: Tensor) -> Tensor:
    """Return the motions of points in a camera, ``dX/dt = -v - w x X``, ``(N, 4, 4)``.

    Args:
        twist: velocity v, then rate of rotation w, ``(6,)``, per unit of time.
        times: times since the points were at rest, ``(N,)``.

    >>> motions_of(torch.tensor([0.0, 0, 1, 0, 0, 0]), torch.tensor([0.5]))[0, :3, 3]
    tensor([ 0.0000,  0.0000, -0.5000])
    """
    v, w = twist[:3], twist[3:]
    x, y, z = (-w).tolist()
    generator = twist.new_zeros(4, 4)
    generator[:3, :3] = twist.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    generator[:3, 3] = -v
    # A constant twist: X(t) = exp(t [[-[w]_x, -v], [0, 0]]) X(0).
    return torch.linalg.matrix_exp(generator * times[:, None, None])


def _see(points: Tensor, times: Tensor, twist: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Return places and flow, in pixels, of points that move with ``dX/dt = -v - w x X``."""
    motion = motions_of(twist, times)
    local = (motion[:, :3, :3] @ points[..., None]).squeeze(-1) + motion[:, :3, 3]
    rays = local[:, :2] / local[:, 2:]
    flow = motion_field(rays, twist, 1 / local[:, 2])
    return rays @ K[:2, :2].T + K[:2, 2], flow * K.diagonal()[:2]
