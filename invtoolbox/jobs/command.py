"""Command of a kind of scene: options made from its tables, and the same job as a scene file.

A `SceneCommand` names the keys of the tables that have options of their own; type, choices, default
and help of an option come from the field of the table. ``--set`` reaches all other keys. The command
builds the content of a scene from its options and gives it to the job of the kind.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pydantic import BaseModel

from invtoolbox.catalogue.documents import (
    CheckedScene,
    as_changes,
    as_toml,
    change_content,
    check,
    set_key,
    texts,
)
from invtoolbox.datasets.output import refuse_inputs, write_bytes
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.fields import argument_of, field_at, input_files, move_paths, shape_of
from invtoolbox.jobs.job import Request, check_places

#: Function of a path, the result and the inputs that writes, and replaces, a file.
Writer: TypeAlias = Callable[[Path, Any, Any], Any]


#: Function of a path to write and the tables of the scene that raises an `InputError`.
Check: TypeAlias = Callable[[Path, Any], None]


class DescribedKind(Protocol):
    """The part of a kind that a command reads: tables, formats, and the job; see `Kind`."""

    @property
    def tables(self) -> type[BaseModel]: ...
    @property
    def writers(self) -> Mapping[str, Any]: ...
    def job(
        self, file: Any, request: Request, outputs: Mapping[Path, str | Writer] | None = None
    ) -> Any: ...


@dataclass(frozen=True)
class SceneCommand:
    """Command of a kind of scene.

    Attributes:
        description: what the command does, the first lines of its help.
        positional: dotted key of every positional argument, by its name in the help.
        options: dotted key of every option, by the option.
        examples: command lines without the leading ``invtoolbox``.
        outputs: default of ``--output``: names of files, in which ``{stem}`` and ``{suffix}`` are
            those of the first positional argument; or one folder.
        writers: functions that write an output of a suffix, in place of the format of the kind.
        settings: options of settings that no table declares, such as the weight of a prior: the
            dotted key, and the settings of the argument.
        pairs: options that take a file to read and a file to write: the dotted key of the first,
            and the function that writes the second.
        files: options of further files to write: the help, the function that checks the path before
            anything is computed, and the function that writes the file.
        defaults: defaults of options, as a user writes them, in place of the tables' own.
        notes: further lines at the end of the help.
        items: what a study takes one by one, for the help; empty if the command makes no studies.
    """

    description: str
    positional: Mapping[str, str]
    options: Mapping[str, str]
    examples: tuple[str, ...]
    outputs: tuple[str, ...]
    writers: Mapping[str, Writer] = field(default_factory=dict)
    settings: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    pairs: Mapping[str, tuple[str, Writer]] = field(default_factory=dict)
    files: Mapping[str, tuple[str, Check, Writer]] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    items: str = ""

    def fill(self, parser: argparse.ArgumentParser, kind: DescribedKind) -> None:
        """Add the description, the options and the examples to a parser.

        Args:
            parser: parser of the command.
            kind: the kind, whose tables describe the options.
        """
        parser.description = self.description
        lines = "".join(f"  invtoolbox {example}\n" for example in self.examples)
        parser.epilog = (
            f"examples:\n{lines}\n{self.notes}"
            "--set reaches every key of the scene file of this kind."
        )
        for metavar, key in self.positional.items():
            argument = argument_of(field_at(kind.tables, key))
            parser.add_argument(key, **{**argument, "metavar": metavar})
        for option, key in self.options.items():
            argument = argument_of(field_at(kind.tables, key))
            if default := self.defaults.get(option):
                text = f"{argument['help']} (default: {default})"
                argument |= {"default": default, "help": text}
            parser.add_argument(option, dest=key, **argument)
        for option, (key, settings) in self.settings.items():
            parser.add_argument(option, dest=key, **settings)
        for option, (key, _) in self.pairs.items():
            described = field_at(kind.tables, key).description
            parser.add_argument(option, nargs=2, metavar=("FILE", "OUTPUT"), help=described)
        for option, (words, _, _) in self.files.items():
            parser.add_argument(option, metavar="OUTPUT", help=words)
        options.add_overrides(parser, "scene")
        self.add_results(parser, kind)

    def add_results(self, parser: argparse.ArgumentParser, kind: Any) -> None:
        """Add the options of the results to a parser.

        Args:
            parser: parser of the command.
            kind: the kind.
        """
        results = parser.add_argument_group("results")
        names = [name.format(stem=next(iter(self.positional)), suffix="") for name in self.outputs]
        suffixes = dict.fromkeys([*kind.writers, *(s.lstrip(".") for s in self.writers), "html"])
        results.add_argument(
            "--output",
            "-o",
            nargs="+",
            metavar="PATH",
            help="files, whose suffixes give the formats "
            f"({', '.join(filter(None, suffixes))}, json for the measures); or one folder "
            f"for everything that `invtoolbox run` writes (default: {' '.join(names)})",
        )
        results.add_argument(
            "--save-scene", metavar="FILE", help="also write the scene file of this run"
        )
        results.add_argument(
            "--resume",
            action="store_true",
            help="go on from an interrupted run, and keep a finished one, both with the same settings",
        )
        results.add_argument("--overwrite", action="store_true", help="replace existing files")
        options.add_quiet(results)
        if self.items:
            options.add_study(parser, self.items)
        else:
            options.add_threads(results)

    def run(self, arguments: argparse.Namespace, kind: DescribedKind, name: str) -> int:
        """Build the scene of the options, run it, and print its outcome.

        Args:
            arguments: parsed options.
            kind: the kind.
            name: name of the command, for errors.

        Returns:
            The exit code.
        """
        content = self.content(arguments, kind)
        try:
            job = self.job(arguments, kind, content, name)
            if arguments.save_scene:
                content = self.complete(content, kind, job)
                for file in (job.file,) if hasattr(job, "file") else job.files:
                    refuse_inputs([Path(arguments.save_scene)], input_files(file))
                save_scene(Path(arguments.save_scene), kind.tables, content, arguments.overwrite)
            return self.finish(job, arguments)
        except InputError as error:
            raise InputError(self._name_options(str(error))) from error

    def complete(self, content: dict[str, Any], kind: DescribedKind, job: Any) -> dict[str, Any]:
        """Return the content of the scene file that ``--save-scene`` writes.

        Args:
            content: content that the options describe.
            kind: the kind.
            job: job of the scene.
        """
        return content

    def finish(self, job: Any, arguments: argparse.Namespace) -> int:
        """Run the job, print its outcome, and return the exit code.

        Args:
            job: the job.
            arguments: parsed options.
        """
        return int(job.print_outcome(job.run(not arguments.quiet), arguments.quiet))

    def job(
        self,
        arguments: argparse.Namespace,
        kind: DescribedKind,
        content: dict[str, Any],
        name: str,
    ) -> Any:
        """Return the job of the scene.

        Args:
            arguments: parsed options.
            kind: the kind.
            content: content of the scene.
            name: name of the command, for errors.
        """
        source = self.source(arguments)
        file = self._check(kind, content, name, _stem(source))
        outputs = self._outputs(arguments, source)
        folder = outputs[0] if len(outputs) == 1 and not outputs[0].suffix else None
        request = Request((), folder, arguments.resume, arguments.overwrite)
        further = [(option, write) for option, (_, write) in self.pairs.items()]
        further += [(option, write) for option, (_, _, write) in self.files.items()]
        further = [(option, write) for option, write in further if _value(arguments, option)]
        if folder is not None:
            if further:
                raise InputError(
                    f"{further[0][0]} writes a file; give files as --output, no folder"
                )
            return kind.job(file, request, None)
        try:
            files = {path: self._writer(path, kind) for path in outputs}
        except InputError as error:
            if arguments.output:
                raise
            raise InputError(
                f"{source}: {name} does not write files of this kind, which its result would be by "
                f"default; if it reads them, name the --output ({error})"
            ) from None
        for option, write in further:
            named = _value(arguments, option)
            path = Path(named[1] if isinstance(named, list) else named)
            if path in files:
                raise InputError(f"{path} is named twice, by {option} too; give two files")
            if option in self.files:
                self.files[option][1](path, file.scene)
            files[path] = write
        check_places(files, arguments.overwrite or arguments.resume)
        job = kind.job(file, request, files)
        existing = [str(path) for path in files if path.exists()]
        # A run that was killed behind its last file has left its checkpoint.
        left = getattr(job, "checkpoint", None)
        if len(existing) == len(files) and arguments.resume and not (left and left.exists()):
            raise InputError(
                f"{', '.join(existing)} exists, and holds no settings that --resume could compare "
                "with these; give --overwrite to replace it, or a folder as --output"
            )
        return job

    def source(self, arguments: argparse.Namespace) -> Path:
        """Return the path of the first positional argument."""
        first = vars(arguments)[next(iter(self.positional.values()))]
        return Path(first if isinstance(first, str) else first[0])

    def content(self, arguments: argparse.Namespace, kind: DescribedKind) -> dict[str, Any]:
        """Return the content of the scene that the options describe.

        Args:
            arguments: parsed options.
            kind: the kind.
        """
        content: dict[str, Any] = {}
        for key, value in self.changes(arguments, kind).items():
            set_key(content, key, value)
        return change_content(Path("--set"), content, arguments.overrides)

    def changes(self, arguments: argparse.Namespace, kind: Any) -> dict[str, Any]:
        """Return the values of the arguments that were given, by their dotted keys.

        Args:
            arguments: parsed options.
            kind: the kind.
        """
        declared = (*self.positional.values(), *self.options.values())
        values = {key: _value(arguments, key) for key in declared}
        for key, value in values.items():
            # One word for a key that takes a list or a single value is the single value.
            is_single = isinstance(value, list) and len(value) == 1
            if is_single and shape_of(field_at(kind.tables, key))[1]:
                values[key] = value[0]
        values |= {key: _value(arguments, key) for key, _ in self.settings.values()}
        pairs = {key: _value(arguments, option) for option, (key, _) in self.pairs.items()}
        values |= {key: pair[0] for key, pair in pairs.items() if pair}
        return {key: value for key, value in values.items() if value is not None}

    def _check(
        self, kind: DescribedKind, content: dict[str, Any], name: str, stem: str
    ) -> CheckedScene[Any]:
        """Check the content of a scene."""
        try:
            scene = check(kind.tables, Path(name), content)
        except InputError as error:
            raise InputError(re.sub(r"\.\d+(?=\.)", "", str(error))) from None
        return CheckedScene(stem, Path(name), scene, frozenset(texts(content)))

    def _name_options(self, sentence: str) -> str:
        """Return the sentence of an error with options in place of keys."""
        keys = {**self.options, **{option: key for option, (key, _) in self.settings.items()}}
        for option, key in sorted(keys.items(), key=lambda pair: -len(pair[1])):
            if "." in key:
                sentence = sentence.replace(f"[{key}]", option).replace(key, option)
            sentence = sentence.replace(f": {key} is", f": {option} is")
            last = key.rpartition(".")[2]
            # No word of a sentence, and no key of a file that the user wrote.
            if "_" in last and ".toml: " not in sentence:
                sentence = re.sub(rf"(?<![\w.='-]){last}(?![\w=])", option, sentence)
        # The user of options has written no tables.
        return re.sub(r"^(\w+): \[[\w.]+\]: ", r"\1: ", sentence)

    def _outputs(self, arguments: argparse.Namespace, source: Path) -> list[Path]:
        if arguments.output:
            return [Path(name) for name in arguments.output]
        stem, suffix = _stem(source), source.name.removeprefix(_stem(source))
        return [Path(name.format(stem=stem, suffix=suffix)) for name in self.outputs]

    def _writer(self, path: Path, kind: DescribedKind) -> str | Writer:
        """Return the format of a file, or the function that writes it, by its suffix."""
        suffix = path.name.lower().removeprefix(_stem(path).lower())
        form = suffix.lstrip(".")
        if suffix in self.writers:
            return self.writers[suffix]
        if form in (*kind.writers, "json", "html"):
            return form
        forms = (*kind.writers, *(s.lstrip(".") for s in self.writers), "json", "html")
        raise InputError(
            f"{path}: no format for the suffix {suffix!r}; use one of "
            f"{', '.join(dict.fromkeys(filter(None, forms)))}"
        )


def save_scene(
    path: Path, tables: type[BaseModel], content: dict[str, Any], overwrite: bool = False
) -> Path:
    """Write the content of a scene as a TOML file.

    Paths of files that exist become relative to the folder of the scene file if they lie in it, and
    absolute otherwise, so that the scene runs from any folder.

    Args:
        path: the file.
        tables: model of the scene, which tells which values are paths.
        content: the content.
        overwrite: replace a file that exists.
    """
    parent = path.expanduser().absolute().parent
    return write_bytes(path, as_toml(move_paths(tables, content, parent)).encode(), overwrite)


def _value(arguments: argparse.Namespace, name: str) -> Any:
    """Return the value of an option or key; None if it was not given."""
    return getattr(arguments, name.lstrip("-").replace("-", "_"), None)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz") if path.name.endswith(".nii.gz") else path.stem


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
