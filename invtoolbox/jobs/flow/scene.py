"""Scene files of sweeps: a sequence, a method, and the place of the results.

The tables::

    title, seed
    [sweeps]               dataset or path, reader, options, items
    [flow]                 method, window
    [flow.preparation]     ego_motion, ground, deskew, max_range, ...:
                           the fields of `invtoolbox.jobs.flow.Preparation`
    [output]               folder, formats

``--set flow.method=nsfp`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import CheckedScene, Place, Table
from invtoolbox.datasets.sweeps.opening import SWEEP_PATHS
from invtoolbox.jobs.flow.sequence import LONGEST_WINDOW, WINDOW, FlowJob, preparation_of
from invtoolbox.jobs.flow.source import SequencePath
from invtoolbox.jobs.job import Request
from invtoolbox.jobs.kind import OwnKind


class SweepTable(Place):
    """Choice of a sequence and of its sweeps."""

    options: dict[str, Any] = Field(default_factory=dict)
    items: str | list[int] = "all"


class FlowTable(Table):
    """Method that estimates the flow, number of sweeps of its window, and preparation."""

    method: str = "default"
    window: int = Field(WINDOW, ge=2, le=LONGEST_WINDOW)
    preparation: dict[str, Any] = Field(default_factory=dict)


class FlowOutput(Table):
    """Folder of the results, and exports of the result files, which are always written."""

    folder: str | None = None
    formats: list[Literal["av2-v1", "av2-v2", "av2-v3", "png", "html"]] = Field(["html"])


class FlowScene(Table):
    """Scene file of sweeps."""

    title: str | None = None
    sweeps: SweepTable
    flow: FlowTable = Field(default_factory=FlowTable)
    output: FlowOutput = Field(default_factory=FlowOutput)
    seed: int = 0


class FlowSceneFile(CheckedScene[FlowScene]):
    """Checked scene of sweeps."""

    @property
    def sequence(self) -> SequencePath:
        """Source of the sweeps."""
        table = self.scene.sweeps
        options = {
            key: str(self.locate(str(value))) if key in SWEEP_PATHS and value != "none" else value
            for key, value in table.options.items()
        }
        return SequencePath.of(table.dataset or self.locate(str(table.path)), table.reader, options)

    def job(self, request: Request | None = None) -> FlowJob:
        """Return the job of the scene.

        Args:
            request: output, items, workers, and the treatment of earlier results.
        """
        scene, request = self.scene, request or Request()
        folder, formats = request.folder(self), tuple(dict.fromkeys(scene.output.formats))
        return FlowJob(
            self.sequence,
            folder,
            scene.flow.method,
            preparation_of(scene.flow.preparation, str(self.path)),
            scene.sweeps.items if request.items is None else request.items,
            scene.seed,
            tuple(f for f in formats if f != "html"),
            folder / "report.html" if "html" in formats else None,
            scene.title or self.name,
            None,
            scene.flow.window,
            request.workers or 1,
            request.cluster,
            request.threads,
            request.resume,
            request.overwrite,
        )


def read_flow_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> FlowSceneFile:
    """Read and check a scene file of sweeps.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_flow_scene("street-simulated", {"flow.method": "nsfp"}).scene.flow.method
    'nsfp'
    """
    return FlowSceneFile.read(FlowScene, scene, overrides)


def find_sequence(name: str) -> FlowSceneFile | None:
    """Return the scene of sweeps with that path, or with that name in the catalogue.

    None if no such scene exists.
    """
    path = Path(name).expanduser()
    if not path.exists():
        entry = shelves.entries("scenes").get(name)
        path = entry.path if entry is not None else path
    return (
        read_flow_scene(path)
        if path.suffix == ".toml" and path.is_file() and "sweeps" in shelves.read_toml(path)
        else None
    )


def prepare(scene: str | Path, request: Request) -> FlowJob:
    """Read and check a scene of sweeps, and return its job."""
    return read_flow_scene(scene, request.overrides).job(request)


KIND = OwnKind(prepare)
