"""Open recordings of event cameras; the content of a file decides which reader reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from invtoolbox.catalogue.registry import reader_named
from invtoolbox.core.checks import require_file, sniff
from invtoolbox.core.trust import trusting
from invtoolbox.datasets.events.aedat4 import MAGIC, read_aedat4
from invtoolbox.datasets.events.arrays import read_hdf5_events, read_npz_events, read_text_events
from invtoolbox.datasets.events.bags import read_event_bag
from invtoolbox.datasets.events.prophesee import read_dat, read_evt
from invtoolbox.errors import InputError
from invtoolbox.geometry.events import Events

#: Readers of events by name, ``EVENT_READERS[name](path)``. Plug-ins register readers under the
#: entry point ``invtoolbox.readers``.
EVENT_READERS: dict[str, Callable[[Path], Events]] = {
    "events-bag": read_event_bag,
    "aedat4": read_aedat4,
    "prophesee-dat": read_dat,
    "prophesee-raw": read_evt,
    "events-hdf5": read_hdf5_events,
    "events-npz": read_npz_events,
    "events-text": read_text_events,
}
#: Readers that read a part of a file without the rest, ``reader(path, start, duration, count)``.
_PARTIAL_READERS: dict[str, Callable[..., Events]] = {
    "events-bag": read_event_bag,
    "events-hdf5": read_hdf5_events,
}


def read_events(
    path: str | Path,
    reader: str | None = None,
    start: float | None = None,
    duration: float | None = None,
    count: int | None = None,
    trusted: bool = False,
) -> Events:
    """Read a recording of an event camera, or a part of it.

    Args:
        path: AEDAT4, Prophesee DAT or RAW (EVT2, EVT3), HDF5 of DSEC, MVSEC or Prophesee, a ROS 1
            bag or the folder of a ROS 2 bag, .npz, .npy or text.
        reader: name of a reader in `EVENT_READERS` or of a plug-in, in place of the automatic
            choice.
        start: seconds after the first event from which on events are kept.
        duration: seconds after ``start`` until which events are kept.
        count: largest number of events; later ones are cut.
        trusted: whether the file may name files outside of its folder, and unpack to any size.

    Raises:
        InputError: a missing, damaged or unknown file, events whose time runs backwards, or no
            events in the part.
    """
    file = Path(path).expanduser()
    file = file if (file / "metadata.yaml").is_file() else require_file(file)
    name = reader or _reader_of(file)
    with trusting(trusted):
        if name in _PARTIAL_READERS:
            return _PARTIAL_READERS[name](file, start, duration, count)
        events: Events = reader_named("reader of events", name, EVENT_READERS)(file)
    if start is not None or duration is not None:
        first = float(events.times[0]) + (start or 0.0)
        end = float("inf") if duration is None else first + duration
        duration_of_file, events = events.duration, events.between(first, end)
        if not len(events):
            raise InputError(
                f"{file}: no events from {start or 0:g} s on for "
                f"{'ever' if duration is None else f'{duration:g} s'}; the recording takes "
                f"{duration_of_file:g} s"
            )
    return events if count is None else events[:count]


def _reader_of(file: Path) -> str:
    if file.is_dir():
        return "events-bag"
    kind = sniff(file)
    if kind in ("hdf5", "npz", "npy"):
        return "events-hdf5" if kind == "hdf5" else "events-npz"
    with file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(MAGIC):
        return "aedat4"
    if head.startswith(b"#ROSBAG"):
        return "events-bag"
    if file.suffix.lower() == ".mcap":
        raise InputError(
            f"{file}: events of an MCAP file are read from the folder of a ROS 2 bag; give the folder "
            "with its metadata.yaml, which `ros2 bag reindex` writes"
        )
    if head.startswith(b"%"):
        return "prophesee-raw" if file.suffix.lower() == ".raw" else "prophesee-dat"
    if file.suffix.lower() in (".txt", ".csv"):
        return "events-text"
    raise InputError(
        f"{file}: the first bytes show no known recording of events; readable are AEDAT4, "
        "Prophesee DAT and RAW, HDF5, ROS bags, .npz, .npy, and .txt with lines t x y polarity"
    )
