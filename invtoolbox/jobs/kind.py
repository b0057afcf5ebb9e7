"""One description per kind of scene file, from which its run, its report and its command follow.

A kind names its tables and the functions that read, compute, measure and write. `KindJob` does the
rest for all kinds: it checks the scene, refuses to lose results or to resume other work, and writes
``scene.json``, ``metrics.json``, the chosen formats and the report.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, Table
from invtoolbox.core.interrupts import limit
from invtoolbox.datasets.output import refuse_inputs, write_bytes, writing
from invtoolbox.errors import unknown_name
from invtoolbox.jobs.command import SceneCommand, Writer
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.job import (
    Request,
    SceneJob,
    alone,
    print_files,
    print_metrics,
    print_notes,
    read_json,
    report_divergence,
    write_json,
)
from invtoolbox.plotting import page
from invtoolbox.plotting.comparison import HEADS, side_by_side
from invtoolbox.plotting.pixels import plane
from invtoolbox.solution import Solution


@dataclass(frozen=True, eq=False)
class Compared:
    """Result of a scene, compared with the simple answer and the truth.

    Attributes:
        images: images ``(channel, *space)`` of one shape by name, the simple answer first; empty if
            the result is no image.
        shown: name of the result.
        truth: name of the truth, the last of the images; empty without one.
        unit: unit of the values.
        words: what a reader must see first, such as the errors of both answers; empty for nothing.
        is_good: whether the result is better than the simple answer; None if it is not known.
    """

    images: Mapping[str, Tensor]
    shown: str
    truth: str = ""
    unit: str = ""
    words: str = ""
    is_good: bool | None = None


def write_scene_report(
    path: Path,
    file: CheckedScene[Any],
    outcome: Any,
    units: Mapping[str, str],
    compared: Compared | None = None,
) -> Path:
    """Write a page about the result of a scene; it contains its pictures, so it can be mailed.

    Args:
        path: the file; it is replaced.
        file: the scene.
        outcome: its `SceneOutcome`; the PNG files among its files are shown.
        units: units of the metrics, by their names.
        compared: pictures of the result and of the simple answer.
    """
    from skimage.io import imread

    scene = file.scene
    title = scene.title or file.name
    body = [_verdict(outcome, compared)]
    if compared is not None and compared.images:
        planes = {name: plane(image) for name, image in compared.images.items()}
        pictures = {name: picture for name, picture in planes.items() if picture is not None}
        figures = side_by_side(pictures, compared.shown, compared.truth, compared.unit)
        body.append(page.row(figures, len(pictures)))
    files = [name for name in outcome.files if name.suffix == ".png" and name.exists()]
    if files:
        figures = [page.picture(imread(name), name.stem, "", light=True) for name in files]
        shown = page.row(figures, 1)
        is_first = compared is None or not compared.images
        body.append(shown if is_first else page.folded("More pictures", shown))
    if outcome.metrics:
        rows = {name: f"{v:.4g} {units.get(name, '')}" for name, v in outcome.metrics.items()}
        body += ["<h2>Measures</h2>", page.facts(rows)]
    if outcome.notes:
        body += ["<h2>Notes</h2>", *(f"<p>{page.escape(note)}</p>" for note in outcome.notes)]
    settings = _flatten(scene.model_dump(mode="json", exclude={"title", "output"}))
    settings = {"scene": str(file.path), **settings}
    return page.write_page(path, title, f"{page.date()}.", body, settings)


def _verdict(outcome: Any, compared: Compared | None) -> str:
    """Return how the run ended, and whether the result is better than the simple answer."""
    solution, words = outcome.solution, "" if compared is None else compared.words
    is_good = None if compared is None else compared.is_good
    ending = ""
    if solution is not None:
        ending = HEADS.get(solution.status[0], f"{solution.status[0]}.")
        if solution.status[0] in ("diverged", "invalid"):
            is_good = False
        ending += f" It took {int(solution.iterations[0])} iterations and {solution.seconds:.3g} s."
    notes = len(outcome.notes)
    if notes:
        ending += f" {notes} note{'s' if notes > 1 else ''} below."
    head, _, rest = (f"{words} {ending}" if words else ending).partition(". ")
    return page.verdict(f"{head.rstrip('.')}." if head else "Done.", rest, is_good)


def _flatten(value: Any, key: str = "") -> dict[str, str]:
    """Return the values of nested tables by their dotted keys, without those that are not given."""
    if isinstance(value, dict):
        pairs = [(f"{key}.{name}".strip("."), inner) for name, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(f"{key}.{k}", inner) for k, inner in enumerate(value)]
    else:
        return {} if value is None else {key: str(value)}
    return {name: text for k, inner in pairs for name, text in _flatten(inner, k).items()}


#: Named inputs of a job, as its kind reads them.
Inputs: TypeAlias = dict[str, Any]


class OutputTable(Table):
    """Folder and formats of the results."""

    folder: str | None = Field(None, description="folder of the results")
    formats: list[str] | None = Field(
        None, description="formats of the results; the usual ones of the kind by default"
    )


class SceneTables(Table):
    """Tables that every kind of scene has."""

    title: str | None = Field(None, description="title of the report")
    output: OutputTable = Field(default_factory=OutputTable)


#: Formats of every kind, and their files.
GENERAL = {"json": "metrics.json", "html": "report.html"}

S = TypeVar("S", bound=SceneTables)
R = TypeVar("R")


def solution_of(result: Any) -> Any:
    """Return the `Solution` behind a result, the result itself or its ``solution``; or None."""
    return result if isinstance(result, Solution) else getattr(result, "solution", None)


def write_solution(path: Path, result: Any, inputs: Inputs) -> None:
    """Write the `Solution` behind a result; a `Writer`."""
    solution = solution_of(result)
    assert solution is not None
    solution.save(path, overwrite=True)


def arrays_of(arrays: Callable[[Any, Inputs], Mapping[str, Any]]) -> Writer:
    """Return a `Writer` of named arrays as .npz.

    Args:
        arrays: function of the result and the inputs that returns arrays or tensors by name.
    """

    def write(path: Path, result: Any, inputs: Inputs) -> None:
        content = arrays(result, inputs)
        tensors = {name: x.cpu().numpy() for name, x in content.items() if isinstance(x, Tensor)}
        with writing(path, overwrite=True) as stream:
            np.savez_compressed(stream, **{**content, **tensors})

    return write


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure of matplotlib as PNG, over an earlier file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue(), overwrite=True)


@dataclass(frozen=True, eq=False)
class SceneOutcome(Generic[R]):
    """Result of a scene, and its files.

    Attributes:
        result: the result, of the type that the job of this kind returns; None if an earlier run was
            finished.
        folder: folder of the results.
        metrics: measures of the result by name.
        files: files that were written; empty if an earlier run was finished.
        solution: solution behind the result; of an earlier run, the one that it saved, if any.
    """

    result: R | None
    folder: Path
    metrics: dict[str, Any]
    files: tuple[Path, ...] = ()
    solution: Solution | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for a reader of the result."""
        return tuple(getattr(self.result, "notes", ()))


@dataclass(frozen=True)
class Kind(Generic[S, R]):
    """Kind of scene file: its tables, and the functions that read, compute, measure and write.

    Attributes:
        tables: model of the scene.
        noun: noun phrase for messages, for example "a normal map".
        read: function of the checked scene that returns the named inputs. Their digests guard a
            resumption: other content under the same name is refused.
        compute: function of the checked scene, the inputs, and whether to show a bar; returns the
            result.
        measure: function of the result and the inputs that returns numbers by name.
        writers: by format, the name of the file and the function that writes it. The formats
            ``html``, a report, and ``json``, the metrics, come with every kind.
        usual: formats that are written if the scene names none, in addition to the report.
        units: units of the metrics, by their names.
        solution: function that returns the `Solution` behind a result, or None; `solution_of` by
            default.
        compare: function of the checked scene, the result and the inputs that compares the
            result with the simple answer and the truth, for the report; or None.
        describe: function of the result that returns lines about it, printed with the metrics.
        command: command of the kind.
    """

    tables: type[S]
    noun: str
    read: Callable[[CheckedScene[S]], Inputs]
    compute: Callable[[CheckedScene[S], Inputs, bool], R]
    measure: Callable[[R, Inputs], dict[str, float]]
    writers: Mapping[str, tuple[str, Writer]]
    usual: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    solution: Callable[[R], Solution | None] = solution_of
    compare: Callable[[CheckedScene[S], R, Inputs], Compared | None] = lambda file, result, inputs: (
        None
    )
    describe: Callable[[R], Iterable[str]] = lambda result: ()
    command: SceneCommand | None = None

    def check(
        self, scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
    ) -> CheckedScene[S]:
        """Read and check a scene file of this kind.

        The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

        Args:
            scene: path of a TOML file, or name of a scene of the catalogue.
            overrides: changed keys.
        """
        return CheckedScene.read(self.tables, scene, overrides)

    def prepare(self, scene: str | Path, request: Request) -> KindJob[S, R]:
        """Read and check a scene, and return its job.

        Args:
            scene: path of a TOML file, or name of a scene of the catalogue.
            request: how the scene is to be run.
        """
        return self.job(self.check(scene, request.overrides), request)

    def job(
        self,
        file: CheckedScene[S],
        request: Request,
        outputs: Mapping[Path, str | Writer] | None = None,
    ) -> KindJob[S, R]:
        """Return the job of a checked scene.

        Args:
            file: the scene.
            request: how it is to be run.
            outputs: files to write in place of the folder of the results, with their formats or the
                functions that write them.
        """
        for name in file.scene.output.formats or ():
            if name not in (*self.writers, *GENERAL):
                place = f"format in output.formats of {file.path}"
                raise unknown_name(place, name, (*self.writers, *GENERAL))
        job = KindJob(file, request.folder(file), request.resume, request.overwrite, self, outputs)
        job.check(request)
        return job

    def file_name(self, form: str) -> str:
        """Return the name of the file of a format.

        Args:
            form: key of `writers`, "html" or "json".
        """
        return self.writers[form][0] if form in self.writers else GENERAL[form]


@dataclass(frozen=True)
class KindJob(SceneJob[S], Generic[S, R]):
    """Run of one scene of any `Kind`.

    Attributes:
        kind: the kind.
        outputs: files to write in place of the folder, with their formats or writers.
    """

    files: ClassVar = ()
    free: ClassVar = ("title", "output")
    kind: Kind[S, R]
    outputs: Mapping[Path, str | Writer] | None = None

    @alone
    def run(self, progress: bool = True) -> SceneOutcome[R]:
        """Compute, measure and write the results, or read the results of a finished run."""
        kind, measures = self.kind, self.folder / GENERAL["json"]
        inputs = kind.read(self.file)
        content = {} if self.outputs else self.check_content(**inputs)
        if self.resume and not self.outputs and measures.exists():
            path = self.folder / "solution.h5"
            solution = Solution.load(path) if path.exists() else None
            return SceneOutcome(None, self.folder, read_json(measures), (), solution)
        with limit(getattr(getattr(self.file.scene, "solver", None), "time_limit", None)):
            result = kind.compute(self.file, inputs, progress)
        metrics = kind.measure(result, inputs)
        outputs = self.outputs
        if outputs is None:
            self.start(content)
            formats = self.file.scene.output.formats
            names = ("json", *((*kind.usual, "html") if formats is None else formats))
            outputs = {self.folder / kind.file_name(name): name for name in names}
        outcome = SceneOutcome(result, self.folder, metrics, tuple(outputs), kind.solution(result))
        # The report shows the pictures that were written; the metrics mark a finished run.
        order = {"html": 1, "json": 2}
        for path, form in sorted(outputs.items(), key=lambda output: order.get(str(output[1]), 0)):
            if form == "json":
                write_json(path, metrics)
            elif form == "html":
                with tempfile.TemporaryDirectory() as folder:
                    # Without a PNG among the files, the report shows the picture of the kind.
                    name, draw = kind.writers.get("png", ("", write_solution))
                    shown = tuple(outputs)
                    if name and not any(place.suffix == ".png" for place in outputs):
                        draw(Path(folder, name), result, inputs)
                        shown = (*shown, Path(folder, name))
                    pictured = replace(outcome, files=shown)
                    compared = kind.compare(self.file, result, inputs)
                    write_scene_report(path, self.file, pictured, kind.units, compared)
            else:
                write = kind.writers[form][1] if isinstance(form, str) else form
                write(path, result, inputs)
        return outcome

    def print_outcome(self, outcome: SceneOutcome[R], quiet: bool) -> int:
        if not quiet:
            if outcome.solution is not None:
                print(outcome.solution)
            print_notes(outcome.notes)
            print_metrics(outcome.metrics, self.kind.units)
            for line in () if outcome.result is None else self.kind.describe(outcome.result):
                print(f"  {line}")
            print_files(outcome.files, outcome.folder)
        return 0 if outcome.solution is None else report_divergence(outcome.solution)

    def check(self, request: Request) -> None:
        if self.outputs is None:
            super().check(request)
        else:
            refuse_inputs(self.places, input_files(self.file))

    @property
    def places(self) -> list[Path]:
        return [self.folder] if self.outputs is None else list(self.outputs)

    def existing(self) -> list[Path]:
        names = ("scene.json", *GENERAL.values(), *(name for name, _ in self.kind.writers.values()))
        return [self.folder / name for name in names if (self.folder / name).exists()]


@dataclass(frozen=True)
class OwnKind:
    """Kind whose job is a class of its own.

    Attributes:
        tables: model of the scene.
        read: function of a scene and of changed keys that returns the checked scene.
        job: function of the checked scene and a `Request` that returns the job, with the methods
            ``run`` and ``print_outcome``.
        command: command of the kind.
    """

    tables: type[Table]
    read: Callable[..., Any]
    job: Callable[[Any, Request], Any]
    command: SceneCommand | None = None

    def prepare(self, scene: str | Path, request: Request) -> Any:
        """Read and check a scene, and return its job.

        Args:
            scene: path of a TOML file, or name of a scene of the catalogue.
            request: how the scene is to be run.
        """
        return self.job(self.read(scene, request.overrides), request)
