"""Readers of events as arrays: HDF5 (DSEC, MVSEC, Prophesee), .npz and .npy, and text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import open_arrays, reading, require_plausible
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError
from invtoolbox.geometry.events import Events

#: Groups or tables of an HDF5 file that hold events, in the order of preference.
_PLACES = ("events", "davis/left/events", "davis/right/events", "CD/events", "")
_ALIASES = {
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "t": ("t", "ts", "timestamp", "timestamps"),
    "p": ("p", "ps", "polarity", "pol", "on"),
}
#: Length of a recording, in units of whole numbers, above which they are no seconds.
_LONGEST_IN_SECONDS = 100
#: Whole times above the first number are nanoseconds since 1970. Whole thousands are nanoseconds
#: too, if microseconds would give fewer events per second than the second number, and if there are
#: at least as many different times as the third number.
_CLOCK, _SLOWEST, _DIFFERENT = 10**17, 1e4, 20


def read_hdf5_events(
    path: str | Path,
    start: float | None = None,
    duration: float | None = None,
    count: int | None = None,
) -> Events:
    """Read events of an HDF5 file in the layout of DSEC, MVSEC or Prophesee, or a part of them.

    DSEC has arrays ``events/x``, ``y``, ``t`` and ``p`` with microseconds after ``t_offset``. MVSEC
    has one table ``davis/left/events`` with the columns x, y, t and p, in seconds. Prophesee has
    records ``CD/events``. Whole numbers are microseconds, other numbers seconds. Only the part is
    read from the file. If a file `rectify_map.h5` of DSEC lies next to a file with ``ms_to_idx``, the
    events are rectified, and those that leave the sensor are dropped.

    Args:
        path: path of the file.
        start: seconds after the first event from which on events are read.
        duration: seconds after ``start`` until which events are read.
        count: largest number of events.

    Raises:
        InputError: the file is damaged, or has no events in one of these layouts.
        MissingDependency: the arrays are compressed, as those of DSEC, and hdf5plugin, which
            decompresses them, is not installed.
    """
    with reading(path, "HDF5") as file, open_hdf5(file) as content:
        for group in _PLACES:
            node = content.get(group) if group else content
            if node is None or not _holds_events(node):
                continue
            first, last = _part(content, node, start, duration, count)
            columns = _columns(file, node, slice(first, last))
            offset = content.get("t_offset")
            late = 0 if offset is None or offset.shape != () else int(offset[()])
            events = _events(file, columns, late)
            return _rectify(file, events) if "ms_to_idx" in content else events
        raise InputError(
            f"no events: none of {', '.join(filter(None, _PLACES))} holds x, y, t and p (the root "
            f"holds {', '.join(list(content)[:8]) or 'nothing'})"
        )


def read_npz_events(path: str | Path) -> Events:
    """Read events of an .npz file with arrays x, y, t and p, or of an array ``(N, 4)`` of them.

    Whole numbers in t are microseconds (or nanoseconds, see `read_text_events`), other numbers
    seconds. The array of an .npy file, or the array ``events``, has the columns x, y, t and p, with t
    in seconds if it holds other numbers. A member ``size`` holds rows and columns of the sensor; the
    whole times of such a file, as `write_events` writes it, are microseconds.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is damaged, or has other arrays.
    """
    with reading(path, "NumPy") as file:
        loaded = open_arrays(file)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return _events(file, _of_table(loaded), None)
        with loaded:
            names = _names_of_columns(loaded.files)
            size = loaded["size"].tolist() if "size" in loaded.files else None
            offset = None if size is None else 0  # files of `write_events` have a size
            if names is not None:
                return _events(file, {k: loaded[n] for k, n in names.items()}, offset, size)
            if "events" in loaded.files:
                return _events(file, _of_table(loaded["events"]), offset, size)
            raise InputError(f"no arrays x, y, t and p; it holds {', '.join(loaded.files)}")


def read_text_events(path: str | Path) -> Events:
    """Read events of a text file with lines ``t x y polarity``, t in seconds.

    This is the layout of the Event-Camera Dataset (Mueggler et al., 2017). A line of names above the
    numbers, also after #, states another order. Without one, the first column that can be the time
    and never falls is the time: lines are ``t x y p``, ``x y p t`` as those of Metavision, or
    ``x y t p``. Times that are all whole are microseconds, or nanoseconds if they are whole thousands
    of few events per second or count from 1970; a note says which. Words are separated by
    blanks, commas or semicolons, and lines that begin with # are left out.

    Args:
        path: path of the file.

    Raises:
        InputError: a line holds neither four numbers, nor three, without the polarity, or the names
            above the numbers are not those of events.
    """
    with reading(path, "text") as file:
        with file.open("rb") as stream:
            text = stream.read().decode("utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        first = next((k for k, line in enumerate(lines) if line[0] in "+-.0123456789"), len(lines))
        if first == len(lines):
            raise InputError("it holds no lines of numbers")
        separator = next((mark for mark in ",;" if mark in lines[first]), None)
        table = np.loadtxt(lines[first:], delimiter=separator, ndmin=2)
        names, notes = None, list[str]()
        for line in lines[:first]:
            words = [w.strip(' ",;') for w in line.lstrip("# ").lower().split(separator)]
            columns_named = _names_of_columns(words) if len(words) == table.shape[1] else None
            if columns_named is not None:
                names = {key: words.index(name) for key, name in columns_named.items()}
            elif not line.startswith("#"):
                raise InputError(
                    f"its first line names {', '.join(words)}; name columns t, x, y and p"
                )
        if names is None:
            orders = {3: ("txy", "xyt"), 4: ("txyp", "xypt", "xytp")}.get(table.shape[1])
            if orders is None:
                raise InputError(
                    f"its lines hold {table.shape[1]} numbers, and events have t, x, y, p"
                )
            increasing = (o for o in orders if _increases(table[:, o.index("t")]))
            order = next(increasing, orders[0])
            if order != orders[0]:
                notes.append(
                    f"{file}: the numbers of a line are read as {', '.join(order)}, because number "
                    f"{order.index('t') + 1} increases and the first one does not"
                )
            names = {key: order.index(key) for key in order}
        columns = {key: table[:, place] for key, place in names.items()}
        t = columns["t"]
        if bool((t == t.round()).all()) and np.ptp(t) > _LONGEST_IN_SECONDS:
            columns["t"] = t.astype(np.int64)
        events = _events(file, columns, None)
        return replace(events, notes=(*events.notes, *notes)) if notes else events


def _increases(values: Any) -> bool:
    """Return whether values never fall, and do not stay."""
    return len(values) > 1 and bool((np.diff(values) >= 0).all()) and values[-1] > values[0]


def write_events(path: str | Path, events: Events, overwrite: bool = False) -> Path:
    """Write events as .npz with x, y, t in microseconds, p and size, which `read_events` reads.

    Places that are not whole, of undistorted events, are kept.

    Args:
        path: path of the file.
        events: the events.
        overwrite: replace a file that exists.

    Raises:
        InputError: the file exists and ``overwrite`` is False, or it cannot be written.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/events.npz"
    >>> _ = write_events(file, Events.of([1, 2], [0, 1], [0.0, 0.5], size=(3, 3)))
    >>> read_npz_events(file)
    Events(2 in 0.5 s, 3 x 3 pixels)
    """
    from invtoolbox.datasets.output import writing

    file = Path(path)
    are_whole = bool((events.places == events.places.round()).all())
    places = events.places.numpy().astype(np.uint16 if are_whole else np.float32)
    with writing(file, overwrite) as stream:
        np.savez_compressed(
            stream,
            x=places[:, 0],
            y=places[:, 1],
            t=(events.times * 1e6).round().long().numpy(),
            p=events.polarity.numpy(),
            size=np.array(events.size),
        )
    return file


def _holds_events(node: Any) -> bool:
    """Return whether a group has arrays x, y and t, or a table or records hold entries."""
    import h5py

    if isinstance(node, h5py.Group):
        names = _names_of_columns(node)
        return names is not None and all(
            isinstance(node.get(name), h5py.Dataset) for name in names.values()
        )
    return isinstance(node, h5py.Dataset) and bool(node.size)


def _part(
    content: Any, node: Any, start: float | None, duration: float | None, count: int | None
) -> tuple[int, int]:
    """Return the numbers of the first event of a part and of the one behind its last event."""
    import h5py

    if isinstance(node, h5py.Group):
        times = node[(_names_of_columns(node) or {})["t"]]
    else:
        times = node
    total, first, last = len(times), 0, len(times)
    if total and (start is not None or duration is not None):
        _require_filters(times)
        begin = _time(times, 0) + (start or 0.0)
        milliseconds = content.get("ms_to_idx") if isinstance(node, h5py.Group) else None
        first = _first_from(times, begin, milliseconds)
        if duration is not None:
            last = _first_from(times, begin + duration, milliseconds)
        if first >= last:
            raise InputError(
                f"no events from {start or 0:g} s on for "
                f"{'ever' if duration is None else f'{duration:g} s'}; the recording takes "
                f"{_time(times, total - 1) - _time(times, 0):g} s"
            )
    return first, last if count is None else min(last, first + count)


def _time(times: Any, index: int) -> float:
    """Return the time of one event of an array, of records or of a table, in seconds."""
    entry = times[index]
    if times.dtype.names:
        entry = entry[(_names_of_columns(times.dtype.names) or {}).get("t", times.dtype.names[0])]
    elif times.ndim == 2:
        entry = entry[2]
    number = np.asarray(entry)
    return float(number) * (1e-6 if number.dtype.kind in "iu" else 1.0)


def _first_from(times: Any, begin: float, milliseconds: Any) -> int:
    """Return the number of the first event at or after a time, by halving."""
    low, high = 0, len(times)
    # Entry k of the index of DSEC is the first event from millisecond k on.
    millisecond = int(1e3 * begin)
    if milliseconds is not None and 0 <= millisecond < len(milliseconds):
        low = min(int(milliseconds[millisecond]), high)
        if millisecond + 1 < len(milliseconds):
            high = min(int(milliseconds[millisecond + 1]) + 1, high)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _time(times, middle) < begin else (low, middle)
    return low


def _columns(file: Path, node: Any, part: slice) -> dict[str, Any]:
    """Return a part of the arrays x, y, t and p of a group, of a table or of records."""
    import h5py

    if isinstance(node, h5py.Group):
        datasets = {key: node[name] for key, name in (_names_of_columns(node) or {}).items()}
        return {key: _load(file, dataset, part) for key, dataset in datasets.items()}
    return _of_table(_load(file, node, part))


def _load(file: Path, dataset: Any, part: slice) -> Any:
    _require_filters(dataset)
    length = len(range(*part.indices(len(dataset))))
    require_plausible(file, (length, *dataset.shape[1:]), dataset.dtype)
    return dataset[part]


def _require_filters(dataset: Any) -> None:
    """Refuse a dataset whose compression cannot be undone, with the extra that undoes it."""
    from h5py import h5z

    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(k)[0] for k in range(filters.get_nfilters())]
    if not all(map(h5z.filter_avail, codes)):
        # Its import registers the filters: Blosc of DSEC, ECF of Prophesee.
        need = f"{dataset.name} is compressed, and hdf5plugin, which decompresses it, is not"
        optional_package("hdf5plugin", f"{need} installed;", "events")


def _rectify(file: Path, events: Events) -> Events:
    """Move events of DSEC to where a rectified camera sees them, if the map lies next to them."""
    neighbour = file.with_name("rectify_map.h5")
    if not neighbour.is_file():
        return replace(
            events,
            notes=(
                *events.notes,
                "rectify_map.h5 does not lie next to the events, so they are as the lens shows them",
            ),
        )
    with reading(neighbour, "HDF5") as path, open_hdf5(path) as content:
        dataset = content.get("rectify_map")
        if dataset is None or dataset.ndim != 3 or dataset.shape[2] != 2:
            raise InputError("it holds no array rectify_map of (rows, columns, 2)")
        places = _load(path, dataset, slice(None))
    rows, columns = places.shape[:2]
    if events.size[0] > rows or events.size[1] > columns:
        raise InputError(
            f"{neighbour} is a map of {rows} rows and {columns} columns, and the events lie on "
            f"{events.size[0]} and {events.size[1]}; use the map of the same camera"
        )
    column, row = events.places.long().unbind(1)
    rectified = torch.from_numpy(places[row.numpy(), column.numpy()].astype(np.float32))
    inside = ((rectified >= -0.5) & (rectified <= rectified.new_tensor([columns, rows]) - 0.5)).all(
        1
    )
    return replace(events[inside], places=rectified[inside], size=(rows, columns))


def _of_table(table: Any) -> dict[str, Any]:
    if table.dtype.names:
        names = _names_of_columns(table.dtype.names)
        if names is None:
            raise InputError(f"its records have the fields {', '.join(table.dtype.names)}")
        return {key: table[name] for key, name in names.items()}
    if table.ndim != 2 or table.shape[1] not in (3, 4) or table.dtype.kind not in "iuf":
        raise InputError(f"events are numbers (N, 4), x, y, t and p; got {table.shape}")
    return dict(zip("xytp", table.T))


def _names_of_columns(present: Any) -> dict[str, str] | None:
    """Return the names of x, y, t and, if there is one, of p; None if x, y or t is missing."""
    names = {
        key: next((alias for alias in aliases if alias in present), "")
        for key, aliases in _ALIASES.items()
    }
    complete = names["x"] and names["y"] and names["t"]
    return {key: name for key, name in names.items() if name} if complete else None


def _events(
    file: Path, columns: dict[str, Any], offset: int | None, size: list[int] | None = None
) -> Events:
    """Return events of columns; ``offset`` is None if no format states the unit of whole times."""
    arrays = {key: np.asarray(value) for key, value in columns.items()}
    for key, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            raise InputError(f"its array {key} is of shape {array.shape} and type {array.dtype}")
    if not len(arrays["t"]):
        raise InputError("it holds no events")
    t = arrays["t"]
    notes, seconds = list[str](), t
    if t.dtype.kind not in "iu":
        seconds = t + 1e-6 * (offset or 0)
    elif offset is not None:
        seconds = (t.astype(np.int64) + offset) * 1e-6
    else:
        unit, scale = ("nanoseconds", 1e-9) if _are_nanoseconds(t) else ("microseconds", 1e-6)
        seconds = t.astype(np.int64) * scale
        notes.append(
            f"{file}: all times are whole numbers, read as {unit}: the recording takes "
            f"{float(np.ptp(seconds)):.3g} s"
        )
    sides = None if size is None else (int(size[0]), int(size[1]))
    x, y = (arrays[key].astype(np.float32) for key in "xy")
    sign = arrays["p"].astype(np.float32) if "p" in arrays else None
    events = Events.of(x, y, seconds.astype(np.float64), sign, sides, source=str(file))
    if sign is None:
        notes.append(
            f"{file} holds no polarity, so all events count as brighter; their flow does not need it"
        )
    return replace(events, notes=tuple(notes)) if notes else events


def _are_nanoseconds(times: Any) -> bool:
    """Return whether whole times are those of a clock in nanoseconds, or of one made from it."""
    if int(times.max()) > _CLOCK:
        return True
    if len(times) >= _SLOWEST * 1e-6 * int(np.ptp(times)) or bool((times % 1000).any()):
        return False
    return len(np.unique(times)) >= _DIFFERENT
