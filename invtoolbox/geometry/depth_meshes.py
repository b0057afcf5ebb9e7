"""Meshes of depth maps: one side, or the front and the back of an object joined at its outline."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.geometry.meshes import Mesh


def mesh_of_depth(
    depth: Tensor,
    mask: Tensor,
    intrinsics: Tensor | None = None,
    pixel_size: float = 1.0,
    stretch: float | None = None,
) -> Mesh:
    """Return the mesh of a depth map: a vertex per pixel, two triangles between four pixels.

    Triangles face the camera. Vertices are in its frame: x right, y down, z forward.

    Args:
        depth: depth along the axis of the camera, ``(rows, columns)``.
        mask: pixels of the surface, ``(rows, columns)``.
        intrinsics: matrix of a pinhole camera, with the centre of the first pixel at (0, 0);
            orthographic without it.
        pixel_size: size of a pixel of an orthographic camera.
        stretch: largest extent of a triangle in depth, in pixels; longer ones are left out. None
            keeps all.

    >>> mesh_of_depth(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
    Mesh(6 vertices, 4 faces)
    """
    vertices, number = _vertices(depth, mask, intrinsics, pixel_size)
    faces = _faces(mask, number)
    if stretch is not None:
        z = vertices[:, 2][faces]
        pixel: float | Tensor = pixel_size
        if intrinsics is not None:
            # One pixel of a pinhole covers the length z / f at the depth z.
            pixel = z.mean(1) / float(intrinsics[[0, 1], [0, 1]].mean())
        faces = faces[z.amax(1) - z.amin(1) <= stretch * pixel]
    return _without_loose(vertices, faces)


def mesh_of_sides(
    depth: Tensor, mask: Tensor, intrinsics: Tensor | None = None, pixel_size: float = 1.0
) -> Mesh:
    """Return the closed mesh of the front and the back of an object.

    Args:
        depth: depth of the front and of the back, ``(2, rows, columns)``.
        mask: as in `mesh_of_depth`.
        intrinsics: as in `mesh_of_depth`.
        pixel_size: as in `mesh_of_depth`.

    >>> depth = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    >>> mesh_of_sides(depth, torch.ones(2, 2, dtype=torch.bool))
    Mesh(8 vertices, 12 faces)
    """
    (front, number), (back, _) = (_vertices(d, mask, intrinsics, pixel_size) for d in depth)
    # The back has the same triangles in the opposite order of corners, so that they face away.
    count, front_faces = len(front), _faces(mask, number)
    back_faces = front_faces.flip(1) + count
    # The outline is the edges of one triangle; a wall of two triangles joins both sides there. An
    # edge of two triangles occurs once in each direction.
    edges = torch.cat([front_faces[:, [0, 1]], front_faces[:, [1, 2]], front_faces[:, [2, 0]]])
    key, reverse = edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0]
    a, b = edges[~torch.isin(key, reverse)].unbind(1)
    walls = torch.cat(
        [torch.stack([b, a, a + count], 1), torch.stack([b, a + count, b + count], 1)]
    )
    return _without_loose(torch.cat([front, back]), torch.cat([front_faces, back_faces, walls]))


def _vertices(
    depth: Tensor, mask: Tensor, intrinsics: Tensor | None, pixel_size: float
) -> tuple[Tensor, Tensor]:
    """Return the vertices of the pixels of a mask, and the number of each, ``(rows, columns)``."""
    row, column = mask.nonzero().unbind(1)
    z = depth[mask].double()
    if intrinsics is None:
        x, y = column.double() * pixel_size, row.double() * pixel_size
    else:
        # X = (u - cx) Z / fx and Y = (v - cy) Z / fy, with whole numbers u and v at pixel centres.
        K = intrinsics.double().to(z.device)
        x, y = (column - K[0, 2]) / K[0, 0] * z, (row - K[1, 2]) / K[1, 1] * z
    number = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
    number[mask] = torch.arange(len(z), device=mask.device)
    return torch.stack([x, y, z], 1), number


def _faces(mask: Tensor, number: Tensor) -> Tensor:
    """Return two triangles per square of four pixels inside of a mask."""
    # Corners a, b above c, d. The order a, c, b is counter-clockwise seen from the camera (y down).
    square = mask[:-1, :-1] & mask[:-1, 1:] & mask[1:, :-1] & mask[1:, 1:]
    a, b = number[:-1, :-1][square], number[:-1, 1:][square]
    c, d = number[1:, :-1][square], number[1:, 1:][square]
    return torch.cat([torch.stack([a, c, b], 1), torch.stack([b, c, d], 1)])


def _without_loose(vertices: Tensor, faces: Tensor) -> Mesh:
    """Return a mesh without the vertices that no triangle uses."""
    used, numbers = faces.unique(return_inverse=True)
    return Mesh(vertices[used], numbers.view_as(faces))
