"""Studies of scenes of images and scans: every item of a data set, or every scene of a list."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invtoolbox import datasets
from invtoolbox.catalogue.documents import as_changes
from invtoolbox.datasets.output import refuse_inputs
from invtoolbox.errors import InputError
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.run import VOLUME_FORMATS, ImageJob
from invtoolbox.jobs.images.tables import SceneFile, Source, read_scene
from invtoolbox.jobs.job import Request, check_places, report_study
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
    changes = as_changes(request.overrides)
    files = [read_scene(scene, changes) for scene in scenes]
    if not is_list and not request.is_study:
        return ImageJob.prepare(files[0], request)
    # Workers may have another current folder.
    files = [replace(file, path=file.path.absolute()) for file in files]
    if not is_list and files[0].scene.solver.memory is not None:
        alone = replace(request, items=None, workers=None, cluster=None)
        return replace(ImageJob.prepare(files[0], alone), request=request)
    return ImageStudyJob(files, request)


@dataclass(frozen=True)
class ImageStudyJob:
    """Study of one scene's items, or of several scenes.

    Several scenes leave in the folder, next to the result files, what each of them writes when it
    is run alone, in a folder of its name. The items of one scene leave result files, and other
    files only if the scene has `output.formats`. If the output has the suffix of a volume, the
    items become its slices, and no result files stay.

    Attributes:
        files: the scenes.
        request: how the scenes are to be run.
    """

    files: Sequence[SceneFile]
    request: Request

    @property
    def volume(self) -> Path | None:
        """File of the volume of all items, if there is one."""
        output = Path(self.request.output or "")
        if output.suffix.lower() in (".png", ".jpg", ".jpeg"):
            raise InputError(
                f"--output {output}: many items go to a folder, or to a volume "
                f"({', '.join(VOLUME_FORMATS)})"
            )
        return (
            output if output.name.lower().endswith(tuple(f".{s}" for s in VOLUME_FORMATS)) else None
        )

    def run(self, progress: bool = True) -> Study:
        """Run the items that have no whole result file yet."""
        request, files, volume = self.request, self.files, self.volume
        if not files:
            raise InputError("there is nothing to do: no scene was given")
        if len(files) > 1 and request.items is not None:
            raise InputError(
                "items are those of one scene; give one scene, or several without items"
            )
        if volume is not None:
            check_places([volume], request.overwrite)
        if len(files) == 1:
            file, folder = files[0], request.folder(files[0])
            opened = _open(file)
            if volume is not None and getattr(opened[0].geometry, "axes", 2) == 3:
                raise InputError(
                    f"--output {volume}: every item of a 3D scan is a volume; give a folder"
                )
            chosen = parse_items(request.items or "all", len(opened), str(file.path))
            names = [f"{file.name}-{k:04d}" for k in chosen]
            keep = "formats" in file.scene.output.model_fields_set
        else:
            folder, chosen, keep = Path(request.output or Path("results") / "study"), [], True
            names = [file.name for file in files]
        if volume is not None:
            folder = volume.with_name(f"{volume.name}.items")
        folder = folder.expanduser().absolute()
        places = [folder] if volume is None else [folder, volume]
        refuse_inputs(places, [path for file in files for path in input_files(file)])

        def arguments(number: int) -> tuple[Any, ...]:
            file = _with_item(files[0], chosen[number]) if chosen else files[number]
            return file, folder / names[number], keep

        def clear(name: str) -> None:
            for file in ImageJob.files:  # further files in the folder of that name stay
                (folder / name / file).unlink(missing_ok=True)

        described = [arguments(0)[0]] if chosen else files
        study = run_study(
            _do_scene,
            Items(names, arguments),
            folder,
            {
                "scenes": {file.name: _settings(file, bool(chosen)) for file in described},
                "content": {file.name: _content(file) for file in described},
            },
            workers=request.workers or 1,
            cluster=request.cluster,
            threads=request.threads,
            resume=request.resume,
            overwrite=request.overwrite,
            progress=progress,
            clear=clear,
        )
        if volume is not None and not study.failed:
            datasets.write(volume, study.volume(), overwrite=request.overwrite)
            shutil.rmtree(study.folder, ignore_errors=True)
        return study

    def print_outcome(self, outcome: Study, quiet: bool) -> int:
        """Print the outcome; the exit code is 1 if an item failed or diverged."""
        code = report_study(outcome, quiet)
        if self.volume is not None and not outcome.failed and not quiet:
            print(f"written: {self.volume}")
        return code


def _do_scene(file: SceneFile, folder: Path, keep: bool) -> Answer:
    """Run one scene, from the checkpoint of a killed run if there is one."""
    if not keep:
        file = _with(file, "output", formats=[])
    request = Request(output=folder, resume=(folder / "scene.json").exists())
    outcome = ImageJob.prepare(file, request).run(progress=False)
    assert outcome.solution is not None
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
        measured, is_default = parts.measure(file), parts.is_default(file.scene.prior)
        content |= fingerprint(
            {
                "operator": measured.operator,
                "data term": parts.data_term(file, measured.noise_std),
                "prior": None if is_default else parts.prior_of(file.scene.prior, file),
            }
        )
    return content


def _with_item(file: SceneFile, number: int) -> SceneFile:
    """Return the scene of an item of the data."""
    if file.scene.measurements.simulate is None:
        return _with(file, "measurements", item=number)
    simulate = file.scene.measurements.simulate.model_copy(update={"item": number})
    return _with(file, "measurements", simulate=simulate)


def _with(file: SceneFile, table: str, **values: Any) -> SceneFile:
    """Return the scene with other values in one of its tables."""
    changed = getattr(file.scene, table).model_copy(update=values)
    scene = file.scene.model_copy(update={table: changed})
    return SceneFile(file.name, file.path, scene, file.given)


def _settings(file: SceneFile, without_item: bool) -> dict[str, Any]:
    """Return the settings that the results of a scene depend on, to be compared at resumption."""
    content = file.scene.model_dump(mode="json", exclude={"title": True, "output": True})
    if without_item:
        for table in (content["measurements"], content["measurements"].get("simulate") or {}):
            table.pop("item", None)
    return content
