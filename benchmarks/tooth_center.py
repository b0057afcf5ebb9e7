"""The axis of rotation of TomoPy's tooth, estimated from the data; the target is 295.5 within 0.5.

python benchmarks/tooth_center.py
"""

from __future__ import annotations

import time

from common import data_folder, machine

from invtoolbox import datasets
from invtoolbox.datasets.scans.center_of_rotation import center_of_rotation

TARGET, TOLERANCE = 295.5, 0.5


def main() -> None:
    data_folder()  # ends the script with a sentence if there are no data
    start = time.perf_counter()
    data = datasets.open_named("tooth")
    opened = time.perf_counter() - start
    found = {"all rows": data[0].meta["center_column"]}
    for row in range(len(data)):
        item = data[row]
        start = time.perf_counter()
        found[f"row {row}"] = center_of_rotation(item.y[0, 0].numpy(), item.geometry.angles)
        seconds = time.perf_counter() - start
    print(f"{machine()}; opened in {opened:.2f} s, one row takes {seconds:.2f} s")
    for name, column in found.items():
        verdict = "within" if abs(column - TARGET) <= TOLERANCE else "NOT within"
        print(f"{name:9} column {column:.3f}, {verdict} {TOLERANCE} of {TARGET}")


if __name__ == "__main__":
    main()
