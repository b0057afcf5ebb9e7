"""Two pictures of a ring that contracts and twists like a heart, with the exact displacement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, grid_sample


class BeatingRing(NamedTuple):
    """Pictures of a ring before and after its motion.

    Attributes:
        moving: picture before, ``(1, 1, size, size)``.
        fixed: picture after, ``fixed(p) = moving(p + u(p))``.
        displacement: the motion u in pixels, ``(1, 2, size, size)``.
        inside: pixels of the ring and of its inside, ``(size, size)``.
    """

    moving: Tensor
    fixed: Tensor
    displacement: Tensor
    inside: Tensor


def simulate_ring(seed: int = 0, noise_std: float = 0.03, size: int = 96) -> BeatingRing:
    """Simulate two pictures of a textured ring that contracts by 20 % and twists.

    Args:
        seed: seed of texture and noise.
        noise_std: standard deviation of the noise of both pictures.
        size: number of rows and columns.

    >>> simulate_ring().moving.shape
    torch.Size([1, 1, 96, 96])
    """
    generator = Generator().manual_seed(seed)
    axis = torch.arange(float(size)) - size // 2
    row, column = torch.meshgrid(axis, axis, indexing="ij")
    noise = torch.randn(1, 1, size + 4, size + 4, generator=generator)
    texture = avg_pool2d(noise, 5, 1)

    def picture(row: Tensor, column: Tensor) -> Tensor:
        """Return the ring at places relative to its centre, (1, 1, size, size)."""
        radius = torch.hypot(row, column) * 96 / size
        ring = torch.sigmoid(radius - 10) * torch.sigmoid(22 - radius)
        places = torch.stack([column, row], -1)[None] + size // 2
        grain = grid_sample(
            texture, 2 * places / (size - 1) - 1, "bicubic", "border", align_corners=True
        )
        return 0.45 + 0.55 * torch.sigmoid(10 - radius) - 0.25 * ring + 0.3 * grain

    # u turns by 0.1 and grows by 0.2 per pixel of radius; it fades before the border.
    radius = torch.hypot(row, column) * 96 / size
    fade = torch.exp(-((radius / 34) ** 4))
    u = torch.stack([0.2 * row - 0.1 * column, 0.2 * column + 0.1 * row])[None] * fade
    before, after = picture(row, column), picture(row + u[0, 0], column + u[0, 1])
    moving, fixed = (
        x + noise_std * torch.randn(x.shape, generator=generator) for x in (before, after)
    )
    return BeatingRing(moving, fixed, u, radius < 24)
