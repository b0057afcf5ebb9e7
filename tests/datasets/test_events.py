"""Readers of event cameras: every format gives the same events, real files, and bad ones."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from invtoolbox import datasets
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry import Events, Lens
from tests.datasets.event_files import SETS, SIZE, N, P, T, X, Y


@pytest.mark.parametrize("name", SETS)
def test_every_format_gives_the_events_that_were_written(name: str, tmp_path: Path) -> None:
    reader, write = SETS[name]
    path = write(tmp_path / name)
    found, named = datasets.read_events(path), datasets.read_events(path, reader=reader)
    assert torch.equal(found.places, named.places)
    more = 3 if name == "events.raw" else 0
    assert len(found) == N + more
    sized = name not in ("dsec.h5", "mvsec.h5", "events.txt")
    assert found.size == (SIZE if sized else (Y.max() + 1, X.max() + 1))
    late = 5.0 if name == "dsec.h5" else 0.0
    assert np.abs(found.times[:N].numpy() - late - T * 1e-6).max() < 1e-9
    assert np.array_equal(found.places[:N].numpy(), np.stack([X, Y], 1).astype(np.float32))
    assert np.array_equal(found.polarity[:N].numpy(), 2 * P - 1)
    if more:  # the pixels of the two vectors
        assert found.places[N:].tolist() == [[4, Y[-1]], [6, Y[-1]], [17, Y[-1]]]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("t,x,y,p\n0.5,1,2,1\n1.0,3,0,0\n", [0.5, 1.0]),
        ("x;y;polarity;timestamp\n1;2;1;0\n3;0;0;2500\n", [0.0, 2.5e-3]),
        ("# x y p t\n1 2 1 0.25\n3 0 0 0.5\n", [0.25, 0.5]),
        ("3,0,0,2000\n1,2,1,4000\n", [2e-3, 4e-3]),  # Metavision's table
        ("3 0 0.25 1\n1 2 0.5 1\n", [0.25, 0.5]),
        (",x,y,p,t\n0,1,2,1,1000\n1,3,0,0,2000\n", [1e-3, 2e-3]),  # of pandas
        ("# made by v2e\n# time (s), x, y, polarity (0, 1)\n0.5 1 2 1\n1.0 3 0 0\n", [0.5, 1.0]),
        ("# x y and t of drive 3\n0.5 1 2 1\n1.0 3 0 0\n", [0.5, 1.0]),
    ],
)
def test_names_order_and_unit_of_a_text(text: str, seconds: list[float], tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(text)
    found = datasets.read_events(tmp_path / "events.csv")
    assert found.times.tolist() == pytest.approx(seconds)
    places = found.places.tolist()
    assert sorted(places) == [[1, 2], [3, 0]]
    assert float(found.polarity[places.index([1, 2])]) == 1


def test_a_text_with_names_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("frame,width,height\n1,2,3\n")
    with pytest.raises(
        InputError, match="first line names frame, width, height; name columns t, x"
    ):
        datasets.read_events(tmp_path / "events.csv")
    (tmp_path / "events.csv").write_text("t,x,y,p\n")
    with pytest.raises(InputError, match="no lines of numbers"):
        datasets.read_events(tmp_path / "events.csv")


def test_a_part_of_a_recording(tmp_path: Path) -> None:
    path = SETS["events.npz"][1](tmp_path / "events.npz")
    whole = datasets.read_events(path)
    part = datasets.read_events(path, start=0.01, duration=0.01, count=5)
    first = whole.times[0]
    assert len(part) == 5 and bool((part.times >= first + 0.01).all())
    with pytest.raises(InputError, match="no events from 9 s on"):
        datasets.read_events(path, start=9.0)
    assert int(whole.counts().sum()) == N


def test_a_clock_of_32_bits_that_overflows(tmp_path: Path) -> None:
    times = np.array([2**32 - 10, 2**32 - 5, 3], "u8").astype("<u4")
    body = np.stack([times, np.zeros(3, "<u4")], 1).astype("<u4").tobytes()
    (tmp_path / "late.dat").write_bytes(b"% Width 4\n% Height 4\n" + bytes((0, 8)) + body)
    found = datasets.read_events(tmp_path / "late.dat")
    assert torch.allclose(found.times.diff(), torch.tensor([5e-6, 8e-6]).double())


@pytest.mark.data
def test_real_recordings(data_dir: Path) -> None:
    pytest.importorskip("pyarrow")
    davis = datasets.read_events(data_dir / "events" / "sample.aedat4")
    assert len(davis) == 111_954 and davis.size == (240, 320)
    assert 0.5 < davis.duration < 0.7
    cars = datasets.read_events(data_dir / "events" / "sample_ncars.dat")
    assert len(cars) == 2009 and abs(cars.duration - 0.1) < 1e-3


def test_a_filter_that_is_missing_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        for name in "xytp":  # 32767 is the code of no filter
            file.create_dataset(
                f"events/{name}",
                (9,),
                "i4",
                chunks=(9,),
                compression=32767,
                allow_unknown_filter=True,
            )
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(MissingDependency, match=r"/events/x is compressed.*\[events\]"):
        datasets.read_events(tmp_path / "packed.h5")


def test_blosc_is_read_as_in_dsec(tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    columns = {"x": X, "y": Y, "t": T, "p": P}
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        for name, column in columns.items():
            file.create_dataset(f"events/{name}", data=column, **hdf5plugin.Blosc())
    read = datasets.read_events(tmp_path / "packed.h5")
    np.testing.assert_array_equal(read.places.numpy(), np.stack([X, Y], 1))


def test_truncated_and_unknown_files_are_one_sentence(tmp_path: Path) -> None:
    for name, cut in (("events.dat", 3), ("events.raw", 1), ("events.aedat4", 30)):
        path = SETS[name][1](tmp_path / name)
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(InputError, match="truncated") as caught:
            datasets.read_events(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "other.bin").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no known recording"):
        datasets.read_events(tmp_path / "other.bin")
    with pytest.raises(InputError, match="there is no reader of events"):
        datasets.read_events(tmp_path / "other.bin", reader="aedat5")


def test_bad_events_are_named() -> None:
    with pytest.raises(InputError, match="time runs backwards at event 2, from 0.200000 to 0.1000"):
        Events.of([0, 1, 1], [0, 0, 0], [0.0, 0.2, 0.1])
    with pytest.raises(InputError, match="outside of 2 rows and 2 columns"):
        Events.of([0, 5], [0, 0], [0.0, 0.2], size=(2, 2))
    with pytest.raises(InputError, match="differ in shape"):
        Events.of([0, 5], [0], [0.0, 0.2])
    with pytest.raises(InputError, match="not finite"):
        Events.of([0, 1], [0, 0], [0.0, float("nan")])


def test_undistorted_events_lie_where_a_pinhole_sees_them() -> None:
    K = torch.tensor([[50.0, 0, 31.5], [0, 50, 31.5], [0, 0, 1]], dtype=torch.float64)
    lens = Lens(radial=(-0.2, 0.05), tangential=(1e-3, -2e-3))
    pinhole = 15 + 30 * torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).double()
    seen = lens.pixels((pinhole - 31.5) / 50, K)
    events = Events.of(*seen.unbind(1), torch.arange(50) / 50, size=(64, 64))
    assert torch.allclose(events.undistort(K, lens).places.double(), pinhole, atol=1e-4)


@pytest.mark.parametrize(("first", "unit"), [(0, "nanoseconds"), (1_700_000_000 * 10**9, "nano")])
def test_text_in_nanoseconds_is_read_as_such(first: int, unit: str, tmp_path: Path) -> None:
    times = first + 1000 * np.arange(0, 50_000, 500)
    lines = [f"{t} {k % 7} {k % 5} 1" for k, t in enumerate(times)]
    (tmp_path / "events.txt").write_text("\n".join(lines))
    np.savez(tmp_path / "events.npz", x=times % 7, y=times % 5, t=times, p=times % 2)
    for name in ("events.txt", "events.npz"):
        events = datasets.read_events(tmp_path / name)
        assert abs(float(events.times[-1] - events.times[0]) - 0.0495) < 1e-5
        assert unit in events.notes[-1] and "0.0495 s" in events.notes[-1]
