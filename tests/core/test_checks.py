"""Paths that do not exist are answered with the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest

from invtoolbox.core.checks import missing_path, near_paths, require_file
from invtoolbox.errors import InputError


def test_the_nearest_names_are_those_of_the_folder_of_the_missing_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos", "day").mkdir(parents=True)
    Path("photos", "day", "scan.npy").write_bytes(b"1")
    assert near_paths("foto") == near_paths("foto/day/scan.npy") == ["photos"]
    assert near_paths("photos/dya") == ["photos/day"] and near_paths("xyz") == []
    assert missing_path("foto/") == (
        "foto/: there is no such file or folder; did you mean 'photos'?"
    )
    assert "the folder foto does not exist; did you mean 'photos'?" in missing_path("foto/a.png")
    assert near_paths("photos/day/scan.npy/inside") == []
    with pytest.raises(InputError, match=r"day/scn.npy: .*did you mean 'photos/day/scan.npy'"):
        require_file("photos/day/scn.npy")


def test_names_of_a_kind_are_suggested_too(tmp_path: Path) -> None:
    assert missing_path("tooht", "scene", ["tooth", "street"]) == (
        "tooht: there is no such file or folder, and no scene has this name; did you mean 'tooth'?"
    )
    assert "`invtoolbox list datasets`" in missing_path("x", "data set")
