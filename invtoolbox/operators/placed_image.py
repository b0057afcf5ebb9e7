"""An image on a grid of its own, at displaced points of another grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator


class PlacedImage(Operator):
    r"""An image at displaced points, ``A(u)(p) = image(B (p + u(p)))``.

    The points p belong to another grid, and B maps positions to (fractional) indices of the image,
    so that both may have different spacings, orientations and sizes. Between pixels the image is
    interpolated linearly, and beyond its border it continues with the values there. At a position
    that is NaN the result is NaN. In contrast to `ImageWarp` it has no closed second derivative:
    methods that need the gradient only, such as `LBFGS`, are for it.

    Args:
        moving: image ``(1, channel, *space)`` with 2 or 3 axes of space.
        to_index: the matrix B, ``(d, d + 1)``, positions with a last 1 to indices along the axes.
        points: positions p of the pixels of the other grid, ``(d, *space)``.

    >>> B = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # row = y, column = x
    >>> image = torch.arange(6.0).view(1, 1, 2, 3)
    >>> points = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(2, 1, 2)  # (0, 0) and (1, 1)
    >>> PlacedImage(image, B, points)(torch.full((1, 2, 1, 2), 0.5))
    tensor([[[[2.0000, 4.5000]]]])
    """

    def __init__(self, moving: Tensor, to_index: Tensor, points: Tensor) -> None:
        dimensions = moving.ndim - 2
        if to_index.shape != (dimensions, dimensions + 1) or len(points) != dimensions:
            raise InputError(
                f"PlacedImage of {dimensions} axes takes a matrix {(dimensions, dimensions + 1)} "
                f"and points ({dimensions}, *space), got {tuple(to_index.shape)} and "
                f"{tuple(points.shape)}"
            )
        self.moving, self.to_index, self.points = moving, to_index, points
        self.domain_shape = tuple(points.shape)
        self.range_shape = (moving.shape[1], *points.shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        # The indices of `grid_sample` run from -1 to 1 between the first and the last pixel, the
        # last axis first: they are B' (p + u) with the rows of B scaled and reversed.
        last = torch.tensor([max(n - 1, 1) for n in self.moving.shape[2:]]).to(x)
        B = (self.to_index.to(x) * (2 / last)[:, None]).flip(0)
        place = (self.points.to(x) + x).flatten(2).transpose(1, 2)
        scaled = (place @ B[:, :-1].T + (B[:, -1] - 1)).unflatten(1, self.points.shape[1:])
        image = self.moving.to(x).expand(len(x), *self.moving.shape[1:])
        # The derivative of torch's sampling reads outside of the image where a position is NaN.
        is_number = ~scaled.isnan().any(-1)
        scaled = torch.where(is_number[..., None], scaled, 0.0)
        sampled = grid_sample(image, scaled, padding_mode="border", align_corners=True)
        return torch.where(is_number[:, None], sampled, torch.nan)

    def parameters(self) -> dict[str, Tensor]:
        """``moving``, the image; it has a first axis of length 1."""
        return {"moving": self.moving}
