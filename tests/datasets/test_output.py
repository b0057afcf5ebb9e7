"""Writing: round trips, the scale of a PNG, and that a file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from invtoolbox import datasets
from invtoolbox.datasets import output
from invtoolbox.errors import InputError

X = torch.randn(1, 1, 12, 9, generator=torch.Generator().manual_seed(0)) * 1e-3


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".tiff"])
def test_written_values_are_read_back_to_the_last_bit(suffix: str, tmp_path: Path) -> None:
    written = datasets.write(tmp_path / f"x{suffix}", X)
    assert "values as they are" in str(written)
    assert torch.equal(datasets.open(written.path)[0].y, X)


def test_hdf5(tmp_path: Path) -> None:
    datasets.write(tmp_path / "x.h5", X)
    attributes = {"units": "1/mm", "iterations": 7}
    datasets.write_hdf5(tmp_path / "y.h5", {"x": X, "y": X.double() * 2}, attributes)
    with h5py.File(tmp_path / "x.h5") as one, h5py.File(tmp_path / "y.h5") as two:
        assert np.array_equal(one["image"], X.numpy())
        assert two["y"].dtype == np.float64 and dict(two.attrs) == attributes


@pytest.mark.parametrize("depth", [8, 16])
def test_png_says_how_it_scaled(depth: int, tmp_path: Path) -> None:
    from PIL import Image

    written = datasets.write_png(tmp_path / "x.png", X, bit_depth=depth)
    assert written.low == X.min().item() and written.high == X.max().item() and written.clipped == 0
    code = datasets.open(written.path)[0].y.double()
    step = (written.high - written.low) / (2**depth - 1)
    assert (written.low + code * (written.high - written.low) - X).abs().max() <= 0.51 * step
    note = Image.open(written.path).text["Description"]
    low, slope = note.removeprefix("value = ").split(" + code * ")
    assert float(low) == written.low and float(slope) == pytest.approx(step)


def test_png_of_a_photograph(tmp_path: Path) -> None:
    photograph = datasets.photograph("cat")
    written = datasets.write_png(tmp_path / "cat.png", photograph + 0.2, value_range=(0, 1))
    assert written.clipped == int(((photograph + 0.2) > 1).sum()) > 0 and "clipped" in str(written)
    back = datasets.open(written.path)[0].y
    assert (back - (photograph + 0.2).clamp(max=1)).abs().max() < 0.502 / 255
    exact = datasets.write_png(tmp_path / "exact.png", photograph, value_range=(0, 1))
    assert torch.equal(datasets.open(exact.path)[0].y, photograph)


def test_a_constant_image_is_black(tmp_path: Path) -> None:
    written = datasets.write_png(tmp_path / "x.png", torch.full((4, 4), 3.0))
    assert datasets.open(written.path)[0].y.max() == 0 and written.low == written.high == 3


def test_color_and_volumes_in_tiff(tmp_path: Path) -> None:
    colors, volume = torch.rand(1, 3, 6, 5), torch.rand(1, 1, 4, 6, 5)
    datasets.write(tmp_path / "colors.tif", colors)
    assert torch.equal(datasets.open(tmp_path / "colors.tif")[0].y, colors)
    datasets.write(tmp_path / "volume.tif", volume)
    pages = datasets.open(tmp_path / "volume.tif")
    assert len(pages) == 4 and torch.equal(pages[3].y[0, 0], volume[0, 0, 3])


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".h5", ".png"])
def test_nothing_is_written_over_unasked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="already"):
        datasets.write(path, X)
    assert path.read_bytes() == b"precious"
    datasets.write(path, X, overwrite=True)
    assert path.read_bytes() != b"precious"
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_that_appears_meanwhile_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    fsync = os.fsync

    def somebody_is_faster(handle: int) -> None:
        path.write_bytes(b"precious")
        fsync(handle)

    monkeypatch.setattr(output.os, "fsync", somebody_is_faster)
    with pytest.raises(InputError, match="already"):
        output.write_bytes(path, b"mine")
    assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["x.bin"]


# The child may write 4 kB a file: for a writer that is a disk that fills up in the middle of a
# write.
CHILD = """
import resource, sys, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from invtoolbox import datasets
for path in sys.argv[1:]:
    try:
        datasets.write(path, torch.rand(1, 1, 300, 300), overwrite=True)
    except ValueError as error:
        print(error)
"""


@pytest.mark.skipif(
    not hasattr(signal, "SIGXFSZ"), reason="limits on the size of files are a matter of Unix"
)
def test_no_room_in_the_middle_of_a_write(tmp_path: Path) -> None:
    names = ["x.npy", "x.tif", "x.h5", "x.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"precious")
    result = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.returncode == 0, result.stderr
    sentences = result.stdout.splitlines()
    assert len(sentences) == len(names)
    for name, sentence in zip(names, sentences):
        assert "no room left" in sentence and name in sentence
        assert (tmp_path / name).read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output.os, "fsync", full)
    with pytest.raises(InputError, match="no room left"):
        datasets.write(tmp_path / "x.npy", X)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    refusals = {
        "x.bmp": (X, "suffix '.bmp'"),
        "none/x.npy": (X, "does not exist"),
        "many.png": (torch.rand(4, 1, 5, 5), "not one picture"),
        "nan.png": (torch.full((5, 5), float("nan")), "NaN"),
        "line.tif": (torch.rand(5), "TIFF holds real images"),
        "word.npy": (np.array(["x"]), "no numbers"),
    }
    for name, (x, message) in refusals.items():
        with pytest.raises(InputError, match=message):
            datasets.write(tmp_path / name, x)
    with pytest.raises(InputError, match="16 in grey"):
        datasets.write_png(tmp_path / "x.png", torch.rand(3, 5, 5), bit_depth=16)
    with pytest.raises(InputError, match="value_range"):
        datasets.write_png(tmp_path / "x.png", X, value_range=(1, 0))
    assert os.listdir(tmp_path) == []
