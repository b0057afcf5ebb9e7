"""Events in ROS bags, and parts and rectification of DSEC and MVSEC recordings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from invtoolbox import datasets
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry import Events
from tests.datasets.event_files import SIZE, N, P, T, X, Y
from tests.datasets.recording_sets import EVENT_STAMP, write_bag1, write_event_bag


@pytest.mark.parametrize("ros1", [True, False])
@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
def test_bags_hold_the_events_that_rosbags_wrote(tmp_path: Path, package: str, ros1: bool) -> None:
    path = write_event_bag(tmp_path / ("a.bag" if ros1 else "a"), package, ros1)
    read = datasets.read_events(path)
    assert read.size == SIZE and len(read) == N
    assert np.abs(read.times.numpy() - (T - T[0]) * 1e-6).max() < 1e-9
    assert np.array_equal(read.places.numpy(), np.stack([X, Y], 1))
    assert np.array_equal(read.polarity.numpy(), 2 * P - 1)
    part = datasets.read_events(path, start=0.01, duration=0.02, count=7)
    whole = read.between(0.01, 0.03)[:7]
    assert torch.equal(part.places, whole.places) and torch.equal(part.times, whole.times)


def test_bags_without_events_and_damaged_messages_are_refused(tmp_path: Path) -> None:
    path = write_event_bag(tmp_path / "a.bag")
    with pytest.raises(InputError, match="no events from 9 s on"):
        datasets.read_events(path, start=9.0)
    with pytest.raises(InputError, match=r"read_events"):
        datasets.open_sweeps(path)
    with pytest.raises(InputError, match=r"no events \(EventArray\).*velodyne_points"):
        datasets.read_events(write_bag1(tmp_path / "clouds.bag"))
    from invtoolbox.datasets.events.bags import _decode

    header = bytes(12) + (3).to_bytes(4, "little") + b"dvs" + bytes(8) + (9).to_bytes(4, "little")
    with pytest.raises(InputError, match="truncated, a message declares 9 events"):
        _decode(header, True)
    with pytest.raises(InputError, match="within its header"):
        _decode(header[:20], True)
    (tmp_path / "a.mcap").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(InputError, match="folder of a ROS 2 bag"):
        datasets.read_events(tmp_path / "a.mcap")


def write_dsec(path: Path, **filters: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["t_offset"] = np.int64(5_000_000)
        # The first event at or after every millisecond.
        file["ms_to_idx"] = np.searchsorted(T, 1000 * np.arange(T[-1] // 1000 + 1)).astype("u8")
        for name, values, kind in (("x", X, "u2"), ("y", Y, "u2"), ("t", T, "u4"), ("p", P, "u1")):
            file.create_dataset(f"events/{name}", data=values.astype(kind), chunks=(8,), **filters)
    return path


def write_mvsec(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        table = np.stack([X, Y, EVENT_STAMP + T * 1e-6, 2 * P - 1], 1).astype(np.float64)
        file.create_dataset("davis/left/events", data=table, chunks=(16, 4))
    return path


@pytest.mark.parametrize("write", [write_dsec, write_mvsec])
def test_a_part_of_a_recording_is_that_of_the_whole(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "events.h5")
    whole = datasets.read_events(path)
    assert np.array_equal(whole.places.numpy(), np.stack([X, Y], 1))
    first = float(whole.times[0])
    for start, duration in ((0.0, 0.004), (0.0101, 0.013), (0.005, None), (None, 0.02)):
        begin = first + (start or 0.0)
        expected = whole.between(begin, float("inf") if duration is None else begin + duration)
        part = datasets.read_events(path, start=start, duration=duration)
        assert torch.equal(part.times, expected.times), (start, duration)
        few = datasets.read_events(path, start=start, duration=duration, count=3)
        assert torch.equal(few.places, expected.places[:3])
    with pytest.raises(InputError, match="no events from 7 s on for 1 s; the recording takes"):
        datasets.read_events(path, start=7.0, duration=1.0)


def test_dsec_is_rectified_by_the_map_next_to_it(tmp_path: Path) -> None:
    path = write_dsec(tmp_path / "events.h5")
    assert "rectify_map.h5" in datasets.read_events(path).notes[0]
    column, row = np.meshgrid(np.arange(40.0), np.arange(30.0))
    places = np.stack([column + 0.25, row - 0.5], -1)
    places[:, 0] = -7.0  # the first column leaves the sensor
    with h5py.File(tmp_path / "rectify_map.h5", "w") as file:
        file["rectify_map"] = places.astype(np.float32)
    read = datasets.read_events(path)
    inside = X > 0
    assert read.size == (30, 40) and read.notes == ()
    np.testing.assert_allclose(
        read.places, np.stack([X[inside] + 0.25, Y[inside] - 0.5], 1), atol=1e-6
    )
    with h5py.File(tmp_path / "rectify_map.h5", "w") as file:
        file["rectify_map"] = places[:5].astype(np.float32)
    with pytest.raises(InputError, match="use the map of the same camera"):
        datasets.read_events(path)


def test_dsec_in_blosc_needs_hdf5plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = write_dsec(tmp_path / "events.h5", **hdf5plugin.Blosc(cname="zstd"))
    part = datasets.read_events(path, start=0.01, count=5)
    assert len(part) == 5
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: False)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    for settings in ({}, {"start": 0.01}):
        with pytest.raises(MissingDependency, match=r"is compressed.*\[events\]") as caught:
            datasets.read_events(path, **settings)
        assert "\n" not in str(caught.value)


def test_events_without_polarity_are_used_with_a_note(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, t=T)
    lines = [f"{t * 1e-6:.6f} {x} {y}" for t, x, y in zip(T, X, Y)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    np.save(tmp_path / "a.npy", np.stack([X, Y, T], 1))
    for name in ("a.npz", "a.txt", "a.npy"):
        read = datasets.read_events(tmp_path / name)
        assert len(read) == N and bool((read.polarity == 1).all())
        note = read.notes[-1]
        assert "no polarity" in note and "\n" not in note
    assert Events.of([0, 1], [0, 0], [0.0, 1.0]).notes == ()
