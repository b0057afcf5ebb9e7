"""Scene files as a study: every item of a scene's data set, or every scene of a list."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.runs.images import parts as scene_parts
from invtoolbox.runs.images import run as scene_run
from invtoolbox.runs.images.tables import SceneFile, read_scene
from invtoolbox.runs.study.driver import Items, Study, run_study
from invtoolbox.runs.study.results import Answer, answer_of
from invtoolbox.solution import Solution

Overrides = Mapping[str, Any] | Iterable[str]


def run(
    scene: str | Path | Sequence[str | Path],
    overrides: Overrides = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    items: str | Sequence[int] | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    threads: int = 1,
) -> Solution | Study:
    """Run scene files of measurements; arguments, answer and errors as of `invtoolbox.runs.run.run`, which sees to those of sweeps."""
    if isinstance(scene, (str, Path)):
        if items is None and workers is None and cluster is None:
            return scene_run.run(scene, overrides, output, resume, overwrite, progress)
        scene = [scene]
    return run_scenes(
        list(scene),
        overrides,
        output,
        items,
        workers or 1,
        cluster,
        threads,
        resume,
        overwrite,
        progress,
    )


def run_scenes(
    scenes: Sequence[str | Path],
    overrides: Overrides = (),
    output: str | Path | None = None,
    items: str | Sequence[int] | None = None,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Study:
    """As `run`, always as a study.

    Several scenes leave in the folder what each writes when it is run alone, in a folder of its name, besides the result
    files. Items of one scene leave the result files, and those only if the scene says `output.formats`.
    """
    changes = dict(overrides) if isinstance(overrides, Mapping) else list(overrides)
    files = [read_scene(scene, changes) for scene in scenes]
    if not files:
        raise InputError("there is nothing to do: no scene was given")
    if len(files) > 1 and items is not None:
        raise InputError("items are those of one scene; give one scene, or several without items")
    if len(files) == 1:
        file = files[0]
        folder = Path(output or file.scene.output.folder or Path("results") / file.name)
        chosen = parse_items(items or "all", len(_open(file)), str(file.path))
        names = [f"{file.name}-{k:04d}" for k in chosen]
        keep = "formats" in file.scene.output.model_fields_set
    else:
        folder, chosen, keep = Path(output or Path("results") / "study"), [], True
        names = [file.name for file in files]
    folder = folder.expanduser().absolute()

    def arguments(number: int) -> tuple[Any, ...]:
        which = files[0] if chosen else files[number]
        changed = _with_item(which, changes, chosen[number]) if chosen else changes
        return which.path.absolute(), changed, folder / names[number], keep

    description = {"scenes": {file.name: _settings(file, bool(chosen)) for file in files}}
    return run_study(
        _do_scene,
        Items(names, arguments),
        folder,
        description,
        workers,
        cluster,
        threads,
        resume,
        overwrite,
        progress,
        clear=lambda name: _clear(folder / name),
    )


def parse_items(items: str | Sequence[int], count: int, where: str) -> list[int]:
    """Numbers out of ``"all"``, a slice of Python, numbers joined by commas, or numbers.

    >>> parse_items("0:10:4", 9, "here"), parse_items("5,2", 9, "here")
    ([0, 4, 8], [5, 2])
    """
    if isinstance(items, str):
        try:
            if items == "all":
                found = list(range(count))
            elif ":" in items:
                parts = [int(p) if p.strip() else None for p in items.split(":")]
                found = list(range(count)[slice(*parts)])
            else:
                found = [int(p) for p in items.split(",")]
        except (ValueError, TypeError):
            raise InputError(
                f"items are all, START:STOP, START:STOP:STEP or numbers joined by commas, got {items!r}"
            ) from None
    else:
        found = [int(k) for k in items]
    for k in found:
        if not 0 <= k < count:
            raise InputError(f"item {k} is asked for, and {where} has {count}, counted from 0")
    if not found:
        raise InputError(f"the items {items!r} are none of the {count} of {where}")
    return found


def _do_scene(path: Path, overrides: Any, folder: Path, keep: bool) -> Answer:
    """Run one scene; a checkpoint that a killed run left is gone on from."""
    if not keep:
        overrides = (
            {**overrides, "output.formats": []}
            if isinstance(overrides, dict)
            else [*overrides, "output.formats=[]"]
        )
    outcome = scene_run.run_scene(
        path, overrides, folder, resume=(folder / "scene.json").exists(), progress=False
    )
    answer = answer_of(outcome.solution)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    facts = {**answer.facts, "metrics": outcome.metrics}
    if "diverged" in outcome.solution.status:
        facts["note"] = "the iteration diverged; this is the last finite image"
    return Answer(answer.arrays, facts)


def _open(file: SceneFile) -> Any:
    wanted = file.scene.measurements
    if wanted.simulate is not None:
        return scene_parts.open_source(file, wanted.simulate)
    return scene_parts.open_source(file, wanted, scene_parts.geometry_of(file))


def _with_item(file: SceneFile, overrides: Any, item: int) -> Any:
    table = (
        "measurements.simulate" if file.scene.measurements.simulate is not None else "measurements"
    )
    if isinstance(overrides, dict):
        return {**overrides, f"{table}.item": item}
    return [*overrides, f"{table}.item={item}"]


def _settings(file: SceneFile, without_item: bool) -> dict[str, Any]:
    """What the results of a scene depend on, for the comparison at resumption."""
    content = file.scene.model_dump(mode="json", exclude={"title": True, "output": True})
    if without_item:
        for table in (content["measurements"], content["measurements"].get("simulate") or {}):
            table.pop("item", None)
    return content


def _clear(folder: Path) -> None:
    """Remove what a run of this name left; what is not ours stays."""
    for name in (*scene_run.FILES, scene_run.CHECKPOINT):
        (folder / name).unlink(missing_ok=True)
