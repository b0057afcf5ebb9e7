"""The shelf of data sets, the samples of installed packages, and real measurements."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from invtoolbox import datasets, metrics
from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.datasets.shelf import PHOTOGRAPHS, missing_files, take_files
from invtoolbox.errors import InputError

NAMES = ["ct-slices", "ct-small", "htc2022", "levin-kernels", "set12", "tooth"]


def test_every_data_set_says_what_and_whence() -> None:
    entries = catalogue.entries("datasets")
    assert set(NAMES) <= set(entries)
    for name in NAMES:
        text = entries[name].path.read_text()
        assert all(word in text for word in ("# What:", "# Source:", "# Use:")), name
        settings = entries[name].read()
        assert settings["reader"] in datasets.READERS and settings["licence"] and settings["sha256"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["av2-pair", "kitti-raw5", "ouster-frames"])
def test_every_lidar_sequence_opens_and_is_what_it_says(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(data_dir))
    datasets.verify(name)
    sweep: Any = datasets.open_named(name)[1]
    assert len(sweep) > 90_000 and (sweep.pose is None) == (name == "ouster-frames")


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_opens_and_is_what_it_says(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(data_dir))
    datasets.verify(name)
    data = datasets.open_named(name)
    item = data[len(data) - 1]
    assert item.y.shape[0] == 1 and torch.isfinite(item.y).all()
    for file in catalogue.find("datasets", name).read()["sha256"]:
        assert datasets.find_file(name, file).is_file()


def test_what_is_missing_or_misspelt_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"did you mean 'htc2022'"):
        datasets.open_named("htc2023")
    with pytest.raises(InputError, match=r"did you mean 'htc2022_ta_full.mat'"):
        datasets.open_named("htc2022", "htc2022_ta_fulll.mat")
    with pytest.raises(InputError, match=r"tooth.h5.*missing.*github.*INVTOOLBOX_DATA.*data tooth"):
        datasets.open_named("tooth")


def test_missing_files_are_taken_from_a_folder_if_their_content_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("INVTOOLBOX_CATALOGUE", str(tmp_path))
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.png", "in/b.png")}
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.toml").write_text(
        '# Mine.\nreader = "pictures"\nfolder = "mine"\ndefault = "."\nlicence = "CC0"\n'
        'source = "a disk"\n[sha256]\n' + "".join(f'"{k}" = "{v}"\n' for k, v in digests.items())
    )
    assert missing_files("mine") == ["a.png", "in/b.png"] and missing_files("street") == []
    fetched = tmp_path / "fetched" / "x"
    fetched.mkdir(parents=True)
    (fetched / "a.png").write_text("other content")
    (fetched / "b.png").write_text("in/b.png")
    assert take_files("mine", tmp_path / "fetched") == [tmp_path / "data" / "mine" / "in" / "b.png"]
    assert missing_files("mine") == ["a.png"] and take_files("mine", tmp_path / "fetched") == []
    with pytest.raises(InputError, match=r"fetchd: .*did you mean .*fetched"):
        take_files("mine", tmp_path / "fetchd")


def test_your_own_file_is_opened_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.mat").touch()
    assert datasets.find_file("htc2022", "mine.mat") == Path("mine.mat")
    assert datasets.find_file("htc2022", str(tmp_path / "mine.mat")) == tmp_path / "mine.mat"
    with pytest.raises(InputError, match=r"theirs.mat: there is no such file"):
        datasets.find_file("htc2022", "folder/theirs.mat")


def test_a_changed_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(tmp_path))
    (tmp_path / "tomopy_tooth").mkdir()
    (tmp_path / "tomopy_tooth" / "tooth.h5").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"tooth.h5: differs"):
        datasets.verify("tooth")


def test_ct_small() -> None:
    item = datasets.ct_small()
    assert item.y.shape == (1, 1, 128, 128) and item.meta["pixel_size"] == (0.661468, 0.661468)
    assert item.y.min() >= -1024 and item.y.max() < 3072
    assert torch.equal(datasets.ct_small("1/mm").y, datasets.hounsfield_to_attenuation(item.y))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_come_with_the_package(name: str) -> None:
    x = datasets.photograph(name)
    assert x.shape[:2] in ((1, 1), (1, 3)) and x.min() >= 0 and 0.5 < x.max() <= 1


@pytest.mark.data
def test_filtered_backprojection_lies_on_the_one_that_comes_with_the_data(data_dir: Path) -> None:
    item = datasets.open(data_dir / "htc2022" / "htc2022_ta_full.mat")[0]
    assert (
        item.geometry is not None and item.reference is not None and item.segmentation is not None
    )
    assert item.y.shape == (1, 1, 721, 560) and item.geometry.sinogram_shape == (721, 560)
    x = item.geometry.operator().pseudo_inverse(item.y)
    # Half a pixel of shift gives 0.997, a quarter of a degree 0.991, another orientation at most
    # 0.97.
    assert metrics.correlation(x, item.reference).item() > 0.9995
    assert metrics.relative_error(x, item.reference).item() < 0.02, "the same unit, 1/mm"
    segmentation = metrics.otsu_segmentation(x)
    assert metrics.matthews_correlation(segmentation, item.segmentation).item() > 0.98


@pytest.mark.data
def test_limited_arc_is_the_start_of_the_full_one(data_dir: Path) -> None:
    full = datasets.open(data_dir / "htc2022" / "htc2022_01a_full.mat")[0]
    limited = datasets.open(data_dir / "htc2022" / "htc2022_01a_limited.mat")[0]
    assert full.geometry is not None and limited.geometry is not None
    assert limited.geometry.angles == full.geometry.angles[:181]
    assert limited.segmentation is not None and full.segmentation is not None
    assert torch.equal(limited.segmentation, full.segmentation)


@pytest.mark.data
def test_levin_kernels_are_not_transposed(data_dir: Path) -> None:
    """The first kernel of the archive is also published as a NumPy file."""
    kernels = datasets.open(data_dir / "kernels" / "Levin09.mat")
    assert [k.y.shape[-1] for k in (kernels[i] for i in range(8))] == [
        19,
        17,
        15,
        27,
        13,
        21,
        23,
        23,
    ]
    other = datasets.open(data_dir / "kernels" / "vble_levin09_0.npy")[0].y.squeeze()
    assert torch.allclose(kernels[0].y[0, 0], other / other.sum(), atol=1e-6)
