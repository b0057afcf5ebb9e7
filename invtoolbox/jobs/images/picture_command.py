"""Commands of pictures: one picture or a folder of them, which keep names, formats and metadata."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from invtoolbox.core.threads import choose_threads
from invtoolbox.datasets.output import refuse_inputs
from invtoolbox.datasets.volumes.picture_writer import KINDS
from invtoolbox.datasets.volumes.pictures import SUFFIXES, count_pages, picture_files
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.fields import move_paths
from invtoolbox.jobs.images.command import ImageCommand, ImageKind
from invtoolbox.jobs.images.picture_folder import PictureFolderJob
from invtoolbox.jobs.study.driver import parse_items


@dataclass(frozen=True)
class PictureKind(ImageKind):
    """Scenes of pictures, whose results are pictures of the same form."""

    writers: ClassVar = {
        **ImageKind.writers,
        **dict.fromkeys(suffix.lstrip(".") for suffix in KINDS),
    }


@dataclass(frozen=True)
class PictureCommand(ImageCommand):
    """Command of one picture, or of a folder of pictures.

    Attributes:
        operator: name of the operator of the scene.
        ending: end of the names of the results, such as "denoised".
        is_stack: function of the content of the scene that returns whether a folder is one stack.
    """

    operator: str = ""
    ending: str = ""
    is_stack: Callable[[dict[str, Any]], bool] = lambda content: False

    def job(
        self, arguments: argparse.Namespace, kind: Any, content: dict[str, Any], name: str
    ) -> Any:
        content.setdefault("operator", {}).setdefault("name", self.operator)
        source = self.source(arguments).expanduser()
        is_folder = source.is_dir() and any(f.suffix.lower() in SUFFIXES for f in source.iterdir())
        if not is_folder or self.is_stack(content) or self._writes_volume(arguments):
            return super().job(arguments, kind, content, name)
        request, files = options.request_of(arguments), picture_files(source)
        chosen = parse_items(request.items or "all", len(files), str(source))
        others = arguments.output[1:] if arguments.output else []
        if others or arguments.report or arguments.save_scene or "evaluation" in content:
            raise InputError(
                "--report, --reference, --save-scene and further outputs are for one picture; leave "
                f"them out, or give a picture of {source}"
            )
        output = Path(arguments.output[0] if arguments.output else f"{source.name}_{self.ending}")
        refuse_inputs([output], [source])
        if output.suffix.lower() in KINDS:
            raise InputError(f"--output {output}: a folder of pictures goes to a folder; name one")
        scenes: dict[str, Any] = {}
        for path in (files[k] for k in chosen):
            if count_pages(path) > 1:
                raise InputError(
                    f"{path} has {count_pages(path)} pages; a folder of pictures takes one page per "
                    "file, so move it elsewhere and give it by itself"
                )
            scene = copy.deepcopy(content)
            scene["measurements"]["path"] = str(path)
            self.adjust(scene, arguments)
            # Workers may have another current folder.
            file: Any = self._check(kind, move_paths(kind.tables, scene), name, path.stem)
            scenes[path.stem + _suffix(path)] = file
        # One process takes all processors; several take one each.
        threads = request.threads if request.workers else choose_threads(arguments.threads)
        return PictureFolderJob(scenes, source, replace(request, output=output, threads=threads))

    def _writes_volume(self, arguments: argparse.Namespace) -> bool:
        """Return whether the items are to become the slices of one file."""
        suffixes = [Path(name).suffix.lower() for name in arguments.output or ()]
        return bool(suffixes) and suffixes[0] in (".h5", ".npy", ".nii", ".mha", ".zarr", ".gz")

    def _outputs(self, arguments: argparse.Namespace, source: Path) -> list[Path]:
        outputs = super()._outputs(arguments, source)
        if not arguments.output:
            outputs[0] = outputs[0].with_name(f"{source.stem}_{self.ending}{_suffix(source)}")
        return outputs


def _suffix(path: Path) -> str:
    """Return the suffix of the result: the picture's own; JPEG for HEIC, PNG for other files."""
    if path.suffix.lower() in KINDS:
        return path.suffix
    return ".jpg" if path.suffix.lower() in (".heic", ".heif") else ".png"
