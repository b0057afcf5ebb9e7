"""Scene files of photographs: views, representation of the scene, stages of the computation.

The tables::

    title, seed, device
    [views]                  dataset or path, reader; hold_out, train, count, scale, largest_side,
                             straighten, background, silhouettes (the weight of the misfit of alpha);
                             length, markers with their dictionary, or gps: the metre of the scene
    [[prior]]                one that represents the scene (voxel-grid or gaussians) and its
                             settings; others with weights
    [operator]               settings of the renderer
    [data_term]              least squares for voxels, photometric for Gaussians by default
    [solver]                 Adam by default: settings, time_limit
    [[stage]]                iterations, scale of the pictures, changes prior.KEY and solver.KEY
    [evaluation]             metrics; seconds between two measurements of PSNR during the run
    [output]                 folder, formats, mesh; files with faces, texture and box of a mesh
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

import torch
from pydantic import Field, model_validator

from invtoolbox import datasets
from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import (
    Alone,
    CheckedScene,
    FilePath,
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
from invtoolbox.datasets.models.meshes import SUFFIXES
from invtoolbox.datasets.views.opening import reader_of_views
from invtoolbox.datasets.views.photograph_files import is_video
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.errors import InputError, check_name, naming
from invtoolbox.geometry.cameras import Similarity
from invtoolbox.jobs.images import parts
from invtoolbox.jobs.images.tables import DataTerm as DataTermTable
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.jobs.photographs.models import SceneModel, box_of_points, check_visible, visible_box
from invtoolbox.jobs.photographs.photographs import Photographs, scale, split_views
from invtoolbox.jobs.photographs.representations import GaussianModel, VoxelModel
from invtoolbox.jobs.photographs.scale import by_length, by_markers, by_positions, move
from invtoolbox.jobs.photographs.stages import Stage
from invtoolbox.jobs.photographs.starting_points import fill_points
from invtoolbox.priors.base import Prior
from invtoolbox.solvers import Adam, Solver

#: Representations of a scene, by the name of the prior.
MODELS: dict[str, type[SceneModel]] = {"voxel-grid": VoxelModel, "gaussians": GaussianModel}
#: Suffixes of meshes; ``.ply`` holds Gaussians.
MESHES = tuple(suffix for suffix in SUFFIXES if suffix != ".ply")
#: Share of the time limit that is left for a mesh, and its most, seconds.
MESH_SHARE, MESH_SECONDS = 0.25, 60.0
#: Bytes of pictures above which they remain on disk.
IN_MEMORY = 2**30
#: Number of points of structure from motion from which on they describe the scene.
LEAST_POINTS = 50
#: Share of the first Gaussians below which points of structure from motion are too few.
FEW_POINTS = 0.25


class ViewTable(Place):
    """Choice of photographs, and of those that are held out."""

    dataset: str | None = Field(
        None, description="name of a data set; see `invtoolbox list datasets`"
    )
    path: FilePath | None = Field(
        None, description="folder of photographs, a video, or a capture with its cameras"
    )
    reader: str | None = Field(
        None, description="name of the reader of the cameras; by default, the content decides"
    )
    hold_out: int | list[str] = Field(
        10,
        description="k to hold out every k-th view, 0 for none; or names of views, also with * and ?",
    )
    train: list[str] | None = Field(
        None, description="names of the training views; by default all that are not held out"
    )
    count: int | None = Field(
        None, ge=1, description="number of training views, evenly spread; by default all"
    )
    scale: float = Field(
        1.0, gt=0, le=1, description="factor by which the photographs are made smaller"
    )
    largest_side: int | None = Field(
        None,
        ge=1,
        description="largest side of the photographs, in pixels; larger ones are reduced",
    )
    straighten: bool = Field(
        True, description="undo the distortion of the lenses; otherwise the renderer applies it"
    )
    background: float | tuple[float, float, float] = Field(
        0.0, description="color behind the scene, from 0 to 1: a number, or one per channel"
    )
    silhouettes: float = Field(
        0.0, ge=0, description="weight of the misfit of alpha, for few pictures with an alpha"
    )
    length: tuple[str, str, float] | None = Field(
        None,
        title="A B METRES",
        description="distance of two points in metres, which gives the scene its metre; a point is "
        "x,y,z, or its places in pictures, NAME:COLUMN,ROW+NAME:COLUMN,ROW",
    )
    markers: float | None = Field(
        None,
        title="METRES",
        description="side of the black squares of printed ArUco markers in metres, which give the "
        "scene its metre",
    )
    dictionary: str = Field(
        "4x4_50", description="OpenCV's dictionary of the markers, such as 4x4_50 or apriltag_36h11"
    )
    gps: bool = Field(
        False,
        description="take metre, east, north and up from the positions in the headers of the pictures",
    )

    @model_validator(mode="after")
    def _one_metre(self) -> ViewTable:
        if sum((self.length is not None, self.markers is not None, self.gps)) > 1:
            raise ValueError("give one of length, markers and gps")
        return self


class Settings(Named):
    """Settings of the renderer."""


class StageTable(Table):
    """Stage of the schedule."""

    iterations: int | None = Field(
        None, ge=1, description="number of iterations; by default until the time limit"
    )
    scale: float = Field(
        1.0, gt=0, le=1, description="scale of the pictures in this stage, 1 for their full size"
    )
    prior: dict[str, Any] = Field(
        default_factory=dict, description="settings of the representation that the stage changes"
    )
    solver: dict[str, Any] = Field(
        default_factory=dict, description="settings of the solver that the stage changes"
    )


class ViewEvaluation(Table):
    """Metrics of the result, and measurements of PSNR during the run."""

    metrics: list[Literal["psnr", "ssim"]] = Field(
        ["psnr", "ssim"], description="metrics of the result"
    )
    every: float = Field(
        15.0, gt=0, description="number of seconds between two measurements of PSNR"
    )
    views: int = Field(4, ge=1, description="number of views of such a measurement")


class ViewOutput(Table):
    """Folder and formats of the results."""

    folder: str | None = Field(None, description="folder of the results")
    formats: list[Literal["model", "png", "html", "viewer"]] = Field(
        ["model", "png", "html", "viewer"],
        description="the model, held-out views as PNG files, the report, and a page to turn the "
        "scene",
    )
    mesh: bool = Field(False, description="write the surface of the scene, mesh.obj, too")
    files: list[str] = Field(
        default_factory=list,
        title="FILE",
        description="further files: a mesh with its texture (.glb, .obj), Gaussians (.ply, .spz, "
        ".splat), cameras (.json for nerfstudio, cameras.txt for COLMAP)",
    )
    faces: int = Field(50_000, ge=4, description="number of faces of a mesh with a texture")
    texture: int = Field(
        2048, ge=16, le=16384, description="largest side of the texture of a mesh, texels"
    )
    box: tuple[float, float, float, float, float, float] | None = Field(
        None,
        title="X Y Z X Y Z",
        description="part of meshes and Gaussians to keep: the smallest and the largest corner of a "
        "box in the frame of the cameras",
    )

    @model_validator(mode="after")
    def _some_box(self) -> ViewOutput:
        if self.box is not None and not all(a < b for a, b in zip(self.box[:3], self.box[3:])):
            raise ValueError(f"box takes the smallest corner, then the largest one, got {self.box}")
        return self


class ViewScene(Table):
    """Scene file of photographs."""

    title: str | None = Field(None, description="title of the report")
    views: ViewTable = Field(description="the photographs")
    prior: Several[PriorTable] = Field(
        min_length=1,
        description="one prior that represents the scene, voxel-grid or gaussians; others with "
        "weights",
    )
    operator: Settings = Field(Settings(), description="settings of the renderer")
    data_term: Alone[DataTermTable | None] = Field(
        None, description="least squares for voxels, photometric for Gaussians by default"
    )
    solver: Alone[SolverTable] = Field(SolverTable(), description="Adam by default")
    stage: list[StageTable] = Field(
        default_factory=lambda: [StageTable()], description="stages, coarse to fine"
    )
    evaluation: ViewEvaluation = Field(
        default_factory=ViewEvaluation, description="measures of quality"
    )
    output: ViewOutput = Field(default_factory=ViewOutput, description="the results")
    seed: int = Field(0, description="seed of all random draws")
    device: str | None = Field(None, description="device, for example cuda; the CPU by default")

    @model_validator(mode="after")
    def _one_model(self) -> ViewScene:
        models = [table.name for table in self.prior if table.name in MODELS]
        if len(models) != 1:
            raise ValueError(
                f"a scene of views needs one prior that represents it, out of {', '.join(MODELS)}, "
                f"and has {' and '.join(models) or 'none'}"
            )
        return self

    @property
    def model(self) -> PriorTable:
        """Table of the prior that represents the scene."""
        return next(table for table in self.prior if table.name in MODELS)


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
        views = self._open(folder, table.straighten, side)
        with naming(f"{self.path}: [views]"):
            views = self._to_metres(views, folder)
        if table.scale < 1:
            largest_scale = (table.largest_side or math.inf) / max(views.cameras.size)
            views = scale(views, min(table.scale, largest_scale))
        prior = self.scene.model
        needed = prior.name != "gaussians" or prior.settings.get("carve") or table.silhouettes > 0
        return views.read() if needed or views.bytes <= IN_MEMORY else views

    def originals(
        self, largest_side: int | None = None, folder: Path | None = None
    ) -> PosedPictures:
        """Open all photographs with the lenses of their cameras, on disk.

        Args:
            largest_side: largest side of the photographs; they have their full size by default.
            folder: see `pictures`.
        """
        return self._open(folder, False, largest_side)

    def _open(self, folder: Path | None, straighten: bool, side: int | None) -> PosedPictures:
        """Open all photographs, on disk; cameras are found if there are none."""
        table = self.scene.views
        if table.dataset is not None:
            place = datasets.find_file(table.dataset)
            reader = table.reader or shelves.find("datasets", table.dataset).read()["reader"]
        else:
            place, reader = self.locate(str(table.path)), table.reader
        if reader is None and place.exists() and reader_of_views(place) is None:
            folder = folder or Path("results") / self.name / "cameras"
            record = datasets.find_cameras(place, folder, seed=self.scene.seed)
            loading = datasets.Loading(straighten=straighten, largest_side=side, on_disk=True)
            return datasets.open_found_cameras(record, loading)
        return datasets.open_views(
            place, reader, straighten=straighten, largest_side=side, on_disk=True
        )

    def _to_metres(self, views: PosedPictures, folder: Path | None) -> PosedPictures:
        """Give the views the metre of a length, of markers, or of positions in headers."""
        table = self.scene.views
        if table.gps:
            return move(views, *by_positions(views))
        if table.length is not None:
            factor, note = by_length(*table.length, self.originals(folder=folder))
        elif table.markers is not None:
            factor, note = by_markers(
                table.markers, table.dictionary, self.originals(folder=folder)
            )
        else:
            return views
        zoom = Similarity(torch.tensor(factor), torch.eye(3), torch.zeros(3))
        return move(views, zoom, f"the unit of the world is the metre, by {note}")

    def photographs(self, folder: Path | None = None) -> Photographs:
        """Open the photographs, split into training and held-out views.

        Args:
            folder: see `pictures`.
        """
        table, views = self.scene.views, self.pictures(folder)
        with naming(f"{self.path}: [views]"):
            return split_views(views, table.hold_out, table.train, table.count)

    def model(self, photographs: Photographs) -> SceneModel:
        """Return the representation of the scene.

        Its default box holds the points of structure from motion, if there are any, otherwise the
        part of space that the cameras look at. Gaussians start from these points.
        """
        table, seed = self.scene.model, self.scene.seed
        settings = dict(table.settings)
        if settings.get("points", "random") != "random":
            settings["points"] = str(self.locate(str(settings["points"])))
        with naming(f"{self.path}: [prior]"):
            if table.weight is not None:
                raise InputError(f"{table.name} is what is optimized, so it takes no weight")
            for corner in ("low", "high"):
                if corner in settings:
                    settings[corner] = _point(settings[corner], corner)
            if ("low" in settings) != ("high" in settings):
                raise InputError("give both low and high, or neither")
            cameras, points = photographs.train.cameras, photographs.train.points
            if points is not None and len(points) < LEAST_POINTS:
                points = None
            if "low" in settings:
                low, high = settings.pop("low"), settings.pop("high")
            else:
                low, high = visible_box(cameras) if points is None else box_of_points(points)
            if points is not None and table.name == "gaussians":
                count = int(settings.get("count", GaussianModel.count))
                settings["cloud"] = (
                    fill_points(photographs.train, count, seed)
                    if len(points) < FEW_POINTS * count
                    else (points, photographs.train.colors)
                )
            if not all(a < b for a, b in zip(low, high)):
                raise InputError(f"low {low} lies below high {high} in no box")
            check_visible(cameras, low, high)
            plain = MODELS[table.name](
                low, high, self.scene.views.background, dict(self.scene.operator.settings)
            )
            if isinstance(plain, VoxelModel):
                settings = {"scale": None, **settings}  # it follows the new resolution
            model = plain.change(settings)
        with naming(f"{self.path}: [operator]"):
            try:
                model.operator(cameras[:1])
            except TypeError as error:
                raise InputError(
                    f"the renderer has no such setting ({str(error).split(') ')[-1]})"
                ) from error
        return model

    @property
    def exports(self) -> list[Path]:
        """Files that the user named."""
        return [Path(name).expanduser() for name in self.scene.output.files]

    @property
    def mesh_seconds(self) -> float:
        """Seconds of the time limit that are left for a mesh."""
        is_meshed = self.scene.output.mesh or any(p.suffix.lower() in MESHES for p in self.exports)
        limit = self.scene.solver.time_limit
        return 0.0 if not is_meshed or limit is None else min(MESH_SECONDS, MESH_SHARE * limit)

    def explicit(self) -> Prior | None:
        """Return the sum of the priors with weights."""
        return parts.prior_of([t for t in self.scene.prior if t.name not in MODELS], self)

    def data_term(self) -> DataTerm | None:
        table = self.scene.data_term
        if table is None:
            return None
        with naming(f"{self.path}: [data_term]"):
            return build("data_terms", table.name, dict(table.settings))

    def solver(self) -> Solver:
        return parts.solver_of(self.scene.solver, self) or Adam()

    def stages(self) -> list[Stage]:
        default = self.scene.solver.max_iterations
        return [
            Stage(
                default if table.iterations is None else table.iterations,
                table.scale,
                dict(table.prior),
                dict(table.solver),
            )
            for table in self.scene.stage
        ]


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
    folder = Path(scene).expanduser()
    if is_folder(folder):
        content = change_content(folder, scene_of_folder(folder, model or "gaussians"), overrides)
        name = folder.stem if is_video(folder) else folder.resolve().name
        user_texts = frozenset(texts(content))  # nothing of it comes from a file
        return ViewSceneFile(name, folder, check(ViewScene, folder, content), user_texts)
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


def _point(point: Any, name: str) -> tuple[float, float, float]:
    if (
        not isinstance(point, (list, tuple))
        or len(point) != 3
        or not all(isinstance(coordinate, (int, float)) for coordinate in point)
    ):
        raise InputError(f"{name} is a point, three numbers, got {point!r}")
    x, y, z = map(float, point)
    return x, y, z


#: Content of the scene of a folder, without the photographs, by the name of the representation.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gaussians": {
        "prior": [{"name": "gaussians", "count": 10_000, "most": 50_000}],
        "data_term": {"name": "photometric", "similarity": 0.2},
        "solver": {"name": "adam", "subset_size": 1, "epsilon": 1e-15, "time_limit": 600.0},
        "stage": [
            {"iterations": 4_500, "scale": 0.25},
            {"iterations": 9_000, "scale": 0.5},
            {"iterations": 16_500},
        ],
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
    check_name("representation of a scene", model, DEFAULTS)
    views = {
        "path": str(folder.expanduser().absolute()),
        "hold_out": 10,
        "largest_side": LARGEST_SIDE,
        "background": 1.0,
    }
    return {"title": folder.resolve().name, "views": views, **copy.deepcopy(DEFAULTS[model])}
