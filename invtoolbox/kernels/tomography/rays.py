"""Geometry of a scan, as the projection kernels take it.

`Rays` is the table of rays of a 2D scan. `Views` are the views of a 3D scan: a source (or ray
direction) and a panel each. `table_of` computes the 13 numbers ``(a, e, f, v, w)`` per view from
which the volume kernels compute a ray; vectors are (x, y, z). In units of voxels and counted from
the volume's centre, the ray of cell ``(r', c')`` (counted from the panel's centre) runs from a
point ``p`` along ``d``:

- cone, flat: ``p = a``, ``d = e + c' f + r' v``;
- cone, curved: ``p = a``, ``d = cos(c' w) e + sin(c' w) f + r' v``;
- parallel: ``p = e + c' f + r' v``, ``d = a``.

`views_by_axis` selects the views that have rays along a main axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.constants import constant
from invtoolbox.errors import InputError


@dataclass(frozen=True, eq=False)
class Rays:
    r"""Rays of a 2D scan (V views of D detector cells) through an image of ``shape`` (H, W).

    In units of pixels, with both coordinates counted from the image's centre (row
    ``r = i - (H - 1) / 2``, column ``c = j - (W - 1) / 2``), a ray runs along its *main* axis, the
    axis along which it crosses more pixels:

    - main axis vertical: at row ``r`` the ray is at column ``offset + slope * r``;
    - main axis horizontal: at column ``c`` it is at row ``offset + slope * c``;

    ``|slope| <= 1``, and ``step`` is the length of the ray between two neighbouring rows (columns),
    in the user's unit of length. Offsets from the centre are half as large as offsets from the
    corner, which is worth one bit in float32.

    Attributes:
        offset, slope, step: the numbers above, shape (V, D), usually float64, differentiable.
        vertical: whether the main axis is vertical, shape (V, D), bool.
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
        """Return the rays through ``points`` along ``directions``, both ``(x, y)``.

        All four tensors are broadcast to (V, D).

        ``x`` points along the columns, ``y`` against the rows, the origin is the image's centre;
        lengths are in the unit of ``pixel_size`` (row, column). Directions need no unit length.
        Differentiable in both.
        """
        height, width = pixel_size
        # Rows count downwards, and y points upwards.
        column, row, d_column, d_row = torch.broadcast_tensors(
            points[0] / width, -points[1] / height, directions[0] / width, -directions[1] / height
        )
        length = torch.hypot(directions[0], directions[1])
        vertical = d_column.abs() < d_row.abs()
        # The division is by the larger component, so no branch divides by zero (whose gradient
        # would be NaN).
        along = torch.where(vertical, d_row, d_column)
        slope = torch.where(vertical, d_column, d_row) / along
        offset = torch.where(vertical, column, row) - slope * torch.where(vertical, row, column)
        # Length of the ray per row (column): |d| / |d_row|, with d in units of length.
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
        """Numbers of the rays, int32: the rays whose main axis is vertical, then the others."""
        flat = self.vertical.reshape(-1)
        return torch.cat([flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]]).to(torch.int32)

    @cached_property
    def number_vertical(self) -> int:
        return int(self.vertical.sum())

    def to(self, device: torch.device, dtype: torch.dtype) -> Rays:
        """Return the rays on another device or in another precision, or itself if nothing changes.

        A converted table without a graph is cached.
        """
        if self.offset.device == device and self.offset.dtype == dtype:
            return self
        if any(t.requires_grad for t in (self.offset, self.slope, self.step)):
            return self._convert(device, dtype)
        rays: Rays | None = self._converted.get((device, dtype))
        if rays is None:
            # The cached table must also serve calls that record gradients.
            with torch.inference_mode(False):
                rays = self._converted[device, dtype] = self._convert(device, dtype)
        return rays

    def _convert(self, device: torch.device, dtype: torch.dtype) -> Rays:
        offset, slope, step = (
            t.to(device=device, dtype=dtype) for t in (self.offset, self.slope, self.step)
        )
        rays = Rays(offset, slope, step, self.vertical.to(device), self.shape)
        # The order does not depend on the precision: copying it saves a sort per call.
        rays.__dict__["order"] = self.order.to(device)
        rays.__dict__["number_vertical"] = self.number_vertical
        return rays

    @cached_property
    def _converted(self) -> dict[tuple[torch.device, torch.dtype], Rays]:
        return {}


@dataclass(frozen=True, eq=False)
class Views:
    r"""Views of a flat or curved panel of (R rows, C columns) cells through a volume.

    There are V views; the volume has the shape (D, H, W) = (slice z, row y, column x).

    World coordinates are those of ASTRA's 3D geometries: ``x`` along the columns, ``y`` along the
    rows (a larger row index lies at a larger ``y``, **unlike** the 2D scans of this package, whose
    ``y`` points against the rows), ``z`` along the slices; the origin is the volume's centre. Voxel
    (i, j, k) is centred at ``x = (k - (W - 1) / 2) * voxel_size[2]``, and so on. Vectors are in
    ASTRA's order: ``cone_vec`` is (source, detector, u, v), ``parallel3d_vec`` is (ray direction,
    detector, u, v).

    With ``c' = c - (C - 1) / 2`` and ``r' = r - (R - 1) / 2``, cell (r, c) is centred at

    - flat: ``detector + c' u + r' v``;
    - curved: ``source + cos(a) e + sin(a) |e| u / |u| + r' v`` with ``e = detector - source`` and
      ``a = c' |u| / |e|``. With ``u``, ``v`` and ``e`` perpendicular to each other this is a
      cylinder around the source with axis ``v`` and radius ``|e|``.

    Attributes:
        source: (V, 3) source position (x, y, z) in the user's unit; for parallel beams the ray
            DIRECTION (any length).
        detector: (V, 3) centre of the panel.
        u: (V, 3) vector from cell (r, c) to (r, c + 1).
        v: (V, 3) vector from cell (r, c) to (r + 1, c).
        panel: (R, C).
        volume: (D, H, W).
        voxel_size: (z, y, x), in the user's unit.
        parallel: whether rays are parallel to ``source`` in each view.
        curved: whether the panel lies on a cylinder around the source: columns are equally spaced
            in angle, with the spacing ``|u|`` along the arc; rows run straight along ``v``. Not
            with ``parallel``.
    """

    source: Tensor
    detector: Tensor
    u: Tensor
    v: Tensor
    panel: tuple[int, int]
    volume: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    parallel: bool
    curved: bool

    def __post_init__(self) -> None:
        if self.parallel and self.curved:
            raise InputError(
                "a curved panel lies around a source, and a parallel beam has none; choose one of "
                "`parallel` and `curved`"
            )

    @property
    def count(self) -> int:
        """V, the number of views."""
        return int(self.source.shape[0])

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes of the panel, the volume and a voxel, by the names of the kernels' arguments."""
        names = ("rows", "columns", "depth", "height", "width", "size_z", "size_y", "size_x")
        return dict(zip(names, (*self.panel, *self.volume, *self.voxel_size)))


#: Numbers per view in the table.
WIDTH = 13


@dataclass
class ScanArguments:
    """Arguments that the kernels of 3D scans share.

    Attributes:
        volume: (items, D, H, W), or one item, (D, H, W).
        projections: (items, V, R, C), or one item, (V, R, C).
        table: numbers of every view, the result of `table_of`, (V, 13), float64.
        rows, columns, depth, height, width: the sizes above.
        size_x, size_y, size_z: edges of a voxel, in the user's unit.
        block: number of planes per task of a back-projection.
    """

    volume: Tensor
    projections: Tensor
    table: Tensor
    rows: int
    columns: int
    depth: int
    height: int
    width: int
    size_x: float
    size_y: float
    size_z: float
    block: int


def table_of(views: Views, device: torch.device) -> Tensor:
    """Return the table (V, 13), float64, differentiable in the views' tensors."""
    source, detector, u, v = (
        t.to(device=device, dtype=torch.float64)
        for t in (views.source, views.detector, views.u, views.v)
    )
    size = constant(views.voxel_size[::-1], source)
    # The vectors a, e, f, v and the angle w of the formulas above, in the unit of lengths.
    if views.parallel:
        e, f, turn = detector, u, torch.zeros_like(source[:, :1])
    elif views.curved:
        e = detector - source
        radius, spacing = (torch.linalg.vector_norm(t, dim=1, keepdim=True) for t in (e, u))
        f, turn = u * (radius / spacing), spacing / radius
    else:
        e, f, turn = detector - source, u, torch.zeros_like(source[:, :1])
    v = v / size
    # Rows that are stacked along z up to the rounding of a rotation become stacked along z exactly,
    # for which the kernels have a fast path. Only the value is rounded: the derivative stays.
    sideways = v * constant((1.0, 1.0, 0.0), v)
    rounding = sideways.abs().amax(dim=1, keepdim=True) <= 1e-13 * v[:, 2:].abs()
    v = v - torch.where(rounding, sideways, 0.0).detach()
    return torch.cat([source / size, e / size, f / size, v, turn], dim=1)


def views_by_axis(table: Tensor, views: Views) -> list[Tensor]:
    """Return, for each main axis x, y, z, the numbers of the views that may have rays along it.

    The numbers are int32, in increasing order.
    """
    # Some views at a time: the bounds of all views would take more memory than the projection.
    blocks = table.split(max(1, 4096 // views.panel[1]))
    possible = torch.cat([_possible(block, views) for block in blocks])
    return [possible[:, k].nonzero()[:, 0].to(torch.int32) for k in range(3)]


def _possible(table: Tensor, views: Views) -> Tensor:
    """Return whether a view may have rays along an axis, (V, 3)."""
    a, e, f, v = (table[:, None, 3 * k : 3 * k + 3] for k in range(4))
    rows, columns = views.panel
    if views.parallel:
        low = high = a
    else:
        c = (
            torch.arange(columns, dtype=table.dtype, device=table.device)[:, None]
            - (columns - 1) / 2
        )
        angle = c * table[:, None, 12:]
        middle = angle.cos() * e + angle.sin() * f if views.curved else e + c * f
        reach = (rows - 1) / 2 * v.abs()
        low, high = middle - reach, middle + reach
    # Along a column of cells the direction is linear: its ends bound its components, with room for
    # rounding.
    most = torch.maximum(low.abs(), high.abs())
    # An axis may be the main one if its largest component reaches the least of the two others.
    least = torch.where(low * high <= 0, 0.0, torch.minimum(low.abs(), high.abs()))
    others = torch.stack(
        [torch.maximum(least[..., (k + 1) % 3], least[..., (k + 2) % 3]) for k in range(3)], dim=-1
    )
    return (most * (1 + 1e-9) >= others).any(dim=1)
