"""Triangle meshes and point clouds, their edges and cotangent weights, and their conversion.

`Mesh` is the toolbox's own mesh. `Body` and `points_of` read the objects of trimesh, Open3D and
PyTorch3D, and `Body.rebuild` converts results back to them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import trimesh
from invtoolbox.core.guards import as_tensor
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError


@dataclass(frozen=True, eq=False)
class Mesh(Settings):
    """Triangle mesh, of tensors or of arrays, which become tensors.

    Attributes:
        vertices: positions of the vertices, ``(N, 3)``, finite.
        faces: numbers of the vertices of each face, ``(F, 3)``.
        colors: colors of the vertices, in [0, 1], ``(N, 3)``, or None.
        uv: place ``(u, v)`` of each vertex in the texture, ``(N, 2)``, or None; (0, 0) is the lower
            left corner of the texture, and (1, 1) the upper right one.
        texture: picture on the faces, in [0, 1], ``(3, height, width)``, or None.

    Raises:
        InputError: if a vertex or a face is invalid; the message names it.

    >>> Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    Mesh(3 vertices, 1 faces)
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("vertices", "faces", "colors", "uv", "texture"):
            value: Any = getattr(self, name)
            if isinstance(value, np.ndarray):
                tensor = as_tensor(value)
                object.__setattr__(
                    self,
                    name,
                    tensor.long() if name == "faces" and value.dtype.kind in "iu" else tensor,
                )
        check_mesh(self.vertices, self.faces)
        if self.texture is not None and (
            self.texture.ndim != 3
            or len(self.texture) != 3
            or self.uv is None
            or tuple(self.uv.shape) != (len(self.vertices), 2)
        ):
            raise InputError(
                f"a texture is a picture (3, height, width), got {tuple(self.texture.shape)}, and "
                f"needs uv ({len(self.vertices)}, 2), one place per vertex"
            )
        if self.colors is not None and tuple(self.colors.shape) != tuple(self.vertices.shape):
            raise InputError(
                f"a mesh of {len(self.vertices)} vertices needs as many colors, got "
                f"{tuple(self.colors.shape)}"
            )

    @classmethod
    def of(cls, shape: Any) -> Mesh:
        """Create a mesh from an object of trimesh, Open3D, PyTorch3D, or ``(vertices, faces)``.

        The colors of the vertices are kept.
        """
        if isinstance(shape, Mesh):
            return shape
        body = Body.of(shape)
        if body.faces is None or len(body.points) != 1:
            content = "points without faces" if body.faces is None else f"{len(body.points)} meshes"
            raise InputError(f"one mesh is needed, but {type(shape).__name__} holds {content}")
        return cls(body.points[0], body.faces, points_of(shape)[1])

    def to_trimesh(self) -> Any:
        """Return a `trimesh.Trimesh` with the same vertices in the same order.

        It has the texture if there is one, otherwise the colors. Needs the extra ``[3d]``.
        """
        if self.texture is not None and self.uv is not None:
            package = trimesh().visual
            matt = package.material.PBRMaterial(
                baseColorTexture=texture_picture(self.texture),
                metallicFactor=0.0,
                roughnessFactor=1.0,
            )
            visual = package.TextureVisuals(self.uv.detach().double().cpu().numpy(), matt)
            return trimesh().Trimesh(
                self.vertices.detach().cpu().numpy(),
                self.faces.cpu().numpy(),
                visual=visual,
                process=False,
            )
        # Colors of trimesh are bytes.
        tints = (
            None
            if self.colors is None
            else (self.colors.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
        )
        return trimesh().Trimesh(
            self.vertices.detach().cpu().numpy(),
            self.faces.cpu().numpy(),
            vertex_colors=tints,
            process=False,
        )

    def with_vertices(self, vertices: Tensor) -> Mesh:
        """Return a mesh of the same faces with other vertices."""
        return replace(self, vertices=vertices)

    def __repr__(self) -> str:
        return f"Mesh({len(self.vertices)} vertices, {len(self.faces)} faces)"


def texture_picture(texture: Tensor) -> Any:
    """Return a texture ``(3, height, width)`` as a picture of Pillow, 8 bits per channel."""
    from PIL import Image

    levels = (texture.detach().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class Body:
    """Points, the faces between them, and a function that rebuilds the object they come from.

    Attributes:
        points: points, ``(batch, N, 3)``.
        faces: numbers of the vertices of each face, ``(F, 3)``, or None.
        rebuild: function that creates an object like the first one from other points.
    """

    points: Tensor
    faces: Tensor | None
    rebuild: Callable[[Tensor], Any]

    @classmethod
    def of(cls, shape: Any) -> Body:
        """Read points and faces from an object.

        The object is a `Mesh`, ``(vertices, faces)``, points ``(N, 3)`` or ``(batch, N, 3)`` as a
        tensor or an array, or an object of trimesh (`Trimesh`, `PointCloud`), Open3D
        (`TriangleMesh`, `PointCloud`, also those of tensors) or PyTorch3D (`Meshes`,
        `Pointclouds`) or PyVista (`PolyData`), or any object with the attributes of Open3D:
        ``points``, or ``vertices`` and ``triangles``.
        """
        if isinstance(shape, Mesh):
            return cls(
                shape.vertices[None], shape.faces, lambda points: shape.with_vertices(points[0])
            )
        if isinstance(shape, (tuple, list)) and len(shape) == 2:
            body = cls.of(shape[0])
            kind: Any = type(shape)
            return cls(
                body.points,
                _whole(shape[1]).to(body.points.device),
                lambda points: kind((body.rebuild(points), shape[1])),
            )
        if isinstance(shape, (Tensor, np.ndarray)):
            return _of_array(shape)
        if hasattr(shape, "geometry") and hasattr(shape, "to_mesh"):  # a scene of trimesh
            raise InputError(
                f"a {type(shape).__name__} holds {len(shape.geometry)} meshes; give one of "
                "scene.geometry.values(), or all as one mesh, scene.to_mesh()"
            )
        package = type(shape).__module__.split(".")[0]
        reader = {"trimesh": _of_trimesh, "open3d": _of_open3d, "pytorch3d": _of_pytorch3d}.get(
            package
        )
        if reader is None and hasattr(shape, "points") and hasattr(shape, "n_points"):
            reader = _of_pyvista
        if reader is None and hasattr(shape, "verts_list"):
            reader = _of_pytorch3d
        if reader is None and is_cloud(shape):
            reader = _of_open3d
        if isinstance(shape, (str, PurePath)):
            raise InputError(
                f"a mesh or points are expected, got the text {str(shape)!r}; "
                "it.datasets.read_mesh(path) reads the mesh of a file"
            )
        if reader is None:
            raise InputError(
                "a mesh or points are a Mesh, (vertices, faces), points (N, 3), or an object of "
                f"trimesh, Open3D or PyTorch3D, got {type(shape).__name__}"
            )
        return reader(shape)


def is_cloud(shape: Any) -> bool:
    """Return whether an object is a cloud or a mesh of another package.

    These are the objects of trimesh, Open3D and PyTorch3D, and objects with the attributes of
    Open3D: ``points``, or ``vertices`` and ``triangles``.
    """
    package = type(shape).__module__.split(".")[0]
    return package in ("trimesh", "open3d", "pytorch3d") or (
        hasattr(shape, "points") or (hasattr(shape, "vertices") and hasattr(shape, "triangles"))
    )


def points_of(shape: Any) -> tuple[Tensor, Tensor | None]:
    """Read the points ``(N, 3)`` and, if any, the colors in [0, 1] ``(N, 3)`` of a cloud or a mesh.

    `Body.of` lists the supported objects. Colors are the colors of the points of Open3D and
    trimesh, and the first three features of PyTorch3D's clouds.

    Raises:
        InputError: if the object is not supported, or holds several clouds.

    >>> points_of([[0.0, 0.0, 1.0]])
    Traceback (most recent call last):
    invtoolbox.errors.InputError: a mesh or points are ...
    """
    if isinstance(shape, Mesh):
        return shape.vertices, shape.colors
    body = Body.of(shape)
    if len(body.points) != 1:
        raise InputError(
            f"one cloud is needed, but {type(shape).__name__} holds {len(body.points)}; take them "
            "one by one"
        )
    points = body.points[0]
    colors = _colors_of(shape)
    return points, colors if colors is not None and colors.shape == points.shape else None


#: Smallest area of a triangle, in units of half the square of its longest edge; below it,
#: cotangents have no correct digit in single precision.
_LEAST_AREA = 1e-10


def check_mesh(vertices: Tensor, faces: Tensor) -> None:
    """Raise an `InputError` that names the error of a mesh and its place, if there is one."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not vertices.is_floating_point():
        raise InputError(
            "the vertices of a mesh must be floating-point numbers (N, 3), got "
            f"{tuple(vertices.shape)} of {vertices.dtype}"
        )
    finite = vertices.isfinite().all(1)
    if not bool(finite.all()):
        raise InputError(
            f"{int((~finite).sum())} vertices of the mesh are NaN or infinite, "
            f"the first is number {int((~finite).nonzero()[0])}"
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise InputError(
            "the faces of a mesh must be whole numbers (F, 3), triangles, got "
            f"{tuple(faces.shape)} of {faces.dtype}"
            + (
                "; split a quad into faces[:, :3] and faces[:, [0, 2, 3]]"
                * (faces.shape[-1:] == (4,))
            )
        )
    wrong = ((faces < 0) | (faces >= len(vertices))).any(1)
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise InputError(
            f"face {k} of the mesh names the vertices {faces[k].tolist()}, but the vertices are "
            f"numbered 0..{len(vertices) - 1}"
        )
    if not len(faces):
        raise InputError(
            "the mesh has no faces; points without faces are deformed as points, without faces="
        )


def mesh_edges(faces: Tensor, count: int) -> Tensor:
    """Return every edge once in each direction, ``(2, E)``, in the order of the vertices."""
    # The key i count + j orders edges by the first vertex, then by the second one.
    a, b, c = faces.long().unbind(1)
    i, j = torch.cat([a, b, b, c, c, a]), torch.cat([b, a, c, b, a, c])
    keys = (i * count + j)[i != j].unique()
    return torch.stack([keys // count, keys % count])


def half_cotangents(vertices: Tensor, faces: Tensor) -> Tensor:
    """Compute half the cotangent of the angle at each corner, ``(F, 3)``, in float64.

    A triangle without area has no cotangents. It counts as an equilateral one, which keeps the
    lengths of its edges.
    """
    corners = vertices.double()[faces.long()]  # (F, 3, 3)
    u, v = corners.roll(-1, 1) - corners, corners.roll(-2, 1) - corners
    # Between edges u and v, cot = u . v / |u x v|, and |u x v| is twice the area.
    area = torch.linalg.cross(u[:, 0], v[:, 0]).norm(dim=1, keepdim=True)
    # The square of the longest edge has the unit of an area, so the test does not depend on the unit.
    flat = area <= _LEAST_AREA * u.square().sum(-1).amax(1, keepdim=True)
    return torch.where(flat, 0.5 / 3**0.5, 0.5 * (u * v).sum(-1) / area)


def cotangent_weights(vertices: Tensor, faces: Tensor, edges: Tensor) -> Tensor:
    """Compute half the sum of the cotangents opposite to each edge, ``(E,)``."""
    weights = vertices.new_zeros(edges.shape[1], dtype=torch.float64)
    count, keys = len(vertices), edges[0] * len(vertices) + edges[1]
    # w_ij = (cot alpha + cot beta) / 2 over the angles opposite to the edge (Pinkall and Polthier
    # 1993).
    half = half_cotangents(vertices, faces).T.flatten()
    i, j = (faces.long().roll(-k, 1).T.flatten() for k in (1, 2))
    proper = i != j  # a triangle may name a vertex twice
    half, i, j = half[proper], i[proper], j[proper]
    for first, second in ((i, j), (j, i)):
        weights.index_add_(0, torch.searchsorted(keys, first * count + second), half)
    return weights.to(vertices.dtype)


def _colors_of(shape: Any) -> Tensor | None:
    package = type(shape).__module__.split(".")[0]
    if package == "pytorch3d":
        features = shape.features_list() if hasattr(shape, "features_list") else None
        return features[0][:, :3].float() if features else None
    if package == "trimesh":
        stored = getattr(shape, "colors", None)
        if stored is None and getattr(getattr(shape, "visual", None), "kind", None) == "vertex":
            stored = shape.visual.vertex_colors
    elif package == "open3d":
        table = getattr(shape, "vertex", getattr(shape, "point", None))
        if table is not None:
            stored = table.colors.cpu().numpy() if "colors" in table else None
        else:
            stored = np.asarray(getattr(shape, "colors", getattr(shape, "vertex_colors", None)))
    else:
        return None
    if stored is None or np.ndim(stored) != 2 or np.shape(stored)[1] < 3:
        return None
    # trimesh stores bytes with an alpha, Open3D numbers from 0 to 1.
    tints = np.asarray(stored)[:, :3]
    return torch.from_numpy(
        tints / 255.0 if tints.dtype == np.uint8 else tints.astype(np.float64)
    ).float()


def _of_array(shape: Tensor | np.ndarray) -> Body:
    points = shape if isinstance(shape, Tensor) else torch.from_numpy(np.ascontiguousarray(shape))
    if points.ndim not in (2, 3) or points.shape[-1] != 3:
        raise InputError(
            f"points must have the shape (N, 3) or (batch, N, 3), got {tuple(points.shape)}"
        )
    # Whole numbers as coordinates become float64; `rebuild` returns the kind that came in.
    points = points if points.is_floating_point() else points.double()
    single = points.ndim == 2

    def rebuild(positions: Tensor) -> Any:
        tensor = (positions[0] if single else positions).to(points)
        return tensor if isinstance(shape, Tensor) else tensor.cpu().numpy()

    return Body(points[None] if single else points, None, rebuild)


def _of_trimesh(shape: Any) -> Body:
    # A copy: the arrays of trimesh are tracked, and must not share memory with a tensor.
    points = torch.from_numpy(np.array(shape.vertices, dtype=np.float64))

    def rebuild(positions: Tensor) -> Any:
        copied = shape.copy()
        copied.vertices = positions[0].cpu().numpy()
        return copied

    return Body(
        points[None], _whole(np.asarray(shape.faces)) if hasattr(shape, "faces") else None, rebuild
    )


def _of_open3d(shape: Any) -> Body:
    # Open3D has two families: tables of tensors (vertex, point), and plain arrays below.
    if hasattr(shape, "vertex") or hasattr(shape, "point"):  # the geometries of tensors
        table = shape.vertex if hasattr(shape, "vertex") else shape.point
        points = torch.from_numpy(table.positions.cpu().numpy().copy())
        faces = _whole(shape.triangle.indices.cpu().numpy()) if hasattr(shape, "vertex") else None

        def rebuild(positions: Tensor) -> Any:
            copied = shape.clone()
            target = copied.vertex if hasattr(shape, "vertex") else copied.point
            target.positions = type(table.positions)(positions[0].to(points).cpu().numpy())
            return copied

        return Body(points[None], faces, rebuild)
    name = "vertices" if hasattr(shape, "triangles") else "points"
    points = torch.from_numpy(np.array(getattr(shape, name), dtype=np.float64))

    def rebuild_legacy(positions: Tensor) -> Any:
        copied = copy.deepcopy(shape)
        setattr(copied, name, type(getattr(shape, name))(positions[0].double().cpu().numpy()))
        return copied

    return Body(
        points[None],
        _whole(np.asarray(shape.triangles)) if name == "vertices" else None,
        rebuild_legacy,
    )


def _of_pyvista(shape: Any) -> Body:
    points = torch.from_numpy(np.array(shape.points, dtype=np.float64))
    # Every face is its number of corners and their numbers; a cloud has faces of one corner or none.
    listed = np.asarray(getattr(shape, "faces", ())).ravel()
    is_triangles = len(listed) % 4 == 0 and bool((listed[::4] == 3).all())
    if len(listed) and not is_triangles:
        raise InputError(
            f"the faces of this {type(shape).__name__} are not all triangles; give "
            "mesh.triangulate()"
        )

    def rebuild(positions: Tensor) -> Any:
        copied = copy.deepcopy(shape)
        copied.points = positions[0].cpu().numpy()
        return copied

    faces = _whole(listed.reshape(-1, 4)[:, 1:]) if len(listed) else None
    return Body(points[None], faces, rebuild)


def _of_pytorch3d(shape: Any) -> Body:
    is_mesh = hasattr(shape, "verts_list")
    clouds = shape.verts_list() if is_mesh else shape.points_list()
    faces = shape.faces_list() if is_mesh else None
    alike = all(len(cloud) == len(clouds[0]) for cloud in clouds) and (
        faces is None or all(torch.equal(f, faces[0]) for f in faces)
    )
    if not alike:
        raise InputError(
            f"the {len(clouds)} items of this {type(shape).__name__} have different vertices or "
            "faces; take them one by one, shape[k]"
        )

    def rebuild(positions: Tensor) -> Any:
        padded = positions.to(clouds[0])
        return (shape if is_mesh else shape.clone()).update_padded(padded)

    return Body(torch.stack(list(clouds)), None if faces is None else faces[0], rebuild)


def _whole(faces: Any) -> Tensor:
    numbers = faces if isinstance(faces, Tensor) else torch.from_numpy(np.ascontiguousarray(faces))
    if numbers.is_floating_point():
        raise InputError(f"faces must be whole numbers, got {numbers.dtype}")
    return numbers.long()
