"""Text of a volume, and the call that converts a format that is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import invtoolbox as it


def test_a_format_that_is_not_read_is_named_with_its_converter(tmp_path: Path) -> None:
    (tmp_path / "head.nrrd").write_bytes(b"NRRD0004\ntype: float\n\n1234")
    folder = tmp_path / "head.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    for name, call in (("head.nrrd", "sitk.ReadImage"), ("head.zarr", r'zarr.open.*\["0"\]')):
        with pytest.raises(it.InputError, match=call):
            it.datasets.open(tmp_path / name)


def test_the_text_of_a_volume_names_its_slices(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "head.tif", np.zeros((7, 4, 5), np.uint16), photometric="minisblack"
    )
    text = repr(it.datasets.open(tmp_path / "head.tif"))
    assert "head.tif: 7 slices of 4 x 5" in text and "7 items" in text
