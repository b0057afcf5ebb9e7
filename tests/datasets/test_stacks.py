"""Stacks of microscopes: axes, voxel sizes, channels and times survive, through tifffile and zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import invtoolbox as it
from invtoolbox.datasets.volumes.stacks import Metadata, open_stack, write_stack

zarr = pytest.importorskip("zarr")
SIZES = {
    **{f"PhysicalSize{a}": s for a, s in zip("ZYX", (0.3, 0.11, 0.12))},
    **{f"PhysicalSize{a}Unit": "µm" for a in "ZYX"},
}
WHOLE = (slice(None),) * 3


@pytest.fixture
def data() -> np.ndarray:
    return np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)


def write_ome(path: Path, data: np.ndarray, axes: str = "TCZYX", **metadata: object) -> Path:
    known = {"axes": axes, **SIZES, **metadata}
    tifffile.imwrite(path, data, metadata=known, photometric="minisblack")
    return path


def test_ome_tiff_is_read_in_parts(tmp_path: Path, data: np.ndarray) -> None:
    channels = {
        "Name": ["DAPI", "GFP", "Cy5"],
        "EmissionWavelength": [461, 509, 670],
        "EmissionWavelengthUnit": ["nm"] * 3,
    }
    timing = {"TimeIncrement": 250.0, "TimeIncrementUnit": "ms"}
    stack = open_stack(write_ome(tmp_path / "a.ome.tif", data, Channel=channels, **timing))
    assert stack.shape == data.shape and stack.dtype == np.uint16
    known = stack.metadata
    assert known.voxel_size == pytest.approx((0.3, 0.11, 0.12)) and known.time_step == 0.25
    assert known.channels == ("DAPI", "GFP", "Cy5")
    assert known.wavelengths == pytest.approx((0.461, 0.509, 0.67))
    part = (slice(1, 3), slice(0, 4), slice(2, 6))
    np.testing.assert_array_equal(stack.read(1, 2, part), data[1, 2][part])


@pytest.mark.parametrize("suffix", [".zarr", ".ome.tif"])
def test_metadata_survive(tmp_path: Path, data: np.ndarray, suffix: str) -> None:
    known = Metadata((0.3, 0.11, 0.12), ("DAPI", "GFP", "Cy5"), None, 2.5)
    source = write_ome(
        tmp_path / "a.ome.tif",
        data,
        Channel={"Name": list(known.channels or ())},
        TimeIncrement=2.5,
    )
    first = open_stack(source)
    assert first.metadata == known
    written = open_stack(write_stack(tmp_path / f"b{suffix}", first))
    assert written.metadata == known and written.dtype == np.uint16
    for time, channel in np.ndindex(2, 3):
        np.testing.assert_array_equal(written.read(time, channel, WHOLE), data[time, channel])
    with pytest.raises(it.InputError, match="exists"):
        write_stack(tmp_path / f"b{suffix}", first)


def test_other_programs_read_what_is_written(tmp_path: Path, data: np.ndarray) -> None:
    first = open_stack(write_ome(tmp_path / "a.ome.tif", data))
    path = write_stack(tmp_path / "b.zarr", first)
    group = zarr.open_group(str(path), mode="r")
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert [a["name"] for a in multiscale["axes"]] == list("tczyx")
    scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale[2:] == pytest.approx([0.3, 0.11, 0.12])
    np.testing.assert_array_equal(group["0"][:], data)
    models = pytest.importorskip("ome_zarr_models")
    models.open_ome_zarr(group)


def test_imagej_and_compressed_stacks(tmp_path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(
        tmp_path / "i.tif",
        data[0].transpose(1, 0, 2, 3),
        imagej=True,
        resolution=(1 / 0.12, 1 / 0.11),
        metadata={"axes": "ZCYX", "spacing": 0.3, "unit": "um"},
    )
    stack = open_stack(tmp_path / "i.tif")
    assert stack.shape == (1, 3, 4, 5, 6)
    assert stack.metadata.voxel_size == pytest.approx((0.3, 0.11, 0.12))
    np.testing.assert_array_equal(stack.read(0, 1, WHOLE), data[0, 1])
    tifffile.imwrite(
        tmp_path / "c.ome.tif", data, compression="zlib", metadata={"axes": "TCZYX"},
        photometric="minisblack",
    )  # fmt: skip
    part = (slice(1, 3), slice(0, 4), slice(2, 6))
    np.testing.assert_array_equal(
        open_stack(tmp_path / "c.ome.tif").read(1, 2, part), data[1, 2][part]
    )


def test_axes_without_names_are_refused(tmp_path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "p.tif", data[0, 0])
    with pytest.raises(it.InputError, match="give --axes with one letter"):
        open_stack(tmp_path / "p.tif")
    stack = open_stack(tmp_path / "p.tif", "zyx", (0.3, 0.1, 0.1))
    np.testing.assert_array_equal(stack.read(0, 0, WHOLE), data[0, 0])
    assert stack.metadata.voxel_size == (0.3, 0.1, 0.1)
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(4, 5, 6), dtype="uint8")
    with pytest.raises(it.InputError, match="are missing; give --axes"):
        open_stack(tmp_path / "a.zarr")
    with pytest.raises(it.InputError, match="no OME-TIFF and no OME-Zarr"):
        open_stack(tmp_path / "none.czi")
    with pytest.raises(it.InputError, match="written as .tif or .zarr"):
        write_stack(tmp_path / "b.nii", stack)
