"""Studies of scenes of images and scans: every item of a data set, or every scene of a list."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invtoolbox.catalogue.documents import parse_override
from invtoolbox.errors import InputError
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.run import ImageJob
from invtoolbox.jobs.images.tables import SceneFile, Source, read_scene
from invtoolbox.jobs.job import Request
from invtoolbox.jobs.reports import report_study
from invtoolbox.jobs.study.driver import Items, Study, parse_items, run_study
from invtoolbox.jobs.study.results import Answer, answer_of
from invtoolbox.jobs.study.slices import stamp
from invtoolbox.loop.checkpoint import fingerprint


def prepare(
    scenes: Sequence[str | Path], request: Request, is_list: bool
) -> ImageJob | ImageStudyJob:
    """Read and check scenes of images or scans, and return their job.

    Args:
        scenes: paths or names.
        request: how the scenes are to be run.
        is_list: whether a list was given, which makes a study even of one scene.
    """
    if not is_list and not request.is_study:
        return ImageJob.prepare(read_scene(scenes[0], request.overrides), request)
    return ImageStudyJob(list(scenes), request)


@dataclass(frozen=True)
class ImageStudyJob:
    """Study of one scene's items, or of several scenes.

    Several scenes leave in the folder, next to the result files, what each of them writes when it
    is run alone, in a folder of its name. The items of one scene leave result files, and other
    files only if the scene has `output.formats`.

    Attributes:
        scenes: paths or names of the scenes.
        request: how the scenes are to be run.
    """

    scenes: Sequence[str | Path]
    request: Request

    def run(self, progress: bool = True) -> Study:
        """Run the items that have no whole result file yet."""
        request, overrides = self.request, self.request.overrides
        changes = dict(
            overrides if isinstance(overrides, Mapping) else map(parse_override, overrides)
        )
        files = [read_scene(scene, changes) for scene in self.scenes]
        if not files:
            raise InputError("there is nothing to do: no scene was given")
        if len(files) > 1 and request.items is not None:
            raise InputError(
                "items are those of one scene; give one scene, or several without items"
            )
        if len(files) == 1:
            file, folder = files[0], request.folder(files[0])
            chosen = parse_items(request.items or "all", len(_open(file)), str(file.path))
            names = [f"{file.name}-{k:04d}" for k in chosen]
            keep = "formats" in file.scene.output.model_fields_set
        else:
            folder, chosen, keep = Path(request.output or Path("results") / "study"), [], True
            names = [file.name for file in files]
        folder = folder.expanduser().absolute()

        def changes_of(number: int) -> dict[str, Any]:
            item = {_item_key(files[0]): chosen[number]} if chosen else {}
            return {**changes, **item}

        def arguments(number: int) -> tuple[Any, ...]:
            path = files[0 if chosen else number].path.absolute()
            return path, changes_of(number), folder / names[number], keep

        def clear(name: str) -> None:
            for file in ImageJob.files:  # further files in the folder of that name stay
                (folder / name / file).unlink(missing_ok=True)

        return run_study(
            _do_scene,
            Items(names, arguments),
            folder,
            {
                "scenes": {file.name: _settings(file, bool(chosen)) for file in files},
                "content": {
                    file.name: _content(read_scene(file.path, changes_of(0))) for file in files
                },
            },
            workers=request.workers or 1,
            cluster=request.cluster,
            threads=request.threads,
            resume=request.resume,
            overwrite=request.overwrite,
            progress=progress,
            clear=clear,
        )

    def print_outcome(self, outcome: Study, quiet: bool) -> int:
        """Print the outcome; the exit code is 1 if an item failed or diverged."""
        return report_study(outcome, quiet)


def _do_scene(path: Path, overrides: dict[str, Any], folder: Path, keep: bool) -> Answer:
    """Run one scene, from the checkpoint of a killed run if there is one."""
    changes = overrides if keep else {**overrides, "output.formats": []}
    request = Request(changes, folder, resume=(folder / "scene.json").exists())
    outcome = ImageJob.prepare(read_scene(path, changes), request).run(progress=False)
    answer = answer_of(outcome.solution)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    facts = {**answer.facts, "metrics": outcome.metrics}
    if "diverged" in outcome.solution.status:
        facts["note"] = "the iteration diverged; this is the last finite image"
    return Answer(answer.arrays, facts)


def _open(file: SceneFile) -> Any:
    geometry = None if file.scene.measurements.simulate is not None else parts.geometry_of(file)
    return parts.open_source(file, _source(file), geometry)


def _source(file: SceneFile) -> Source:
    return file.scene.measurements.simulate or file.scene.measurements


def _content(file: SceneFile) -> dict[str, Any]:
    """Return plain values that differ if the files that a scene names have changed.

    Of the data, names, sizes and dates are compared; of the other parts, their content.
    """
    content: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # the study reports a damaged item
        content["data"] = stamp(parts.path_of(file, _source(file)))
        measured = parts.measure(file)
        content |= fingerprint(
            {
                "operator": measured.operator,
                "data term": parts.data_term(file, measured.noise_std),
                "prior": parts.prior(file),
            }
        )
    return content


def _item_key(file: SceneFile) -> str:
    simulated = file.scene.measurements.simulate is not None
    return "measurements.simulate.item" if simulated else "measurements.item"


def _settings(file: SceneFile, without_item: bool) -> dict[str, Any]:
    """Return the settings that the results of a scene depend on, to be compared at resumption."""
    content = file.scene.model_dump(mode="json", exclude={"title": True, "output": True})
    if without_item:
        for table in (content["measurements"], content["measurements"].get("simulate") or {}):
            table.pop("item", None)
    return content
