"""The geometry of a 3D scan and its file: round trips, units, vectors beside it, and every refusal."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invtoolbox import datasets, operators
from invtoolbox.datasets import Geometry3D, geometry_from_mapping, read_geometry
from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.trajectories import circular

CONE: dict[str, Any] = {
    "kind": "cone",
    "volume_shape": [4, 6, 6],
    "voxel_size": 0.5,
    "detector_shape": [8, 10],
    "detector_spacing": [1.0, 0.9],
    "source_origin": 20.0,
    "source_detector": 35.0,
    "angles": {"unit": "degrees", "start": 0, "stop": 360, "count": 12, "endpoint": False},
}
PARALLEL: dict[str, Any] = {
    "kind": "parallel3d",
    "volume_shape": [4, 6, 6],
    "detector_shape": [5, 10],
    "tilt": 30.0,
    "detector_rotation": [0.0, 0.0, 2.0],
    "angles": {"unit": "degrees", "start": 0, "stop": 180, "count": 9},
}
MORE: dict[str, Any] = {
    "plain": {},
    "shifted": {"detector_shift": [0.4, -0.3], "axis_shift": 0.1, "source_shift": [0.1, 0.0, 0.2]},
    "laminography": {"tilt": 25.0},
    "helix": {
        "pitch": 2.0,
        "angles": {"unit": "degrees", "start": -900, "stop": 900, "count": 181},
    },
    "curved": {"curved": True},
    "turned": {"detector_rotation": [0.5, 0.0, 1.0]},
    "voxels": {"voxel_size": [0.5, 0.4, 0.4]},
}


def change(**changes: Any) -> dict[str, Any]:
    return {**CONE, **changes}


@pytest.mark.parametrize("name", MORE)
def test_written_and_read_back_equal(name: str, tmp_path: Path) -> None:
    geometry = geometry_from_mapping(change(**MORE[name]))
    assert read_geometry(geometry.write(tmp_path / "g.toml")) == geometry and hash(
        geometry
    ) == hash(dataclasses.replace(geometry))


def test_the_words_are_those_of_the_operators() -> None:
    """Angles, tilt and rotation of the panel are degrees in the file, radians in the operator."""
    parallel = geometry_from_mapping(PARALLEL).operator()
    expected = operators.ParallelBeam3D(
        (4, 6, 6),
        torch.linspace(0, math.pi, 9, dtype=torch.float64),
        (5, 10),
        tilt=math.radians(30),
        detector_rotation=(0, 0, math.radians(2)),
    )
    assert isinstance(parallel, operators.ParallelBeam3D) and torch.allclose(
        parallel.vectors, expected.vectors, atol=1e-12
    )
    entries = change(**MORE["shifted"], pitch=1.0, tilt=10.0, voxel_size=[0.5, 0.4, 0.3])
    cone = geometry_from_mapping(entries).operator()
    angles = torch.arange(12, dtype=torch.float64) * (math.pi / 6)
    wanted = operators.ConeBeam(
        (4, 6, 6),
        angles,
        (8, 10),
        20.0,
        35.0,
        (0.5, 0.4, 0.3),
        (1.0, 0.9),
        (0.4, -0.3),
        pitch=1.0,
        tilt=math.radians(10),
        axis_shift=0.1,
        source_shift=(0.1, 0.0, 0.2),
    )
    assert isinstance(cone, operators.ConeBeam) and torch.allclose(
        cone.vectors, wanted.vectors, atol=1e-12
    )
    assert (
        cone.voxel_size == (0.5, 0.4, 0.3)
        and geometry_from_mapping(change(curved=True)).operator().curved
    )  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["poses.npy", "poses.txt", "poses.csv"])
def test_vectors_and_angles_beside_the_file(name: str, tmp_path: Path) -> None:
    angles = np.linspace(0, 6, 7)
    vectors = circular(angles, 20.0, 35.0, (1.0, 0.9)).numpy()
    if name.endswith("npy"):
        np.save(tmp_path / name, vectors)
    else:
        np.savetxt(
            tmp_path / name,
            vectors,
            delimiter="," if name.endswith("csv") else " ",
            header="source, panel, u, v",
        )
    text = 'kind = "cone"\nvolume_shape = [4, 6, 6]\nvoxel_size = 0.5\ndetector_shape = [8, 10]\n'
    (tmp_path / "g.toml").write_text(f'{text}vectors = "{name}"\n')
    geometry = read_geometry(tmp_path / "g.toml")
    assert isinstance(geometry, Geometry3D) and geometry.projections_shape == (7, 8, 10)
    assert geometry_from_mapping(tomllib.loads(geometry.to_toml())) == geometry
    assert torch.allclose(geometry.operator().vectors, torch.from_numpy(vectors))  # type: ignore[attr-defined]
    assert geometry.with_views(slice(None, None, 2)).view_count == 4
    np.savetxt(tmp_path / "angles.txt", np.degrees(angles))
    (tmp_path / "h.toml").write_text(
        text + "source_origin = 20.0\nsource_detector = 35.0\ndetector_spacing = [1.0, 0.9]\n"
        '[angles]\nunit = "degrees"\nfile = "angles.txt"\n'
    )
    same = read_geometry(tmp_path / "h.toml").operator()
    assert torch.allclose(same.vectors, torch.from_numpy(vectors))  # type: ignore[attr-defined]


def test_axis_column_and_grid() -> None:
    geometry = geometry_from_mapping(CONE)
    assert isinstance(geometry, Geometry3D)
    moved = geometry.with_axis_column(3.5)
    assert moved.axis_column == pytest.approx(3.5) and moved.detector_shift == (
        pytest.approx(0.9),
        0.0,
    )
    assert geometry.grid().voxel_size == (0.5, 0.5, 0.5) and geometry.grid().origin == (
        -1.25,
        -1.25,
        -0.75,
    )
    with pytest.raises(InputError, match="axis_shift"):
        geometry_from_mapping(change(axis_shift=0.1)).with_axis_column(3.0)


VECTORS = circular([0.0, 1.0], 20.0, 35.0).tolist()
BARE = {
    k: v
    for k, v in CONE.items()
    if k not in ("angles", "detector_spacing", "source_origin", "source_detector")
}
REFUSED = {
    "kind": (change(kind="cones"), "'cone' or 'parallel3d' in 3D"),
    "a word of 2D": (change(num_detectors=3), "belongs to a 2D scan"),
    "a word of 3D": ({"kind": "fan", "volume_shape": [1, 2, 3]}, "belongs to a 3D scan"),
    "misspelt": (change(detecter_shape=[1, 2]), "detector_shape"),
    "below the angles": (change(angles={**CONE["angles"], "tilt": 3}), "move it above"),
    "two sizes": (change(volume_shape=[3, 4]), "list of 3 numbers"),
    "one size of the panel": (change(detector_shape=8), "list of 2 numbers"),
    "a text": (change(detector_shift=["a", 0]), "finite number"),
    "no source": ({k: v for k, v in CONE.items() if k != "source_origin"}, "needs source_origin"),
    "panel before the axis": (change(source_detector=10.0), "source_detector"),
    "source inside": (change(voxel_size=20.0), "inside the volume"),
    "panel aside": (change(detector_shift=[90.0, 0.0]), "no ray"),
    "pitch of a parallel beam": ({**PARALLEL, "pitch": 1.0}, "belongs to a cone beam"),
    "curved": (change(curved="yes"), "true or false"),
    "degrees as radians": (
        change(angles={"unit": "radians", "start": 0, "stop": 360, "count": 9}),
        "looks like degrees",
    ),
    "tilt in degrees": (
        change(tilt=30.0, angles={"unit": "radians", "start": 0, "stop": 6, "count": 9}),
        "unit of",
    ),
    "no angles": ({k: v for k, v in CONE.items() if k != "angles"}, "or vectors"),
    "vectors and angles": (change(vectors=VECTORS), "both given"),
    "vectors and spacing": ({**BARE, "vectors": VECTORS, "detector_spacing": 2.0}, "both given"),
    "eleven numbers": (
        {**BARE, "vectors": [VECTORS[0], VECTORS[1][:11]]},
        "view 1 of vectors has 11 numbers",
    ),
    "vectors as numbers": ({**BARE, "vectors": [1.0, 2.0]}, "12 numbers per view"),
    "missing file": ({**BARE, "vectors": "nowhere.npy"}, "no such file"),
    "missing": (
        {k: v for k, v in CONE.items() if k != "detector_shape"},
        "'detector_shape' is missing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str) -> None:
    entries, expected = REFUSED[name]
    with pytest.raises(InputError, match=expected) as caught:
        geometry_from_mapping(entries)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 450


def test_files_of_numbers_that_are_none(tmp_path: Path) -> None:
    for name, content, expected in (
        ("a.txt", "one two\n", "cannot be read"),
        ("b.txt", "1 2\n3\n", "same number of columns"),
        ("c.txt", "1 2 3\n", r"shape \(1, 3\)"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=expected):
            geometry_from_mapping({**BARE, "vectors": name}, tmp_path)


@pytest.mark.parametrize("name", ["p.npy", "p.npz", "p.h5", "p.tif", "p.nii", "stack"])
def test_projections_are_one_item_in_every_format(name: str, tmp_path: Path) -> None:
    geometry = geometry_from_mapping(CONE)
    y = np.random.default_rng(0).random((12, 8, 10), dtype=np.float32)
    path = tmp_path / name
    if name == "p.npz":
        np.savez(path, projections=y, other=np.zeros((2, 2)))
    elif name == "p.h5":
        datasets.write_hdf5(path, {"projections": y})
    elif name == "stack":
        datasets.write_tiff_stack(path, y)
    else:
        datasets.write(path, y)
    opened = datasets.open(path, geometry)
    assert (
        len(opened) == 1
        and np.array_equal(opened[0].y[0, 0].numpy(), y)
        and opened[0].geometry == geometry
    )
    short = dataclasses.replace(geometry, angles=geometry.angles[:11])  # type: ignore[type-var]
    with pytest.raises(
        InputError,
        match=r"12x8x10, but the geometry has 11 views of a panel with 8 rows and 10 columns",
    ):
        datasets.open(path, short)[0]


def test_counts_of_a_synchrotron_become_projections(tmp_path: Path) -> None:
    import h5py

    geometry = geometry_from_mapping({**PARALLEL, "tilt": 0.0})
    line = np.random.default_rng(0).random((9, 5, 10))
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        group = file.create_group("exchange")
        group["data"] = 10 + 1000 * np.exp(-line)
        group["data_white"], group["data_dark"] = (
            np.full((2, 5, 10), 1010.0),
            np.full((2, 5, 10), 10.0),
        )
    opened = datasets.open(tmp_path / "scan.h5", geometry)
    assert len(opened) == 1 and np.allclose(opened[0].y[0, 0].numpy(), line, atol=1e-5)


def test_a_volume_is_one_item_when_asked(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.save(tmp_path / "x.npy", x)
    assert datasets.Arrays(tmp_path / "x.npy", items="volume")[0].y.shape == (1, 1, 2, 3, 4)
    with pytest.raises(InputError, match="'slices' or 'volume'"):
        datasets.Arrays(tmp_path / "x.npy", items="whole")
    with pytest.raises(InputError, match="a 3D scan has three"):
        np.save(tmp_path / "flat.npy", x[0])
        datasets.Arrays(tmp_path / "flat.npy", geometry_from_mapping(CONE))


def test_sizes_of_voxels_are_written_to_tiff(tmp_path: Path) -> None:
    grid = datasets.Grid((0.5, 0.25, 0.25), unit="mm")
    datasets.write(
        tmp_path / "x.tif",
        datasets.VolumeInMemory(np.random.rand(3, 4, 5).astype(np.float32), grid),
    )
    opened = datasets.open(tmp_path / "x.tif")
    assert isinstance(opened, datasets.Volume) and opened.shape == (3, 4, 5)
    assert opened.grid.voxel_size == pytest.approx((0.5, 0.25, 0.25), rel=1e-4)


def test_what_works_in_2d_only_says_so() -> None:
    from invtoolbox.processing.detector import bin_detector

    measured = datasets.Measurement(torch.zeros(1, 1, 12, 8, 10), geometry_from_mapping(CONE))
    with pytest.raises(InputError, match="2D scans"):
        bin_detector(measured, 2)


@pytest.mark.parametrize("name", ["cone", "vectors", "parallel", "fan"])
def test_a_geometry_is_shown_on_a_few_short_lines(name: str) -> None:
    angles = tuple(np.linspace(0, 2 * np.pi, 720, endpoint=False))
    cone = Geometry3D(
        "cone",
        (64, 80),
        (32, 32, 32),
        angles,
        voxel_size=(0.5, 0.25, 0.25),
        detector_spacing=(0.7, 0.8),
        source_origin=123.456789,
        source_detector=234.56789,
        detector_shift=(0.123456789, 0.2),
        pitch=0.3,
        tilt=0.01,
        axis_shift=0.2,
        source_shift=(0.1, 0.2, 0.3),
        detector_rotation=(0.01, 0.02, 0.03),
        length_unit="cm",
    )
    geometry: Any = {
        "cone": cone,
        "vectors": Geometry3D(
            "parallel3d",
            (8, 8),
            (4, 4, 4),
            vectors=((0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),) * 300,
        ),
        "parallel": datasets.Geometry("parallel", angles[:360], 50, (32, 32)),
        "fan": datasets.Geometry(
            "fan", angles, 50, (32, 32), source_origin=100.0, source_detector=150.0, curved=True
        ),
    }[name]
    lines = repr(geometry).splitlines()
    assert len(lines) <= 6 and max(map(len, lines)) <= 100
    assert lines[0].startswith(type(geometry).__name__ + "(kind=")
    views = "<300 views>" if name == "vectors" else f"<{len(geometry.angles)} views, 0 to "
    assert views in repr(geometry) and "length_unit='mm'" not in repr(geometry)
