"""Volumes of formats that are not read are refused with the call that converts them."""

from __future__ import annotations

from pathlib import Path

import pytest

import invtoolbox as it


def test_a_format_that_is_not_read_is_named_with_its_converter(tmp_path: Path) -> None:
    (tmp_path / "head.nrrd").write_bytes(b"NRRD0004\ntype: float\n\n1234")
    folder = tmp_path / "head.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    for name, call in (("head.nrrd", "sitk.ReadImage"), ("head.zarr", "zarr.open")):
        with pytest.raises(it.InputError, match=call):
            it.datasets.open(tmp_path / name)
