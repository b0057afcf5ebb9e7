"""Shared part of `ct` and `deblur`: options of the method, one solve or a study of many items."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from invtoolbox.datasets.opening import scan_file
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.fields import move_paths
from invtoolbox.jobs.images.run import FORMATS, VOLUME_FORMATS, ImageJob
from invtoolbox.jobs.images.tables import Scene
from invtoolbox.jobs.job import Request
from invtoolbox.jobs.study.scenes import ImageStudyJob

#: Options of the measurements, and of the method.
MEASUREMENTS = {
    "--reader": "measurements.reader",
    "--item": "measurements.item",
    "--noise-std": "measurements.noise_std",
    "--repair": "measurements.repair",
}
METHOD = {
    "--prior": "prior",
    "--solver": "solver.name",
    "--regularization": "regularization",
    "--max-iterations": "solver.max_iterations",
    "--time-limit": "solver.time_limit",
    "--automatic": "automatic",
    "--device": "device",
}
REFERENCE = {
    "--reference": (
        "evaluation.reference.path",
        {"metavar": "FILE", "help": "true image, from which PSNR, RMSE and SSIM are computed"},
    )
}


@dataclass(frozen=True)
class ImageKind:
    """Scenes of images and scans, as a command describes and runs them.

    Attributes:
        command: the command.
    """

    command: ImageCommand
    tables: ClassVar = Scene
    writers: ClassVar = dict.fromkeys(("", *FORMATS, *VOLUME_FORMATS))

    def job(
        self, file: Any, request: Request, outputs: Mapping[Path, Any] | None = None
    ) -> ImageJob:
        """Return the job of a checked scene; see `ImageJob` for a folder as output.

        Args:
            file: the scene.
            request: how it is to be run.
            outputs: files to write, and their formats; by default the folder of the request.
        """
        outputs = outputs or {request.folder(file): ""}
        job = ImageJob(file, next(iter(outputs)), request.resume, request.overwrite, outputs)
        job.check(request)
        return job


@dataclass(frozen=True)
class ImageCommand(SceneCommand):
    """Command of images or scans, which also reports, and makes studies of many items.

    Attributes:
        title: title of the report before the name of the file.
        adjust: function of the content of the scene and of the options that completes the content.
    """

    title: str = ""
    adjust: Callable[[dict[str, Any], argparse.Namespace], None] = lambda content, arguments: None

    def fill(self, parser: argparse.ArgumentParser, kind: Any) -> None:
        super().fill(parser, kind)
        parser.add_argument(
            "--report", metavar="FILE", help="also write a page (.html) about the result"
        )

    def job(
        self, arguments: argparse.Namespace, kind: Any, content: dict[str, Any], name: str
    ) -> Any:
        self.adjust(content, arguments)
        source = self.source(arguments)
        content.setdefault("title", f"{self.title} of {source.name}")
        request = options.request_of(arguments)
        if "memory" in content.get("solver", {}):
            # Workers, here of slabs, may have another current folder.
            content = move_paths(kind.tables, content)
            return replace(super().job(arguments, kind, content, name), request=request)
        if not request.is_study:
            return super().job(arguments, kind, content, name)
        output, *others = arguments.output or [f"{source.stem}_reconstruction"]
        if others or arguments.report or "evaluation" in content:
            raise InputError(
                "--report, --reference and further outputs are for one item; leave them out, or "
                "choose one with --item"
            )
        # Workers may have another current folder.
        file: Any = self._check(kind, move_paths(kind.tables, content), name, "item")
        return ImageStudyJob([file], replace(request, output=output))

    def _name_options(self, sentence: str) -> str:
        # One option takes a weight or the name of a rule.
        weight = ": regularization.weight is"
        return super()._name_options(sentence.replace(weight, ": --regularization is"))

    def _outputs(self, arguments: argparse.Namespace, source: Path) -> list[Path]:
        report = [Path(arguments.report)] if arguments.report else []
        outputs = super()._outputs(arguments, source)
        # A scanner's file with nothing else also gives a report.
        is_alone = not (arguments.output or report or vars(arguments).get("solver.memory"))
        if is_alone and scan_file(source.expanduser()) is not None:
            report = [outputs[0].with_suffix(".html")]
        return [*outputs, *report]
