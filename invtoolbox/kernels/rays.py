"""The table of rays that describes a 2D scan to the projection kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rays:
    r"""The ``V * D`` rays of a scan (V views, D detector cells) through an image of ``shape`` (H, W).

    In units of pixels, with both coordinates counted from the image's centre (row ``r = i - (H - 1) / 2``,
    column ``c = j - (W - 1) / 2``), a ray runs along its *main* axis, the one along which it crosses more
    pixels:

    - main axis vertical: at row ``r`` the ray is at column ``offset + slope * r``;
    - main axis horizontal: at column ``c`` it is at row ``offset + slope * c``;

    ``|slope| <= 1``, and ``step`` is the length of the ray between two neighbouring rows (columns), in the
    user's unit of length. Offsets from the centre are half as large as offsets from the corner, which is
    worth one bit in float32.

    Attributes:
        offset, slope, step: shape (V, D), float64 by habit, differentiable.
        vertical: shape (V, D), bool: the main axis is vertical.
        shape: (H, W).
    """

    offset: Tensor
    slope: Tensor
    step: Tensor
    vertical: Tensor
    shape: tuple[int, int]

    @staticmethod
    def through(
        points: tuple[Tensor, Tensor],
        directions: tuple[Tensor, Tensor],
        shape: tuple[int, int],
        pixel_size: tuple[float, float],
    ) -> Rays:
        """Rays given by a point and a direction ``(x, y)`` each, any of which broadcasts to (V, D).

        ``x`` points along the columns, ``y`` against the rows, the origin is the image's centre; lengths are
        in the unit of ``pixel_size`` (row, column). Directions need no unit length. Differentiable in both.
        """
        height, width = pixel_size
        column, row, d_column, d_row = torch.broadcast_tensors(
            points[0] / width, -points[1] / height, directions[0] / width, -directions[1] / height
        )
        length = torch.hypot(directions[0], directions[1])
        vertical = d_column.abs() < d_row.abs()
        # The division is by the larger component, so no branch divides by zero (whose gradient would be NaN).
        along = torch.where(vertical, d_row, d_column)
        slope = torch.where(vertical, d_column, d_row) / along
        offset = torch.where(vertical, column, row) - slope * torch.where(vertical, row, column)
        step = (length / along.abs()).contiguous()
        return Rays(offset.contiguous(), slope.contiguous(), step, vertical, shape)

    @property
    def views(self) -> int:
        return int(self.offset.shape[0])

    @property
    def detectors(self) -> int:
        return int(self.offset.shape[1])

    @cached_property
    def order(self) -> Tensor:
        """Numbers of the rays, int32: first those whose main axis is vertical, then the others."""
        flat = self.vertical.reshape(-1)
        return torch.cat([flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]]).to(torch.int32)

    @cached_property
    def number_vertical(self) -> int:
        return int(self.vertical.sum())

    def to(self, device: torch.device, dtype: torch.dtype) -> Rays:
        """The same rays elsewhere; itself where nothing changes. A table without a graph is kept with this one."""
        if self.offset.device == device and self.offset.dtype == dtype:
            return self
        if any(t.requires_grad for t in (self.offset, self.slope, self.step)):
            return self._convert(device, dtype)
        kept: Rays | None = self._converted.get((device, dtype))
        if kept is None:
            # What is kept must also serve calls that record gradients.
            with torch.inference_mode(False):
                kept = self._converted[device, dtype] = self._convert(device, dtype)
        return kept

    def _convert(self, device: torch.device, dtype: torch.dtype) -> Rays:
        offset, slope, step = (
            t.to(device=device, dtype=dtype) for t in (self.offset, self.slope, self.step)
        )
        rays = Rays(offset, slope, step, self.vertical.to(device), self.shape)
        # The order does not depend on the precision: carry it over instead of sorting again at every call.
        rays.__dict__["order"] = self.order.to(device)
        rays.__dict__["number_vertical"] = self.number_vertical
        return rays

    @cached_property
    def _converted(self) -> dict[tuple[torch.device, torch.dtype], Rays]:
        return {}
