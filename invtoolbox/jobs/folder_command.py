"""Command of a kind whose results are a folder, and whose argument may be a scene.

The argument is what the user measured, a scene file, or a name of the catalogue. The settings of a
scene apply unless an option replaces them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invtoolbox.catalogue.documents import CheckedScene, as_changes
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.command import SceneCommand, save_scene


@dataclass(frozen=True)
class FolderCommand(SceneCommand):
    """Command of an `OwnKind`; `outputs` is the folder of the results.

    Attributes:
        has_workers: whether the command takes workers.
    """

    has_workers: bool = False

    def add_results(self, parser: argparse.ArgumentParser, kind: Any) -> None:
        group = parser.add_argument_group("results")
        options.add_folder(
            group,
            f"folder for the results (default: {self.outputs[0]})",
            "keep the results in the folder and go on from them, for example after Ctrl-C",
            "replace the results of an earlier run",
            names=("--out", "--output", "-o"),
        )
        group.add_argument(
            "--save-scene", metavar="FILE", help="also write the scene file of this run"
        )
        (options.add_workers if self.has_workers else options.add_threads)(parser)

    def changes(self, arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
        # Settings without a table, such as --view, are read by `read` and `finish`.
        tables, changes = (*kind.tables.model_fields, "preset"), super().changes(arguments, kind)
        return {key: value for key, value in changes.items() if key.split(".")[0] in tables}

    def run(self, arguments: argparse.Namespace, kind: Any, name: str) -> int:
        changes, (key, *_) = self.changes(arguments, kind), self.positional.values()
        source = changes.pop(key)
        try:
            file = self.read(kind, source, changes | as_changes(arguments.overrides), arguments)
        except InputError as error:
            sentence = str(error)
            for option, key in self.options.items():
                sentence = sentence.replace(f": {key} is", f": {option} is")
            raise InputError(sentence) from error
        job = kind.job(file, options.request_of(arguments))
        if arguments.save_scene:
            content = file.scene.model_dump(mode="json", exclude_unset=True)
            for table, key in self.paths(content):
                table[key] = str(file.locate(table[key]).absolute())
            save_scene(Path(arguments.save_scene), kind.tables, content, arguments.overwrite)
        return self.finish(job, arguments)

    def read(
        self, kind: Any, source: str, changes: dict[str, Any], arguments: argparse.Namespace
    ) -> CheckedScene[Any]:
        """Return the scene of the positional argument.

        Args:
            kind: the kind.
            source: the argument.
            changes: values of the options, and changed keys.
            arguments: parsed options.
        """
        file: CheckedScene[Any] = kind.read(source, changes)
        return file

    def finish(self, job: Any, arguments: argparse.Namespace) -> int:
        """Run the job, print its outcome, and return the exit code.

        Args:
            job: the job.
            arguments: parsed options.
        """
        code: int = job.print_outcome(job.run(not arguments.quiet), arguments.quiet)
        return code

    def paths(self, content: Mapping[str, Any]) -> Iterable[tuple[dict[str, Any], str]]:
        """Return the tables and the keys of all paths, also in settings of a prior or a reader.

        Args:
            content: content of a scene.
        """
        return ()
