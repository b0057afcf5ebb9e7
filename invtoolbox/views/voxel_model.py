"""A scene of photographs as a grid of voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.datasets.voxel_file import read_voxels, write_voxels
from invtoolbox.operators.base import Operator
from invtoolbox.operators.voxel_renderer import VoxelRenderer
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.implicit.voxel_grid import VoxelGrid
from invtoolbox.scenes.cameras import Cameras
from invtoolbox.scenes.voxels import Voxels, VoxelSpace
from invtoolbox.views.models import SceneModel


@dataclass(frozen=True)
class VoxelModel(SceneModel):
    """`priors.VoxelGrid` under `operators.VoxelRenderer`; a later stage has a finer grid without the cells that turned out to be empty.

    Args:
        resolution: nodes along the longest side of the box.
        degree, alpha, colour_rate, view_rate: see `priors.VoxelGrid`.
        scale: the unit of the density, the same for all stages; ``resolution`` over the longest side by default, so a model that is made
            with the finest resolution has a raw density of order 1 where it is opaque.
        least_alpha, margin: which cells are empty when a stage begins, see `VoxelGrid.refined`.
    """

    resolution: int = 128
    degree: int = 1
    alpha: float = 1e-3
    colour_rate: float = 1.0
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
        return VoxelGrid(
            self._space(), self.degree, 3, self.alpha, self.colour_rate, self.view_rate
        )

    def _space(self) -> VoxelSpace:
        return VoxelSpace.box(self.resolution, self.low, self.high, self.scale)

    def follow(
        self, before: ImplicitPrior, parameters: dict[str, Tensor]
    ) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        assert isinstance(before, VoxelGrid)
        return before.refined(parameters, self._space().shape, self.least_alpha, self.margin)

    def save_state(self, path: Path, prior: ImplicitPrior, parameters: dict[str, Tensor]) -> None:
        write_voxels(path, prior.decode(parameters), overwrite=True)

    def load_state(self, path: Path) -> tuple[ImplicitPrior, dict[str, Tensor]]:
        x = read_voxels(path)
        grid = VoxelGrid(x.space, self.degree, 3, self.alpha, self.colour_rate, self.view_rate)
        parameters = {"density": x.density, "colour": x.colour[:, :, :1]}
        if x.colour.shape[2] > 1:
            parameters["view"] = x.colour[:, :, 1:]
        return grid, {name: leaf.contiguous() for name, leaf in parameters.items()}

    def write(self, path: Path, x: Any) -> Path:
        return write_voxels(path, x, overwrite=True).path

    def describe(self, x: Voxels) -> str:
        return f"{x.space.rows:,} of {' x '.join(map(str, x.space.shape))} nodes"

    def operator(self, cameras: Cameras, outputs: tuple[Any, ...] = ("colour",)) -> VoxelRenderer:
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
