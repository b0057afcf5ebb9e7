"""Restore a folder of pictures: each keeps its name, its format, its depth and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invtoolbox import datasets
from invtoolbox.datasets.output import refuse_inputs
from invtoolbox.errors import InputError
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.images.run import ImageJob
from invtoolbox.jobs.images.tables import SceneFile
from invtoolbox.jobs.job import Request, report_study
from invtoolbox.jobs.study.driver import Items, Study, run_study


@dataclass(frozen=True)
class PictureResults:
    """Pictures as the result files of a study; the work has written them, whole or not at all.

    >>> PictureResults().suffix
    ''
    """

    suffix: str = ""

    def write(self, path: Path, result: Any, name: str, fingerprint: str) -> Mapping[str, Any]:
        solution = result.solution
        simple = [d.text(1) for d in solution.decisions if d.step == "simple-answer"]
        return {"status": solution.status, "notes": solution.notes, "simple": simple}

    def facts(self, path: Path, fingerprint: str) -> Mapping[str, Any]:
        if not path.is_file():
            raise InputError(f"{path}: there is no such picture yet")
        return {}

    def read(self, path: Path) -> datasets.Measurement:
        return datasets.open(path)[0]


@dataclass(frozen=True)
class PictureFolderJob:
    """Run of one scene per picture; the results go to a folder.

    Attributes:
        files: the scenes, by the names of the pictures that they write.
        source: folder of the pictures.
        request: how the scenes are to be run, with the folder of the results.
    """

    files: Mapping[str, SceneFile]
    source: Path
    request: Request

    def run(self, progress: bool = True) -> Study:
        """Restore the pictures that the folder of the results does not hold yet."""
        request, names, scenes = self.request, list(self.files), list(self.files.values())
        folder = Path(request.output or "").expanduser().absolute()
        refuse_inputs(
            [folder], [p for file in scenes[:1] for p in (*input_files(file), self.source)]
        )
        if folder.resolve().is_relative_to(self.source.resolve()):
            raise InputError(
                f"{folder} lies in the folder of the pictures, which is never written into; give "
                "another --output"
            )

        def is_current(number: int, facts: Mapping[str, Any]) -> bool:
            before = Path(scenes[number].scene.measurements.path or "").stat().st_mtime
            return before <= (folder / names[number]).stat().st_mtime

        return run_study(
            _restore,
            Items(names, lambda number: (scenes[number], folder / names[number])),
            folder,
            _settings(scenes[0]),
            workers=request.workers or 1,
            cluster=request.cluster,
            threads=request.threads,
            resume=request.resume,
            overwrite=request.overwrite,
            progress=progress,
            clear=lambda name: (folder / f"{name}.checkpoint").unlink(missing_ok=True),
            results=PictureResults(),
            is_current=is_current,
        )

    def print_outcome(self, outcome: Study, quiet: bool) -> int:
        """Print the outcome; the exit code is 1 if a picture failed or diverged."""
        for report in () if quiet else outcome.reports:
            for sentence in filter(None, report.facts.get("simple", ())):
                print(f"  {report.name}: {sentence}")
        return report_study(outcome, quiet)


def _restore(file: SceneFile, path: Path) -> Any:
    """Run the scene of one picture, from the checkpoint of a killed run if there is one."""
    form = path.suffix.lower().lstrip(".")
    return ImageJob(file, path, resume=True, overwrite=True, outputs={path: form}).run(False)


def _settings(file: SceneFile) -> dict[str, Any]:
    """Return what all pictures have in common, to be compared at resumption."""
    content = file.scene.model_dump(mode="json", exclude={"title": True, "output": True})
    content["measurements"].pop("path")
    if isinstance(mask := (content["operator"] or {}).get("mask"), dict):
        mask.pop("path", None)
    return content
