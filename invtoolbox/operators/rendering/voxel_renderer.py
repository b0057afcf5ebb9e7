"""Renderer of voxels as a forward operator: pictures, depths and ranges."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError, check_name
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.kernels.rendering.voxel_rendering import Rendering, render_voxels
from invtoolbox.operators.base import Operator
from invtoolbox.operators.rendering.ray_bundle import RayBundle

Output = Literal["color", "alpha", "depth", "median_depth", "thickness", "distortion", "entropy"]
_SPREAD = ("distortion", "entropy")
_OUTPUTS = ("color", "alpha", "depth", "median_depth", "thickness", *_SPREAD)


class VoxelRenderer(Operator):
    r"""Rays of cameras, or any rays, through `geometry.voxels.Voxels`.

    The prediction is ``(batch, channels, rays)``: the channels of the outputs one after the other,
    the rays in the order of cameras, rows and columns. `pictures` reshapes it to pictures, and
    `measurements` reshapes pictures to it. Blocks are rays: a solver's ``subset_size`` is the
    number of rays per step, spread evenly over all pictures. The parameter ``twist`` moves the
    cameras (see `Cameras.rotate`).

    Terms that compare neighbouring pixels (depth smoothness, structural similarity, score
    distillation) need pictures. With ``block="picture"`` the prediction is
    ``(batch, channels, cameras, height, width)``, as that of `GaussianRenderer`. With ``block=8``
    it is ``(batch, channels, patches, 8, 8)`` for patches that cover every picture; the last
    patches of a row overlap if 8 does not divide it. Blocks are then pictures or patches.

    Args:
        rays: cameras, or origins and directions, ``(R, 3)`` each; depths count in lengths of a
            direction.
        outputs: names out of ``"color"``, ``"alpha"``, ``"depth"``, ``"median_depth"``,
            ``"thickness"``, ``"distortion"`` and ``"entropy"``; see `Rendering`.
        channels: number of channels of the color.
        background: color of the background: a number, or one number per channel; None for black.
        step: distance between samples; see `render_voxels`.
        near: smallest depth of a sample; see `render_voxels`.
        far: largest depth of a sample; see `render_voxels`.
        stop: transmittance at which a ray ends; see `render_voxels`.
        least_alpha: smallest alpha of a sample that counts; see `render_voxels`.
        block: unit of a block: ``"ray"``, ``"picture"``, or the side of square patches in pixels.

    >>> from invtoolbox.geometry.cameras import look_at
    >>> from invtoolbox.geometry.voxels import VoxelSpace
    >>> A = VoxelRenderer(look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(3, 5)), background=1.0)
    >>> space = VoxelSpace.box(4, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    >>> empty = Voxels(torch.full((1, space.rows), -40.0), torch.zeros(1, space.rows, 1, 3), space)
    >>> A.pictures(A(empty)).shape, A(empty).min()
    (torch.Size([1, 1, 3, 3, 5]), tensor(1.))
    """

    def __init__(
        self,
        rays: Cameras | tuple[Tensor, Tensor],
        outputs: tuple[Output, ...] = ("color",),
        channels: int = 3,
        background: float | Tensor | None = None,
        step: float | None = None,
        near: float = 0.0,
        far: float = math.inf,
        stop: float = 1e-4,
        least_alpha: float = 0.0,
        block: Literal["ray", "picture"] | int = "ray",
    ) -> None:
        for name in outputs:
            check_name("output of VoxelRenderer", name, _OUTPUTS)
        self.rays = RayBundle.of(rays)
        #: The rays of every block, ``(blocks, height, width)``; None if blocks are rays.
        self.tiles = None if block == "ray" else _tiles(self.rays.picture_shape, block)
        self.outputs, self.channels, self.background = tuple(outputs), channels, background
        self.step, self.near, self.far = step, near, far
        self.stop, self.least_alpha = stop, least_alpha
        self.domain_shape = ()
        self._set_range()

    def _set_range(self) -> None:
        channels = sum(self.channels if name == "color" else 1 for name in self.outputs)
        self.range_shape = (
            (channels, len(self.rays)) if self.tiles is None else (channels, *self.tiles.shape)
        )

    def __call__(self, x: Any) -> Tensor:
        rendering = self.render(x)
        parts = [
            rendering.color.transpose(1, 2)
            if name == "color"
            else getattr(rendering, name)[:, None]
            for name in self.outputs
        ]
        prediction = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return prediction if self.tiles is None else prediction.unflatten(2, self.tiles.shape)

    def render(self, x: Any) -> Rendering:
        """Render all quantities along the rays, block by block."""
        if not isinstance(x, Voxels):
            raise InputError(
                f"{self} takes Voxels, as decoded by priors.VoxelGrid(), got {type(x).__name__}"
            )
        if x.color.shape[-1] != self.channels:
            raise InputError(
                f"{self} has {self.channels} channels, but the voxels have {x.color.shape[-1]}; "
                "pass channels="
            )
        rays = self.rays if self.tiles is None else self.rays.take_blocks(self.tiles.flatten())
        origins, directions = rays.lines()
        return render_voxels(
            x,
            origins.to(x.density.dtype),
            directions.to(x.density.dtype),
            step=self.step,
            near=self.near,
            far=self.far,
            background=self.background,
            stop=self.stop,
            least_alpha=self.least_alpha,
            spread=any(name in _SPREAD for name in self.outputs),
        )

    def _forward(self, x: Any) -> Tensor:
        return self(x)

    # -- pictures ----------------------------------------------------------------------------------

    def pictures(self, prediction: Tensor) -> Tensor:
        """Reshape predictions to pictures.

        The shapes are ``(batch, channels, *blocks) -> (batch, cameras, channels, height, width)``.
        """
        shape = self.rays.picture_shape
        if self.tiles is not None:
            if int(self.tiles.amax()) + 1 != len(self.rays) or self.tiles.numel() < len(self.rays):
                raise InputError(
                    f"{self} sees {self.tiles.numel()} pixels, which do not form whole pictures"
                )
            pixels = prediction.new_zeros(*prediction.shape[:2], len(self.rays))
            prediction = pixels.index_copy(2, self.tiles.flatten(), prediction.flatten(2))
        return prediction.unflatten(2, shape).transpose(1, 2)

    def measurements(self, pictures: Tensor) -> Tensor:
        """Reshape pictures to the layout of the predictions.

        The shapes are ``(batch, cameras, channels, height, width) -> (batch, channels, *blocks)``.
        """
        flat = pictures.transpose(1, 2).flatten(2)
        return flat.contiguous() if self.tiles is None else flat[:, :, self.tiles]

    def nearby(self, distance: float) -> VoxelRenderer:
        """Return the operator of the optical thickness within a distance of the cameras.

        `priors.OcclusionPenalty` uses it.
        """
        renderer = copy.copy(self)
        renderer.outputs, renderer.far = ("thickness",), self.near + distance
        renderer.stop, renderer.background = 0.0, None
        renderer._set_range()
        return renderer

    # -- subsets of the rays -----------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Number of rays, patches or pictures."""
        return len(self.rays) if self.tiles is None else len(self.tiles)

    def draw_blocks(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw one block from each of ``count`` equal stretches: every picture has its share."""
        device = generator.device if generator is not None else "cpu"
        edges = torch.arange(count + 1, device=device) * self.blocks // count
        share = torch.rand(count, generator=generator, device=device)
        return torch.minimum(edges[:-1] + (share * (edges[1:] - edges[:-1])).long(), edges[1:] - 1)

    def subset(self, index: Any) -> VoxelRenderer:
        """Return the operator for some of the blocks."""
        renderer = copy.copy(self)
        if self.tiles is None:
            renderer.rays = self.rays.take_blocks(index)
        else:
            renderer.tiles = self.tiles[index]
        renderer._set_range()
        return renderer

    def parameters(self) -> dict[str, Tensor]:
        return self.rays.parameters()

    def _replace(self, parameters: dict[str, Tensor]) -> VoxelRenderer:
        renderer = copy.copy(self)
        renderer.rays = self.rays.replace_tensors(parameters)
        return renderer

    def __repr__(self) -> str:
        blocks = "" if self.tiles is None else ", {} blocks of {} by {}".format(*self.tiles.shape)
        return f"VoxelRenderer of {self.rays!r}{blocks}"


def _tiles(shape: tuple[int, ...], block: str | int) -> Tensor:
    """Return the numbers of the rays of every block of pictures ``(cameras, height, width)``."""
    numbers = torch.arange(math.prod(shape)).view(shape)
    if block == "picture":
        return numbers
    if not isinstance(block, int) or not 2 <= block <= min(shape[1:]):
        raise InputError(
            "block of VoxelRenderer must be 'ray', 'picture' or a side of patches from 2 to "
            f"{min(shape[1:])}, got {block!r}"
        )
    for axis, size in ((1, shape[1]), (2, shape[2])):
        count = -(-size // block)
        starts = torch.arange(count) * (size - block) // max(count - 1, 1)
        numbers = numbers.index_select(axis, (starts[:, None] + torch.arange(block)).flatten())
    across = numbers.shape[1] // block, numbers.shape[2] // block
    return (
        numbers.view(shape[0], across[0], block, across[1], block)
        .transpose(2, 3)
        .reshape(-1, block, block)
    )
