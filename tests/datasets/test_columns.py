"""Raw sweeps: number, type and names of the columns, as their values tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import invtoolbox as it
from invtoolbox.datasets.sweeps.columns import read_rows
from invtoolbox.datasets.sweeps.point_files import read_points
from invtoolbox.errors import InputError

NAMES = ("x", "y", "z", "intensity", "ring", "time")
#: Columns that writers of raw sweeps have: KITTI, nuScenes, drivers with times, plain points.
LAYOUTS = {
    "points": (0, 1, 2),
    "KITTI": (0, 1, 2, 3),
    "nuScenes": (0, 1, 2, 3, 4),
    "times": (0, 1, 2, 3, 5),
    "rings and times": (0, 1, 2, 3, 4, 5),
    "times and rings": (0, 1, 2, 3, 5, 4),
}


@pytest.fixture(scope="module")
def sweep() -> np.ndarray:
    points = it.simulation.street(2, points=6000, seed=5)[0].points.numpy().astype("<f8")
    draw = np.random.default_rng(0)
    count = len(points)
    rest = (255 * draw.random(count), draw.integers(0, 32, count), 0.1 * draw.random(count))
    return np.column_stack([points, *rest])


@pytest.mark.parametrize("order", ["as scanned", "shuffled", "near", "rounded", "of float32"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_values_tell_the_columns(
    tmp_path: Path, sweep: np.ndarray, layout: str, dtype: str, order: str
) -> None:
    rows, path = sweep[:, list(LAYOUTS[layout])].copy(), tmp_path / "0.bin"
    if order == "shuffled":
        rows = np.random.default_rng(1).permutation(rows)
    elif order == "near":
        rows = rows[np.abs(rows[:, :3]).max(1) < 8]
    elif order == "rounded":
        rows[:, :3] = np.round(rows[:, :3])
    elif order == "of float32":
        rows = rows.astype("<f4")
    rows.astype(dtype).tofile(path)
    read, names = read_rows(path, None)
    assert names == tuple(NAMES[k] for k in LAYOUTS[layout]) and read.dtype == dtype
    assert np.array_equal(read, rows.astype(dtype))
    opened = read_points(path)
    assert np.allclose(opened.points.numpy(), rows[:, :3].astype("f4"))
    assert (opened.ring is None) == (4 not in LAYOUTS[layout])


REFUSED = {
    "all columns alike": (
        lambda x: np.random.default_rng(0).normal(size=(2000, 4)),
        "(3, 4, 5, 6)",
    ),
    "a negative intensity": (lambda x: x[:, :4] * [1, 1, 1, -1], 'columns="x y z time"'),
    "a ring with fractions": (
        lambda x: x[:, :5] + [0, 0, 0, 0, 0.5],
        "neither intensity, ring nor",
    ),
    "a part of a row": (lambda x: x[:, :4].ravel()[:-1], "truncated"),
    "damaged values": (
        lambda x: np.frombuffer(np.random.default_rng(0).bytes(48000), "<f4"),
        "neither float32 nor float64",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_values_do_not_tell_is_refused(
    tmp_path: Path, sweep: np.ndarray, case: str
) -> None:
    make, words = REFUSED[case]
    make(sweep).astype("<f4").tofile(tmp_path / "0.bin")
    with pytest.raises(InputError) as error:
        read_points(tmp_path / "0.bin")
    assert words in str(error.value)


def test_columns_that_are_given_are_not_questioned(tmp_path: Path, sweep: np.ndarray) -> None:
    rows = sweep[:, :4] * [1, 1, 1, -1]
    for dtype in ("<f4", "<f8"):
        rows.astype(dtype).tofile(tmp_path / "0.bin")
        read = it.datasets.open_sweeps(tmp_path, columns="x y z time_of_day")[0]
        assert len(read.points) == len(rows) and read.intensity is None
        assert np.allclose(read.points.numpy(), rows[:, :3], rtol=1e-6)


@pytest.mark.data
def test_real_sweeps_have_the_columns_of_their_format(data_dir: Path) -> None:
    for path in sorted((data_dir / "kitti_raw5").glob("*.bin")):
        rows, names = read_rows(path, None)
        assert names == NAMES[:4] and rows.dtype == "<f4"
