"""Run scene files of every kind, from images and scans to sweeps, meshes and events; `it.run`.

`prepare` recognizes the kind of a scene file by the table that only this kind has
(`invtoolbox.jobs.kinds`). Each kind then supplies a job, whose method ``run`` computes and writes the
results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from invtoolbox.catalogue.documents import content_of
from invtoolbox.core.trust import trusting
from invtoolbox.errors import InputError
from invtoolbox.jobs.job import Request
from invtoolbox.jobs.kinds import kinds

if TYPE_CHECKING:
    from invtoolbox.jobs.flow.results import FlowStudy
    from invtoolbox.jobs.kind import SceneOutcome
    from invtoolbox.jobs.photographs.run import ViewOutcome
    from invtoolbox.jobs.shapes.moving import MovingOutcome
    from invtoolbox.jobs.study import Study
    from invtoolbox.solution import Solution


class Job(Protocol):
    """Checked run of a scene, or of several; nothing is computed yet."""

    def run(self, progress: bool = True) -> Any:
        """Compute and write the results."""

    def print_outcome(self, outcome: Any, quiet: bool) -> int:
        """Print the outcome, and return the exit code."""


def run(
    scene: str | Path | Sequence[str | Path],
    overrides: Mapping[str, Any] | Iterable[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    items: str | Sequence[int] | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    threads: int = 1,
    trusted: bool = False,
) -> Solution | Study | FlowStudy | ViewOutcome | MovingOutcome | SceneOutcome[Any]:
    """Run a scene file and write its results; `it.run`.

    The kind of the scene decides what is returned:

    - an image or a scan: its `Solution`. Several scenes, several items of one scene, workers or a
      cluster make a `Study` (`invtoolbox.jobs.study`), with one result file per item, which resumes
      from the files that exist;
    - a sequence of sweeps, with a table ``[sweeps]``: a `FlowStudy` of its pairs;
    - photographs, with a table ``[views]``: a `ViewOutcome`;
    - a moving object, with a table ``[motion]``: a `MovingOutcome`;
    - any other kind (a mesh with a table ``[mesh]``, a survey with ``[survey]``, events with
      ``[events]``, a normal map with ``[normals]``, two images with ``[registration]``, the depths
      of a video with ``[video]``, a picture that moves with ``[animation]``, k-space with
      ``[kspace]``, or a kind of a plug-in): a `SceneOutcome` with the result and its metrics.

    Args:
        scene: path of a TOML file, or name of a scene of the catalogue; or several of them.
        overrides: keys to change, ``{"solver.max_iterations": 200}`` or
            ``["solver.max_iterations=200"]``.
        output: folder for the results; by default the folder that the scene names, or
            ``results/NAME`` (``results/study`` for several scenes).
        resume: continue from the results in that folder; a finished run is read, not repeated.
        overwrite: replace the results of an earlier run.
        progress: show a bar on a terminal.
        items: items of the scene's data set: ``"all"``, ``"0:64:2"``, ``"3,5"`` or numbers; all
            items by default if workers or a cluster are given.
        workers: number of processes, as in `invtoolbox.jobs.study.workers.spread`.
        cluster: address of a Dask scheduler, as in `invtoolbox.jobs.study.workers.spread`.
        threads: number of threads per worker.
        trusted: whether the scene may name files outside of its folder, of the current folder and
            of the data folder; paths among the overrides may lie anywhere.

    Raises:
        InputError: a fault in the scene or its data; earlier results exist and neither ``resume``
            nor ``overwrite`` is given; the disk is full.
    """
    from invtoolbox.jobs.images.run import ImageJob

    request = Request(
        overrides,
        output,
        resume,
        overwrite,
        items=items,
        workers=workers,
        cluster=cluster,
        threads=threads,
    )
    with trusting(trusted):
        job = prepare(scene, request)
        outcome = job.run(progress)
    return outcome.solution if isinstance(job, ImageJob) else outcome


def prepare(scene: str | Path | Sequence[str | Path], request: Request) -> Job:
    """Recognize the kind of a scene, read and check the scene, and return its job.

    Args:
        scene: path or name of a scene, or several of them.
        request: how the scene is to be run.

    Raises:
        InputError: a fault in the scene; a scene that must be run by itself is one of several; or
            earlier results exist and neither ``resume`` nor ``overwrite`` is given.
    """
    scenes = [scene] if isinstance(scene, (str, Path)) else list(scene)
    for name in scenes:
        content = content_of(name)[1]
        entry = next((entry for table, entry in kinds().items() if table in content), None)
        if entry is not None:
            if len(scenes) > 1:
                raise InputError(
                    f"{name} is a scene of {entry.noun}, a study of its own; run it by itself"
                )
            return entry.load().prepare(name, request)
    from invtoolbox.jobs.study.scenes import prepare as prepare_images

    return prepare_images(scenes, request, is_list=not isinstance(scene, (str, Path)))
