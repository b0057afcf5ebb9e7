"""Representations of a scene from photographs: a grid of voxels, and 3D Gaussians."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.catalogue.registry import require_settings
from invtoolbox.data_terms import DataTerm, LeastSquares
from invtoolbox.data_terms.rendered_views import Photometric, StoredPhotometric
from invtoolbox.datasets import (
    PosedPictures,
    read_ply,
    read_voxels,
    write_bytes,
    write_splats,
    write_voxels,
)
from invtoolbox.errors import InputError, unknown_name
from invtoolbox.geometry import Cameras, Splats
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.jobs.photographs.models import Pace, SceneModel
from invtoolbox.operators import ExposedRenderer, GaussianRenderer, Operator, VoxelRenderer
from invtoolbox.priors import (
    Gaussians,
    ImplicitPrior,
    NormalConsistency,
    Prior,
    ThroughOperator,
    VoxelGrid,
)
from invtoolbox.priors.implicit.gaussian_strategies import DefaultStrategy, MCMCStrategy, Strategy
from invtoolbox.problem import Problem


@dataclass(frozen=True)
class VoxelModel(SceneModel):
    """Scene as `priors.VoxelGrid` under `operators.VoxelRenderer`.

    A later stage has a finer grid without the cells that were found to be empty.

    Args:
        resolution: number of nodes along the longest side of the box.
        degree: degree of the spherical harmonics, see `priors.VoxelGrid`.
        alpha: initial opacity, see `priors.VoxelGrid`.
        color_rate: factor on the learning rate of colors, see `priors.VoxelGrid`.
        view_rate: factor on the learning rate of view dependence, see `priors.VoxelGrid`.
        scale: unit of the density, the same for all stages; by default ``resolution`` over the
            longest side, so that a model with the finest resolution has a raw density of order 1
            in opaque cells.
        least_alpha: opacity below which a cell is empty when a stage begins, see
            `VoxelGrid.refine`.
        margin: number of cells kept around occupied cells, see `VoxelGrid.refine`.
    """

    resolution: int = 128
    degree: int = 1
    alpha: float = 1e-3
    color_rate: float = 1.0
    view_rate: float = 0.2
    scale: float | None = None
    least_alpha: float = 1e-2
    margin: int = 1

    file_name: ClassVar[str] = "model.safetensors"

    def __post_init__(self) -> None:
        if self.scale is None:
            object.__setattr__(
                self, "scale", self.resolution / max(b - a for a, b in zip(self.low, self.high))
            )

    def start(self) -> ImplicitPrior:
        return VoxelGrid(self._space(), self.degree, 3, self.alpha, self.color_rate, self.view_rate)

    def _space(self) -> VoxelSpace:
        return VoxelSpace.box(self.resolution, self.low, self.high, self.scale)

    def follow(
        self, before: ImplicitPrior, parameters: dict[str, Tensor]
    ) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        assert isinstance(before, VoxelGrid)
        return before.refine(parameters, self._space().shape, self.least_alpha, self.margin)

    def save_state(self, path: Path, prior: ImplicitPrior, parameters: dict[str, Tensor]) -> None:
        write_voxels(path, prior.decode(parameters), overwrite=True)

    def load_state(self, path: Path) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        x = read_voxels(path)
        grid = VoxelGrid(x.space, self.degree, 3, self.alpha, self.color_rate, self.view_rate)
        parameters = {"density": x.density, "color": x.color[:, :, :1]}
        if x.color.shape[2] > 1:
            parameters["view"] = x.color[:, :, 1:]
        return grid, {name: leaf.contiguous() for name, leaf in parameters.items()}

    def write(self, path: Path, x: Any) -> Path:
        return write_voxels(path, x, overwrite=True).path

    def describe(self, x: Voxels) -> str:
        return f"{x.space.rows:,} of {' x '.join(map(str, x.space.shape))} nodes"

    def operator(self, cameras: Cameras, outputs: tuple[Any, ...] = ("color",)) -> VoxelRenderer:
        return VoxelRenderer(cameras, outputs, background=self.shade(), **self.renderer)

    def measurements(self, operator: Operator, pictures: Tensor) -> Tensor:
        assert isinstance(operator, VoxelRenderer)
        return operator.measurements(pictures[None])

    def pictures(self, operator: Operator, prediction: Tensor) -> Tensor:
        assert isinstance(operator, VoxelRenderer)
        return operator.pictures(prediction)[0]

    @property
    def default_data_term(self) -> DataTerm:
        return LeastSquares()


#: Strategies by name, and the share of the schedule after which the number of Gaussians is fixed.
STRATEGIES: dict[str, tuple[type[Strategy], float]] = {
    "mcmc": (MCMCStrategy, 0.9),
    "default": (DefaultStrategy, 0.5),
}

#: Number of steps of the schedule of Gaussians that follows a budget: the unit of its parts.
SCHEDULE = 12_000
#: Blur of flat Gaussians, square pixels (Yu et al., "Mip-splatting", CVPR 2024).
SURFACE_BLUR = 0.1


@dataclass(frozen=True)
class GaussianModel(SceneModel):
    """Scene as `priors.Gaussians` under `operators.GaussianRenderer`.

    Args:
        count: initial number of Gaussians, at random positions in the box.
        points: PLY file of points, with or without colors, to start from instead; or ``"random"``
            for random positions even if there is a `cloud`.
        carve: start on the visual hull of the object in the pictures, in its colors; for one object
            before a plain background. An ``opacity`` of 0.5 suits it.
        degree: degree of the spherical harmonics.
        strategy: ``"mcmc"``, ``"default"`` or ``"none"``; or a table with its name and settings,
            ``{name = "mcmc", growth = 0.1}``.
        most: largest number of Gaussians.
        length: number of steps over which the step of the means falls to a hundredth, and over
            which the strategy and the degrees are spread. The strategy begins after 500 steps, or a
            tenth of the length. By default they follow the share of the run's budget that is used,
            of its steps or of its seconds, as over `SCHEDULE` steps.
        opacity: initial opacity.
        rates: factors on the learning rates of leaves, see `priors.Gaussians`.
        dropout: share of the Gaussians that steps leave out at the end of the schedule, see
            `priors.Gaussians`; 0.2 for few views.
        exposure: find a gain per training picture and channel
            (`operators.ExposedRenderer`); held-out views are rendered with their geometric mean.
        flat: use flat Gaussians, for a surface: see `priors.Gaussians`. The mesh of the scene is
            then that of the depths at which rays meet their planes. By default their renderer is
            antialiased with a blur of 0.1 square pixels, the order of a pixel: a larger blur swells
            silhouettes, and the surface would lie inside of the object.
        needles: weight of needle-like Gaussians, see `priors.Gaussians`; 0.01 is the order of the
            mean misfit of a picture.
        consistency: weight of `priors.NormalConsistency` of flat Gaussians in the views of the
            photographs, relative to the mean misfit.
        distortion: weight of the distortion of flat Gaussians in it, in units of one over the
            square of the longest side of the box.
        seed: seed of the initial positions.
        cloud: positions and colors of points of the scene, ``(N, 3)`` each, to start from, such as
            those of structure from motion; None for random positions.
        pace: see `with_pace`.
    """

    count: int = 5000
    points: str | None = None
    carve: bool = False
    degree: int = 2
    strategy: str | Mapping[str, Any] = "mcmc"
    most: int = 30_000
    length: int | None = None
    opacity: float = 0.1
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0
    exposure: bool = False
    flat: bool = False
    needles: float = 0.0
    consistency: float = 0.015
    distortion: float = 100.0
    seed: int = 0
    cloud: tuple[Tensor, Tensor | None] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    pace: Pace | None = dataclasses.field(default=None, repr=False, compare=False)

    file_name: ClassVar[str] = "model.ply"

    def with_pace(self, pace: Pace) -> GaussianModel:
        return self if self.length is not None else dataclasses.replace(self, pace=pace)

    def start(self) -> ImplicitPrior:
        settings: dict[str, Any] = {
            "degree": self.degree,
            "strategy": self._strategy(),
            "opacity": self.opacity,
            "decay_over": self.length or SCHEDULE,
            "degree_every": max(1, (self.length or SCHEDULE) // 12),
            "rates": dict(self.rates),
            "dropout": self.dropout,
            "flat": self.flat,
            "needles": self.needles,
        }
        if self.carve and self.points not in (None, "random"):
            raise InputError(
                "Gaussians start from points= or from carve=, not from both; leave one of the two "
                "out"
            )
        cloud = None if self.carve or self.points == "random" else self.cloud
        if self.points not in (None, "random"):
            cloud = _points_of(str(self.points))
        if cloud is None:
            prior = Gaussians.random(
                self.count, self.low, self.high, seed=self.seed, carve=self.carve, **settings
            )
        else:
            prior = Gaussians(*cloud, **settings)
        return prior.with_pace(self.pace)

    def _strategy(self) -> Strategy | None:
        table = {"name": self.strategy} if isinstance(self.strategy, str) else dict(self.strategy)
        name = str(table.pop("name", "mcmc"))
        if name == "none":
            return None
        if name not in STRATEGIES:
            raise unknown_name("strategy", name, [*STRATEGIES, "none"])
        cls, share = STRATEGIES[name]
        names = [field.name for field in dataclasses.fields(cls)]
        require_settings(f"the strategy {name!r}", table, names)
        length = self.length or SCHEDULE
        settings = {"start": min(500, length // 10), "stop": int(share * length), "most": self.most}
        if cls is MCMCStrategy and self.pace is not None:
            settings["first"] = self.count if self.cloud is None else len(self.cloud[0])
        return cls(**{**settings, **table})

    def follow(
        self, before: ImplicitPrior, parameters: dict[str, Tensor]
    ) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        return self._at(parameters), parameters

    def _at(self, parameters: dict[str, Tensor]) -> Gaussians:
        """Return a prior for the Gaussians in the parameters, with all degrees at once."""
        return Gaussians(
            parameters["means"],
            degree=self.degree,
            strategy=self._strategy(),
            opacity=self.opacity,
            scale=1.0,
            decay_over=self.length or SCHEDULE,
            degree_every=0 if self.pace is None else SCHEDULE // 12,
            rates=dict(self.rates),
            dropout=self.dropout,
            flat=self.flat,
            needles=self.needles,
        ).with_pace(self.pace)

    def save_state(self, path: Path, prior: ImplicitPrior, parameters: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        write_bytes(
            path,
            save({name: t.detach().cpu().contiguous().clone() for name, t in parameters.items()}),
            overwrite=True,
        )

    def load_state(self, path: Path) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            parameters = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} cannot be read ({error}); give --overwrite to start anew"
            ) from error
        return self._at(parameters), parameters

    def write(self, path: Path, x: Any) -> Path:
        return write_splats(path, x, overwrite=True).path

    def describe(self, x: Splats) -> str:
        return f"{int((x.opacities > 1e-6).sum()):,} Gaussians"

    def problem(self, pictures: PosedPictures, data_term: DataTerm | None = None) -> Problem:
        term = data_term or self.default_data_term
        if pictures.source is not None and type(term) is not Photometric:
            raise InputError(
                f"the pictures are too large for the memory, and {term} cannot be computed from "
                "pictures on disk; choose photometric, or reduce them with largest_side"
            )
        if pictures.source is None and not self.exposure:
            return super().problem(pictures, data_term)
        A: Operator = self.operator(pictures.cameras)
        if self.exposure:
            A = ExposedRenderer(pictures.cameras, **self._settings())
        unknown: dict[str, Any] = {"exposure": None} if self.exposure else {}
        if pictures.source is None:
            problem = super().problem(pictures, data_term)
            return Problem(problem.y, A, problem.data_term, unknown)

        def read(numbers: Tensor) -> tuple[Tensor, Tensor | None]:
            subset = pictures.read(numbers)
            mask = None if subset.mask is None else subset.mask.transpose(0, 1)
            return subset.on(self.shade()).transpose(0, 1), mask

        assert isinstance(term, Photometric)
        numbers = torch.arange(len(pictures), dtype=torch.float32)[None, None]
        return Problem(numbers, A, StoredPhotometric(read, term.similarity), unknown)

    def regularizer(self, pictures: PosedPictures, subset_size: int | None) -> Prior | None:
        if not self.flat or self.consistency == 0:
            return None
        longest = max(b - a for a, b in zip(self.low, self.high))
        weight = self.distortion / longest**2
        outputs = ("normal", "alpha", "plane_depth", "distortion")
        A = self.operator(pictures.cameras, outputs if weight > 0 else outputs[:3])
        surface = NormalConsistency(pictures.cameras, distortion=weight)
        return self.consistency * ThroughOperator(surface, A, subset_size)

    def operator(self, cameras: Cameras, outputs: tuple[Any, ...] = ("color",)) -> GaussianRenderer:
        return GaussianRenderer(cameras, outputs, **self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the renderer."""
        settings: dict[str, Any] = {"background": self.shade()}
        if self.flat:
            settings |= {"antialiased": True, "blur": SURFACE_BLUR}
        strategy = self._strategy()
        if isinstance(strategy, DefaultStrategy) and strategy.absolute:
            settings["absgrad"] = True
        return {**settings, **self.renderer}

    def measurements(self, operator: Operator, pictures: Tensor) -> Tensor:
        return pictures.transpose(0, 1)[None].contiguous()

    def pictures(self, operator: Operator, prediction: Tensor) -> Tensor:
        return prediction[0].transpose(0, 1)

    @property
    def default_data_term(self) -> DataTerm:
        return Photometric()


def _points_of(path: str) -> tuple[Tensor, Tensor | None]:
    """Read positions and colors from a PLY file of points."""
    table = read_ply(path)
    if not {"x", "y", "z"} <= set(table):
        raise InputError(f"{path} holds no points; its vertices have {', '.join(table)}")

    def columns(*names: str) -> Tensor:
        return torch.stack([torch.as_tensor(table[name].astype("float32")) for name in names], 1)

    colors = ("red", "green", "blue")
    if not set(colors) <= set(table):
        return columns("x", "y", "z"), None
    values = columns(*colors)
    return columns("x", "y", "z"), values / 255 if table["red"].dtype.kind in "iu" else values
