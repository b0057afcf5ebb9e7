"""Simulated events of a camera before a surface or a textured plane, with the exact flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
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


#: Rows and columns of a drawn texture; one of its pixels is as large as one of the camera's.
_TEXELS = 1024
#: Largest motion between two pictures whose logarithms are interpolated, pixels.
_STEP = 0.5
#: Largest tangent of the slant of the plane.
_SLANT = 0.4
#: Brightness that is added to a texture from 0 to 1, so that its logarithm is finite.
_DARK = 0.05


def simulate_textured_plane(
    seed: int = 0,
    texture: str | Tensor = "clouds",
    size: tuple[int, int] = (180, 240),
    focal: float = 200.0,
    duration: float = 0.1,
    travel: float = 20.0,
    threshold: float = 0.2,
    spread: float = 0.03,
) -> SimulatedEvents:
    """Simulate the events of a slanted textured plane under a constant twist of the camera.

    A pixel makes an event whenever the logarithm of its brightness has changed by its threshold
    since its last event. Events lie on whole pixels. The plane has the depth 1 on the optical axis.

    Args:
        seed: seed of the plane, the twist, the texture and the thresholds.
        texture: "clouds" (noise with the spectrum of natural pictures), "patches" (cells of
            constant brightness), "stripes" (parallel edges, which leave one direction of the motion
            open), or a picture ``(rows, columns)`` with values from 0 to 1.
        size: rows and columns of the sensor.
        focal: focal length, pixels.
        duration: time of the recording, seconds.
        travel: mean length of the path of the picture within the duration, pixels.
        threshold: mean threshold of the pixels.
        spread: standard deviation of the thresholds, relative to their mean.

    Raises:
        InputError: a setting is out of its range, or the texture has another shape.

    >>> simulated = simulate_textured_plane(seed=1, size=(24, 32), focal=30.0, travel=3.0)
    >>> simulated.picture_flow.shape, bool(simulated.events.duration <= 0.1)
    (torch.Size([24, 32, 2]), True)
    """
    rows, columns = size
    check_range("simulate_textured_plane", "[2, inf)", rows=rows, columns=columns)
    check_range("simulate_textured_plane", "(0, inf]", focal=focal, duration=duration)
    check_range("simulate_textured_plane", "(0, inf]", travel=travel, threshold=threshold)
    check_range("simulate_textured_plane", "[0, 0.3]", spread=spread)
    generator = torch.Generator().manual_seed(seed)
    brightness = _texture(texture, generator)
    K = torch.tensor(
        [[focal, 0, (columns - 1) / 2], [0, focal, (rows - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )
    slant = _SLANT * (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1)
    normal = torch.cat([slant, torch.ones(1, dtype=torch.float64)])  # of the plane n . X = 1
    row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij"
    )
    pixels = torch.stack([column, row], -1).flatten(0, 1)
    rays = (pixels - K[:2, 2]) / focal
    upright = torch.cat([rays, torch.ones_like(rays[:, :1])], 1)
    axes = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    # The rotation moves the picture about a third as far as the velocity.
    twist = torch.cat([axes[0] / axes[0].norm(), 0.3 * axes[1] / axes[1].norm()])
    speed = (focal * motion_field(rays, twist, upright @ normal)).norm(dim=1).mean()
    twist = twist * (travel / duration / speed)
    fastest = (focal * motion_field(rays, twist, upright @ normal)).norm(dim=1).max()
    count = 2 + int(1.5 * float(fastest) * duration / _STEP)
    times = torch.linspace(0, duration, count, dtype=torch.float64)
    deviations = torch.randn(rows * columns, generator=generator, dtype=torch.float64)
    thresholds = threshold * (1 + spread * deviations).clamp(0.5, 1.5)
    motions = motions_of(twist, times - duration / 2)
    logarithms = (
        _see_plane(brightness, upright, normal, motion, focal, columns) for motion in motions
    )
    number, at, sign = _crossings(logarithms, times, thresholds)
    # The depth of the plane at the time of every event: X = lambda x with n . M^-1 X = 1.
    inverse = _plane_in_camera(normal, motions_of(twist, at - duration / 2))
    nearness = (upright[number] * inverse).sum(1)
    flow = focal * motion_field(rays[number], twist, nearness)
    x, y = pixels[number].unbind(1)
    events = Events.of(x, y, at, sign, size, source=f"simulated plane, seed {seed}")
    middle = focal * motion_field(rays, twist, upright @ normal)
    return SimulatedEvents(events, flow, twist, K, middle.view(rows, columns, 2))


def _texture(texture: str | Tensor, generator: torch.Generator) -> Tensor:
    """Return a picture ``(rows, columns)`` float64 with values from 0 to 1."""
    if isinstance(texture, Tensor):
        if texture.ndim != 2 or min(texture.shape) < 16:
            raise InputError(
                "a texture is a picture (rows, columns) of at least 16 pixels each way, got "
                f"{tuple(texture.shape)}"
            )
        return texture.detach().cpu().double()
    check_choice("simulate_textured_plane", ("clouds", "patches", "stripes"), texture=texture)
    n = _TEXELS
    if texture == "stripes":
        # Edges at random distances, across a random direction.
        widths = 4 + 12 * torch.rand(2 * n, generator=generator, dtype=torch.float64)
        values = torch.rand(2 * n, generator=generator, dtype=torch.float64)
        angle = 2 * torch.pi * torch.rand(1, generator=generator, dtype=torch.float64)
        place = torch.arange(n, dtype=torch.float64) - n / 2
        along = place * angle.cos() + (place * angle.sin())[:, None]
        return values[torch.searchsorted(widths.cumsum(0), along + 2 * n)]
    if texture == "patches":
        return _cells(n, generator)
    frequency = torch.fft.fftfreq(n, dtype=torch.float64)
    radius = (frequency[:, None] ** 2 + frequency[: n // 2 + 1] ** 2).sqrt().clamp_min(1 / n)
    noise = torch.fft.rfft2(torch.randn(n, n, generator=generator, dtype=torch.float64))
    # Amplitudes fall with the frequency, as in natural pictures, and without waves of 2 or 3 pixels.
    picture = torch.fft.irfft2(noise * torch.exp(-((4 * radius) ** 2)) / radius, s=(n, n))
    return (0.5 + 0.2 * picture / picture.std()).clamp(0, 1)


def _cells(side: int, generator: torch.Generator) -> Tensor:
    """Return cells of random brightness around jittered points, ``(side, side)``."""
    pitch = 16
    cells = side // pitch
    jitter = torch.rand(cells, cells, 2, generator=generator, dtype=torch.float64)
    value = torch.rand(cells, cells, generator=generator, dtype=torch.float64)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    nearest = torch.full((side, side), torch.inf, dtype=torch.float64)
    picture = torch.zeros(side, side, dtype=torch.float64)
    # The nearest point lies in one of the 25 cells around a pixel.
    for down in range(-2, 3):
        for across in range(-2, 3):
            i, j = (row // pitch + down) % cells, (column // pitch + across) % cells
            y = (row // pitch + down + jitter[i, j, 0]) * pitch - row
            x = (column // pitch + across + jitter[i, j, 1]) * pitch - column
            distance = x * x + y * y
            picture = torch.where(distance < nearest, value[i, j], picture)
            nearest = torch.minimum(distance, nearest)
    return picture


def _plane_in_camera(normal: Tensor, motion: Tensor) -> Tensor:
    """Return m with ``m . X = 1`` on the plane, for X in the camera after motions, ``(..., 3)``."""
    # n . R^T (X - p) = 1 means (R n) . X = 1 + (R n) . p.
    turned = motion[..., :3, :3] @ normal
    return turned / (1 + (turned * motion[..., :3, 3]).sum(-1, keepdim=True))


def _see_plane(
    brightness: Tensor, upright: Tensor, normal: Tensor, motion: Tensor, focal: float, columns: int
) -> Tensor:
    """Return the logarithm of the brightness at every pixel after a motion, ``(pixels,)``."""
    nearness = upright @ _plane_in_camera(normal, motion)
    points = upright / nearness[:, None] - motion[:3, 3]
    plane = (points @ motion[:3, :3])[:, :2]  # R^T (X - p), of which x and y are the texture's
    height, width = brightness.shape
    grid = 2 * focal * plane / torch.tensor([width, height])
    picture = torch.nn.functional.grid_sample(
        brightness[None, None],
        grid.view(1, -1, columns, 2),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return torch.log(_DARK + picture.flatten().clamp(0, 1))


def _crossings(
    logarithms: Iterable[Tensor], times: Tensor, thresholds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixel, time and sign of the events, in the order of time.

    The logarithm of the brightness is linear between two pictures.
    """
    level: Tensor | None = None
    before: Tensor | None = None
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    for k, after in enumerate(logarithms):
        if level is None or before is None:
            level, before = after.clone(), after
            continue
        change = ((after - level) / thresholds).trunc()
        repeats = change.abs().long()
        number = torch.arange(len(after)).repeat_interleave(repeats)
        sign = change.sign()[number]
        # The m-th event of a pixel in this step crosses the level m thresholds from its last one.
        starts = repeats.cumsum(0) - repeats
        m = torch.arange(len(number)) - starts[number] + 1
        crossing = level[number] + m * sign * thresholds[number]
        slope = (after - before)[number]
        # A level that rounding reaches late, at a constant brightness, has no slope.
        slope = torch.where(slope == 0, 1.0, slope)
        share = ((crossing - before[number]) / slope).clamp(0, 1)
        pieces.append((number, times[k - 1] + share * (times[k] - times[k - 1]), sign))
        level, before = level + change * thresholds, after
    number, at, sign = (torch.cat(column) for column in zip(*pieces))
    if len(at) < 2:
        raise InputError(
            "the plane makes fewer than two events; give a texture with more contrast, a longer "
            "travel, or a lower threshold"
        )
    order = at.argsort(stable=True)
    return number[order], at[order], sign[order]
