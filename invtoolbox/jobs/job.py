"""Checked run of one scene file in a folder of results: the part common to all kinds.

A kind of scene file is a subclass of `SceneJob`. It names the tables that it reads and the files
that it writes, and implements `SceneJob.run`. `SceneJob.prepare` does the rest: it reads and checks
the scene, chooses the folder, and refuses to lose results or to resume a run that had other
settings.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, Self, TypeVar

import numpy as np

from invtoolbox.catalogue.documents import CheckedScene, Table, refuse_outside
from invtoolbox.core.environment import versions
from invtoolbox.core.interrupts import Interrupted
from invtoolbox.core.kernel_cache import require_writable
from invtoolbox.datasets.output import (
    locking,
    make_folder,
    refuse_inputs,
    remove_stale,
    write_bytes,
)
from invtoolbox.errors import InputError
from invtoolbox.jobs.fields import input_files
from invtoolbox.loop.checkpoint import fingerprint

if TYPE_CHECKING:
    from invtoolbox.jobs.study import Study
    from invtoolbox.solution import Solution

S = TypeVar("S", bound=Table)
J = TypeVar("J", bound="SceneJob[Any]")
R = TypeVar("R")
P = ParamSpec("P")
Overrides = Mapping[str, Any] | Iterable[str]


@dataclass(frozen=True)
class Request:
    """How a scene is to be run; the fields are the arguments of `invtoolbox.jobs.run.run`."""

    overrides: Overrides = ()
    output: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    items: str | Sequence[int] | None = None
    workers: int | None = None
    cluster: str | None = None
    threads: int = 1

    @property
    def is_study(self) -> bool:
        """Whether items, workers or a cluster are given, each of which makes a study."""
        return self.items is not None or self.workers is not None or self.cluster is not None

    def folder(self, file: CheckedScene[Any]) -> Path:
        """Return the given folder, else the folder that the scene names, else ``results/NAME``.

        Raises:
            InputError: the scene names a folder outside of its own and of the current one, also
                through a link, and is not trusted.
        """
        named = file.scene.output.folder
        if self.output is None and named is not None and named not in file.given:
            refuse_outside(
                file.path,
                named,
                Path(named).expanduser().resolve(),
                [file.path.parent.resolve(), Path()],
            )
        return Path(self.output or named or Path("results") / file.name)


def alone(run: Callable[Concatenate[J, P], R]) -> Callable[Concatenate[J, P], R]:
    """Decorate the run of a job: no other run writes to the places of the job meanwhile.

    Args:
        run: method of a `SceneJob`.
    """

    @functools.wraps(run)
    def locked(job: J, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with job.locked():
            return run(job, *args, **kwargs)

    return locked


@dataclass(frozen=True)
class SceneJob(ABC, Generic[S]):
    """Run of one scene file, before anything is computed.

    The scene is checked, and the folder may be written.

    Attributes:
        file: the checked scene.
        folder: folder of the results.
        resume: whether the run continues from earlier results in the folder.
        overwrite: whether the run replaces earlier results in the folder.
        files: names of the files that the run writes, and so may replace, or patterns of them.
        free: keys and tables that may differ between a run and its resumption, because they do not
            change what is computed.
    """

    file: CheckedScene[S]
    folder: Path
    resume: bool
    overwrite: bool
    files: ClassVar[Sequence[str]]
    free: ClassVar[Sequence[str]]

    @classmethod
    def prepare(cls, file: CheckedScene[S], request: Request) -> Self:
        """Choose the folder of a scene, and check that the run harms nothing in it; see `check`."""
        job = cls(file, request.folder(file), request.resume, request.overwrite)
        job.check(request)
        return job

    def check(self, request: Request) -> None:
        """Check that the run harms nothing in its folder.

        Args:
            request: how the scene is to be run.

        Raises:
            InputError: items, workers or a cluster are given; the folder holds results and neither
                ``resume`` nor ``overwrite`` is given; it holds a run with other settings; or a
                file that the scene reads would be replaced.
        """
        refuse_inputs([*self.places, *self.existing()], input_files(self.file))
        if request.is_study:
            raise InputError(
                f"{self.file.path} is one scene, which is run as a whole; it takes no --items, "
                "--workers or --cluster"
            )
        check_folder(self.folder, self.resume, self.overwrite)
        results = self.existing()
        if results and not self.resume and not self.overwrite:
            names = ", ".join(path.name for path in results[:9])
            raise InputError(
                f"{self.folder} holds results already ({names}); give --resume to go on from them, "
                "--overwrite to replace them, or another --output"
            )
        if self.resume and (self.folder / "scene.json").exists():
            self._check_settings()

    @abstractmethod
    def run(self, progress: bool = True) -> Any:
        """Compute, measure and write the results.

        Args:
            progress: whether to show a bar on a terminal.

        Raises:
            InputError: a fault in the data of the scene; no room on the disk.
            Interrupted: Ctrl-C; the message names what remains and how to resume.
        """

    @abstractmethod
    def print_outcome(self, outcome: Any, quiet: bool) -> int:
        """Print an outcome, and return the exit code: 1 if an item failed or diverged, else 0.

        Args:
            outcome: outcome of `run`.
            quiet: whether errors alone are printed.
        """

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other run write to the places of the job meanwhile."""
        with contextlib.ExitStack() as locks:
            for place in self.places:
                locks.enter_context(locking(place))
            yield

    @property
    def places(self) -> Sequence[Path]:
        """Folder of the results, or the files in place of it."""
        return [self.folder]

    def existing(self) -> list[Path]:
        """Return the files in the folder that the run would write."""
        return [path for name in self.files for path in sorted(self.folder.glob(name))]

    def check_content(self, **inputs: Any) -> dict[str, str]:
        """Refuse to resume a run of other content: the scene is the same, but its files are not.

        Args:
            inputs: measurements, operator and all other inputs that are made from files, by name.

        Returns:
            The digest of every input, for `start`.
        """
        content = fingerprint({name.replace("_", " "): value for name, value in inputs.items()})
        path = self.folder / "scene.json"
        before = read_json(path).get("content", {}) if self.resume and path.exists() else {}
        changed = [name for name in before if content.get(name) != before[name]]
        if changed:
            raise InputError(
                f"{self.folder} holds a run with another content of its {', '.join(changed)}; "
                "restore the files that the scene names, or give --overwrite to start anew"
            )
        return content

    def start(self, content: Mapping[str, str]) -> None:
        """Make the folder and write ``scene.json``.

        Earlier results are removed if they are to be replaced, and hidden files that a killed run
        left.

        Args:
            content: result of `check_content`.
        """
        for path in self.existing() if self.overwrite else ():
            path.unlink()
        make_folder(self.folder)
        remove_stale(self.folder)
        settings = self.file.scene.model_dump(mode="json")
        write_json(
            self.folder / "scene.json",
            {"scene": settings, "content": content, "versions": versions()},
        )

    def interrupted(self, remains: bool, what: str) -> Interrupted:
        """Return the exception for Ctrl-C.

        Args:
            remains: whether files remain from which a run can resume.
            what: the beginning of the sentence, which names these files.
        """
        return Interrupted(
            f"stopped; {what}, and --resume goes on from it"
            if remains
            else "stopped before the first iteration; nothing was computed yet"
        )

    def _check_settings(self) -> None:
        """Refuse a resumption with other settings."""
        before = read_json(self.folder / "scene.json").get("scene", {})
        changed = [
            key
            for key in differences(before, self.file.scene.model_dump(mode="json"))
            if key.split(".")[0] not in self.free and key not in self.free
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds a run with another {', '.join(changed)}; resume it with the "
                "same settings, or give --overwrite to start anew"
            )


def check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that is a file, and ``resume`` together with ``overwrite``."""
    if resume and overwrite:
        raise InputError(
            "resume goes on from earlier results and overwrite replaces them; give one of them"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the output {folder} is a file; give a folder")


def check_places(paths: Iterable[Path], replace: bool) -> None:
    """Refuse files that cannot be written, before anything is computed.

    Args:
        paths: the files.
        replace: whether existing files may be replaced.
    """
    for path in paths:
        if path.exists() and not replace:
            raise InputError(f"{path} exists; give --overwrite to replace it, or another --output")
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
        try:
            require_writable(path.parent)
        except OSError as error:
            raise InputError(
                f"{path}: the folder {path.parent} cannot be written ({error.strerror or error}); "
                "choose another"
            ) from error


def differences(before: Any, now: Any, key: str = "", within_lists: bool = True) -> list[str]:
    """Return the dotted keys whose values differ.

    Args:
        before: the earlier settings, plain values.
        now: the current settings.
        key: the dotted key of both.
        within_lists: whether lists of equal length are compared item by item; their keys then end
            in numbers.

    >>> before = {"solver": {"name": "fista", "steps": [1, 2]}}
    >>> differences(before, {"solver": {"name": "admm", "steps": [1, 3]}, "seed": 0})
    ['seed', 'solver.name', 'solver.steps.1']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [
            (f"{key}.{name}" if key else name, before.get(name), now.get(name))
            for name in sorted({*before, *now})
        ]
    elif (
        within_lists
        and isinstance(before, list)
        and isinstance(now, list)
        and len(before) == len(now)
    ):
        pairs = [(f"{key}.{k}", a, b) for k, (a, b) in enumerate(zip(before, now))]
    else:
        return [] if before == now else [key]
    return [changed for name, a, b in pairs for changed in differences(a, b, name, within_lists)]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of an earlier run.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); give --overwrite to start anew"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, atomically and over an earlier one."""
    write_bytes(path, json.dumps(content, indent=1).encode(), overwrite=True)


def report_divergence(solution: Solution) -> int:
    """Report a solution whose iteration diverged; the exit code is then 1."""
    if "diverged" not in solution.status:
        return 0
    print(
        "invtoolbox: the iteration diverged, and the last finite image was written; try another "
        "solver",
        file=sys.stderr,
    )
    return 1


def report_study(study: Study, quiet: bool) -> int:
    """Report a study; the exit code is 1 if an item failed or diverged."""
    diverged = [item.name for item in study.reports if "diverged" in item.facts.get("status", ())]
    if not quiet:
        print(f"{len(study)} items: {count_outcomes(study)}; in {study.folder}")
    failed = report_failures(study)
    if diverged:
        names = ", ".join(diverged[:8])
        names += f" and {len(diverged) - 8} more" if len(diverged) > 8 else ""
        print(
            f"invtoolbox: the iteration diverged in {names}, whose last finite images were written",
            file=sys.stderr,
        )
    return 1 if failed or diverged else 0


def print_notes(notes: Iterable[str]) -> None:
    """Print notes for a reader of the result, one per line."""
    for note in notes:
        print(f"  note: {note}")


def print_metrics(metrics: Mapping[str, float | Sequence[float]], units: Mapping[str, str]) -> None:
    """Print metrics, numbers or one number per item, with their units, one metric per line."""
    width = max([15, *(len(name) + 1 for name in metrics)])
    for name, value in metrics.items():
        numbers = ", ".join(f"{v:.4g}" for v in np.atleast_1d(value))
        print(f"  {name:<{width}}{numbers} {units.get(name, '')}".rstrip())


def print_files(files: Sequence[Path], folder: Path) -> None:
    """Print the files that were written; without files, an earlier run was finished."""
    if files:
        print("written:", *files, sep="\n  ")
    else:
        print(f"the run in {folder} was finished already; nothing was done")


def count_outcomes(study: Study) -> str:
    """Return the numbers of items that were done, kept and failed, in words."""
    counts = Counter(report.outcome for report in study.reports)
    return ", ".join(
        f"{counts[name]} {name}" for name in ("done", "kept", "failed") if counts[name]
    )


def report_failures(study: Study) -> int:
    """Print the errors of failed items; the exit code is 1 if there are any."""
    for failure in study.failed:
        print(f"invtoolbox: {failure.name} failed: {failure.error}", file=sys.stderr)
    return 1 if study.failed else 0
