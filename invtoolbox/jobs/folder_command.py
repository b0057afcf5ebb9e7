"""Command of a kind whose results are a folder, and whose argument may be a scene.

The argument is what the user measured, a scene file, or a name of the catalogue. The settings of a
scene apply unless an option replaces them.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invtoolbox.catalogue.documents import CheckedScene, as_changes
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.fields import move_paths


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
            names=("--output", "-o", "--out"),
        )
        group.add_argument(
            "--save-scene", metavar="FILE", help="also write the scene file of this run"
        )
        (options.add_workers if self.has_workers else options.add_threads)(parser)

    def changes(self, arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
        # Settings without a table, such as --view, are read by `read` and `finish`.
        tables, changes = (*kind.tables.model_fields, "preset"), super().changes(arguments, kind)
        return {key: value for key, value in changes.items() if key.split(".")[0] in tables}

    def content(self, arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
        # A scene of the catalogue has presets, so the changes are applied when it is read.
        return self.changes(arguments, kind) | as_changes(arguments.overrides)

    def job(
        self, arguments: argparse.Namespace, kind: Any, content: dict[str, Any], name: str
    ) -> Any:
        source = content.pop(next(iter(self.positional.values())))
        file = self.read(kind, source, content, arguments)
        return kind.job(file, options.request_of(arguments))

    def complete(self, content: dict[str, Any], kind: Any, job: Any) -> dict[str, Any]:
        def find(path: str) -> Path:
            with contextlib.suppress(InputError):  # a word such as "none"
                return job.file.locate(path)
            return Path(path)

        settings = job.file.scene.model_dump(mode="json", exclude_unset=True)
        return move_paths(kind.tables, settings, find=find)

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
        return kind.read(source, changes)
