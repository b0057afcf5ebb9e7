"""Gaussians that bend, and the cameras around them, with exact ground truth."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from invtoolbox.errors import check_name
from invtoolbox.geometry import Cameras, Splats, look_at

Bend = Literal["bend", "s-and-twist"]
#: Length, and the two widths of the bar.
SIZE = (4.0, 0.8, 0.8)


def bar(counts: tuple[int, int, int] = (16, 4, 4), seed: int = 0) -> Splats:
    """Create a bar of round Gaussians of random colors along x, around the origin.

    Args:
        counts: number of Gaussians along x, y and z.
        seed: seed of the colors.

    >>> bar()
    Splats of 1 scenes, 256 Gaussians each, degree 0
    """
    steps = [(torch.arange(n) + 0.5) / n - 0.5 for n in counts]
    points = torch.cartesian_prod(*steps) * torch.tensor(SIZE)
    colors = torch.rand(len(points), 3, generator=torch.Generator().manual_seed(seed))
    return Splats.of_points(points[None], colors[None], 0.11, 0.9)


def paint(points: Tensor, seed: int = 0) -> Splats:
    """Create round Gaussians at points of a surface, of colors that vary smoothly.

    Args:
        points: the points, ``(N, 3)``, at most a few neighbours apart.
        seed: seed of the colors.

    >>> paint(torch.rand(40, 3))
    Splats of 1 scenes, 40 Gaussians each, degree 0
    """
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, 24, generator=generator)
    phases = 2 * math.pi * torch.rand(24, generator=generator)
    mixture = torch.randn(24, 3, generator=generator) / 24**0.5
    size = (points.amax(0) - points.amin(0)).norm()
    # About three periods over the shape, so that a wrong place is a wrong color.
    phase = 3 * math.pi * (points / size) @ waves + phases
    between = torch.cdist(points, points).fill_diagonal_(torch.inf)
    radius = 0.8 * float(between.amin(1).mean())
    colors = (1.2 * phase.cos() @ mixture).sigmoid()
    return Splats.of_points(points[None], colors[None], radius, 0.95)


def bend(points: Tensor, motion: Bend, share: float) -> Tensor:
    """Compute the displacements of the points of the bar, ``(N, 3)``.

    The centre line of the bar keeps its length, and its cross-sections remain flat.

    Args:
        points: points of the bar at rest, ``(N, 3)``.
        motion: ``"bend"``, an arc of 100 degrees; or ``"s-and-twist"``, the shape of an S, a twist
            by 90 degrees and a shift.
        share: share of the motion, from 0 (rest) to 1 (its end).

    >>> bend(torch.zeros(1, 3), "s-and-twist", 1.0)
    tensor([[0.0000, 0.5000, 0.0000]])
    """
    check_name("motion of the bar", motion, get_args(Bend))
    arc = motion == "bend"

    def slope(along: Tensor) -> Tensor:
        """Compute the angle of the centre line."""
        return share * (1.75 * along if arc else 0.9 * torch.sin(2 * math.pi * along))

    along = points[:, 0] / SIZE[0]
    twist = share * (0.0 * along if arc else math.pi / 2 * (along + 0.5))
    # The cross-section turns about the centre line, which is the integral of its unit tangent.
    y = twist.cos() * points[:, 1] - twist.sin() * points[:, 2]
    z = twist.sin() * points[:, 1] + twist.cos() * points[:, 2]
    fine = slope(torch.linspace(-0.5, 0.5, 2001))
    line = torch.stack([fine.cos(), fine.sin()], 1).cumsum(0) * SIZE[0] / 2000
    place = (line - line[1000])[((along + 0.5) * 2000).round().long()]
    shift = 0.0 if arc else 0.5 * share
    angle = slope(along)
    bent = [place[:, 0] - angle.sin() * y, place[:, 1] + angle.cos() * y + shift, z]
    return torch.stack(bent, 1) - points


def cameras_around(count: int, size: tuple[int, int], height: float, first: float) -> Cameras:
    """Return cameras on a circle around the bar that look at its centre.

    Args:
        count: number of cameras.
        size: height and width of their pictures, pixels.
        height: y of the cameras; y points down.
        first: angle of the first camera, radians.
    """
    angle = first + torch.arange(count) * 2 * math.pi / count
    places = torch.stack([6 * angle.sin(), torch.full_like(angle, height), -6 * angle.cos()], 1)
    return look_at(places, size=size, field_of_view=55.0)
