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
_SHORTEST, _LONGEST, _FEWEST = 1e-3, 0.7, 100
#: Number of turns beyond which a file holds several sweeps, which is seldom.
_SEVERAL = 1.5
#: Bounds of the size of plausible numbers that are not zero.
_LEAST, _LARGEST = 1e-12, 1e12


def place_fields(
    records: np.ndarray,
    columns: Sequence[tuple[str, str, int]],
    fields: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the fields at the places that their values fit, and a note per field that is moved.

    A field stays at the place that the header gives unless its values are more plausible at the
    other. A clock is plausible if it is finite and follows the azimuth; a ring is one of few small
    numbers; other numbers are finite and of a usual size.

    Args:
        records: bytes of the points, ``(N, bytes of a record)``.
        columns: name, NumPy type and number of values of each field, padding included.
        fields: fields at the places of the header.
    """
    placed, notes = dict(fields), []
    if not {"x", "y", "z"} <= set(fields) or not len(records):
        return placed, ()
    points = np.stack([fields[axis] for axis in "xyz"], axis=1)
    candidates = {}
    for name, stated, aligned, kind in _places(columns):
        end = aligned + np.dtype(kind).itemsize
        if name not in fields or name in "xyz" or stated == aligned or end > records.shape[1]:
            continue
        aligned_values = np.ascontiguousarray(records[:, aligned:end]).view(kind)[:, 0]
        (score, reason), (stated_score, _) = (
            _plausibility(name, values, points) for values in (aligned_values, fields[name])
        )
        candidates[name] = (score - stated_score, score, aligned_values, stated, aligned, reason)
    # A half of a clock is a clock as well; then the other fields decide.
    is_aligned = any(gain > 0 for gain, *_ in candidates.values())
    is_stated = any(gain < 0 for gain, *_ in candidates.values())
    for name, (gain, score, values, stated, aligned, reason) in candidates.items():
        if gain > 0 or (gain == 0 and score > 0 and is_aligned and not is_stated):
            placed[name] = values
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


def _plausibility(name: str, values: np.ndarray, points: np.ndarray) -> tuple[float, str]:
    """Return how plausible values are for a field of a name, from 0 to 2, and the reason."""
    if clock_name(name) is not None:
        return _plausibility_of_clock(name, values, points), "it is finite and follows the azimuth"
    measured = values[np.isfinite(points).all(1)]
    if name.lower() in ("ring", "channel", "line", "laser_id"):
        rings = np.unique(measured)
        few = len(rings) < max(0.5 * len(measured), 2) or len(measured) < _FEWEST
        fits = len(rings) > 1 and rings[0] >= 0 and rings[-1] < _MOST_RINGS and few
        return float(fits), "it holds few small numbers"
    size = np.abs(measured[measured != 0]) if values.dtype.kind == "f" else values[:0]
    fits = len(size) > 0 and bool(((size > _LEAST) & (size < _LARGEST)).all())
    return float(fits), "it is finite and of a usual size"


def _plausibility_of_clock(name: str, values: np.ndarray, points: np.ndarray) -> float:
    ticks = ticks_of({name: values}, points)
    measured = np.isfinite(points).all(1) & (points != 0).any(1)
    if ticks is None or not ticks.usable.any() or ticks.usable[measured].mean() <= 0.5:
        return 0.0
    spans = [ticks.span * seconds for seconds in UNITS.values()]
    if not np.isfinite(ticks.span) or not any(_SHORTEST <= span <= _LONGEST for span in spans):
        return 0.0
    if len(ticks.used) < _FEWEST:
        return 0.5
    if ticks.winding is None:
        return 0.0
    # The lower half of a number goes through its values again and again.
    return ticks.winding.steadiness + float(ticks.winding.turns <= _SEVERAL)
