"""Discs and spots with a known sinogram, for the tests of the 2D scans."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.operators.tomography.scan_2d import Scan2D


def disc(A: Scan2D, centre: tuple[float, float], radius: float, supersampling: int = 8) -> Tensor:
    """A disc of density 1 at ``centre`` (x to the right, y upwards), averaged over pixels, (1, 1, H, W)."""
    (height, width), (size_y, size_x), n = A.image_shape, A.pixel_size, supersampling
    rows = (torch.arange(height * n, dtype=torch.float64) + 0.5) / n - height / 2
    columns = (torch.arange(width * n, dtype=torch.float64) + 0.5) / n - width / 2
    x, y = columns * size_x, -rows * size_y
    inside = ((x[None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 <= radius**2).double()
    return inside.reshape(height, n, width, n).mean((1, 3))[None, None]


def spot(A: Scan2D, centre: tuple[float, float], width: float) -> Tensor:
    """A Gaussian of height 1 and standard deviation ``width`` at ``centre``, sampled at the pixel centres."""
    (height, across), (size_y, size_x) = A.image_shape, A.pixel_size
    x = (torch.arange(across, dtype=torch.float64) - (across - 1) / 2) * size_x - centre[0]
    y = -(torch.arange(height, dtype=torch.float64) - (height - 1) / 2) * size_y - centre[1]
    return torch.exp(-(x[None] ** 2 + y[:, None] ** 2) / (2 * width**2))[None, None]


def parallel_distance(angles: Tensor, s: Tensor, centre: tuple[float, float]) -> Tensor:
    """How far the ray at s passes from a point: |s - x cos t - y sin t|, (V, D)."""
    return (s - (centre[0] * angles.cos() + centre[1] * angles.sin())[:, None]).abs()


def fan_distance(
    angles: Tensor, gamma: Tensor, source_origin: float, centre: tuple[float, float]
) -> Tensor:
    """The same for a fan: from the source, the point is seen at some fan angle and distance."""
    dx = centre[0] - source_origin * angles.sin()
    dy = centre[1] + source_origin * angles.cos()
    along, across = -dx * angles.sin() + dy * angles.cos(), dx * angles.cos() + dy * angles.sin()
    return (
        torch.hypot(dx, dy)[:, None] * (gamma - torch.atan2(across, along)[:, None]).sin()
    ).abs()


def chords(distance: Tensor, radius: float) -> Tensor:
    """Line integrals of a disc."""
    return 2 * (radius**2 - distance**2).clamp_min(0).sqrt()


def bells(distance: Tensor, width: float) -> Tensor:
    """Line integrals of a Gaussian."""
    return (2 * math.pi) ** 0.5 * width * torch.exp(-(distance**2) / (2 * width**2))


def cells(detectors: int, spacing: float, shift: float) -> Tensor:
    return (torch.arange(detectors, dtype=torch.float64) - (detectors - 1) / 2) * spacing + shift


def relative(a: Tensor, b: Tensor) -> float:
    return float(
        torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double())
    )


def blob(height: int, width: int) -> Tensor:
    """Two smooth blobs, off centre, (H, W) float32."""
    y, x = torch.meshgrid(
        torch.arange(height) - 0.4 * height, torch.arange(width) - 0.6 * width, indexing="ij"
    )
    scale = max(height, width) / 12
    far = torch.exp(-((x + 3 * scale) ** 2 / 2 + (y - 2 * scale) ** 2 * 1.5) / (2 * scale**2))
    return torch.exp(-(x**2 + y**2) / (2 * scale**2)) + 0.5 * far


def turn(views: int, start: float = 0.03, length: float = 2 * math.pi) -> Tensor:
    return start + length * torch.arange(views, dtype=torch.float64) / views
