"""Readers and writers of meshes.

OBJ and OFF are read and written here, with vertices in the order of the file. PLY, glTF, STL and
other formats go through trimesh.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import decoding, open_arrays, reading, require_file, require_keys
from invtoolbox.core.environment import trimesh
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.output import Written, write_bytes
from invtoolbox.errors import InputError
from invtoolbox.geometry.meshes import Mesh, texture_picture

_LINES = re.MULTILINE | re.DOTALL
# Vertices, faces and the colors of the vertices.
_Contents = tuple[np.ndarray, np.ndarray, torch.Tensor | None]
#: Formats that `read_mesh` and `write_mesh` support through trimesh.
_THROUGH_TRIMESH = (".ply", ".glb", ".gltf", ".stl", ".3mf", ".dae")
#: Formats that `write_mesh` writes.
SUFFIXES = (".obj", ".off", *_THROUGH_TRIMESH)


def read_mesh(path: str | Path, frame: int = 0) -> Mesh:
    """Read the mesh of a file, with its vertices in the order of the file.

    All parts of a glTF scene become one mesh. The colors of vertices are read if the file has them;
    textures are not read. Faces with more than three corners are cut into fans. Corners of an STL
    file at one place become one vertex. Vertices are float64.

    Args:
        path: path of the file. Its ending selects the format: ``.obj``, ``.off``, ``.ply``,
            ``.glb``, ``.gltf``, ``.stl``, ``.3mf``, ``.dae``, or ``.npz``. An ``.npz`` archive has
            the arrays ``vertices``, ``(N, 3)`` or ``(T, N, 3)`` for a moving mesh, and ``faces``.
        frame: frame of a moving mesh.

    Raises:
        InputError: if the file or the frame does not exist, the format is not known, or a line
            cannot be read (the error names the line).
        MissingDependency: if the format needs trimesh, which is not installed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "triangle.obj"
    >>> _ = write_mesh(file, Mesh(torch.eye(3), torch.tensor([[0, 1, 2]])))
    >>> read_mesh(file)
    Mesh(3 vertices, 1 faces)
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no mesh {file}; check the path")
    kind = file.suffix.lower()
    readers: dict[str, Callable[[Path], _Contents]] = {
        ".obj": _read_obj,
        ".off": _read_off,
        ".npz": lambda file: _read_npz(file, frame),
        **dict.fromkeys(_THROUGH_TRIMESH, _read_through_trimesh),
    }
    if frame != 0 and kind != ".npz":
        raise InputError(
            f"{file} holds one mesh and has no frame {frame}; a moving mesh is an .npz"
        )
    if kind not in readers:
        raise InputError(f"{file}: the format of meshes is not known; use {', '.join(readers)}")
    with decoding(file, kind[1:].upper()):
        vertices, faces, colors = readers[kind](file)
        if not len(faces):
            raise InputError(f"{file} holds no faces; give a file of a mesh")
        return Mesh(torch.from_numpy(np.array(vertices)), torch.from_numpy(np.array(faces)), colors)


def write_mesh(path: str | Path, mesh: Any, overwrite: bool = False) -> Written:
    """Write a mesh.

    The ending of the name selects OBJ, OFF, or a format of trimesh. A texture is written into GLB
    and glTF, and next to an OBJ as ``.mtl`` and ``.png``. Without a texture, and in PLY, the colors
    of the vertices are written; in OBJ they are three more numbers per vertex.

    Args:
        path: path of the file.
        mesh: a `geometry.meshes.Mesh`, ``(vertices, faces)``, or an object of trimesh, Open3D or
            PyTorch3D.
        overwrite: replace an existing file.

    Raises:
        InputError: the format is not known, or the file exists or cannot be written.
    """
    file = Path(path).expanduser()
    mesh = Mesh.of(mesh)
    vertices, faces = mesh.vertices.detach().double().cpu().numpy(), mesh.faces.cpu().numpy()
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise InputError(
            f"{file}: the format of meshes is not known; use .obj, .off, "
            f"{', '.join(_THROUGH_TRIMESH)}"
        )
    if mesh.texture is not None and kind not in (".obj", ".glb", ".gltf"):
        mesh = replace(mesh, uv=None, texture=None)
    if kind in _THROUGH_TRIMESH:
        options = {"embed_buffers": True} if kind == ".gltf" else {}
        content = mesh.to_trimesh().export(file_type=kind[1:], **options)
        if isinstance(content, dict):  # the only file of a glTF with embedded buffers
            (content,) = content.values()
        content = content.encode() if isinstance(content, str) else content
        return Written(write_bytes(file, content, overwrite))
    if mesh.texture is not None:
        return Written(_write_textured_obj(file, mesh, overwrite))
    if kind == ".obj":
        rows = vertices
        if mesh.colors is not None:
            rows = np.concatenate([vertices, mesh.colors.detach().double().cpu().numpy()], 1)
        lines = ["v " + " ".join(f"{value:.17g}" for value in row) for row in rows] + [
            f"f {a} {b} {c}" for a, b, c in faces + 1
        ]
    else:
        lines = [
            "OFF",
            f"{len(vertices)} {len(faces)} 0",
            *(f"{x:.17g} {y:.17g} {z:.17g}" for x, y, z in vertices),
            *(f"3 {a} {b} {c}" for a, b, c in faces),
        ]
    return Written(write_bytes(file, ("\n".join(lines) + "\n").encode("ascii"), overwrite))


def _write_textured_obj(file: Path, mesh: Mesh, overwrite: bool) -> Path:
    """Write a mesh with its texture as OBJ, and the ``.mtl`` and the ``.png`` next to it."""
    assert mesh.texture is not None and mesh.uv is not None
    buffer, material, picture = io.BytesIO(), file.with_suffix(".mtl"), file.with_suffix(".png")
    taken = [place for place in (file, material, picture) if place.exists()]
    if taken and not overwrite:
        raise InputError(f"{taken[0]} exists; choose another name, or pass overwrite=True")
    texture_picture(mesh.texture).save(buffer, "PNG")
    numbers = (t.detach().double().cpu().tolist() for t in (mesh.vertices, mesh.uv))
    lines = [f"mtllib {material.name}", "usemtl texture"]
    for word, rows in zip(("v", "vt"), numbers):
        lines += [" ".join([word, *(f"{number:.17g}" for number in row)]) for row in rows]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (mesh.faces + 1).tolist()]
    words = f"newmtl texture\nKd 1 1 1\nillum 1\nmap_Kd {picture.name}\n"
    write_bytes(picture, buffer.getvalue(), overwrite)
    write_bytes(material, words.encode(), overwrite)
    return write_bytes(file, ("\n".join(lines) + "\n").encode(), overwrite)


def read_dmat(path: str | Path) -> torch.Tensor:
    """Read a matrix ``(rows, columns)`` of libigl's text format, float64.

    The file has the numbers of columns and rows, then the values column by column.
    """
    with reading(path, "dmat") as file:
        words = file.read_text(encoding="ascii").split()
        columns, rows = int(words[0]), int(words[1])
        values = np.array(words[2:], dtype=np.float64)
        return torch.from_numpy(values.reshape(columns, rows).T.copy())


def _read_npz(file: Path, frame: int) -> _Contents:
    with open_arrays(file) as arrays:
        names = ("vertices", "faces")
        require_keys(f"{file}: the archive of a mesh lacks", names, arrays, "save both arrays")
        vertices, faces = (
            np.asarray(arrays["vertices"], dtype=np.float64),
            np.asarray(arrays["faces"], dtype=np.int64),
        )
    frames = vertices[None] if vertices.ndim == 2 else vertices
    if frames.ndim != 3 or frames.shape[-1] != 3 or not -len(frames) <= frame < len(frames):
        raise InputError(
            f"{file} holds vertices {vertices.shape} and has no frame {frame}; give an index below "
            "the number of frames"
        )
    return frames[frame], faces, None


def _read_off(file: Path) -> _Contents:
    lines = [
        line.split("#")[0].split()
        for line in file.read_text(encoding="ascii", errors="replace").splitlines()
    ]
    lines = [words for words in lines if words]
    letters = lines[0][0].removesuffix("OFF")
    if not lines[0][0].endswith("OFF") or letters not in ("", "C", "N", "CN", "NC"):
        raise InputError(f"{file} does not begin with OFF; give a file in this format")
    start = lines[0][1:] or lines[1]
    body = lines[1:] if lines[0][1:] else lines[2:]
    n, f = int(start[0]), int(start[1])
    if len(body) < n + f:
        raise InputError(
            f"{file} declares {n} vertices and {f} faces, but has only {len(body)} lines of them; "
            "export it again"
        )
    vertices = np.array([words[:3] for words in body[:n]], dtype=np.float64)
    polygons = [[int(k) for k in words[1 : 1 + int(words[0])]] for words in body[n : n + f]]
    if any(len(p) != int(words[0]) for p, words in zip(polygons, body[n:])):
        raise InputError(f"{file} has a face with too few corners; export it again")
    colors = None
    place = 6 if "N" in letters else 3
    tints = [words[place : place + 3] for words in body[:n]]
    if "C" in letters and all(len(row) == 3 for row in tints):  # numbers to 255, or to 1
        colors = torch.tensor(np.array(tints, dtype=np.float32).reshape(-1, 3))
        colors = colors / 255 if all("." not in word for row in tints for word in row) else colors
    return vertices, _triangles(polygons), colors


def _read_through_trimesh(file: Path) -> _Contents:
    package = trimesh()
    if file.suffix.lower() == ".glb":
        _check_chunks(file)
    kind, options = file.suffix.lower(), {}
    content = file.read_bytes() if kind == ".ply" else b""
    # trimesh does not read a single face in text, and a textured one twice.
    is_single = re.match(rb"ply\s+format ascii.*?^element face 1\s", content, _LINES) is not None
    if is_single:
        content = re.sub(
            rb"^element face 1(?=\s)", b"element face 2", content, count=1, flags=_LINES
        )
        content += content.rstrip().rpartition(b"\n")[2] + b"\n"
    if kind == ".ply":  # a texture would cut the vertices along its seams
        options = {"file_type": "ply", "fix_texture": False, "skip_materials": True}
    mesh = package.load(
        io.BytesIO(content) if kind == ".ply" else file,
        process=False,
        force="mesh",
        resolver=_confined(package, file),
        **options,
    )
    vertices, faces = (
        np.asarray(mesh.vertices, dtype=np.float64),
        np.asarray(mesh.faces, dtype=np.int64)[: 1 if is_single else None],
    )
    if kind == ".stl":  # every face has corners of its own
        _, first, number = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        vertices, faces = vertices[first[order]], np.argsort(order)[number.ravel()][faces]
    colors = None
    if getattr(mesh.visual, "kind", None) == "vertex" and len(vertices):
        colors = torch.from_numpy(np.array(mesh.visual.vertex_colors[:, :3])).float() / 255
    return vertices, faces, colors


def _check_chunks(file: Path) -> None:
    """Refuse a GLB file that declares a chunk longer than itself, before memory is allocated."""
    size, position = file.stat().st_size, 12
    with file.open("rb") as stream:
        while position + 8 <= size:
            stream.seek(position)
            length = int.from_bytes(stream.read(4), "little")
            position += 8 + length
    if position > size:
        raise InputError(f"{file} cannot be read as GLB: it is truncated; fetch or export it again")


def _confined(package: Any, file: Path) -> Any:
    """Return the resolver by which trimesh reads the buffers and textures that a file names."""

    class Confined(package.resolvers.FilePathResolver):  # type: ignore[misc]
        def get(self, name: str) -> bytes:
            return require_file(named_file(file.parent, name.strip(), file)).read_bytes()

    return Confined(str(file))


def _read_obj(file: Path) -> _Contents:
    vertices: list[list[float]] = []
    colors: list[list[float]] = []
    polygons: list[list[int]] = []
    for number, line in enumerate(
        file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1
    ):
        words = line.split()
        try:
            if words[:1] == ["v"]:
                vertices.append([float(word) for word in words[1:4]])
                if len(words) >= 7:
                    colors.append([float(word) for word in words[4:7]])
            elif words[:1] == ["f"]:
                corners = [int(word.split("/")[0]) for word in words[1:]]
                polygons.append([k - 1 if k > 0 else len(vertices) + k for k in corners])
        except ValueError as error:
            raise InputError(f"line {number} of {file} cannot be read: {error}") from error
    tints = torch.tensor(colors) if colors and len(colors) == len(vertices) else None
    return np.array(vertices, dtype=np.float64).reshape(-1, 3), _triangles(polygons), tints


def _triangles(polygons: list[list[int]]) -> np.ndarray:
    fans = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1)]
    return np.array(fans, dtype=np.int64).reshape(-1, 3)
