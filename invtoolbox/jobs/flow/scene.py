"""Scene files of sweeps: a sequence, a method, and the place of the results.

The tables::

    title, seed
    [sweeps]               dataset or path, reader, options, items
    [flow]                 method, window
    [flow.preparation]     ego_motion, ground, deskew, max_range, ...:
                           the fields of `invtoolbox.jobs.flow.Preparation`
    [output]               folder, formats, masks

``--set flow.method=nsfp`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import (
    CheckedScene,
    FilePath,
    Place,
    Table,
    change_content,
    check,
    texts,
)
from invtoolbox.datasets.output import refuse_inputs
from invtoolbox.datasets.sweeps.opening import SWEEP_PATHS
from invtoolbox.errors import InputError, match_name
from invtoolbox.jobs.fields import input_files
from invtoolbox.jobs.flow.command import COMMAND
from invtoolbox.jobs.flow.ego_motion import How, When
from invtoolbox.jobs.flow.exports import check_exports, write_exports
from invtoolbox.jobs.flow.preparation import Preparation
from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.flow.sequence import WINDOW, flow_sequence
from invtoolbox.jobs.flow.source import SequencePath
from invtoolbox.jobs.flow.sweep_window import LONGEST_WINDOW
from invtoolbox.jobs.job import (
    Request,
    check_places,
    count_outcomes,
    print_notes,
    report_failures,
    write_json,
)
from invtoolbox.jobs.kind import OwnKind


class SweepTable(Place):
    """Choice of a sequence and of its sweeps."""

    dataset: str | None = Field(
        None, description="name of a data set; see `invtoolbox list datasets`"
    )
    path: FilePath | None = Field(
        None,
        description="folder of sweeps, an .h5 scene of OpenSceneFlow, or the description of a street",
    )
    reader: str | None = Field(
        None, description="name of the reader of the sweeps; by default, the content decides"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the reader, such as poses, rate and times; of a simulated street, "
        "its settings",
    )
    items: str | list[int] = Field(
        "all",
        title="ITEMS",
        description="choice of sweeps: all, START:STOP:STEP, or numbers separated by commas, "
        "counted from 0",
    )


class PreparationTable(Table):
    """Preparation of every pair of sweeps; see `invtoolbox.jobs.flow.Preparation`."""

    ego_motion: How = Field(
        "auto",
        description="motion of the sensor: from its poses, from a registration of the points (icp), "
        "or none; auto takes the poses if there are any",
    )
    deskew: When = Field(
        "auto",
        description="whether the motion of the sensor within a sweep is undone; auto does it if "
        "points have times and the data set states that they are not deskewed",
    )
    ground: Literal["auto", "labels", "none"] = Field(
        "auto", description="ground points: found (auto), read from labels, or not separated"
    )
    max_range: float | None = Field(
        None,
        gt=0,
        description="distance in metres beyond which points are assumed to stand still in the world",
    )
    min_height: float | None = Field(
        None, description="height of the lowest points that may move, in metres above the sensor"
    )
    max_height: float | None = Field(
        None, description="height of the highest points that may move, in metres above the sensor"
    )
    sensor_origin: tuple[float, float, float] | None = Field(
        None,
        description="place of the sensor in the frame of the points, in metres; by default it is "
        "estimated from the rings of the points",
    )
    vehicle: tuple[float, float, float, float, float, float] | None = Field(
        None,
        description="box of the vehicle that carries the sensor, whose points are left out: least x, "
        "y, z and largest x, y, z in metres in the frame of the points; by default it is found from "
        "what rests in this frame while the sensor moves, and six zeros leave nothing out",
    )


class FlowTable(Table):
    """Method that estimates the flow, number of sweeps of its window, and preparation."""

    method: str = Field("default", description="name of a method; see `invtoolbox list methods`")
    window: int = Field(
        WINDOW,
        ge=2,
        le=LONGEST_WINDOW,
        description="number of sweeps that default, euler and floxels may use per pair, before and "
        f"after it, from 2 to {LONGEST_WINDOW}",
    )
    latency: int | None = Field(
        None,
        ge=0,
        lt=LONGEST_WINDOW,
        description="number of sweeps after a sweep that its window holds, below the window; 0 takes "
        "past sweeps alone, as they arrive from a sensor; by default the window is centred",
    )
    preparation: PreparationTable = Field(
        default_factory=PreparationTable, description="preparation of every pair"
    )


class FlowOutput(Table):
    """Folder of the results, and exports of the result files, which are always written."""

    folder: str | None = Field(None, description="folder of the results")
    formats: list[
        Literal["av2-v1", "av2-v2", "av2-v3", "png", "ply", "html"]
        | Literal["labels", "boxes", "map", "map.pcd", "map.laz", "velocities", "h5"]
    ] = Field(
        ["html"],
        description="files of the Argoverse 2 challenges, a picture of every sweep from above, one "
        "dense cloud, and a report; of moving objects, labels (SemanticKITTI), boxes (JSON, KITTI), "
        "the map without them (.ply, .pcd, .laz), clouds with velocities, and a copy of the scene of "
        "OpenSceneFlow",
    )
    masks: FilePath | None = Field(
        None, description="archive of the masks of the challenge of 2023, for av2-v1"
    )


class FlowScene(Table):
    """Scene file of sweeps."""

    title: str | None = Field(None, description="title of the report")
    sweeps: SweepTable = Field(description="the sequence")
    flow: FlowTable = Field(default_factory=FlowTable, description="the method")
    output: FlowOutput = Field(default_factory=FlowOutput, description="the results")
    seed: int = Field(0, description="seed of the method's random draws")


class FlowSceneFile(CheckedScene[FlowScene]):
    """Checked scene of sweeps."""

    def job(self, request: Request | None = None) -> FlowJob:
        """Return the job of the scene.

        Args:
            request: output, items, workers, and the treatment of earlier results.
        """
        request = request or Request()
        folder, sweeps = request.folder(self), self.scene.sweeps
        # Paths in a scene are relative to its file.
        options = {
            key: str(self.locate(str(value))) if key in SWEEP_PATHS and value != "none" else value
            for key, value in sweeps.options.items()
        }
        place = sweeps.dataset or self.locate(str(sweeps.path))
        sequence = SequencePath.of(place, sweeps.reader, options)
        try:
            preparation = Preparation(**self.scene.flow.preparation.model_dump())
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        report = folder / "report.html" if "html" in self.scene.output.formats else None
        return FlowJob(self, request, folder, sequence, preparation, report)


@dataclass(frozen=True)
class FlowJob:
    """Flow of the sequence of a scene, and the exports of its result files.

    Attributes:
        file: the checked scene.
        request: items, workers, and the treatment of earlier results.
        folder: folder for the result files.
        sequence: source of the sweeps.
        preparation: preparation of each pair.
        report: path of an HTML report; None for no report.
    """

    file: FlowSceneFile
    request: Request
    folder: Path
    sequence: SequencePath
    preparation: Preparation
    report: Path | None

    def run(self, progress: bool = True) -> FlowStudy:
        """Estimate the flow of the pairs that have no whole result file yet, and write the exports.

        All faults of the settings are reported before the first pair is read. Counts and errors are
        written to ``metrics.json``.
        """
        scene, request = self.file.scene, self.request
        items = scene.sweeps.items if request.items is None else request.items
        # Each format once; the report is a page of its own and no format of the sweeps.
        formats = [name for name in dict.fromkeys(scene.output.formats) if name != "html"]
        masks = None if scene.output.masks is None else self.file.locate(scene.output.masks)
        check_exports(self.sequence, formats, masks, whole=items == "all")
        if self.report is not None:
            self._check_report(self.report)
        # Of an earlier study, `flow_sequence` names the results.
        measures, is_study = self.folder / "metrics.json", (self.folder / "study.json").exists()
        if measures.exists() and not is_study:
            check_places([measures], request.resume or request.overwrite)
        reports = [] if self.report is None else [self.report]
        refuse_inputs([self.folder, *reports], input_files(self.file))
        study = flow_sequence(
            self.sequence,
            self.folder,
            scene.flow.method,
            self.preparation,
            workers=request.workers or 1,
            cluster=request.cluster,
            threads=request.threads,
            resume=request.resume,
            overwrite=request.overwrite,
            items=items,
            seed=scene.seed,
            progress=progress,
            window=scene.flow.window,
            latency=scene.flow.latency,
        )
        title = scene.title or self.file.name
        write_exports(study, self.sequence, formats, self.report, title, masks)
        write_json(study.folder / "metrics.json", study.measures())
        return study

    def print_outcome(self, outcome: FlowStudy, quiet: bool) -> int:
        """Print an outcome; the exit code is 1 if a sweep failed."""
        if not quiet:
            spent = "" if outcome.seconds is None else f"; {outcome.seconds:.2f} s per sweep"
            sweeps = f"{len(outcome)} sweep{'s' if len(outcome) > 1 else ''}"
            print(f"{sweeps}: {count_outcomes(outcome)}{spent}; in {outcome.folder}")
            print_notes(outcome.notes())
            for line in outcome.error_lines():
                print(f"  {line}")
        return report_failures(outcome)

    def _check_report(self, report: Path) -> None:
        self.sequence.refuse_within(report.parent)
        if report.parent != self.folder or report.exists():
            check_places([report], self.request.resume or self.request.overwrite)


def read_flow_scene(
    name: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> FlowSceneFile:
    """Read and check a scene file of sweeps, or make the scene of a sequence.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    Args:
        name: path of a scene file, or its name in the catalogue; or path of a sequence, or name of
            a data set.
        overrides: keys to change.

    >>> read_flow_scene("street-simulated", {"flow.method": "nsfp"}).scene.flow.method
    'nsfp'
    >>> read_flow_scene("street", {"flow.window": 3}).scene.title
    'Scene flow of street'
    """
    # A path that exists precedes a name. A .toml file without the table [sweeps] describes a simulated
    # street, so it is a sequence and not a scene.
    path, scenes = Path(name).expanduser(), shelves.entries("scenes")
    entry = scenes.get(match_name(str(name), scenes) or "")
    scene = path if path.exists() or entry is None else entry.path
    if scene.suffix == ".toml" and scene.is_file() and "sweeps" in shelves.read_toml(scene):
        return FlowSceneFile.read(FlowScene, scene, overrides)
    stem, place = path.resolve().name, "path" if path.exists() else "dataset"
    content = {"title": f"Scene flow of {stem}", "sweeps": {place: str(name)}}
    change_content(Path("flow"), content, overrides)
    checked = check(FlowScene, Path("flow"), content)
    return FlowSceneFile(stem, Path("flow"), checked, frozenset(texts(content)))


KIND = OwnKind(FlowScene, read_flow_scene, FlowSceneFile.job, COMMAND)
