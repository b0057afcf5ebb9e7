"""``invtoolbox data``: the card of a data set and its missing files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.command_line import Run, one_sentence


def test_the_card_names_address_layout_and_missing_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path))
    ran = run("data", "htc2022")
    assert ran.code == 1 and "zenodo.7418878" in ran.out and "INVTOOLBOX_DATA" in ran.out
    assert str(tmp_path / "htc2022") in ran.out and "missing htc2022_ta_full.mat" in ran.out
    assert run("data", "street").code == run("data", "ct-small").code == 0
    assert "did you mean 'htc2022'" in one_sentence(run("data", "htc202"))


def test_files_come_from_a_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("INVTOOLBOX_CATALOGUE", str(tmp_path))
    slice_ = Path(str(get_testdata_file("CT_small.dcm", download=False)))
    shipped = Path(__file__).parents[2] / "datasets" / "ct-small.toml"
    (tmp_path / "datasets").mkdir()
    text = shipped.read_text().replace('package = "pydicom"\n', "")
    (tmp_path / "datasets" / "slice.toml").write_text(text)
    assert "missing CT_small.dcm" in run("data", "slice").out
    (tmp_path / "fetched").mkdir()
    shutil.copy(slice_, tmp_path / "fetched")
    ran = run("data", "slice", "--from", tmp_path / "fetched")
    copy = tmp_path / "data" / "data" / "test_files" / "CT_small.dcm"
    assert ran.code == 0 and f"copied:  {copy}" in ran.out
    assert copy.read_bytes() == slice_.read_bytes()


@pytest.mark.parametrize(
    ("words", "file", "address"),
    [
        ("reconstruct lego-gaussians", "transforms_train.json", "github.com/shouxieai/nerf"),
        ("run htc2022-90deg", "htc2022_01a_limited.mat", "zenodo.7418878"),
    ],
)
def test_a_scene_without_its_data_names_file_address_place_and_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, file: str, address: str
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sentence = one_sentence(run(*words.split()))
    for part in (file, address, "INVTOOLBOX_DATA", "invtoolbox data "):
        assert part in sentence
