"""Readers of events as arrays: HDF5 (DSEC, MVSEC, Prophesee), .npz and .npy, and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

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


def read_hdf5_events(path: str | Path) -> Events:
    """Read events of an HDF5 file in the layout of DSEC, MVSEC or Prophesee.

    DSEC has arrays ``events/x``, ``y``, ``t`` and ``p`` with microseconds after ``t_offset``. MVSEC
    has one table ``davis/left/events`` with the columns x, y, t and p, in seconds. Prophesee has
    records ``CD/events``. Whole numbers are microseconds, other numbers seconds.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is damaged, or has no events in one of these layouts.
        MissingDependency: the arrays are compressed, as those of DSEC, and hdf5plugin, which
            decompresses them, is not installed.
    """
    with reading(path, "HDF5") as file, open_hdf5(file) as content:
        for group in _PLACES:
            node = content.get(group) if group else content
            columns = None if node is None else _columns(file, node)
            if columns is not None:
                offset = content.get("t_offset")
                late = 0 if offset is None or offset.shape != () else int(offset[()])
                return _events(file, columns, late)
        raise InputError(
            f"no events: none of {', '.join(filter(None, _PLACES))} holds x, y, t and p (the root "
            f"holds {', '.join(list(content)[:8]) or 'nothing'})"
        )


def read_npz_events(path: str | Path) -> Events:
    """Read events of an .npz file with arrays x, y, t and p, or of an array ``(N, 4)`` of them.

    Whole numbers in t are microseconds, other numbers seconds. The array of an .npy file, or the
    array ``events``, has the columns x, y, t and p, with t in seconds if it holds other numbers. A
    member ``size`` holds rows and columns of the sensor.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is damaged, or has other arrays.
    """
    with reading(path, "NumPy") as file:
        loaded = open_arrays(file)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return _events(file, _of_table(loaded), 0)
        with loaded:
            names = _names_of_columns(loaded.files)
            size = loaded["size"].tolist() if "size" in loaded.files else None
            if names is not None:
                return _events(file, {k: loaded[n] for k, n in names.items()}, 0, size)
            if "events" in loaded.files:
                return _events(file, _of_table(loaded["events"]), 0, size)
            raise InputError(f"no arrays x, y, t and p; it holds {', '.join(loaded.files)}")


def read_text_events(path: str | Path) -> Events:
    """Read events of a text file with lines ``t x y polarity``, t in seconds.

    This is the layout of the Event-Camera Dataset (Mueggler et al., 2017). Words are separated by
    blanks or commas, and lines that begin with # are left out.

    Args:
        path: path of the file.

    Raises:
        InputError: a line holds no four numbers.
    """
    with reading(path, "text") as file:
        with file.open("rb") as stream:
            lines = [line for line in stream.read().decode("ascii").splitlines() if line.strip()]
        separator = "," if any("," in line for line in lines[:20]) else None
        table = np.loadtxt(lines, delimiter=separator, ndmin=2)
        if table.shape[1] != 4:
            raise InputError(f"its lines hold {table.shape[1]} numbers, and events have t, x, y, p")
        t, x, y, p = table.T
        return _events(file, {"x": x, "y": y, "t": t, "p": p}, 0)


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


def _columns(file: Path, node: Any) -> dict[str, Any] | None:
    """Return the arrays x, y, t and p of a group, of a table or of records."""
    import h5py

    if isinstance(node, h5py.Group):
        names = _names_of_columns(node)
        if names is None or not all(isinstance(node.get(n), h5py.Dataset) for n in names.values()):
            return None
        datasets = {key: node[name] for key, name in names.items()}
        for dataset in datasets.values():
            require_plausible(file, dataset.shape, dataset.dtype)
        return {key: _load(dataset) for key, dataset in datasets.items()}
    if not isinstance(node, h5py.Dataset) or not node.size:
        return None
    require_plausible(file, node.shape, node.dtype)
    return _of_table(_load(node))


def _load(dataset: Any) -> Any:
    from h5py import h5z

    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(k)[0] for k in range(filters.get_nfilters())]
    if not all(map(h5z.filter_avail, codes)):
        # Its import registers the filters: Blosc of DSEC, ECF of Prophesee.
        need = f"{dataset.name} is compressed, and hdf5plugin, which decompresses it, is not"
        optional_package("hdf5plugin", f"{need} installed;", "events")
    return dataset[()]


def _of_table(table: Any) -> dict[str, Any]:
    if table.dtype.names:
        names = _names_of_columns(table.dtype.names)
        if names is None:
            raise InputError(f"its records have the fields {', '.join(table.dtype.names)}")
        return {key: table[name] for key, name in names.items()}
    if table.ndim != 2 or table.shape[1] != 4 or table.dtype.kind not in "iuf":
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
    file: Path, columns: dict[str, Any], offset: int, size: list[int] | None = None
) -> Events:
    arrays = {key: np.asarray(value) for key, value in columns.items()}
    for key, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            raise InputError(f"its array {key} is of shape {array.shape} and type {array.dtype}")
    if not len(arrays["t"]):
        raise InputError("it holds no events")
    t = arrays["t"]
    seconds = (t.astype(np.int64) + offset) * 1e-6 if t.dtype.kind in "iu" else t + 1e-6 * offset
    sides = None if size is None else (int(size[0]), int(size[1]))
    x, y = (arrays[key].astype(np.float32) for key in "xy")
    sign = arrays["p"].astype(np.float32) if "p" in arrays else None
    return Events.of(x, y, seconds.astype(np.float64), sign, sides, source=str(file))
