"""Standard tables: every method on the same items, with the split of every row; `it.benchmark`.

A table is a TOML file of the shelf ``tables/``. Its rows name data, and its *system* is a module of
`invtoolbox.jobs.benchmark.systems` that opens an item of a row and measures an answer. The items of
all rows and methods are one study (`invtoolbox.jobs.study`), from which resumption and workers
follow. Methods of a user join by name, as objects or as functions (`methods`).
"""

from __future__ import annotations

from invtoolbox.jobs.benchmark.run import benchmark
from invtoolbox.jobs.benchmark.summary import Benchmark

__all__ = ["Benchmark", "benchmark"]
