"""Run scene files of every kind, from images and scans to sweeps, meshes and events; `it.run`.

`prepare` recognizes the kind of a scene file by the table that only this kind has. Each kind then
supplies a job, whose method ``run`` computes and writes the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from invtoolbox.catalogue.documents import content_of
from invtoolbox.core.trust import trusting
from invtoolbox.errors import InputError
from invtoolbox.jobs.job import Request

if TYPE_CHECKING:
    from invtoolbox.jobs.animation.scene import AnimationOutcome
    from invtoolbox.jobs.events.scene import EventOutcome
    from invtoolbox.jobs.flow.results import FlowStudy
    from invtoolbox.jobs.images.run import Outcome
    from invtoolbox.jobs.normals.scene import NormalOutcome
    from invtoolbox.jobs.photographs.run import ViewOutcome
    from invtoolbox.jobs.registration.scene import RegistrationOutcome
    from invtoolbox.jobs.shapes.meshes import MeshOutcome
    from invtoolbox.jobs.shapes.moving import MovingOutcome
    from invtoolbox.jobs.study import Study
    from invtoolbox.jobs.video_depths.scene import VideoOutcome
    from invtoolbox.jobs.waves.scene import WaveOutcome
    from invtoolbox.solution import Solution

    #: Result of a kind of scene that is run one at a time.
    Alone: TypeAlias = (
        FlowStudy
        | ViewOutcome
        | MeshOutcome
        | MovingOutcome
        | EventOutcome
        | NormalOutcome
        | RegistrationOutcome
        | VideoOutcome
        | WaveOutcome
        | AnimationOutcome
    )

#: Kinds of scenes that are run one at a time, by the table that only they have: the module, which
#: has a function ``prepare(scene, request)``, and the noun for messages. All other scenes are of
#: images and scans.
KINDS = {
    "sweeps": ("invtoolbox.jobs.flow.scene", "sweeps"),
    "views": ("invtoolbox.jobs.photographs.run", "photographs"),
    "mesh": ("invtoolbox.jobs.shapes.meshes", "a mesh"),
    "motion": ("invtoolbox.jobs.shapes.moving", "a moving object"),
    "events": ("invtoolbox.jobs.events.scene", "events"),
    "normals": ("invtoolbox.jobs.normals.scene", "a normal map"),
    "registration": ("invtoolbox.jobs.registration.scene", "two images"),
    "video": ("invtoolbox.jobs.video_depths.scene", "the depths of a video"),
    "animation": ("invtoolbox.jobs.animation.scene", "a picture that moves"),
    "survey": ("invtoolbox.jobs.waves.scene", "a survey"),
}


class Job(Protocol):
    """Checked run of a scene, or of several; nothing is computed yet."""

    def run(self, progress: bool = True) -> Outcome | Study | Alone:
        """Compute and write the results."""


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
) -> Solution | Study | Alone:
    """Run a scene file and write its results; `it.run`.

    The kind of the scene decides what is returned:

    - an image or a scan: its `Solution`. Several scenes, several items of one scene, workers or a
      cluster make a `Study` (`invtoolbox.jobs.study`), with one result file per item, which resumes
      from the files that exist;
    - a sequence of sweeps, with a table ``[sweeps]``: a `FlowStudy` of its pairs;
    - photographs, with a table ``[views]``: a `ViewOutcome`;
    - a mesh, with a table ``[mesh]``: a `MeshOutcome`;
    - a moving object, with a table ``[motion]``: a `MovingOutcome`;
    - a seismic survey, with a table ``[survey]``: a `WaveOutcome`;
    - events, with a table ``[events]``: an `EventOutcome`;
    - a normal map, with a table ``[normals]``: a `NormalOutcome`;
    - two images to register, with a table ``[registration]``: a `RegistrationOutcome`;
    - the depths of a video, with a table ``[video]``: a `VideoOutcome`;
    - a picture that two scores move, with a table ``[animation]``: an `AnimationOutcome`.

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
    from invtoolbox.jobs.images.run import Outcome

    request = Request(overrides, output, resume, overwrite, items, workers, cluster, threads)
    with trusting(trusted):
        outcome = prepare(scene, request).run(progress)
    return outcome.solution if isinstance(outcome, Outcome) else outcome


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
    for one in scenes:
        content = content_of(one)[1]
        for table, (module, noun) in KINDS.items():
            if table in content:
                if len(scenes) > 1:
                    raise InputError(
                        f"{one} is a scene of {noun}, a study of its own; run it by itself"
                    )
                return import_module(module).prepare(one, request)
    from invtoolbox.jobs.study.scenes import prepare as prepare_images

    return prepare_images(scenes, request, is_list=not isinstance(scene, (str, Path)))
