"""Run a scene file of any kind: measurements, the sweeps of a sequence, photographs, or a mesh; behind `it.run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.runs.flow.sequence import FlowStudy
    from invtoolbox.runs.meshes import MeshOutcome
    from invtoolbox.runs.study import Study
    from invtoolbox.runs.views.run import ViewOutcome
    from invtoolbox.solution import Solution

#: Scenes that are run by themselves, by the table that shows their kind.
LONE = {"sweeps": "sweeps", "views": "photographs", "mesh": "a mesh"}


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
) -> Solution | Study | FlowStudy | ViewOutcome | MeshOutcome:
    """Run a scene file and write its results; `it.run`.

    A scene of measurements gives its `Solution`; several of them, several items of one, workers or a cluster make a study
    (`invtoolbox.runs.study`): one result file an item, resumed by what is there, and a `Study` is returned. A scene of sweeps, with a table
    ``[sweeps]``, is a study of its pairs, and a `FlowStudy` is returned. A scene of photographs, with a table ``[views]``, gives a
    `ViewOutcome`, and one of a mesh, with a table ``[mesh]``, a `MeshOutcome`.

    Args:
        scene: the path of a TOML file, or the name of a scene of the catalogue; or several of them.
        overrides: keys to change, ``{"solver.max_iterations": 200}`` or ``["solver.max_iterations=200"]``.
        output: folder for the results; by default that of the scene, or ``results/NAME`` (``results/study`` for several).
        resume: go on from what is in that folder.
        overwrite: replace the results of an earlier run.
        progress: show a bar on a terminal.
        items: of the scene's data set, ``"all"``, ``"0:64:2"``, ``"3,5"`` or numbers; all where workers are asked for.
        workers, cluster, threads: as in `invtoolbox.runs.study.workers.spread`.

    Raises:
        InputError: a fault in the scene or its data; results that are there while neither ``resume`` nor ``overwrite``
            is given; a disk that is full.
    """
    one = lone_scene_among([scene] if isinstance(scene, (str, Path)) else list(scene))
    if one is not None and one[0] == "views":
        from invtoolbox.runs.views.run import run_view_scene

        if items is not None or workers is not None or cluster is not None:
            raise InputError(
                f"{one[1]} is one scene, of all its photographs; it takes no items, workers or cluster"
            )
        return run_view_scene(one[1], overrides, output, resume, overwrite, progress)
    if one is not None and one[0] == "mesh":
        from invtoolbox.runs.meshes import run_mesh_scene

        if items is not None or workers is not None or cluster is not None:
            raise InputError(
                f"{one[1]} is one scene, of one mesh; it takes no items, workers or cluster"
            )
        return run_mesh_scene(one[1], overrides, output, resume, overwrite, progress)
    if one is not None:
        from invtoolbox.runs.flow.scene import run_flow_scene

        return run_flow_scene(
            one[1],
            overrides,
            output,
            resume,
            overwrite,
            progress,
            items,
            workers or 1,
            cluster,
            threads,
        )
    from invtoolbox.runs.study.scenes import run as run_measurements

    return run_measurements(
        scene, overrides, output, resume, overwrite, progress, items, workers, cluster, threads
    )


def lone_scene_among(scenes: Sequence[str | Path]) -> tuple[str, str | Path] | None:
    """The scene of a kind that is run by itself, and the table that shows it; None where all are of measurements.

    Raises:
        InputError: it is one of several.
    """
    from invtoolbox.catalogue.documents import content_of

    for scene in scenes:
        content = content_of(scene)[1]
        for table, what in LONE.items():
            if table not in content:
                continue
            if len(scenes) > 1:
                raise InputError(
                    f"{scene} is a scene of {what}, a study of its own; run it by itself"
                )
            return table, scene
    return None
