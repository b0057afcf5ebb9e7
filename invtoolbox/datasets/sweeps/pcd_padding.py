"""Places of the fields in records of the Point Cloud Library whose header declares padding.

Some writers declare the bytes between the fields (fields named ``_``) wrongly. The other candidate for
the place of a field is its place in the memory of C: a multiple of its size, behind the 16 bytes of x, y
and z. The values decide between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from invtoolbox.datasets.sweeps.clocks import UNITS, clock_name, ticks_of

#: Columns x, y, z and a fourth number that PCL adds for alignment, bytes.
_PLACES = 16
#: Largest number of lasers of a sensor.
_MOST_RINGS = 512
#: Seconds of a sweep that are possible, and number of points from which a clock turns.
_LONGEST, _FEWEST = 2.0, 100
#: Bounds of the size of plausible numbers that are not zero.
_LEAST, _LARGEST = 1e-12, 1e12


def place_fields(
    records: np.ndarray,
    columns: Sequence[tuple[str, str, int]],
    fields: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the fields at the places that their values fit, and a note per field that is moved.

    A field stays at the place that the header gives if its values are plausible there. A clock is
    plausible if it is finite and increases with the azimuth; a ring is one of few small numbers; other
    numbers are finite and of a usual size.

    Args:
        records: bytes of the points, ``(N, bytes of a record)``.
        columns: name, NumPy type and number of values of each field, padding included.
        fields: fields at the places of the header.
    """
    placed, notes = dict(fields), []
    if not {"x", "y", "z"} <= set(fields) or not len(records):
        return placed, ()
    points = np.stack([fields[axis] for axis in "xyz"], axis=1)
    for name, stated, aligned, kind in _places(columns):
        size = np.dtype(kind).itemsize
        if name not in fields or name in "xyz" or stated == aligned:
            continue
        if aligned + size > records.shape[1]:
            continue
        other = np.ascontiguousarray(records[:, aligned : aligned + size]).view(kind)[:, 0]
        reason = _reason(name, other, points)
        if reason and not _reason(name, fields[name], points):
            placed[name] = other
            notes.append(
                f"{name} lies at byte {aligned} of a record, not at byte {stated} as the header "
                f"declares: there {reason}"
            )
    return placed, tuple(notes)


def _places(columns: Sequence[tuple[str, str, int]]) -> list[tuple[str, int, int, str]]:
    """Return name, place by the header, place by alignment, and type of each field."""
    places, stated, aligned = [], 0, 0
    for name, kind, count in columns:
        size = np.dtype(kind).itemsize
        if name != "_":
            aligned = -(-aligned // size) * size
            places.append((name, stated, aligned, kind))
            aligned += size * count
            if name == "z":
                aligned = max(aligned, _PLACES)
        stated += size * count
    return places


def _reason(name: str, values: np.ndarray, points: np.ndarray) -> str:
    """Return why values are plausible for a field of a name; empty if they are not."""
    if clock_name(name) is not None:
        ticks = ticks_of({name: values}, points)
        if ticks is None or not ticks.usable.any() or not np.isfinite(ticks.span):
            return ""
        measured = np.isfinite(points).all(1) & (points != 0).any(1)
        whole = ticks.usable[measured].mean() > 0.5
        span = [ticks.span * seconds for seconds in UNITS.values()]
        if not whole or not any(1e-4 <= seconds <= _LONGEST for seconds in span):
            return ""
        if len(ticks.used) >= _FEWEST and ticks.winding is None:
            return ""
        return "it is finite and increases with the azimuth"
    measured = values[np.isfinite(points).all(1)]
    if name.lower() in ("ring", "channel", "line", "laser_id"):
        rings = np.unique(measured)
        few = len(rings) < max(0.5 * len(measured), 2) or len(measured) < _FEWEST
        fits = bool(len(rings)) and rings[0] >= 0 and rings[-1] < _MOST_RINGS and few
        return "it holds few small numbers" if fits and len(rings) > 1 else ""
    if values.dtype.kind != "f":
        return ""
    size = np.abs(measured[measured != 0])
    fits = bool(len(size)) and bool(((size > _LEAST) & (size < _LARGEST)).all())
    return "it is finite and of a usual size" if fits else ""
