"""The zoo: small, varied problems with a truth, on which every default is held against a simple answer.

`item(job, index)` is a pure function of its arguments; `JOBS` lists the jobs. Items of even index
are there to choose rules and thresholds on, items of odd index to report on. Fresh items have indices
that begin at the digest of a commit (`zoo.fresh`), so that nothing can have been chosen on them.
"""

from __future__ import annotations

from zoo import images, large, new_pictures, new_scans, scans, scenes, shapes
from zoo.items import Item, Job

JOBS: dict[str, Job] = {
    **images.JOBS,
    **scans.JOBS,
    **shapes.JOBS,
    **scenes.JOBS,
    **large.JOBS,
    **new_pictures.JOBS,
    **new_scans.JOBS,
}


def item(job: str, index: int) -> Item:
    """Return an item of a job.

    Args:
        job: a name of `JOBS`.
        index: number of the item, below the ``count`` of the job.
    """
    return JOBS[job].make(index)
