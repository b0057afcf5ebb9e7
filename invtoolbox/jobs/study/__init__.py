"""Studies: one computation for every item of a data set, with one result file per item.

`run_study` owns the order and the resumption; items are computed in this process or by Dask workers
(`invtoolbox.jobs.study.workers`). A result file is written next to its final place, moved there,
and carries a checksum of its arrays: a file that a killed process or a full disk cut short does not
count as done. An item gives the same file, bit for bit, for any number of workers, because every
worker computes with the same number of threads.

A folder of results holds::

    study.json           the computation: names of the items, settings, versions
    study.log            times at which items started, finished or failed, one JSON object per line
    slice-0000.h5 ...    one result file per item: x, iterations, attributes; or another format
"""

from __future__ import annotations

from invtoolbox.core.interrupts import Interrupted
from invtoolbox.jobs.study.driver import Item, Report, Study, run_study
from invtoolbox.jobs.study.results import Answer, ResultFormat, read_result
from invtoolbox.jobs.study.slices import map_slices

__all__ = [
    "Answer",
    "Interrupted",
    "Item",
    "Report",
    "ResultFormat",
    "Study",
    "map_slices",
    "read_result",
    "run_study",
]
