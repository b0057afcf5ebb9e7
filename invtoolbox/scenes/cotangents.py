"""Edges of triangle meshes and their cotangent weights."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError

#: The least area of a triangle, in units of the square of its longest edge: below it, cotangents hold no digit of single precision.
_LEAST_AREA = 1e-10


def checked_mesh(vertices: Tensor, faces: Tensor) -> None:
    """Raise an `InputError` that says what is wrong with a mesh, and where."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not vertices.is_floating_point():
        raise InputError(
            f"the vertices of a mesh are floating-point numbers (N, 3), got {tuple(vertices.shape)} of {vertices.dtype}"
        )
    finite = vertices.isfinite().all(1)
    if not bool(finite.all()):
        raise InputError(
            f"{int((~finite).sum())} vertices of the mesh are NaN or infinite, "
            f"the first is number {int((~finite).nonzero()[0])}"
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise InputError(
            f"the faces of a mesh are whole numbers (F, 3), triangles, got {tuple(faces.shape)} of {faces.dtype}"
        )
    wrong = ((faces < 0) | (faces >= len(vertices))).any(1)
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise InputError(
            f"face {k} of the mesh names the vertices {faces[k].tolist()}, and there are 0..{len(vertices) - 1}"
        )
    if not len(faces):
        raise InputError(
            "the mesh has no faces; points without faces are deformed as points, without faces="
        )


def mesh_edges(faces: Tensor, count: int) -> Tensor:
    """Every edge once in each direction, ``(2, E)``, in the order of the vertices."""
    a, b, c = faces.long().unbind(1)
    i, j = torch.cat([a, b, b, c, c, a]), torch.cat([b, a, c, b, a, c])
    keys = (i * count + j)[i != j].unique()
    return torch.stack([keys // count, keys % count])


def cotangent_weights(vertices: Tensor, faces: Tensor, edges: Tensor) -> Tensor:
    """Half the sum of the cotangents that face each edge, ``(E,)``; computed in float64."""
    corners = vertices.double()[faces.long()]  # (F, 3, 3)
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(
        dim=1
    )  # twice it
    longest = (corners - corners.roll(1, dims=1)).square().sum(-1).amax(1)
    flat = area <= _LEAST_AREA * longest
    if bool(flat.any()):
        k = int(flat.nonzero()[0])
        raise InputError(
            f"{int(flat.sum())} triangles of the mesh have no area and so no cotangents, "
            f"the first is face {k} with the vertices {faces[k].tolist()}; remove them, or use weights='uniform'"
        )
    weights = vertices.new_zeros(edges.shape[1], dtype=torch.float64)
    count, keys = len(vertices), edges[0] * len(vertices) + edges[1]
    for k in range(3):
        one, two = (k + 1) % 3, (k + 2) % 3
        u, v = corners[:, one] - corners[:, k], corners[:, two] - corners[:, k]
        half = 0.5 * (u * v).sum(1) / area
        i, j = faces[:, one].long(), faces[:, two].long()
        for first, second in ((i, j), (j, i)):
            weights.index_add_(0, torch.searchsorted(keys, first * count + second), half)
    return weights.to(vertices.dtype)
