"""A street for the tests of preparation: ground, walls, poles and a car, seen by a sensor that moves."""

import math

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import inverse, part_of, rigid, rotation, transform


def motion(ahead: float = 0.5, left: float = 0.0, turn: float = 1.0) -> Tensor:
    """The pose of the sensor at the next sweep in its frame at this one; `turn` in degrees."""
    about = torch.tensor([0.0, 0.0, math.radians(turn)], dtype=torch.float64)
    return rigid(rotation(about), torch.tensor([ahead, left, 0.0], dtype=torch.float64))


def street(
    seed: int, step: float = 0.2, noise: float = 0.01, car: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Points of a street 1.7 m below the origin, drawn anew for each seed, and whether each is ground: float64 ``(N, 3)``, ``(N,)``.

    `car` moves a car of 1,500 points ahead. `step` is the spacing of the points.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(area: float) -> Tensor:
        return torch.rand(max(int(area / step**2), 1), 2, generator=generator, dtype=torch.float64)

    a = draw(60 * 20)
    parts = [
        torch.stack(
            [
                60 * a[:, 0] - 30,
                20 * a[:, 1] - 10,
                torch.full((len(a),), -1.7, dtype=torch.float64),
            ],
            dim=1,
        )
    ]
    ground = len(a)
    walls = (
        (-30.0, 10.0, 40.0, True),
        (-20.0, -10.0, 50.0, True),
        (30.0, -10.0, 20.0, False),
        (10.0, 12.0, 20.0, True),
    )
    for x, y, length, along in walls:
        a = draw(length * 6)
        u, z = length * a[:, 0], 6 * a[:, 1] - 1.7
        parts.append(torch.stack([x + u, y + 0 * u, z] if along else [x + 0 * u, y + u, z], dim=1))
    for k in range(8):
        a = draw(8)
        angle = 2 * math.pi * a[:, 0]
        parts.append(
            torch.stack(
                [
                    8.0 * k - 28 + 0.2 * angle.cos(),
                    (-1) ** k * 7 + 0.2 * angle.sin(),
                    5 * a[:, 1] - 1.7,
                ],
                dim=1,
            )
        )
    a = torch.rand(1500, 2, generator=generator, dtype=torch.float64)
    parts.append(
        torch.stack(
            [
                8 + 4 * a[:, 0] + car,
                torch.full((1500,), 3.0, dtype=torch.float64),
                1.4 * a[:, 1] - 1.4,
            ],
            dim=1,
        )
    )
    points = torch.cat(parts)
    points = points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return points, torch.arange(len(points)) < ground


def seen_while_moving(points: Tensor, travel: Tensor, share: Tensor) -> Tensor:
    """What a sensor that travels evenly measures of points that stand still, each at its own share of the way."""
    return transform(inverse(part_of(travel, share)), points[:, None]).squeeze(1)
