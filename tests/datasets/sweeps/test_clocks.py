"""Clocks of recordings as they come: unit, zero, order and invalid rows, decided by evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from invtoolbox.datasets import open_sweeps
from invtoolbox.errors import InputError
from tests.datasets import recording_sets as sets

START = 1_700_000_000_123_456_789
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FIELD = {"u4": 6, "f4": 7, "f8": 8}


def turn(k: int, rate: int, rings: int = 8, columns: int = 180) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a turn, column by column, and their nanoseconds since 1970."""
    column, ring = np.arange(columns).repeat(rings), np.tile(np.arange(rings), columns)
    period = 10**9 // rate
    azimuth, rise = 1.0 - 2 * np.pi * column / columns, np.radians(2.0 * ring - 8)
    distance = 10 + 3 * np.sin(2 * azimuth)
    points = np.stack(
        [np.cos(azimuth) * np.cos(rise), np.sin(azimuth) * np.cos(rise), np.sin(rise)], 1
    )
    return distance[:, None] * points, START + k * period + column * period // columns


def rows_of(points: np.ndarray, name: str, shown: np.ndarray) -> np.ndarray:
    kind = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), (name, shown.dtype.str)]
    rows = np.zeros(len(points), kind)
    for axis, values in zip("xyz", points.T):
        rows[axis] = values
    rows[name] = shown
    return rows


def notes_of(path: Path, k: int = 0, **options: object) -> str:
    return "; ".join(open_sweeps(path, **options)[k].meta["notes"])  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("rate", [5, 10, 20])
def test_an_absolute_clock_of_points_places_the_sweeps(
    tmp_path: Path, unit: str, rate: int
) -> None:
    for k in range(3):
        points, times = turn(k, rate)
        np.save(tmp_path / f"{k}.npy", rows_of(points, "timestamp", times / 1e9 * UNITS[unit]))
    sweeps = open_sweeps(tmp_path)
    stamps = [sweeps[k].timestamp for k in range(3)]
    assert np.diff(stamps) == pytest.approx(1 / rate, abs=1e-5)
    assert sweeps[1].time is not None
    assert float(sweeps[1].time.max()) == pytest.approx(1 / rate - 1 / rate / 180, abs=1e-4)
    assert "counts on from sweep to sweep" in notes_of(tmp_path)


@pytest.mark.parametrize("zero", ["start", "end"])
def test_a_relative_clock_gives_the_rate_by_the_turn(tmp_path: Path, zero: str) -> None:
    for k in range(3):
        points, times = turn(k, 20)
        first = START + (k + (zero == "end")) * 50_000_000
        np.save(tmp_path / f"{k}.npy", rows_of(points, "time", (times - first) / 1e3))
    sweeps = open_sweeps(tmp_path)
    assert [sweeps[k].timestamp for k in range(3)] == pytest.approx([0, 0.05, 0.1])
    assert sweeps[0].time is not None
    assert float(sweeps[0].time.min()) == pytest.approx(-0.05 * (zero == "end"), abs=1e-6)
    assert "20 sweeps per second, because a turn takes" in notes_of(tmp_path)
    given = open_sweeps(tmp_path, rate=10, clock="none")
    assert given[2].timestamp == 0.2 and given[2].time is None


@pytest.mark.parametrize("invalid", [(np.nan, 0.0), (np.nan, np.nan), (0.0, 0.0)])
def test_rows_without_a_measurement_decide_nothing(
    tmp_path: Path, invalid: tuple[float, float]
) -> None:
    for k in range(2):
        points, times = turn(k, 10)
        shown = times / 1e9
        points[::5], shown[::5] = invalid
        np.save(tmp_path / f"{k}.npy", rows_of(points, "timestamp", shown))
    sweep = open_sweeps(tmp_path)[1]
    assert len(sweep) == 1440 and int(sweep.finite.sum()) == 1152
    assert sweep.timestamp == pytest.approx(START / 1e9 + 0.1, abs=2e-3)
    assert sweep.time is not None
    assert bool(sweep.time[::5].isnan().all()) and bool(sweep.time[1:5].isfinite().all())


def test_names_are_stamps(tmp_path: Path) -> None:
    for k, name in enumerate(["1700000000.05", "1700000000.1", "1700000000.15"]):
        np.save(tmp_path / f"{name}.npy", turn(k, 20)[0])
    sweeps = open_sweeps(tmp_path)
    assert sweeps.names[1] == "1700000000.1"
    assert np.diff([s.timestamp for s in (sweeps[0], sweeps[1], sweeps[2])]) == pytest.approx(
        0.05, abs=1e-6
    )
    assert "names of the files" in notes_of(tmp_path)


def test_what_the_recording_does_not_decide_is_asked(tmp_path: Path) -> None:
    points, times = turn(0, 10)
    share = (times - times[0]) / np.ptp(times)
    np.save(tmp_path / "0.npy", rows_of(points, "time", share))
    with pytest.raises(InputError, match="no unit fits.*give clock="):
        open_sweeps(tmp_path)[0]
    np.save(tmp_path / "0.npy", rows_of(points, "time", (times / 1e9).astype("<f4")))
    with pytest.raises(InputError, match="float32.*give rate="):
        open_sweeps(tmp_path)[0]
    np.save(tmp_path / "0.npy", rows_of(points, "time_us", (times - times[0]).astype("<i8")))
    with pytest.raises(InputError, match="its name admits us.*give clock="):
        open_sweeps(tmp_path)[0]
    assert open_sweeps(tmp_path, clock="ns")[0].time is not None
    for k in range(2):
        np.save(tmp_path / f"{k}.npy", rows_of(turn(k, 20)[0], "time", turn(k, 20)[1] / 1e9))
    (tmp_path / "times.txt").write_text("0.0\n0.1\n")
    with pytest.raises(InputError, match="0.1 s apart, but 0.05 s.*times='none'"):
        open_sweeps(tmp_path)[0]
    assert open_sweeps(tmp_path, times="none")[0].timestamp > 1e9


def write_bag(path: Path, order: list[int], unit: str = "us", name: str = "t") -> Path:
    store = sets.get_typestore(sets.Stores.ROS2_HUMBLE)
    with sets.ros2_writer(path) as writer:
        connection = writer.add_connection("/points", sets.CLOUD, typestore=store)
        for n, k in enumerate(order):
            points, times = turn(k, 10)
            since = (times - times[0]) // (10**9 // UNITS[unit])
            rows = rows_of(points, name, since.astype("<u4"))
            fields = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), (name, 12, FIELD["u4"])]
            sent = sets.message(store, rows, START + k * 10**8, fields)
            time = START + n * 10**8
            writer.write(connection, time, store.serialize_cdr(sent, sets.CLOUD))
    return path


def test_messages_are_in_the_order_of_their_stamps(tmp_path: Path) -> None:
    sweeps = open_sweeps(write_bag(tmp_path / "late", [0, 2, 1]))
    assert [sweeps[k].timestamp for k in range(3)] == pytest.approx([0, 0.1, 0.2])
    notes = "; ".join(sweeps[0].meta["notes"])
    assert "order of their stamps" in notes and "t is in microseconds" in notes
    assert sweeps[1].time is not None and float(sweeps[1].time.max()) == pytest.approx(0.0994, 1e-3)
    assert "log" not in notes_of(write_bag(tmp_path / "whole", [0, 1, 2]))


@pytest.mark.parametrize("clocked", [True, False])
def test_one_file_is_cut_into_its_turns(tmp_path: Path, clocked: bool) -> None:
    turns = [turn(k, 20) for k in range(4)]
    points = np.concatenate([places for places, _ in turns])
    times = np.concatenate([times for _, times in turns])
    table = rows_of(points, "timestamp", times / 1e9)
    np.save(tmp_path / "drive.npy", table if clocked else points)
    for path in (tmp_path, tmp_path / "drive.npy"):
        sweeps = open_sweeps(path)
        assert len(sweeps) == 4
        steps = np.diff([sweeps[k].timestamp for k in range(4)])
        assert steps == pytest.approx(0.05 if clocked else 0.1, abs=1e-3)
        assert abs(len(sweeps[2]) - 1440) < 20
    assert "4 turns" in notes_of(tmp_path) and ("assumed" in notes_of(tmp_path)) != clocked
    if clocked:
        np.save(tmp_path / "second.npy", table)
        with pytest.raises(InputError, match="4.0 turns of the lidar; open it by its own path"):
            open_sweeps(tmp_path)[0]


def test_an_image_of_rings_is_one_sweep(tmp_path: Path) -> None:
    points = turn(0, 10)[0].reshape(180, 8, 3).transpose(1, 0, 2).reshape(-1, 3)
    np.save(tmp_path / "0.npy", points)
    assert len(open_sweeps(tmp_path)) == len(open_sweeps(tmp_path / "0.npy")) == 1
