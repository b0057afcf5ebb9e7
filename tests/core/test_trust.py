"""Files from elsewhere: no path out of their folder, no bombs, no pipes, and one kind of error."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.core import trust
from invtoolbox.core.trust import is_trusting, named_file, trusting
from invtoolbox.datasets.models.meshes import read_dmat
from invtoolbox.errors import InputError
from tests.datasets import view_sets
from tests.datasets.sweep_sets import SETS as SWEEPS

PICTURE = {"fl_x": 5.0, "w": 6, "h": 4}


def metaimage(folder: Path, outside: Path) -> Any:
    it.datasets.write_metaimage(folder / "a.mhd", np.ones((2, 3, 4), np.uint8))
    os.rename(folder / "a.raw", outside / "a.raw")
    text = (folder / "a.mhd").read_text().replace("= a.raw", f"= {outside / 'a.raw'}")
    (folder / "a.mhd").write_text(text.replace(str(outside), "../outside"))
    return folder / "a.mhd"


def raw(folder: Path, outside: Path) -> Any:
    it.datasets.write_raw(folder / "a.raw", np.ones((2, 3, 4), np.uint8))
    os.rename(folder / "a.raw", outside / "a.raw")
    lines = [f'file = "{outside / "a.raw"}"']
    lines += [k for k in (folder / "a.toml").read_text().splitlines() if not k.startswith("file")]
    (folder / "a.toml").write_text("\n".join(lines))
    return folder / "a.toml"


def transforms(name: str) -> Callable[[Path, Path], Any]:
    def make(folder: Path, outside: Path) -> Any:
        it.datasets.write_png(outside / "a.png", torch.ones(3, 4, 6), value_range=(0, 1))
        it.datasets.write_png(folder / "a.png", torch.ones(3, 4, 6), value_range=(0, 1))
        it.datasets.write_png(outside / "m.png", torch.ones(4, 6), value_range=(0, 1))
        frame = {"file_path": "a.png", "transform_matrix": torch.eye(4).tolist()}
        table: dict[str, Any] = {**PICTURE, "frames": [frame]}
        if name == "camera_angle_x":
            table = {"camera_angle_x": 0.6, "frames": [frame]}
            frame["file_path"] = str(outside / "a")
        elif name == "mask_path":
            frame[name] = "../outside/m.png"
        else:
            frame[name] = str(outside / "a.png")
        (folder / "transforms.json").write_text(json.dumps(table))
        return folder

    return make


def external_data(folder: Path, outside: Path) -> Any:
    (outside / "secret").write_bytes(np.ones(6, "<f4").tobytes())
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", (2, 3), "<f4", external=[(str(outside / "secret"), 0, 24)])
    return folder / "a.h5"


def external_link(folder: Path, outside: Path) -> Any:
    with h5py.File(outside / "b.h5", "w") as file:
        file["x"] = np.ones((2, 3))
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"] = h5py.ExternalLink("../outside/b.h5", "x")
    return folder / "a.h5"


def virtual_data(folder: Path, outside: Path) -> Any:
    with h5py.File(outside / "b.h5", "w") as file:
        file["x"] = np.ones((2, 3))
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource(str(outside / "b.h5"), "x", (2, 3))
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_group("deep").create_virtual_dataset("y", layout)
        file["x"] = h5py.SoftLink("/deep/y")
    return folder / "a.h5"


def colmap(folder: Path, outside: Path) -> Any:
    model = view_sets.SETS["views colmap text"][1](folder / "set")
    images = next(model.rglob("images.txt"))
    name = next(p.name for p in sorted(model.rglob("*.png")))
    os.rename(next(model.rglob(name)), outside / name)
    images.write_text(images.read_text().replace(name, str(outside / name)))
    return model


def nuscenes(folder: Path, outside: Path) -> Any:
    root = SWEEPS["nuscenes"][1](folder / "set")
    table = next(root.rglob("sample_data.json"))
    rows = json.loads(table.read_text())
    for row in rows:
        file = root / row["filename"]
        if file.exists():
            os.rename(file, outside / file.name)
        row["filename"] = str(outside / file.name)
    table.write_text(json.dumps(rows))
    return root


NAMING: dict[str, Callable[[Path, Path], Any]] = {
    "MetaImage": metaimage,
    "raw values": raw,
    "picture of transforms.json": transforms("file_path"),
    "mask of transforms.json": transforms("mask_path"),
    "picture of Blender": transforms("camera_angle_x"),
    "external data of HDF5": external_data,
    "external link of HDF5": external_link,
    "virtual data of HDF5": virtual_data,
    "COLMAP": colmap,
    "nuScenes": nuscenes,
}


@pytest.mark.parametrize("name", NAMING)
def test_a_path_outside_of_the_folder_is_opened_only_if_trusted(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    path = NAMING[name](folder, outside)
    with pytest.raises(InputError, match="outside of the folder .* trusted=True"):
        it.datasets.open(path)
    opened = it.datasets.open(path, trusted=True)
    assert opened[0] is not None and not is_trusting()


def test_a_mesh_reads_no_buffer_outside_of_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    from trimesh import Trimesh

    folder = tmp_path / "folder"
    folder.mkdir()
    parts = Trimesh(np.eye(3), [[0, 1, 2]]).export(file_type="gltf")
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    buffer = next(name for name in parts if name.endswith(".bin"))
    assert len(it.datasets.read_mesh(folder / "model.gltf").faces) == 1
    os.rename(folder / buffer, tmp_path / buffer)
    text = (folder / "model.gltf").read_text().replace(buffer, f"../{buffer}")
    (folder / "model.gltf").write_text(text)
    with pytest.raises(InputError, match="outside of the folder"):
        it.datasets.read_mesh(folder / "model.gltf")
    with trusting():
        assert len(it.datasets.read_mesh(folder / "model.gltf").faces) == 1


def test_names_within_the_folder_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "a/b.png", "./a", "x/../a", "..a/b", "a..b"):
        named_file(tmp_path, name, tmp_path / "t")
        named_file(Path(), name, Path("t"))
        named_file(Path("deep/er"), name, Path("t"))
    for name in (
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        f"{tmp_path}x/a",
        "",
        "a\0b",
        "a" * 5000,
    ):
        for root in (tmp_path, Path(), Path("deep")):
            with pytest.raises(InputError):
                named_file(root, name, Path("t"))
    monkeypatch.setenv("INVTOOLBOX_TRUSTED", "1")
    assert named_file(tmp_path, "/etc/passwd", tmp_path / "t") == Path("/etc/passwd")


READERS: dict[str, Callable[[Path], Any]] = {
    "open": it.datasets.open,
    "mesh": it.datasets.read_mesh,
    "voxels": it.datasets.read_voxels,
    "splats": it.datasets.read_splats,
    "dmat": read_dmat,
    "solution": it.Solution.load,
    "views": it.datasets.open_views,
    "sweeps": it.datasets.open_sweeps,
    "flow": it.datasets.read_flow,
    "geometry": it.datasets.read_geometry,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("suffix", [".npz", ".obj", ".ply", ".toml", ".json", ".h5"])
def test_a_pipe_does_not_block(tmp_path: Path, name: str, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    for path in (tmp_path / f"a{suffix}", Path("/dev/zero")):
        with pytest.raises(InputError):
            READERS[name](path)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive of 80 MB of zeros."""
    path = tmp_path_factory.mktemp("bomb") / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        head = b"\x93NUMPY\x01\x00v\x00"
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 80000000), }"
        with archive.open("y.npy", "w", force_zip64=True) as stream:
            stream.write(head + text.ljust(117) + b"\n")
            for _ in range(40):
                stream.write(bytes(2_000_000))
    assert path.stat().st_size < 60_000
    return path


@pytest.mark.parametrize("reader", [it.datasets.open, it.datasets.read_mesh, it.datasets.read_flow])
def test_an_archive_that_unpacks_to_more_than_it_can_hold_is_refused(
    bomb: Path, reader: Callable[[Path], Any]
) -> None:
    with pytest.raises(InputError, match="members of 80,000,128 bytes .* trusted=True"):
        reader(bomb)


def test_a_table_that_unpacks_to_more_than_it_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "ALWAYS_PLAUSIBLE", 2**17)
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    from invtoolbox.datasets.sweeps.columns import read_feather
    from invtoolbox.datasets.sweeps.waymo import _Rows

    table = pa.table({"x": np.zeros(200_000)})
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, str(tmp_path / "a.feather"), compression="zstd")
    readers: dict[str, Callable[[Path], Any]] = {
        "a.parquet": lambda path: _Rows(path, ["x"]),
        "a.feather": lambda path: read_feather(path, ["x"]),
    }
    for name, read in readers.items():
        assert (tmp_path / name).stat().st_size < 1400
        with pytest.raises(InputError, match=r"1,\d+,\d+ bytes are declared .* trusted=True"):
            read(tmp_path / name)
        with trusting():
            read(tmp_path / name)


def test_a_saved_solution_of_deep_groups_is_refused(tmp_path: Path) -> None:
    problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    solution = it.solve(problem, "tikhonov", regularization=1.0, progress=False)
    path = solution.save(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        group = file["history"]
        for _ in range(40):
            group = group.create_group("a")
            group.attrs["kind"] = "dict"
    with pytest.raises(InputError, match="deeper than 16"):
        it.Solution.load(path)
    (tmp_path / "b.h5").write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="not a readable saved solution"):
        it.Solution.load(tmp_path / "b.h5")
