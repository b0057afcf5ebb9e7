"""PCD and PLY: every encoding read as written by hand, and clouds that come back as they were written."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from invtoolbox.datasets import read_pcd, read_ply, write_ply
from invtoolbox.datasets.sweeps.pcd import unpack_lzf, write_pcd
from invtoolbox.errors import InputError
from tests.datasets import sweep_sets as sets

POINTS = np.random.default_rng(3).normal(0, 10, (50, 3)).astype(np.float32)
INTENSITY = np.linspace(0, 1, 50, dtype=np.float32)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_of_every_encoding(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "cloud.pcd").write_bytes(sets.pcd(POINTS, INTENSITY, encoding))
    found = read_pcd(tmp_path / "cloud.pcd")
    assert list(found) == ["x", "y", "z", "intensity", "ring"], "padding is left out"
    assert np.allclose(np.stack([found[axis] for axis in "xyz"], 1), POINTS, rtol=1e-7, atol=0)
    assert (
        np.allclose(found["intensity"], INTENSITY, rtol=1e-7)
        and found["ring"].dtype == np.uint16
        and found["ring"][17] == 1
    )


@pytest.mark.parametrize("content", [b"", b"a", b"ab" * 500, bytes(3000), bytes(range(256)) * 5])
def test_lzf_unpacks_what_was_packed(content: bytes) -> None:
    assert unpack_lzf(sets.pack_lzf(content), len(content)) == content


def test_lzf_copies_that_overlap_and_long_ones() -> None:
    assert unpack_lzf(bytes([0]) + b"x" + bytes([0b111_00000, 91, 0]), 101) == b"x" * 101, (
        "9 + 91 from one before"
    )
    with pytest.raises(InputError, match="before their beginning"):
        unpack_lzf(bytes([0]) + b"x" + bytes([0b001_00000, 5]), 4)
    with pytest.raises(InputError, match="unpack to 1 bytes instead of 9"):
        unpack_lzf(bytes([0]) + b"x", 9)


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_of_every_encoding(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "cloud.ply").write_bytes(sets.ply(POINTS, encoding))
    found = read_ply(tmp_path / "cloud.ply")
    assert np.allclose(np.stack([found[axis] for axis in "xyz"], 1), POINTS, rtol=1e-7, atol=0)
    assert found["ring"].dtype == np.uint8 and found["ring"].tolist() == [k % 8 for k in range(50)]


def test_a_written_cloud_is_what_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    colors = np.random.default_rng(4).integers(0, 256, (50, 3))
    write_ply(
        path,
        torch.from_numpy(POINTS),
        colors,
        {"speed": INTENSITY, "instance": np.arange(50), "dynamic": np.arange(50) % 2 == 0},
    )
    # Read by hand, as the header says it is.
    head, body = path.read_bytes().split(b"end_header\n", 1)
    assert head.decode().split("\n")[:3] == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 50",
    ]
    x, y, z, r, g, b, speed, instance, dynamic = struct.unpack_from(
        "<3f3BfiB", body, 7 * struct.calcsize("<3f3BfiB")
    )
    assert (
        (x, y, z) == tuple(POINTS[7]) and [r, g, b] == colors[7].tolist() and len(body) == 50 * 24
    )
    assert speed == INTENSITY[7] and instance == 7 and dynamic == 0
    found = read_ply(path)
    assert np.array_equal(np.stack([found[axis] for axis in "xyz"], 1), POINTS) and np.array_equal(
        found["speed"], INTENSITY
    )
    assert np.array_equal(np.stack([found[name] for name in ("red", "green", "blue")], 1), colors)
    write_ply(path, POINTS.astype(np.float64), colors / 255, overwrite=True)
    assert read_ply(path)["x"].dtype == np.float64 and np.array_equal(
        read_ply(path)["red"], colors[:, 0]
    )


def test_a_cloud_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_ply(tmp_path / "cloud.ply", POINTS)
    before = (tmp_path / "cloud.ply").read_bytes()
    for arguments, message in [
        ((POINTS,), "overwrite=True"),
        ((POINTS[:, :2],), "a cloud is"),
        ((POINTS, POINTS), "colors of 50 points are"),
        ((POINTS, None, {"a b": INTENSITY}), "without spaces"),
        ((POINTS, None, {"x": INTENSITY}), "name of its own"),
        ((POINTS, None, {"a": np.full(50, 2**40)}), "beyond 32 bits"),
    ]:
        with pytest.raises(InputError, match=message):
            write_ply(tmp_path / "cloud.ply", *arguments)  # type: ignore[arg-type]
    assert (tmp_path / "cloud.ply").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ply\n", b"plx\n", "does not begin with 'ply'"),
        (b"end_header", b"end_hat", "has no end"),
        (b"property uchar ring", b"property word ring", "not a number of a known type"),
        (b"element vertex 50", b"element vertex 500", "truncated"),
        (b"binary_big_endian", b"binary_middle", "the encodings are ascii"),
        (b"property float y", b"property float x", "two properties of one name"),
        (b"comment by hand", b"element edge 3", "stand before the vertices"),
        (b"comment", b"remark", "which PLY does not define"),
    ],
)
def test_damaged_ply_is_refused(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    content = sets.ply(POINTS, "binary_big_endian")
    assert old in content
    (tmp_path / "cloud.ply").write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"cloud.ply.*{message}"):
        read_ply(tmp_path / "cloud.ply")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"SIZE 4 4", b"SIZE 4 3", "sizes, types or counts"),
        (b"DATA", b"DATE", "which PCD does not define"),
        (b"WIDTH 50", b"WIDTH 60", "declares 50 points"),
        (b"COUNT 1 1", b"COUNT 1", "name 6, 6, 6 and 5 fields"),
        (b"binary", b"packed", "encoded as 'packed'"),
        (b"POINTS 50", b"POINTS xy", "must be whole numbers"),
        (b"FIELDS x y z _ intensity ring\n", b"", "lacks FIELDS"),
    ],
)
def test_damaged_pcd_is_refused(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    content = sets.pcd(POINTS, INTENSITY, "binary")
    assert old in content
    (tmp_path / "cloud.pcd").write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"cloud.pcd.*{message}"):
        read_pcd(tmp_path / "cloud.pcd")


@pytest.mark.parametrize(
    ("counts", "encoding"),
    [((4, 10), "binary"), ((0, 0), "binary"), ((4, 10), "binary_compressed")],
)
def test_pcd_of_pcl_with_padding(tmp_path: Path, counts: tuple[int, int], encoding: str) -> None:
    """PointXYZIR in the memory of PCL: x, y, z, 4 bytes, intensity, ring, 10 bytes; COUNT may say 0."""
    kind = np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "ring"],
            "formats": ["<f4", "<f4", "<f4", "<f4", "<u2"],
            "offsets": [0, 4, 8, 16, 20],
            "itemsize": 32,
        }
    )
    cloud = np.zeros(7, kind)
    for k, name in enumerate(kind.names):
        cloud[name] = 10 * k + np.arange(7)
    content = cloud.tobytes()
    if encoding == "binary_compressed":  # column after column
        raw = np.frombuffer(content, np.uint8).reshape(7, 32)
        ends = (4, 8, 12, 16, 20, 22, 32)
        columns = b"".join(raw[:, s:e].tobytes() for s, e in zip((0, *ends), ends))
        packed = sets.pack_lzf(columns)
        content = np.array([len(packed), len(columns)], "<u4").tobytes() + packed
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z _ intensity ring _\n"
        "SIZE 4 4 4 1 4 2 1\nTYPE F F F U F U U\n"
        f"COUNT 1 1 1 {counts[0]} 1 1 {counts[1]}\nWIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS 7\nDATA {encoding}\n"
    )
    (tmp_path / "a.pcd").write_bytes(header.encode() + content)
    columns_read = read_pcd(tmp_path / "a.pcd")
    assert set(columns_read) == set(kind.names)
    for name in kind.names:
        assert np.array_equal(columns_read[name], cloud[name]), name


def test_a_written_pcd_is_what_the_header_says(tmp_path: Path) -> None:
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = write_pcd(tmp_path / "a.pcd", points, {"sweep": np.arange(4, dtype=np.int32)})
    head, _, content = path.read_bytes().partition(b"DATA binary\n")
    assert b"FIELDS x y z sweep\nSIZE 4 4 4 4\nTYPE F F F I\n" in head and len(content) == 64
    table = np.frombuffer(content, [(axis, "<f4") for axis in "xyz"] + [("sweep", "<i4")])
    assert np.array_equal(np.stack([table[axis] for axis in "xyz"], 1), points)
    assert table["sweep"].tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="already"):
        write_pcd(path, points)
