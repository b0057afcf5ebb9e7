"""Slopes of a depth map along its normals: the operators of normal integration."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.grids.grid_system import GridSystem
from invtoolbox.operators.base import LinearOperator, count_items


class NormalIntegration(LinearOperator):
    r"""Four one-sided differences of a depth map, each scaled so that the normals predict it.

    A surface with depth z(column, row) and normal n has the slopes ``dz/dcolumn = n_x / n_z`` and
    ``dz/drow = -n_y / n_z``. Multiplied by ``n_z``, both sides stay bounded at silhouettes::

        (A z)[0] = s_x (z_right - z)      (A z)[1] = s_x (z - z_left)       y[0] = y[1] = n_x
        (A z)[2] = s_y (z_below - z)      (A z)[3] = s_y (z - z_above)      y[2] = y[3] = -n_y

    Under orthographic projection ``s_x = s_y = n_z`` and z is the depth in pixels. Under
    perspective projection z is the logarithm of the depth, and
    ``s_x = f_x n_z - (column - c_x) n_x + (row - c_y) n_y``, with ``f_y`` in ``s_y`` (Cao et al.,
    "Bilateral Normal Integration", ECCV 2022). Differences to a pixel outside of the mask are 0, as
    are their measurements.

    Two sides of an object, the front and the back seen by one camera, are two channels of z with
    four rows each.

    Args:
        normals: unit normals of each side, x to the right, y up, z towards the camera, in the
            camera's frame, ``(batch, sides, 3, rows, columns)``. The back has ``n_z < 0``.
        mask: true inside of the object, ``(batch, 1, rows, columns)``.
        intrinsics: matrix of a pinhole camera, ``(3, 3)``, in pixels, with the centre of the first
            pixel at (0, 0); orthographic projection without it.

    >>> tilted = torch.tensor([0.6, 0.0, 0.8]).view(1, 1, 3, 1, 1).expand(-1, -1, -1, 1, 3)
    >>> A = NormalIntegration(tilted, torch.ones(1, 1, 1, 3, dtype=torch.bool))
    >>> depth = torch.tensor([[[[0.0, 0.75, 1.5]]]])
    >>> A(depth)[0, :2, 0]
    tensor([[0.6000, 0.6000, 0.0000],
            [0.0000, 0.6000, 0.6000]])
    >>> torch.allclose(A(depth), A.measurements())
    True
    """

    has_batch_axis = True

    def __init__(self, normals: Tensor, mask: Tensor, intrinsics: Tensor | None = None) -> None:
        if normals.ndim != 5 or normals.shape[2] != 3:
            raise InputError(
                "NormalIntegration takes normals (batch, sides, 3, rows, columns), got "
                f"{tuple(normals.shape)}"
            )
        batch, sides, _, rows, columns = normals.shape
        if tuple(mask.shape[1:]) != (1, rows, columns) or len(mask) not in (1, batch):
            raise InputError(
                f"NormalIntegration takes a mask (batch, 1, {rows}, {columns}), got "
                f"{tuple(mask.shape)}"
            )
        self.domain_shape, self.range_shape = (sides, rows, columns), (4 * sides, rows, columns)
        self.items = count_items("normals", normals)
        n_x, n_y, n_z = normals.unbind(2)
        if intrinsics is None:
            s_x = s_y = n_z
        else:
            K = intrinsics.to(normals)
            # s_x = f_x n_z - u n_x + v n_y, and f_y in s_y (Cao et al. 2022), with y upwards.
            u = torch.arange(columns, dtype=normals.dtype, device=normals.device) - K[0, 2]
            v = torch.arange(rows, dtype=normals.dtype, device=normals.device) - K[1, 2]
            oblique = v.unsqueeze(1) * n_y - u * n_x
            s_x, s_y = oblique + K[0, 0] * n_z, oblique + K[1, 1] * n_z
        inside = mask.to(normals)
        right, below = torch.zeros_like(inside), torch.zeros_like(inside)
        right[..., :-1] = inside[..., :-1] * inside[..., 1:]
        below[..., :-1, :] = inside[..., :-1, :] * inside[..., 1:, :]
        left, above = right.roll(1, -1), below.roll(1, -2)
        links = torch.cat([right, left, below, above], 1).unsqueeze(1)
        #: Scale of each row of A, ``(batch, sides * 4, rows, columns)``.
        self.scale = (torch.stack([s_x, s_x, s_y, s_y], 2) * links).flatten(1, 2)
        #: Slopes that the normals predict, of the same shape.
        self.slopes = (torch.stack([n_x, n_x, -n_y, -n_y], 2) * links).flatten(1, 2)

    def measurements(self) -> Tensor:
        """Return the measurements ``y`` that the normals predict for ``A z``."""
        return self.slopes

    def parameters(self) -> dict[str, Tensor]:
        """``scale`` and ``slopes``, of shape ``(1 or batch, 4 * sides, rows, columns)``."""
        return {"scale": self.scale, "slopes": self.slopes}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        operator = super()._replace(parameters)
        return operator._with_items(count_items("normals", operator.scale))

    def _forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(*x.shape[:2], 4, *x.shape[2:])
        across, along = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
        out[:, :, 0, :, :-1] = across
        out[:, :, 1, :, 1:] = across
        out[:, :, 2, :-1] = along
        out[:, :, 3, 1:] = along
        return out.flatten(1, 2) * self.scale.to(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        scaled = (y * self.scale.to(y)).unflatten(1, (-1, 4))
        across = scaled[:, :, 0, :, :-1] + scaled[:, :, 1, :, 1:]
        along = scaled[:, :, 2, :-1] + scaled[:, :, 3, 1:]
        out = y.new_zeros(len(y), *self.domain_shape)
        out[..., 1:] += across
        out[..., :-1] -= across
        out[..., 1:, :] += along
        out[..., :-1, :] -= along
        return out

    def grid_system(self, weights: Tensor) -> GridSystem:
        # Row (z_q - z_p) s of weight w is an edge of stiffness s^2 w between p and q.
        stiffness = (self.scale.square().to(weights) * weights).unflatten(1, (-1, 4))
        batch = len(stiffness)
        right = weights.new_zeros(batch, *self.domain_shape)
        down = torch.zeros_like(right)
        right[..., :-1] = stiffness[:, :, 0, :, :-1] + stiffness[:, :, 1, :, 1:]
        down[..., :-1, :] = stiffness[:, :, 2, :-1] + stiffness[:, :, 3, 1:]
        diagonal = right + down
        diagonal[..., 1:] += right[..., :-1]
        diagonal[..., 1:, :] += down[..., :-1, :]
        return GridSystem(diagonal, right, down)

    def __repr__(self) -> str:
        sides = "one side" if self.domain_shape[0] == 1 else f"{self.domain_shape[0]} sides"
        return f"NormalIntegration({tuple(self.domain_shape[1:])}, {sides})"


class SideGap(LinearOperator):
    """Gap between the back and the front of an object at some pixels, ``(A z) = where (z_1 - z_0)``.

    Args:
        where: pixels at which the sides meet, ``(1 or batch, 1, rows, columns)``.

    >>> A = SideGap(torch.tensor([[[[True, False]]]]))
    >>> A(torch.tensor([[[[1.0, 2.0]], [[4.0, 4.0]]]]))
    tensor([[[[3., 0.]]]])
    """

    has_batch_axis = True

    def __init__(self, where: Tensor) -> None:
        self.where = where
        self.domain_shape = (2, *tuple(where.shape[2:]))
        self.range_shape = (1, *tuple(where.shape[2:]))
        self.items = count_items("silhouettes", where)

    def parameters(self) -> dict[str, Tensor]:
        """``where``, of shape ``(1 or batch, 1, rows, columns)``."""
        return {"where": self.where}

    def _forward(self, x: Tensor) -> Tensor:
        return (x[:, 1:] - x[:, :1]) * self.where.to(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        pull = y * self.where.to(y)
        return torch.cat([-pull, pull], 1)

    def grid_system(self, weights: Tensor) -> GridSystem:
        stiffness = self.where.to(weights).square() * weights
        zero = torch.zeros_like(stiffness).expand(-1, 2, -1, -1)
        return GridSystem(stiffness.expand(-1, 2, -1, -1), zero, zero, stiffness)
