"""Check of files with several pages, of which only one would be used."""

from __future__ import annotations

from typing import Any

from invtoolbox.datasets.scans.synchrotron import DetectorRows
from invtoolbox.datasets.volumes.arrays import Arrays
from invtoolbox.datasets.volumes.pictures import Pictures
from invtoolbox.datasets.volumes.tiff import TiffStack
from invtoolbox.errors import MeasurementWarning, warn_user


def report_unused_pages(opened: Any, path: Any, remedy: str) -> None:
    """Warn if a stack, an array or a scan has several items, and only the first is used.

    Args:
        opened: data set that `datasets.open` returned.
        path: path of the file, for the sentence.
        remedy: words for what to do, for example ``"choose one with --item"``.

    >>> import tempfile, warnings, numpy, invtoolbox as it
    >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file, warnings.catch_warnings(
    ...     record=True
    ... ) as seen:
    ...     numpy.save(file.name, numpy.zeros((7, 3, 4)))
    ...     report_unused_pages(it.datasets.open(file.name), "stack.npy", "choose one with --item")
    >>> str(seen[0].message)
    'stack.npy has 7 pages, and only page 0 is used; choose one with --item'
    """
    is_scan = isinstance(opened, DetectorRows)
    if isinstance(opened, (Arrays, Pictures, TiffStack, DetectorRows)) and len(opened) > 1:
        kind = "detector row" if is_scan else "page"
        every = "; --items all takes every row" if is_scan else ""
        warn_user(
            f"{path} has {len(opened)} {kind}s, and only {kind} 0 is used; {remedy}{every}",
            MeasurementWarning,
        )
