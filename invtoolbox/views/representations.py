"""A scene of photographs as a grid of voxels.

A scene of photographs as 3D Gaussians.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.rendered_views import Photometric
from invtoolbox.datasets.models.gaussians import write_splats
from invtoolbox.datasets.models.voxels import read_voxels, write_voxels
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.sweeps.ply import read_ply
from invtoolbox.errors import InputError, unknown_name
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.operators.base import Operator
from invtoolbox.operators.rendering.gaussian_renderer import GaussianRenderer
from invtoolbox.operators.rendering.voxel_renderer import VoxelRenderer
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.implicit.gaussian_strategies import DefaultStrategy, MCMCStrategy, Strategy
from invtoolbox.priors.implicit.gaussians import Gaussians
from invtoolbox.priors.implicit.voxel_grid import VoxelGrid
from invtoolbox.views.models import SceneModel


@dataclass(frozen=True)
class VoxelModel(SceneModel):
    """`priors.VoxelGrid` under `operators.VoxelRenderer`; a later stage has a finer grid without the cells that turned out to be empty.

    Args:
        resolution: nodes along the longest side of the box.
        degree, alpha, color_rate, view_rate: see `priors.VoxelGrid`.
        scale: the unit of the density, the same for all stages; ``resolution`` over the longest side by default, so a model that is made
            with the finest resolution has a raw density of order 1 where it is opaque.
        least_alpha, margin: which cells are empty when a stage begins, see `VoxelGrid.refine`.
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


#: Strategies by name, and the share of the schedule after which they leave the number of Gaussians as it is.
STRATEGIES: dict[str, tuple[type[Strategy], float]] = {
    "mcmc": (MCMCStrategy, 0.9),
    "default": (DefaultStrategy, 0.5),
}


@dataclass(frozen=True)
class GaussianModel(SceneModel):
    """`priors.Gaussians` under `operators.GaussianRenderer`.

    Args:
        count: Gaussians at the start, at random places of the box.
        points: a PLY file of points, with colors where it has them, to start from instead.
        carve: start on the visual hull of what the pictures show before the background, in their colors; for one object before a plain
            background. An ``opacity`` of 0.5 suits it.
        degree: of the spherical harmonics.
        strategy: ``"mcmc"``, ``"default"`` or ``"none"``; or a table with its name and settings, ``{name = "mcmc", growth = 0.1}``.
        most: Gaussians at most.
        length: steps over which those of the means fall to a hundredth, and which the strategy and the degrees are spread over; the
            strategy begins after 500 of them, or a tenth.
        opacity: they start with.
        rates: factors on the steps of leaves, see `priors.Gaussians`.
        dropout: the share of them that steps leave out at the end of the schedule, see `priors.Gaussians`; 0.2 for few views.
        seed: of the places.
    """

    count: int = 5000
    points: str | None = None
    carve: bool = False
    degree: int = 2
    strategy: str | Mapping[str, Any] = "mcmc"
    most: int = 30_000
    length: int = 12_000
    opacity: float = 0.1
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0
    seed: int = 0

    file_name: ClassVar[str] = "model.ply"

    def start(self) -> ImplicitPrior:
        settings: dict[str, Any] = {
            "degree": self.degree,
            "strategy": self._strategy(),
            "opacity": self.opacity,
            "decay_over": self.length,
            "degree_every": max(1, self.length // 12),
            "rates": dict(self.rates),
            "dropout": self.dropout,
        }
        if self.points is None:
            return Gaussians.random(
                self.count, self.low, self.high, seed=self.seed, carve=self.carve, **settings
            )
        if self.carve:
            raise InputError(
                "Gaussians start from points= or where carve= finds them; leave one of the two out"
            )
        places, colors = _points_of(self.points)
        return Gaussians(places, colors, **settings)

    def _strategy(self) -> Strategy | None:
        table = {"name": self.strategy} if isinstance(self.strategy, str) else dict(self.strategy)
        name = str(table.pop("name", "mcmc"))
        if name == "none":
            return None
        if name not in STRATEGIES:
            raise unknown_name("strategy", name, [*STRATEGIES, "none"])
        cls, share = STRATEGIES[name]
        known = [f.name for f in dataclasses.fields(cls)]
        for key in table:
            if key not in known:
                raise InputError(
                    f"the strategy {name!r} has no setting {key!r}; it has {', '.join(known)}"
                )
        start = min(500, self.length // 10)
        return cls(**{"start": start, "stop": int(share * self.length), "most": self.most, **table})

    def follow(
        self, before: ImplicitPrior, parameters: dict[str, Tensor]
    ) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        return self._at(parameters), parameters

    def _at(self, parameters: dict[str, Tensor]) -> Gaussians:
        """A prior of as many Gaussians as these parameters have, with all degrees from the start."""
        return Gaussians(
            parameters["means"],
            degree=self.degree,
            strategy=self._strategy(),
            opacity=self.opacity,
            scale=1.0,
            decay_over=self.length,
            degree_every=0,
            rates=dict(self.rates),
            dropout=self.dropout,
        )

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

    def operator(self, cameras: Cameras, outputs: tuple[Any, ...] = ("color",)) -> GaussianRenderer:
        return GaussianRenderer(cameras, outputs, background=self.shade(), **self.renderer)

    def measurements(self, operator: Operator, pictures: Tensor) -> Tensor:
        return pictures.transpose(0, 1)[None].contiguous()

    def pictures(self, operator: Operator, prediction: Tensor) -> Tensor:
        return prediction[0].transpose(0, 1)

    @property
    def default_data_term(self) -> DataTerm:
        return Photometric()


def _points_of(path: str) -> tuple[Tensor, Tensor | None]:
    """Places and colors of a PLY file of points."""
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
