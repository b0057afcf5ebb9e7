"""Records of the Point Cloud Library whose header declares the padding rightly, wrongly, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from invtoolbox.datasets import open_sweeps
from tests.datasets.sweeps.test_clocks import turn

FIELDS = "x y z _ intensity _ timestamp _ ring _"
SIZES, KINDS = "4 4 4 1 4 1 8 1 2 1", "F F F U F U F U U U"


def write(path: Path, k: int, counts: str, invalid: float | None) -> None:
    """Write x, y, z, intensity at 16, timestamp at 24, ring at 32, in records of 48 bytes."""
    points, times = turn(k, 20)
    kind = np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "timestamp", "ring"],
            "formats": ["<f4", "<f4", "<f4", "<f4", "<f8", "<u2"],
            "offsets": [0, 4, 8, 16, 24, 32],
            "itemsize": 48,
        }
    )
    rows = np.zeros(len(points), kind)
    for axis, values in zip("xyz", points.T):
        rows[axis] = values
    rows["intensity"], rows["timestamp"] = np.arange(len(points)) % 97, times / 1e9
    rows["ring"] = np.arange(len(points)) % 8
    if invalid is not None:
        for axis in "xyz":
            rows[axis][::7] = np.nan
        rows["timestamp"][::7] = invalid
    count = len(points)
    head = (
        f"VERSION 0.7\nFIELDS {FIELDS}\nSIZE {SIZES}\nTYPE {KINDS}\nCOUNT {counts}\nWIDTH {count}\n"
    )
    head += f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA binary\n"
    path.write_bytes(head.encode() + rows.tobytes())


@pytest.mark.parametrize("invalid", [None, 0.0, np.nan])
@pytest.mark.parametrize(
    ("counts", "moved"),
    [
        ("1 1 1 4 1 4 1 0 1 14", False),
        ("1 1 1 4 1 0 1 6 1 12", True),
        ("1 1 1 4 1 0 1 0 1 18", True),
    ],
)
def test_the_values_place_the_time_and_the_ring(
    tmp_path: Path, counts: str, moved: bool, invalid: float | None
) -> None:
    for k in range(2):
        write(tmp_path / f"{k}.pcd", k, counts, invalid)
    sweeps = open_sweeps(tmp_path)
    sweep = sweeps[1]
    assert sweep.timestamp - sweeps[0].timestamp == pytest.approx(0.05, abs=1e-4)
    assert sweep.time is not None and sweep.ring is not None
    assert float(sweep.time[sweep.finite].max()) == pytest.approx(0.05, rel=0.02)
    assert sweep.ring.tolist() == (np.arange(1440) % 8).tolist()
    notes = "; ".join(sweep.meta["notes"])
    assert ("timestamp lies at byte 24 of a record, not at byte 20" in notes) == moved
    assert sweep.intensity is not None and float(sweep.intensity.max()) == 96
