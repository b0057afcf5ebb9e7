"""Scene files of sweeps: a sequence, a method, and where the flow goes.

The tables::

    title, seed
    [sweeps]               dataset or path, reader, options, items
    [flow]                 method
    [flow.preparation]     ego_motion, ground, deskew, max_range, ...: the fields of `invtoolbox.motion.Preparation`
    [output]               folder, formats

``--set flow.method=nsfp`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.catalogue.documents import CheckedScene, Place, Table
from invtoolbox.datasets.sweeps.opening import SWEEP_PATHS
from invtoolbox.runs.flow.job import FlowJob, preparation_of, run_job
from invtoolbox.runs.flow.sequence import FlowStudy, SequencePath


class SweepTable(Place):
    """Which sequence, and which of its sweeps."""

    options: dict[str, Any] = Field(default_factory=dict)
    items: str | list[int] = "all"


class FlowTable(Table):
    """How the flow is estimated."""

    method: str = "default"
    preparation: dict[str, Any] = Field(default_factory=dict)


class FlowOutput(Table):
    """Where results go, and what is made of the result files, which are always written."""

    folder: str | None = None
    formats: list[Literal["av2-v1", "av2-v2", "av2-v3", "png", "html"]] = Field(["html"])


class FlowScene(Table):
    """A scene file of sweeps."""

    title: str | None = None
    sweeps: SweepTable
    flow: FlowTable = Field(default_factory=FlowTable)
    output: FlowOutput = Field(default_factory=FlowOutput)
    seed: int = 0


class FlowSceneFile(CheckedScene[FlowScene]):
    """A checked scene of sweeps."""

    @property
    def sequence(self) -> SequencePath:
        """The sweeps that it names."""
        table = self.scene.sweeps
        options = {
            key: str(self.locate(str(value))) if key in SWEEP_PATHS and value != "none" else value
            for key, value in table.options.items()
        }
        return SequencePath.of(table.dataset or self.locate(str(table.path)), table.reader, options)

    def job(self, output: str | Path | None = None) -> FlowJob:
        """What is to be done."""
        scene = self.scene
        folder = Path(output or scene.output.folder or Path("results") / self.name)
        formats = tuple(dict.fromkeys(scene.output.formats))
        return FlowJob(
            self.sequence,
            folder,
            scene.flow.method,
            preparation_of(scene.flow.preparation, str(self.path)),
            scene.sweeps.items,
            scene.seed,
            tuple(f for f in formats if f != "html"),
            folder / "report.html" if "html" in formats else None,
            scene.title or self.name,
        )


def read_flow_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> FlowSceneFile:
    """Read and check a scene file of sweeps; faults as in `invtoolbox.runs.images.tables.read_scene`.

    >>> read_flow_scene("street-simulated", {"flow.method": "nsfp"}).scene.flow.method
    'nsfp'
    """
    return FlowSceneFile.read(FlowScene, scene, overrides)


def find_sequence(name: str) -> FlowSceneFile | None:
    """The scene of sweeps of that path, or of that name in the catalogue; None where there is none."""
    path = Path(name).expanduser()
    if not path.exists():
        entry = catalogue.entries("scenes").get(name)
        path = entry.path if entry is not None else path
    return (
        read_flow_scene(path)
        if path.suffix == ".toml" and path.is_file() and "sweeps" in catalogue.read_toml(path)
        else None
    )


def run_flow_scene(
    scene: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    items: Any = None,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
) -> FlowStudy:
    """Run a scene of sweeps and write its results; behind `it.run`."""
    job = read_flow_scene(scene, overrides).job(output)
    if items is not None:
        job = replace(job, items=items)
    return run_job(job, workers, cluster, threads, resume, overwrite, progress)
