"""Balls and spots with known projections, for the tests of the 3D scans."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.operators.tomography.scan_3d import Scan3D

Point = tuple[float, float, float]


def turn(views: int, start: float = 0.1, length: float = 2 * math.pi) -> Tensor:
    return start + length * torch.arange(views, dtype=torch.float64) / views


def rays(A: Scan3D) -> tuple[Tensor, Tensor]:
    """A point and a direction of every ray, (V, R, C, 3), straight from what the documentation says of the vectors."""
    source, detector, u, v = (t[:, None, None] for t in A.vectors.detach().split(3, -1))
    rows, columns = A.detector_shape
    c = (torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2)[None, None, :, None]
    r = (torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2)[None, :, None, None]
    if A.parallel:
        cell = detector + c * u + r * v
        return cell, source.expand_as(cell)
    if A.curved:
        arm = detector - source
        radius, width = arm.norm(dim=-1, keepdim=True), u.norm(dim=-1, keepdim=True)
        angle = c * width / radius
        cell = source + angle.cos() * arm + angle.sin() * radius / width * u + r * v
    else:
        cell = detector + c * u + r * v
    return source.expand_as(cell), cell - source


def distance(A: Scan3D, centre: Point) -> Tensor:
    """How far every ray passes from a point, (V, R, C)."""
    start, direction = rays(A)
    away = torch.tensor(centre, dtype=torch.float64) - start
    return torch.linalg.cross(away, direction / direction.norm(dim=-1, keepdim=True)).norm(dim=-1)


def grid(A: Scan3D, supersampling: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and z of the voxels' centres (or of a finer grid), each (D, H, W) once broadcast."""
    z, y, x = (
        ((torch.arange(n * supersampling, dtype=torch.float64) + 0.5) / supersampling - n / 2)
        * size
        for n, size in zip(A.volume_shape, A.voxel_size)
    )
    return x, y[:, None], z[:, None, None]


def ball(A: Scan3D, centre: Point, radius: float, supersampling: int = 4) -> Tensor:
    """A ball of density 1, averaged over voxels, (1, 1, D, H, W)."""
    x, y, z = grid(A, supersampling)
    inside = (
        (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= radius**2
    ).double()
    depth, height, width = A.volume_shape
    n = supersampling
    return inside.reshape(depth, n, height, n, width, n).mean((1, 3, 5))[None, None]


def spot(A: Scan3D, centre: Point, width: float) -> Tensor:
    """A Gaussian of height 1 sampled at the voxels' centres, (1, 1, D, H, W)."""
    x, y, z = grid(A)
    return torch.exp(
        -((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * width**2)
    )[None, None]


def chords(A: Scan3D, centre: Point, radius: float) -> Tensor:
    """Line integrals of a ball, (1, 1, V, R, C)."""
    return (2 * (radius**2 - distance(A, centre).square()).clamp_min(0).sqrt())[None, None]


def bells(A: Scan3D, centre: Point, width: float) -> Tensor:
    """Line integrals of a Gaussian, (1, 1, V, R, C)."""
    return (
        (2 * math.pi) ** 0.5 * width * torch.exp(-distance(A, centre).square() / (2 * width**2))
    )[None, None]


def relative(a: Tensor, b: Tensor) -> float:
    return float(
        torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double())
    )


def interior(A: Scan3D, x: Tensor, centre: Point, radius: float) -> Tensor:
    """The values well inside a ball."""
    p, q, r = grid(A)
    far = ((p - centre[0]) ** 2 + (q - centre[1]) ** 2 + (r - centre[2]) ** 2).sqrt()
    return x[0, 0][far < radius - 4 * max(A.voxel_size)]
