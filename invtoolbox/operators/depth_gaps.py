"""Gaps between the depths of several views of one scene: `DepthGaps`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.operators.base import LinearOperator, Operator, count_items


class DepthGaps(Operator):
    r"""Gaps between depth maps of known cameras, as a function of the scale and shift of each map.

    The map m_i of view i gives the depths ``d_i = exp(x_0i) m_i + x_1i``. Pixel p of view i at its
    depth is a point. The point has the depth z in view j and lies there at pixel q, between whose
    neighbours m_j is interpolated. The gap is the difference of the two maps in the unit of the
    second one, ``A(x)_ij(p) = ((z - x_1j) / exp(x_0j) - m_j(q)) / std(m_j)``, because flat maps
    would make differences of depths as small as one likes. The measurements are zeros. Give pixels
    that view j does not see no weight, and bound the pull of hidden points:
    ``Student(1.0, noise_std=0.1, weights=A.with_seen(x)[1].float())``.

    Args:
        maps: depth maps up to scale and shift, ``(batch, 1, C, rows, columns)``; NaN or infinite
            where unknown.
        cameras: cameras of the C views, pinholes.

    Raises:
        InputError: if there are fewer than two views, cameras of another number or size, or a map
            without two different values.

    >>> from invtoolbox.geometry import look_at
    >>> positions = torch.tensor([[0.0, 0.0, -2.0], [0.5, 0.0, -2.0]])
    >>> cameras = look_at(positions, target=(0.0, 0.0, 1e6), size=(4, 8))
    >>> maps = torch.linspace(2.0, 4.0, 4)[:, None].expand(1, 1, 2, 4, 8)  # a floor
    >>> A = DepthGaps(maps, cameras)
    >>> x = torch.zeros(1, 2, 2)  # the maps as they are
    >>> A(x)[0, 0, :, 3:].abs().max() < 1e-4
    tensor(True)
    """

    has_batch_axis = True

    def __init__(self, maps: Tensor, cameras: Cameras) -> None:
        count = len(cameras)
        if count < 2:
            raise InputError("DepthGaps compares views, and needs at least two cameras")
        cameras.require_pinholes("DepthGaps")
        if maps.ndim != 5 or tuple(maps.shape[1:]) != (1, count, *cameras.size):
            raise InputError(
                f"DepthGaps of these cameras takes maps (batch, 1, {count}, {cameras.size[0]}, "
                f"{cameras.size[1]}), got {tuple(maps.shape)}"
            )
        is_known = maps.isfinite()
        # Mean and standard deviation of every map over its known pixels.
        share = is_known.flatten(3).sum(-1).clamp_min(1)
        zeroed = torch.where(is_known, maps, 0.0)
        mean = zeroed.flatten(3).sum(-1) / share
        away = torch.where(is_known, maps - mean[..., None, None], 0.0)
        spread = (away.square().flatten(3).sum(-1) / share).sqrt()[:, 0]
        if bool((spread == 0).any()):
            item, view = (spread == 0).nonzero()[0].tolist()
            raise InputError(
                f"the depth map of view {view} of item {item} has no two different values, so its "
                "scale is not determined; leave the view out"
            )
        self.maps, self.known, self.spread = zeroed[:, 0], is_known[:, 0], spread
        self.sources = torch.stack([self.maps, self.known.to(maps)], 2)
        self.cameras = cameras.to(maps.dtype, maps.device)
        numbers = torch.arange(count, device=maps.device)
        first, second = torch.meshgrid(numbers, numbers, indexing="ij")
        self.first, self.second = first[first != second], second[first != second]
        # The point of a pixel at depth d is start + d * direction, in the frame of the second view;
        # with z of that point, K (start + d * direction) are its homogeneous pixel coordinates.
        origins, directions = self.cameras.rays()
        motion = self.cameras.world_to_camera[self.second]
        turn = motion[:, None, None, :3, :3]
        shift = motion[:, None, None, :3, 3]
        K = self.cameras.intrinsics[self.second, None, None, :2]
        start = (turn @ origins[self.first][..., None])[..., 0] + shift
        direction = (turn @ directions[self.first][..., None])[..., 0]
        self.start, self.direction = (
            torch.cat([(K @ vector[..., None])[..., 0], vector[..., 2:]], -1)
            for vector in (start, direction)
        )
        self.items = count_items("depth maps", maps)
        self.domain_shape = (2, count)
        self.range_shape = (len(self.first), *cameras.size)

    def measurements(self) -> Tensor:
        """Return the measurements, gaps of 0."""
        return self.maps.new_zeros(len(self.maps), *self.range_shape)

    def depths(self, x: Tensor) -> Tensor:
        """Return the depths of the maps, ``(batch, 1, C, rows, columns)``, 0 where unknown."""
        depth = x[:, 0, :, None, None].exp() * self.maps + x[:, 1, :, None, None]
        return torch.where(self.known, depth, 0.0).unsqueeze(1)

    def _forward(self, x: Tensor) -> Tensor:
        return self.with_seen(x)[0]

    def with_seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gaps, and whether the second view of a pair sees the pixel of the first one."""
        return self._gaps(torch.cat([x[..., self.first], x[..., self.second]], 1)[..., None, None])

    def _gaps(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return gaps, and whether a pixel is seen.

        Args:
            ends: logarithm of the scale, and shift, of the first and of the second view of every
                pair, which broadcast against ``(batch, 4, pairs, rows, columns)``.
        """
        rows, columns = self.cameras.size
        scale, shift, other_scale, other_shift = ends.unbind(1)
        scale, other_scale = scale.exp(), other_scale.exp()
        depth = scale * self.maps[:, self.first] + shift
        projected = self.start + depth[..., None] * self.direction
        z = projected[..., 2]
        ahead = z > 1e-6
        z = torch.where(ahead, z, 1.0)
        # Pinhole projection; `grid_sample` takes pixels with centres at j + 1/2 as -1 to 1.
        place = projected[..., :2] / z[..., None]
        grid = 2 * place / place.new_tensor([columns, rows]) - 1
        sources = self.sources[:, self.second].expand(len(depth), -1, -1, -1, -1)
        sampled = functional.grid_sample(
            sources.flatten(0, 1), grid.flatten(0, 1), align_corners=False, padding_mode="border"
        ).view(*sources.shape[:3], rows, columns)
        value, known_share = sampled.unbind(2)
        is_seen = ahead & (grid.detach().abs() <= 1).all(-1) & (known_share.detach() > 0.999)
        is_seen = is_seen & self.known[:, self.first]
        apart = (z - other_shift) / other_scale - value
        return apart / self.spread[:, self.second, None, None], is_seen

    def linearize(self, x: Tensor) -> LinearOperator:
        """Return the derivative at x, whose entries are pixel by pixel of one pair of views."""
        return self.with_derivative(x)[1]

    def with_derivative(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        """Return the gaps at x, and their derivative."""
        ends = torch.cat([x[..., self.first], x[..., self.second]], 1).detach()
        ends = ends[..., None, None].expand(-1, -1, -1, *self.cameras.size)
        # Every gap depends on four numbers of its own pixel, so one gradient of the sum holds all
        # derivatives.
        with torch.enable_grad():
            free = ends.clone().requires_grad_(True)
            gaps = self._gaps(free)[0]
            (slopes,) = torch.autograd.grad(gaps.sum(), free)
        jacobian = GapsJacobian(slopes, self.first, self.second, self.domain_shape[1])
        return gaps.detach(), jacobian

    def parameters(self) -> dict[str, Tensor]:
        """``sources``, ``maps``, ``known`` and ``spread``, with the batch axis in front."""
        names = ("sources", "maps", "known", "spread")
        return {name: getattr(self, name) for name in names}


class GapsJacobian(LinearOperator):
    """Derivative of `DepthGaps`: the gap of a pair depends on scale and shift of its two views.

    Args:
        slopes: derivatives in the scale and shift of the first view, and of the second,
            ``(batch, 4, pairs, rows, columns)``.
        first: number of the first view of every pair, ``(pairs,)``.
        second: number of the second view of every pair, ``(pairs,)``.
        count: number of views.

    >>> J = GapsJacobian(torch.ones(1, 4, 1, 1, 1), torch.tensor([0]), torch.tensor([1]), 2)
    >>> J(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).item()
    10.0
    """

    has_batch_axis = True

    def __init__(self, slopes: Tensor, first: Tensor, second: Tensor, count: int) -> None:
        self.slopes, self.first, self.second = slopes, first, second
        self.domain_shape, self.range_shape = (2, count), tuple(slopes.shape[2:])
        self.items = count_items("slopes", slopes)

    def _forward(self, x: Tensor) -> Tensor:
        ends = torch.cat([x[..., self.first], x[..., self.second]], 1)
        return (self.slopes * ends[..., None, None]).sum(1)

    def _adjoint(self, y: Tensor) -> Tensor:
        pulls = (self.slopes * y.unsqueeze(1)).flatten(3).sum(-1)
        out = pulls.new_zeros(len(pulls), *self.domain_shape)
        return out.index_add(2, self.first, pulls[:, :2]).index_add(2, self.second, pulls[:, 2:])

    def parameters(self) -> dict[str, Tensor]:
        """``slopes``, of shape ``(1 or batch, 4, pairs, rows, columns)``."""
        return {"slopes": self.slopes}
