"""Pictures, depths and ranges of voxels: a renderer as a forward operator."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.kernels.volume_render import Rendering, render_voxels
from invtoolbox.operators.base import Operator
from invtoolbox.operators.ray_bundle import RayBundle
from invtoolbox.scenes.cameras import Cameras
from invtoolbox.scenes.voxels import Voxels

Output = Literal["colour", "alpha", "depth", "median_depth", "thickness"]
_OUTPUTS = ("colour", "alpha", "depth", "median_depth", "thickness")


class VoxelRenderer(Operator):
    r"""``A(x)``: what the rays of cameras, or any rays, see of `scenes.voxels.Voxels`.

    The prediction is ``(batch, channels, rays)``: the channels of the outputs one after the other, the rays in the order of cameras,
    rows and columns. `pictures` gives it the shape of pictures, and `measurements` takes it away. Blocks are rays: a solver's
    ``subset_size`` is the number of rays of a step, spread evenly over all pictures. The parameter ``twist`` moves the cameras
    (see `Cameras.turned`).

    Args:
        rays: cameras, or origins and directions, ``(R, 3)`` each; depths count in lengths of a direction.
        outputs: out of ``"colour"``, ``"alpha"``, ``"depth"``, ``"median_depth"`` and ``"thickness"``; see `Rendering`.
        channels: of the colour.
        background: the colour that stands behind everything: a number, or one a channel; None for black.
        step, near, far, stop, least_alpha: see `render_voxels`.

    >>> from invtoolbox.scenes.cameras import look_at
    >>> from invtoolbox.scenes.voxels import VoxelSpace
    >>> A = VoxelRenderer(look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(3, 5)), background=1.0)
    >>> space = VoxelSpace.box(4, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    >>> empty = Voxels(torch.full((1, space.rows), -40.0), torch.zeros(1, space.rows, 1, 3), space)
    >>> A.pictures(A(empty)).shape, A(empty).min()
    (torch.Size([1, 1, 3, 3, 5]), tensor(1.))
    """

    def __init__(self, rays: Cameras | tuple[Tensor, Tensor], outputs: tuple[Output, ...] = ("colour",), channels: int = 3,
                 background: float | Tensor | None = None, step: float | None = None, near: float = 0.0, far: float = math.inf,
                 stop: float = 1e-4, least_alpha: float = 0.0) -> None:
        for name in outputs:
            if name not in _OUTPUTS:
                raise unknown_name("output of VoxelRenderer", name, _OUTPUTS)
        self.rays = RayBundle.of(rays)
        self.outputs, self.channels, self.background = tuple(outputs), channels, background
        self.step, self.near, self.far, self.stop, self.least_alpha = step, near, far, stop, least_alpha
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        self.range_shape = (sum(self.channels if name == "colour" else 1 for name in self.outputs), len(self.rays))

    def __call__(self, x: Any) -> Tensor:
        seen = self.render(x)
        parts = [seen.colour.transpose(1, 2) if name == "colour" else getattr(seen, name)[:, None] for name in self.outputs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def render(self, x: Any) -> Rendering:
        """Everything that the rays see."""
        if not isinstance(x, Voxels):
            raise InputError(f"{self} takes Voxels, as priors.VoxelGrid() makes them, got {type(x).__name__}")
        if x.colour.shape[-1] != self.channels:
            raise InputError(f"{self} was told of {self.channels} channels, and the voxels have {x.colour.shape[-1]}; pass channels=")
        origins, directions = self.rays.lines()
        return render_voxels(x, origins.to(x.density.dtype), directions.to(x.density.dtype), step=self.step, near=self.near, far=self.far,
                             background=self.background, stop=self.stop, least_alpha=self.least_alpha)

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    # -- pictures --------------------------------------------------------------------------------------------------------

    def pictures(self, prediction: Tensor) -> Tensor:
        """Predictions as pictures: ``(batch, channels, rays) -> (batch, cameras, channels, height, width)``."""
        shape = self.rays.picture_shape
        return prediction.unflatten(2, shape).transpose(1, 2)

    def measurements(self, pictures: Tensor) -> Tensor:
        """Pictures as this operator predicts them: ``(batch, cameras, channels, height, width) -> (batch, channels, rays)``."""
        return pictures.transpose(1, 2).flatten(2).contiguous()

    # -- subsets of the rays ---------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """The number of rays."""
        return len(self.rays)

    def drawn(self, count: int, generator: Generator | None = None) -> Tensor:
        """One ray of each of so many equal stretches of all of them: no ray twice, and every picture has its share."""
        device = generator.device if generator is not None else "cpu"
        edges = torch.arange(count + 1, device=device) * self.blocks // count
        share = torch.rand(count, generator=generator, device=device)
        return torch.minimum(edges[:-1] + (share * (edges[1:] - edges[:-1])).long(), edges[1:] - 1)

    def subset(self, index: Any) -> VoxelRenderer:
        """The operator for some of the rays."""
        other = copy.copy(self)
        other.rays = self.rays.picked(index)
        other._set_range()
        return other

    def parameters(self) -> dict[str, Tensor]:
        return self.rays.parameters()

    def _replace(self, parameters: dict[str, Tensor]) -> VoxelRenderer:
        other = copy.copy(self)
        other.rays = self.rays.replaced(parameters)
        return other

    def __repr__(self) -> str:
        return f"VoxelRenderer of {self.rays!r}"
