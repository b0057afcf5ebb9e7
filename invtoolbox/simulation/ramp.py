"""Normals of a ramp whose sides are cliffs, with the exact depth."""

from __future__ import annotations

import torch
from torch import Tensor


def simulate_ramp(size: tuple[int, int] = (70, 96)) -> tuple[Tensor, Tensor]:
    """Return the normals of a ramp in front of a plane, and its depth.

    The ramp rises from the plane by half a pixel per row, so that the height of its cliffs is
    determined by the way around its end. Pixels next to a cliff have no normal that shows it.

    Args:
        size: rows and columns of the map.

    Returns:
        normals ``(rows, columns, 3)``, x to the right, y up, z towards the camera; and depth
        ``(rows, columns)`` in pixels, smaller in front.

    >>> normals, depth = simulate_ramp()
    >>> normals.shape, float(depth.amin())
    (torch.Size([70, 96, 3]), -19.5)
    """
    rows, columns = size
    v, u = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    top = round(0.43 * rows)
    on_ramp = (u - columns / 2).abs() < 0.19 * columns
    depth = torch.where(on_ramp, -0.5 * (v - top).clamp_min(0), 0.0)
    slope = torch.where(on_ramp & (v > top), -0.5, 0.0)
    normals = torch.stack([torch.zeros_like(slope), -slope, torch.ones_like(slope)], -1)
    return torch.nn.functional.normalize(normals, dim=-1), depth
