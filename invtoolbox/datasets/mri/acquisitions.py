"""Acquisitions of an ISMRMRD file: their headers by kind, and their samples in order.

An acquisition is one readout of all coils. Flags say what it is for; counters say which line of which
image it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding
from invtoolbox.core.trust import is_trusting
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError

#: Numbers of the flags, counted from 1 (`ismrmrd.h`).
_NOISE, _CALIBRATION, _CALIBRATION_AND_IMAGE, _REVERSED = 19, 20, 21, 22
#: Acquisitions that are no part of an image, by flag.
_OTHERS = {
    23: "navigators",
    24: "lines for the phase correction",
    26: "feedback",
    27: "dummy scans",
    28: "feedback",
    29: "surface coil correction",
    30: "phase stabilization",
    31: "phase stabilization",
}
#: Counters of an image, from the slowest; averages and segments are joined.
COUNTERS = ("repetition", "phase", "set", "contrast", "slice")
_FIELDS = (
    *("flags", "number_of_samples", "active_channels", "discard_pre", "discard_post"),
    *("center_sample", "encoding_space_ref", "trajectory_dimensions", "sample_time_us"),
    *("position", "read_dir", "phase_dir", "slice_dir", "idx"),
)


def groups_of(file: Any) -> list[str]:
    """Return the names of the groups of an open HDF5 file that hold acquisitions of ISMRMRD."""
    return [name for name in file if _table(file, name) is not None]


def _table(file: Any, name: str) -> Any:
    """Return the table of acquisitions in a group, or None."""
    import h5py

    group = file.get(name)
    data = group.get("data") if isinstance(group, h5py.Group) else None
    is_table = isinstance(data, h5py.Dataset) and {"head", "data"} <= set(data.dtype.names or ())
    return data if is_table else None


class Acquisitions:
    """Headers of all acquisitions of a group, and access to their samples.

    Attributes:
        path: path of the file.
        group: name of the group.
        header: text of the XML header.
        heads: structured array of the headers of the acquisitions.

    Raises:
        InputError: no XML header, no acquisitions, or headers of another layout.
    """

    def __init__(self, path: Path, group: str | None) -> None:
        self.path, self._trusted = path, is_trusting()
        with decoding(path, "ISMRMRD"), open_hdf5(path) as file:
            names = groups_of(file)
            if group is None and "dataset" in names:
                group = "dataset"
            elif group is None and len(names) == 1:
                group = names[0]
            if group not in names:
                raise InputError(
                    f"{path}: "
                    + (
                        f"no acquisitions of ISMRMRD in {group!r}"
                        if group
                        else "several measurements"
                    )
                    + f"; choose one with group=, of {', '.join(names) or 'none'}"
                )
            self.group = str(group)
            if "xml" not in file[self.group]:
                raise InputError(
                    f"{path}: the group {group!r} has no XML header, which states the matrix and the "
                    "field of view; convert the raw data again"
                )
            words = np.asarray(file[self.group]["xml"]).ravel()
            self.header: Any = words[0] if len(words) else b""
            table = _table(file, self.group)
            if table.dtype["head"].names is None or not set(_FIELDS) <= set(
                table.dtype["head"].names
            ):
                raise InputError(
                    "its acquisitions have headers of another format; convert them again"
                )
            self.heads = table.fields("head")[()].ravel()
        if not len(self.heads):
            raise InputError(
                f"{path}: it holds no acquisitions; the scan was stopped or not exported"
            )

    def flagged(self, *flags: int) -> np.ndarray:
        """Return which acquisitions have any of the flags."""
        bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
        return (self.heads["flags"] & bits) != 0

    @property
    def noise(self) -> np.ndarray:
        """Whether an acquisition is a noise scan."""
        return self.flagged(_NOISE)

    def of_encoding(self, encoding: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return which acquisitions belong to images, which show the coils, and notes on the others.

        Args:
            encoding: number of the encoding.
        """
        others = self.flagged(*_OTHERS) & ~self.noise
        usable = ~others & ~self.noise & (self.heads["encoding_space_ref"] == encoding)
        separate = self.flagged(_CALIBRATION) & ~self.flagged(_CALIBRATION_AND_IMAGE)
        notes = [
            f"{int(self.flagged(flag).sum())} acquisitions are {words}, which are left out"
            for flag, words in _OTHERS.items()
            if self.flagged(flag).any()
        ]
        image = usable & ~separate
        if not image.any():
            raise InputError(
                f"{self.path}: no acquisition of encoding {encoding} belongs to an image; choose another "
                "with encoding=, or convert the raw data again"
            )
        return image, usable & separate, notes

    def counters(self, chosen: np.ndarray) -> np.ndarray:
        """Return the counters of the image of every acquisition, slowest first, slices last.

        Args:
            chosen: which acquisitions.
        """
        return np.stack([self.heads["idx"][name][chosen].astype(int) for name in COUNTERS], 1)

    def coils(self, chosen: np.ndarray) -> int:
        """Return the number of coils of the chosen acquisitions.

        Args:
            chosen: numbers of the acquisitions.
        """
        counts = np.unique(self.heads["active_channels"][chosen])
        if len(counts) != 1 or counts[0] < 1:
            raise InputError(
                f"{self.path}: its acquisitions have {', '.join(map(str, counts))} coils; give a scan "
                "with the same coils in all of them"
            )
        return int(counts[0])

    def samples(self, chosen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Read samples ``(coil, sample)`` and trajectory ``(sample, axes)`` of acquisitions.

        Discarded samples are left out, and reversed readouts are turned, so that the frequency
        rises.

        Args:
            chosen: numbers of the acquisitions, ascending.
        """
        read = []
        with decoding(self.path, "ISMRMRD"), open_hdf5(self.path, self._trusted) as file:
            table = _table(file, self.group)
            has_trajectory = "traj" in table.dtype.names
            breaks = np.flatnonzero(np.diff(chosen) > 1) + 1
            for run in np.split(chosen, breaks) if len(chosen) else ():
                rows = table[int(run[0]) : int(run[-1]) + 1]
                for number, row in zip(run, rows):
                    read.append(self._decode(int(number), row, has_trajectory))
        return read

    def _decode(self, number: int, row: Any, has_trajectory: bool) -> tuple[np.ndarray, np.ndarray]:
        head = self.heads[number]
        count, coils = int(head["number_of_samples"]), int(head["active_channels"])
        axes = int(head["trajectory_dimensions"]) if has_trajectory else 0
        data = np.ascontiguousarray(row["data"], np.float32)
        places = np.ascontiguousarray(row["traj"] if axes else [], np.float32)
        if data.size != 2 * coils * count or places.size != count * axes:
            raise InputError(
                f"acquisition {number} holds {data.size} numbers and {places.size} of its trajectory, "
                f"and its header declares {coils} coils of {count} complex samples with {axes} axes; "
                "convert the raw data again"
            )
        if not np.isfinite(data).all() or not np.isfinite(places).all():
            raise InputError(f"acquisition {number} holds NaN or infinite samples; leave it out")
        values = data.view(np.complex64).reshape(coils, count)
        places = places.reshape(count, axes)
        first, last = int(head["discard_pre"]), count - int(head["discard_post"])
        if first >= last:
            raise InputError(f"acquisition {number} discards all its samples; leave it out")
        values, places = values[:, first:last], places[first:last]
        if int(head["flags"]) >> (_REVERSED - 1) & 1:
            values, places = values[:, ::-1], places[::-1]
        return values, places
