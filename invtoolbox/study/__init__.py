"""A study: one reconstruction for every slice of a volume, or for every scene of a list, with one result file an item.

The driver owns the order and the resumption; items are done here, or on Dask workers (`spread`). A result file is
written beside its place and moved there, and carries a checksum of its arrays: what was cut short by a killed process or
a full disk is not counted as done. The same item gives the same file, bit for bit, however many workers there are, because
every worker computes with the same number of threads.

A folder of results holds::

    study.json           what is computed: the items' names, the settings, the versions
    study.log            when each item was begun, done or failed, one JSON object a line
    slice-0000.h5 ...    one result file an item: x, iterations, and facts in its attributes; or another `ResultFormat`
"""

from __future__ import annotations

from invtoolbox.interrupt import Interrupted
from invtoolbox.study.driver import Study, run_study
from invtoolbox.study.results import Answer, ResultFormat, read_result
from invtoolbox.study.slices import map_slices
from invtoolbox.study.worker import Item, Report

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
