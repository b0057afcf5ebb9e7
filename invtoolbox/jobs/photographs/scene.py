"""Scene files of photographs: views, representation of the scene, stages of the computation.

The tables::

    title, seed, device
    [views]                  dataset or path, reader; hold_out, train, count, scale, largest_side,
                             straighten, background, silhouettes (the weight of the misfit of alpha)
    [[prior]]                one that represents the scene (voxel-grid or gaussians) and its
                             settings; others with weights
    [operator]               settings of the renderer
    [data_term]              least squares for voxels, photometric for Gaussians by default
    [solver]                 Adam by default: settings, time_limit
    [[stage]]                iterations, scale of the pictures, changes prior.KEY and solver.KEY
    [evaluation]             metrics; seconds between two measurements of PSNR during the run
    [output]                 folder, formats, mesh
    [presets.NAME]           changes by dotted keys, made by preset = "NAME"

The weights of explicit priors are relative to the mean misfit of a value
(`invtoolbox.jobs.photographs.models.weight_unit`). `scene_of_folder` makes a scene of a folder of photographs
without a scene file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from invtoolbox import datasets
from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import (
    Alone,
    CheckedScene,
    Named,
    Place,
    Several,
    Table,
    change_content,
    check,
    texts,
)
from invtoolbox.catalogue.registry import build
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.views.opening import reader_of_views
from invtoolbox.datasets.views.photograph_files import is_video
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError, unknown_name
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.tables import DataTerm as DataTermTable
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.jobs.photographs.models import SceneModel, box_of_points, check_visible, visible_box
from invtoolbox.jobs.photographs.photographs import Photographs, scale, split_views
from invtoolbox.jobs.photographs.representations import GaussianModel, VoxelModel
from invtoolbox.jobs.photographs.stages import Stage
from invtoolbox.jobs.photographs.starting_points import fill_points
from invtoolbox.priors.base import Prior
from invtoolbox.solvers.adam import Adam
from invtoolbox.solvers.base import Solver

#: Representations of a scene, by the name of the prior.
MODELS: dict[str, type[SceneModel]] = {"voxel-grid": VoxelModel, "gaussians": GaussianModel}
#: Bytes of pictures above which they remain on disk.
IN_MEMORY = 2**30
#: Number of points of structure from motion from which on they describe the scene.
LEAST_POINTS = 50
#: Share of the first Gaussians below which points of structure from motion are too few.
FEW_POINTS = 0.25


class ViewTable(Place):
    """Choice of photographs, and of those that are held out."""

    hold_out: int | list[str] = 10
    train: list[str] | None = None
    count: int | None = Field(None, ge=1)
    scale: float = Field(1.0, gt=0, le=1)
    largest_side: int | None = Field(None, ge=1)
    straighten: bool = True
    background: float | tuple[float, float, float] = 0.0
    silhouettes: float = Field(0.0, ge=0)


class Settings(Named):
    """Table of settings."""


class StageTable(Table):
    """Stage of the schedule."""

    iterations: int | None = Field(None, ge=1)
    scale: float = Field(1.0, gt=0, le=1)
    prior: dict[str, Any] = Field(default_factory=dict)
    solver: dict[str, Any] = Field(default_factory=dict)


class ViewEvaluation(Table):
    """Metrics of the result, and measurements of PSNR during the run.

    `every` is the number of seconds between two measurements, `views` the number of views.
    """

    metrics: list[Literal["psnr", "ssim"]] = Field(["psnr", "ssim"])
    every: float = Field(15.0, gt=0)
    views: int = Field(4, ge=1)


class ViewOutput(Table):
    """Folder and formats of the results.

    Results are the model, held-out views as PNG files, the report and the viewer; with `mesh` also
    the surface of the scene.
    """

    folder: str | None = None
    formats: list[Literal["model", "png", "html", "viewer"]] = Field(
        ["model", "png", "html", "viewer"]
    )
    mesh: bool = False


class ViewScene(Table):
    """Scene file of photographs."""

    title: str | None = None
    views: ViewTable
    prior: Several[PriorTable] = Field(min_length=1)
    operator: Settings = Settings()
    data_term: Alone[DataTermTable | None] = None
    solver: Alone[SolverTable] = SolverTable()
    stage: list[StageTable] = Field(default_factory=lambda: [StageTable()])
    evaluation: ViewEvaluation = Field(default_factory=ViewEvaluation)
    output: ViewOutput = Field(default_factory=ViewOutput)
    seed: int = 0
    device: str | None = None

    @model_validator(mode="after")
    def _one_model(self) -> ViewScene:
        found = [table.name for table in self.prior if table.name in MODELS]
        if len(found) != 1:
            raise ValueError(
                f"a scene of views needs one prior that represents it, out of {', '.join(MODELS)}, "
                f"and has {' and '.join(found) or 'none'}"
            )
        return self


class ViewSceneFile(CheckedScene[ViewScene]):
    """Checked scene of photographs."""

    def pictures(self, folder: Path | None = None) -> PosedPictures:
        """Open all photographs of the scene, reduced to the size that it gives.

        Cameras are found if there are none. Pictures that take more memory than `IN_MEMORY` remain
        on disk, if the scene can be found from pictures on disk.

        Args:
            folder: folder for the cameras that are found; by default ``results/NAME/cameras``.
        """
        table = self.scene.views
        side = table.largest_side if table.scale == 1 else None
        if table.dataset is not None:
            place = datasets.find_file(table.dataset)
            reader = table.reader or shelves.find("datasets", table.dataset).read()["reader"]
        else:
            place, reader = self.locate(str(table.path)), table.reader
        if reader is None and place.exists() and reader_of_views(place) is None:
            folder = folder or Path("results") / self.name / "cameras"
            record = datasets.find_cameras(place, folder, seed=self.scene.seed)
            loading = datasets.Loading(straighten=table.straighten, largest_side=side, on_disk=True)
            found = datasets.open_found_cameras(record, loading)
        else:
            found = datasets.open_views(
                place, reader, straighten=table.straighten, largest_side=side, on_disk=True
            )
        if table.scale < 1:
            most = (table.largest_side or math.inf) / max(found.cameras.size)
            found = scale(found, min(table.scale, most))
        prior = next(t for t in self.scene.prior if t.name in MODELS)
        needed = prior.name != "gaussians" or prior.settings.get("carve") or table.silhouettes > 0
        return found.read() if needed or found.bytes <= IN_MEMORY else found

    def photographs(self, folder: Path | None = None) -> Photographs:
        """Open the photographs, split into training and held-out views.

        Args:
            folder: see `pictures`.
        """
        table, every = self.scene.views, self.pictures(folder)
        return self._in_table(
            "views", lambda: split_views(every, table.hold_out, table.train, table.count)
        )

    def model(self, photographs: Photographs) -> SceneModel:
        """Return the representation of the scene.

        Its default box holds the points of structure from motion, if there are any, otherwise the
        part of space that the cameras look at. Gaussians start from these points.
        """
        table = next(t for t in self.scene.prior if t.name in MODELS)
        settings = dict(table.settings)
        if table.weight is not None:
            raise InputError(
                f"{self.path}: [prior]: {table.name} is what is optimized, so it takes no weight"
            )
        if isinstance(settings.get("points"), str) and settings["points"] != "random":
            settings["points"] = str(self.locate(settings["points"]))
        for corner in ("low", "high"):
            if corner in settings:
                settings[corner] = _point(settings[corner], f"{self.path}: [prior]: {corner}")
        if ("low" in settings) != ("high" in settings):
            raise InputError(f"{self.path}: [prior]: give both low and high, or neither")
        cls, train = MODELS[table.name], photographs.train
        cameras, points = train.cameras, train.points
        if points is not None and len(points) < LEAST_POINTS:
            points = None
        if "low" in settings:
            low, high = settings.pop("low"), settings.pop("high")
        elif points is not None:
            low, high = box_of_points(points)
        else:
            low, high = self._in_table("prior", lambda: visible_box(cameras))
        if points is not None and table.name == "gaussians":
            most = int(settings.get("count", GaussianModel.count))
            few = len(points) < FEW_POINTS * most
            seed = self.scene.seed
            settings["cloud"] = fill_points(train, most, seed) if few else (points, train.colors)
        if not all(a < b for a, b in zip(low, high)):
            raise InputError(f"{self.path}: [prior]: low {low} lies below high {high} in no box")
        self._in_table("prior", lambda: check_visible(cameras, low, high))
        plain = cls(low, high, self.scene.views.background, dict(self.scene.operator.settings))
        model: SceneModel = self._in_table(
            "prior", lambda: plain.change({**settings, **_derived(plain, settings)})
        )
        self._in_table("operator", lambda: _build_operator(model, photographs))
        return model

    def explicit(self) -> Prior | None:
        """Return the sum of the priors with weights."""
        return parts.prior_of([t for t in self.scene.prior if t.name not in MODELS], self)

    def data_term(self) -> DataTerm | None:
        table = self.scene.data_term
        return (
            None
            if table is None
            else self._in_table(
                "data_term", lambda: build("data_terms", table.name, dict(table.settings))
            )
        )

    def solver(self) -> Solver:
        return parts.solver_of(self.scene.solver, self) or Adam()

    def stages(self) -> list[Stage]:
        most = self.scene.solver.max_iterations
        return [
            Stage(
                table.iterations if table.iterations is not None else most,
                table.scale,
                dict(table.prior),
                dict(table.solver),
            )
            for table in self.scene.stage
        ]

    def _in_table(self, table: str, make: Any) -> Any:
        try:
            return make()
        except InputError as error:
            raise InputError(f"{self.path}: [{table}]: {error}") from error


def read_view_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = (), model: str | None = None
) -> ViewSceneFile:
    """Read and check a scene file of photographs.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    Args:
        scene: path of a TOML file, or name of a scene of the catalogue; or a folder of photographs
            (`scene_of_folder`).
        overrides: keys to change.
        model: representation of the scene if a folder is given.

    >>> read_view_scene("lego-voxels", {"preset": "short"}).scene.views.scale
    0.25
    """
    if is_folder(Path(scene).expanduser()):
        folder = Path(scene).expanduser()
        content = change_content(folder, scene_of_folder(folder, model or "gaussians"), overrides)
        name = folder.stem if is_video(folder) else folder.resolve().name
        given = frozenset(texts(content))  # nothing of it comes from a file
        return ViewSceneFile(name, folder, check(ViewScene, folder, content), given)
    if model is not None:
        raise InputError(
            f"{scene} is a scene file, which contains the representation of the scene; leave "
            "--model out"
        )
    return ViewSceneFile.read(ViewScene, scene, overrides)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder of photographs or a video, and no scene file.

    Args:
        path: the path.
    """
    return path.is_dir() or (is_video(path) and path.is_file())


def _point(value: Any, where: str) -> tuple[float, float, float]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 3
        or not all(isinstance(v, (int, float)) for v in value)
    ):
        raise InputError(f"{where} is a point, three numbers, got {value!r}")
    x, y, z = (float(v) for v in value)
    return x, y, z


def _derived(plain: SceneModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return derived settings, reset so that they follow the new settings."""
    return {"scale": None} if isinstance(plain, VoxelModel) and "scale" not in settings else {}


def _build_operator(model: SceneModel, photographs: Photographs) -> Any:
    try:
        return model.operator(photographs.train.cameras[:1])
    except TypeError as error:
        raise InputError(
            f"the renderer has no such setting ({str(error).split(') ')[-1]})"
        ) from error


#: Content of the scene of a folder, without the photographs, by the name of the representation.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gaussians": {
        "prior": [{"name": "gaussians", "count": 10_000, "most": 50_000, "length": 12_000}],
        "data_term": {"name": "photometric", "similarity": 0.0},
        "solver": {"name": "adam", "subset_size": 1, "epsilon": 1e-15, "time_limit": 600.0},
        "stage": [{"iterations": 12_000}],
    },
    "voxel-grid": {
        "prior": [
            {"name": "voxel-grid", "resolution": 128},
            {"name": "voxel-variation", "of": "density", "weight": 1e-5},
            {"name": "voxel-variation", "of": "color", "weight": 1e-5},
        ],
        "operator": {"least_alpha": 1e-4, "stop": 1e-3},
        "solver": {
            "name": "adam",
            "learning_rate": 0.1,
            "beta_square": 0.99,
            "subset_size": 8192,
            "time_limit": 600.0,
        },
        "stage": [
            {"iterations": 500, "prior": {"resolution": 48}},
            {"iterations": 600, "prior": {"resolution": 96}},
            {"solver": {"decay": 0.01}},
        ],
    },
}
#: Largest side of the pictures of a folder, pixels, so that a CPU renders them in reasonable time.
LARGEST_SIDE = 400


def scene_of_folder(folder: Path, model: str = "gaussians") -> dict[str, Any]:
    """Return the content of a scene file for a folder.

    Every tenth view is held out, and the run takes ten minutes.

    Args:
        folder: the photographs and their cameras.
        model: representation of the scene, a key of `DEFAULTS`.

    >>> scene_of_folder(Path("desk"), "voxel-grid")["views"]["hold_out"]
    10
    """
    if model not in DEFAULTS:
        raise unknown_name("representation of a scene", model, DEFAULTS)
    views = {
        "path": str(folder.expanduser().absolute()),
        "hold_out": 10,
        "largest_side": LARGEST_SIDE,
        "background": 1.0,
    }
    return {"title": folder.resolve().name, "views": views, **copy.deepcopy(DEFAULTS[model])}
