"""Scans of six ellipsoids as each instrument writes them, from closed forms; imports nothing of the package.

In every writer the laboratory stands still and the object turns, as in the instruments: the source looks along +y,
z points upwards, and `turn(t)` turns the object anticlockwise seen from above.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

#: Centre, half axes, turn about z and attenuation per millimetre of ellipsoids without any symmetry, in units of the
#: field of view's radius; all of them lie within 0.8 of it.
ELLIPSOIDS = (
    ((0.02, 0.00, 0.00), (0.62, 0.50, 0.52), 0.3, 0.2),
    ((0.34, 0.12, 0.16), (0.24, 0.12, 0.15), 0.9, 1.2),
    ((-0.28, 0.20, -0.20), (0.14, 0.24, 0.12), -0.4, 0.9),
    ((-0.06, -0.30, 0.22), (0.30, 0.10, 0.13), 0.5, 0.7),
    ((0.26, -0.24, -0.24), (0.12, 0.14, 0.17), 0.0, 1.5),
    ((-0.42, -0.12, 0.12), (0.10, 0.17, 0.09), 1.2, 1.1),
)
DENSITY = 0.04


def about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def line_integral(origin: np.ndarray, direction: np.ndarray, radius: float) -> np.ndarray:
    """Integrals along rays (..., 3) in the coordinates of the object."""
    total = np.zeros(np.broadcast_shapes(origin.shape, direction.shape)[:-1])
    unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    for centre, axes, angle, value in ELLIPSOIDS:
        scale = np.array(axes)[:, None] * radius
        to_ball = about_z(-angle) / scale
        p, q = (origin - np.array(centre) * radius) @ to_ball.T, unit @ to_ball.T
        a, b, c = (q * q).sum(-1), (p * q).sum(-1), (p * p).sum(-1) - 1
        total += value * DENSITY * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return total


@lru_cache
def truth(shape: tuple[int, int, int], voxel: float, radius: float) -> np.ndarray:
    """The object on a grid (slices z, rows y, columns x), as means of 27 points of each voxel."""
    z, y, x = ((np.arange(3 * n) - (3 * n - 1) / 2) * voxel / 3 for n in shape)
    values = np.zeros([3 * n for n in shape])
    for centre, axes, angle, value in ELLIPSOIDS:
        # A turn about z leaves the square of the distance a sum of one over (y, x) and one over z.
        dx, dy, dz = x - centre[0] * radius, y[:, None] - centre[1] * radius, z - centre[2] * radius
        cos, sin = np.cos(angle), np.sin(angle)
        plane = ((cos * dx + sin * dy) / axes[0]) ** 2 + ((cos * dy - sin * dx) / axes[1]) ** 2
        inside = plane + (dz[:, None, None] / axes[2]) ** 2 <= radius**2
        values += value * DENSITY * inside
    s, r, c = shape
    return values.reshape(s, 3, r, 3, c, 3).mean((1, 3, 5))


@dataclass(frozen=True)
class Setup:
    """An instrument in its laboratory; the axis of rotation passes `axis_at` along `axis_along`.

    `offset` is the distance of the axis from the central ray along +x at the object, `rotation` the angles by which
    the object turns anticlockwise about the axis.
    """

    near: float = 60.0
    far: float = 150.0
    cell: float = 0.5
    panel: tuple[int, int] = (40, 56)
    views: int = 90
    offset: float = 0.0
    axis_along: tuple[float, float, float] = (0.0, 0.0, 1.0)
    panel_at: tuple[float, float] = (0.0, 0.0)
    parallel: bool = False
    arc: float = 2 * np.pi
    radius: float = 4.6

    @property
    def voxel(self) -> float:
        return self.cell if self.parallel else self.cell * self.near / self.far


def project(setup: Setup, rotation: np.ndarray, right: int, up: int) -> np.ndarray:
    """Projections (view, row, column); columns run along right * x, rows along up * z, in the laboratory."""
    rows, columns = setup.panel
    x = setup.panel_at[0] + right * (np.arange(columns) - (columns - 1) / 2) * setup.cell
    z = setup.panel_at[1] + up * (np.arange(rows) - (rows - 1) / 2) * setup.cell
    cells = np.stack(
        np.broadcast_arrays(x[None], setup.far - setup.near + 0 * x[None], z[:, None]), -1
    )
    source = np.array([0.0, -setup.near, 0.0])
    origin = cells if setup.parallel else np.broadcast_to(source, cells.shape)
    direction = np.broadcast_to([0.0, 1.0, 0.0], cells.shape) if setup.parallel else cells - source
    foot = np.array([setup.offset, 0.0, 0.0])
    # The shortest rotation that takes z to the axis.
    k = np.cross([0, 0, 1.0], setup.axis_along)
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    lean = np.eye(3) + cross + cross @ cross / (1 + setup.axis_along[2])
    views = []
    for t in rotation:
        to_object = (lean @ about_z(t)).T
        views.append(
            line_integral((origin - foot) @ to_object.T, direction @ to_object.T, setup.radius)
        )
    return np.stack(views)


def counts(integrals: np.ndarray, white: Any) -> np.ndarray:
    return np.round(white * np.exp(-integrals)).astype(np.uint16)


def write_pictures(
    folder: Path, pictures: np.ndarray, name: str = "scan_{:04d}.tif", first: int = 1
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(pictures, first):
        tifffile.imwrite(folder / name.format(k), picture)


# -- Nikon: pictures are seen from the panel, the object turns by 180 - InitialAngle - AngularStep k -------------------


def write_nikon(
    folder: Path,
    setup: Setup = Setup(),
    initial: float = 12.5,
    comma: bool = False,
    settings: dict[str, Any] | None = None,
    angles: str = "",
) -> Path:
    step = 360 / setup.views
    rotation = np.radians(180 - initial - step * np.arange(setup.views))
    write_pictures(
        folder / "pictures", counts(project(setup, rotation, -1, -1), 60000.0), "bone_{:04d}.tif"
    )
    lines = {
        "Name": "bone",
        "Projections": setup.views,
        "WhiteLevel": 60000,
        "InitialAngle": initial,
        "AngularStep": step,
        "SrcToObject": setup.near,
        "SrcToDetector": setup.far,
        "DetectorPixelsX": setup.panel[1],
        "DetectorPixelsY": setup.panel[0],
        "DetectorPixelSizeX": setup.cell,
        "DetectorPixelSizeY": setup.cell,
        "InputFolderName": "pictures",
        **(settings or {}),
    }
    text = (
        "[XTekCT]\r\n"
        + "".join(f"{key}={value}\r\n" for key, value in lines.items())
        + "[Xrays]\r\nXraykV=80\r\n"
    )
    (folder / "bone.xtekct").write_bytes((text.replace(".", ",") if comma else text).encode())
    if angles:
        (folder / "bone_ctdata.txt").write_text(angles)
    return folder / "bone.xtekct"


# -- SkyScan: pictures are seen from the camera, CC is anticlockwise seen from above -----------------------------------


def write_skyscan(
    folder: Path, setup: Setup = Setup(), direction: str = "CC", white: bool = True, **more: Any
) -> Path:
    step = np.degrees(setup.arc) / setup.views
    rotation = np.radians(step * np.arange(setup.views)) * (1 if direction == "CC" else -1)
    level = 58000.0 if white else 65536.0
    write_pictures(
        folder,
        counts(project(setup, rotation, -1, -1) + (0 if white else 1e-4), level),
        "embryo{:04d}.tif",
        0,
    )
    tifffile.imwrite(folder / "embryo_spr.tif", np.zeros((4, 5), np.uint16))
    # The optical axis is counted from the last row.
    line = setup.panel[0] / 2 - setup.panel_at[1] / setup.cell
    lines = {
        "Filename Prefix": "embryo",
        "Number Of Files": setup.views,
        "Number Of Rows": setup.panel[0],
        "Number Of Columns": setup.panel[1],
        "Camera binning": "2x2",
        "Optical Axis (line)": f" {line:g}",
        "Object to Source (mm)": 1e6 if setup.parallel else setup.near,
        **({} if setup.parallel else {"Camera to Source (mm)": setup.far}),
        "Image Pixel Size (um)": f"{1000 * setup.voxel:.6f}",
        "Depth (bits)": 16,
        **({"Reference Intensity": 58000} if white else {}),
        "Rotation Step (deg)": f"{step:.6f}",
        "Rotation Direction": direction,
        **more,
    }
    head = f"[System]\r\nScanner=SkyScan1275\r\nCamera Pixel Size (um)={500 * setup.cell}\r\n[Acquisition]\r\n"
    (folder / "embryo.log").write_bytes(
        (head + "".join(f"{k}={v}\r\n" for k, v in lines.items())).encode()
    )
    return folder / "embryo.log"


# -- Zeiss: columns along x, rows along z, the object turns anticlockwise by Angles ------------------------------------


def write_zeiss(
    folder: Path,
    setup: Setup = Setup(),
    reference: str = "one",
    volume: np.ndarray | None = None,
    shifts: bool = False,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    angles = np.degrees(setup.arc) / setup.views * np.arange(setup.views) - 180
    rng = np.random.default_rng(4)
    white = rng.uniform(20000, 50000, setup.panel).round()
    streams: dict[str, bytes] = {}
    if volume is None:
        pictures = project(setup, np.radians(angles), 1, 1)
        moves = rng.integers(-2, 3, (setup.views, 2)) if shifts else np.zeros((setup.views, 2), int)
        # Pictures that must be moved by (x, y) cells are stored moved the other way.
        pictures = np.stack([np.roll(p, (-y, -x), (0, 1)) for p, (x, y) in zip(pictures, moves)])
        stored = counts(pictures, white)
        streams["Alignment/X-Shifts"] = moves[:, 0].astype("<f4").tobytes()
        streams["Alignment/Y-Shifts"] = moves[:, 1].astype("<f4").tobytes()
        streams["ImageInfo/Angles"] = angles.astype("<f4").tobytes()
        streams["ImageInfo/StoRADistance"] = np.full(setup.views, -setup.near, "<f4").tobytes()
        streams["ImageInfo/DtoRADistance"] = np.full(
            setup.views, setup.far - setup.near, "<f4"
        ).tobytes()
        streams["ImageInfo/XrayGeometry"] = struct.pack("<i", 0 if setup.parallel else 1)
        streams["ReconSettings/CenterShift"] = struct.pack("<f", setup.panel_at[0] / setup.cell)
        if reference == "one":
            streams["ReferenceData/Image"] = white.astype("<f4").tobytes()
            streams["ReferenceData/DataType"] = struct.pack("<i", 10)
        elif reference == "several":
            streams["MultiReferenceData/DataType"] = struct.pack("<i", 5)
            for k in (1, 2, 3):
                streams[f"MultiReferenceData/Image{k}"] = white.astype("<u2").tobytes()
    else:
        stored = volume
    streams["ImageInfo/NoOfImages"] = struct.pack("<i", len(stored))
    streams["ImageInfo/ImageHeight"] = struct.pack("<i", stored.shape[1])
    streams["ImageInfo/ImageWidth"] = struct.pack("<i", stored.shape[2])
    streams["ImageInfo/DataType"] = struct.pack("<i", 5)
    streams["ImageInfo/PixelSize"] = struct.pack("<f", 1000 * setup.voxel)
    for k, picture in enumerate(stored):
        streams[f"ImageData{k // 100 + 1}/Image{k + 1}"] = picture.astype("<u2").tobytes()
    path = folder / ("slices.txm" if volume is not None else "scan.txrm")
    path.write_bytes(compound(streams))
    return path


def compound(streams: dict[str, bytes]) -> bytes:
    """A compound container (MS-CFB, version 3) of streams by path; olefile only reads.

    Streams below 4096 bytes lie in sectors of 64 bytes of the root's own stream.
    """
    entries: list[dict[str, Any]] = [{"name": "Root Entry", "kind": 5, "children": [], "data": b""}]
    folders = {"": 0}
    for path, data in streams.items():
        parent = ""
        *parts, name = path.split("/")
        for part in parts:
            place = f"{parent}/{part}"
            if place not in folders:
                folders[place] = len(entries)
                entries[folders[parent]]["children"].append(len(entries))
                entries.append({"name": part, "kind": 1, "children": [], "data": b""})
            parent = place
        entries[folders[parent]]["children"].append(len(entries))
        entries.append({"name": name, "kind": 2, "children": [], "data": data})
    sectors: list[bytes] = []
    fat: list[int] = []

    def store(data: bytes, table: list[int], blocks: list[bytes], size: int) -> int:
        first = len(blocks) if data else 0xFFFFFFFE
        pieces = [data[i : i + size].ljust(size, b"\0") for i in range(0, len(data), size)]
        table.extend(
            [*range(len(blocks) + 1, len(blocks) + len(pieces)), *([0xFFFFFFFE] if pieces else [])]
        )
        blocks.extend(pieces)
        return first

    mini: list[bytes] = []
    mini_fat: list[int] = []
    for entry in entries[1:]:
        small = len(entry["data"]) < 4096
        entry["start"] = (
            store(entry["data"], mini_fat, mini, 64)
            if small
            else store(entry["data"], fat, sectors, 512)
        )
    entries[0]["data"] = b"".join(mini)
    entries[0]["start"] = store(entries[0]["data"], fat, sectors, 512)
    none = 0xFFFFFFFF
    for entry in entries:
        entry.update(left=none, right=none, child=none)

    def tree(members: list[int]) -> int:
        """Balanced binary tree of siblings, which are ordered by length and then by name."""
        if not members:
            return none
        middle = len(members) // 2
        entries[members[middle]].update(
            left=tree(members[:middle]), right=tree(members[middle + 1 :])
        )
        return members[middle]

    for entry in entries:
        entry["child"] = tree(
            sorted(
                entry["children"],
                key=lambda k: (len(entries[k]["name"]), entries[k]["name"].upper()),
            )
        )
    records = b""
    for entry in entries:
        name = entry["name"].encode("utf-16-le") + b"\0\0"
        records += name.ljust(64, b"\0") + struct.pack(
            "<HBB3I", len(name), entry["kind"], 1, entry["left"], entry["right"], entry["child"]
        )
        records += bytes(36) + struct.pack(
            "<IQ", entry["start"] if entry["kind"] != 1 else 0, len(entry["data"])
        )
    directory = store(records, fat, sectors, 512)
    mini_bytes = struct.pack(f"<{len(mini_fat)}I", *mini_fat)
    mini_start = store(mini_bytes, fat, sectors, 512)
    count = 0
    while count * 128 < len(fat) + count:
        count += 1
    assert count <= 109  # without sectors of the double indirect table
    first_fat = len(sectors)
    table = [*fat, *[0xFFFFFFFD] * count]
    table += [none] * (count * 128 - len(table))
    header = (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + bytes(16)
        + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6)
        + bytes(6)
    )
    header += struct.pack(
        "<9I", 0, count, directory, 0, 4096, mini_start, -(-len(mini_bytes) // 512), 0xFFFFFFFE, 0
    )
    header += struct.pack("<109I", *range(first_fat, first_fat + count), *[none] * (109 - count))
    return header + b"".join(sectors) + struct.pack(f"<{len(table)}I", *table)


# -- a table of poses: the object stands still, source and panel turn --------------------------------------------------


def write_table(
    folder: Path, setup: Setup = Setup(), header: bool = True, white: bool = False
) -> Path:
    rotation = np.linspace(0, setup.arc, setup.views, endpoint=False)
    integrals = project(setup, rotation, 1, 1)
    pictures = counts(integrals + 1e-4, 65535.0) if white else integrals.astype(np.float32)
    write_pictures(folder, pictures, "view{:03d}.tif", 0)
    rows = []
    for t in rotation:
        turn = about_z(-t)
        foot = np.array([setup.offset, 0, 0])
        panel = np.array([setup.panel_at[0], setup.far - setup.near, setup.panel_at[1]])
        vectors = [
            np.array([0, -setup.near, 0]) - foot,
            panel - foot,
            [setup.cell, 0, 0],
            [0, 0, setup.cell],
        ]
        rows.append(",".join(f"{x:.9f}" for vector in vectors for x in turn @ np.array(vector)))
    names = [f"{part}_{axis}" for part in ("source", "detector", "u", "v") for axis in "xyz"]
    (folder / "views.csv").write_text(
        "\n".join([*([",".join(names)] if header else []), *rows]) + "\n"
    )
    return folder / "views.csv"


# -- RTK, by itk-rtk: the gantry turns about RTK's y; RTK's (x, y, z) is (x, -z, y) in the laboratory -------------------


def write_rtk(
    folder: Path,
    setup: Setup = Setup(),
    tilts: tuple[float, float] = (0.0, 0.0),
    as_tiff: bool = False,
) -> Path:
    itk = pytest.importorskip("itk", reason="RTK writes its own geometry: pip install itk-rtk")
    rtk = itk.RTK

    folder.mkdir(parents=True, exist_ok=True)
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    rows, columns = setup.panel
    to_ours = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    views = []
    for k in range(setup.views):
        angle = np.degrees(setup.arc) / setup.views * k
        # sid, sdd, gantry, offset of the panel, out of plane, in plane, offset of the source
        geometry.AddProjection(
            setup.near,
            0.0 if setup.parallel else setup.far,
            angle,
            setup.panel_at[0],
            setup.panel_at[1],
            tilts[0],
            tilts[1],
            0.0,
            0.0,
        )
        # RTK's own matrices: the source, and the place of cells in the coordinates of the isocentre.
        to_world = itk.array_from_matrix(geometry.GetProjectionCoordinatesToFixedSystemMatrix(k))
        x, y = (np.arange(n) * setup.cell - (n - 1) / 2 * setup.cell for n in (columns, rows))
        index = np.stack(np.broadcast_arrays(x[None], y[:, None], 0.0, 1.0), -1)
        cells = (index @ to_world.T)[..., :3] @ to_ours.T
        source = np.array(geometry.GetSourcePosition(k))[:3] @ to_ours.T
        if setup.parallel:
            turn = itk.array_from_matrix(geometry.GetRotationMatrix(k))[:3, :3]
            ray = turn.T @ np.array([0, 0, -1.0])
            origin, direction = cells, np.broadcast_to(to_ours @ ray, cells.shape)
        else:
            origin, direction = np.broadcast_to(source, cells.shape), cells - source
        views.append(line_integral(origin, direction, setup.radius))
    writer = rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetObject(geometry)
    writer.SetFilename(str(folder / "geometry.xml"))
    writer.WriteFile()
    pictures = np.stack(views).astype(np.float32)
    if as_tiff:
        tifffile.imwrite(folder / "projections.tif", pictures, photometric="minisblack")
        return folder / "geometry.xml"
    image = itk.image_from_array(pictures)
    image.SetSpacing([setup.cell, setup.cell, 1.0])
    image.SetOrigin([-(columns - 1) / 2 * setup.cell, -(rows - 1) / 2 * setup.cell, 0.0])
    itk.imwrite(image, str(folder / "projections.mha"))
    return folder / "geometry.xml"


SMALL = Setup(panel=(6, 8), views=12, radius=0.7)
#: Small scans for damaged files, with the name of the reader.
SETS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "nikon": ("xtekct", lambda path: write_nikon(path, SMALL).parent),
    "skyscan": ("skyscan", lambda path: write_skyscan(path, SMALL).parent),
    "scan.txrm": ("txrm", lambda path: write_zeiss(path, SMALL)),
    "slices.txm": (
        "txm",
        lambda path: write_zeiss(path, SMALL, volume=np.arange(5 * 6 * 7).reshape(5, 6, 7)),
    ),
    "views": ("view-table", lambda path: write_table(path, SMALL).parent),
}
