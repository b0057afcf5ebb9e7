"""Images with their place in space, at several resolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, conv2d, conv3d, grid_sample, pad

#: Axes of fewer pixels are not halved.
_LEAST = 16
#: Number of pixels along an axis of the coarsest level of linear stages, by dimension.
_COARSEST = {2: 40, 3: 20}
#: Weight below which a mean has no pixel that counts.
_LEAST_WEIGHT = 1e-6
#: Largest number of pixels of the finest one.
_MOST = 1 << 18


@dataclass(frozen=True, eq=False)
class PlacedPixels:
    """An image and the positions of its pixels.

    Attributes:
        image: image ``(1, channel, *space)``.
        matrix: map of ``(*index, 1)`` to ``(x, y[, z], 1)``, float64.
        mask: weights of the pixels ``(1, 1, *space)``, or None if all count.
    """

    image: Tensor
    matrix: Tensor
    mask: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.image.shape[2:])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighbours along every axis."""
        return tuple(self.matrix[:-1, :-1].norm(dim=0).tolist())

    @property
    def to_index(self) -> Tensor:
        """The inverse of the matrix, without its last row."""
        return torch.linalg.inv(self.matrix)[:-1]

    def points(self) -> Tensor:
        """Return the positions of the pixels, ``(d, *space)``, in float64."""
        axes = torch.meshgrid(
            *[torch.arange(n, dtype=torch.float64) for n in self.sizes], indexing="ij"
        )
        linear, origin = self.matrix[:-1, :-1], self.matrix[:-1, -1]
        flat = linear @ torch.stack(axes).flatten(1) + origin[:, None]
        return flat.unflatten(1, self.sizes)

    def canonical(self) -> PlacedPixels:
        """Return the image with its axes along z, y, x, as nearly as possible.

        So the order and direction in which a file stores the axes change nothing.
        """
        linear = (self.matrix[:-1, :-1] / self.matrix[:-1, :-1].norm(dim=0)).flip(0).numpy()
        d = len(linear)
        # The order of the axes with the largest sum of |cosines| to the axes of space.
        order = max(
            itertools.permutations(range(d)),
            key=lambda axes: sum(abs(linear[k, a]) for k, a in enumerate(axes)),
        )
        flips = [k for k, a in enumerate(order) if linear[k, a] < 0]
        change = torch.zeros(d + 1, d + 1, dtype=torch.float64)  # new index to old index
        change[-1, -1] = 1.0
        for k, a in enumerate(order):
            change[a, k] = -1.0 if k in flips else 1.0
            change[a, -1] = self.sizes[a] - 1 if k in flips else 0

        def turn(image: Tensor) -> Tensor:
            turned = image.permute(0, 1, *[a + 2 for a in order])
            return turned.flip([k + 2 for k in flips]).contiguous()

        return PlacedPixels(
            turn(self.image),
            self.matrix @ change,
            None if self.mask is None else turn(self.mask),
        )

    def masked(self, mask: Tensor | None) -> PlacedPixels:
        """Return the image with a mask ``(1, 1, *space)``, and the mean of the rest outside of it."""
        if mask is None:
            return self
        inside = self.image[:, :, mask[0, 0]].mean(2).view(1, -1, *[1] * len(self.sizes))
        return PlacedPixels(torch.where(mask, self.image, inside), self.matrix, mask.to(self.image))

    def double(self) -> PlacedPixels:
        """Return the image in float64."""
        mask = None if self.mask is None else self.mask.double()
        return PlacedPixels(self.image.double(), self.matrix, mask)

    def coarsen(self, spacing: float) -> PlacedPixels:
        """Return means of pixels of about a spacing, or the image itself if it is coarser."""
        level = self
        while True:
            halved = [
                math.sqrt(2) * h <= spacing and n >= _LEAST
                for h, n in zip(level.spacing, level.sizes)
            ]
            if not any(halved):
                return level
            change = torch.eye(len(halved) + 1, dtype=torch.float64)
            for k, half in enumerate(halved):
                if half:  # pixel k covers the pixels 2k and 2k + 1
                    change[k, k], change[k, -1] = 2.0, 0.5
            image, mask = level._average(partial(pool, halved=halved))
            level = PlacedPixels(image, level.matrix @ change, mask)

    def smooth(self, std: float) -> PlacedPixels:
        """Return the image convolved with a Gaussian.

        Args:
            std: standard deviation, in the unit of the spacing.
        """
        image, _ = self._average(lambda x: _convolve(x, [std / h for h in self.spacing]))
        return PlacedPixels(image, self.matrix, self.mask)

    def _average(self, mean: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return weighted means of the image, and means of its mask."""
        if self.mask is None:
            return mean(self.image), None
        weights = mean(self.mask)
        average = mean(self.image * self.mask) / weights.clamp_min(_LEAST_WEIGHT)
        return torch.where(weights > _LEAST_WEIGHT, average, mean(self.image)), weights

    def thin(self) -> PlacedPixels:
        """Return every n-th pixel along every axis, about the number of a finest level."""
        step = max(1, round((math.prod(self.sizes) / _MOST) ** (1 / len(self.sizes))))
        every = (slice(None), slice(None), *[slice(None, None, step)] * len(self.sizes))
        change = torch.diag(torch.tensor([*[float(step)] * len(self.sizes), 1.0]).double())
        mask = None if self.mask is None else self.mask[every]
        return PlacedPixels(self.image[every], self.matrix @ change, mask)

    def inside(self, index: Tensor) -> Tensor:
        """Return the weights of the mask at indices, 0 outside: ``(b, d, *s)`` to ``(b, 1, *s)``."""
        sizes = torch.tensor(self.sizes).to(index).view(-1, *[1] * (index.ndim - 2))
        is_inside = ((index >= -0.5) & (index <= sizes - 0.5)).all(1, keepdim=True)
        weights = is_inside.to(index)
        if self.mask is None:
            return weights
        last = (sizes - 1).clamp_min(1)
        scaled = (2 * index / last - 1).flip(1).movedim(1, -1)
        mask = self.mask.to(index).expand(len(index), *[-1] * (self.mask.ndim - 1))
        return weights * grid_sample(mask, scaled, padding_mode="border", align_corners=True)

    def corners(self) -> Tensor:
        """Return the positions of the outermost centres of pixels, ``(2^d, d)``."""
        ends = itertools.product(*[(0.0, n - 1.0) for n in self.sizes])
        index = torch.tensor([[*end, 1.0] for end in ends], dtype=torch.float64)
        return (index @ self.matrix.T)[:, :-1]

    def mass(self) -> Mass:
        """Return centre and radius of what differs from the border of the image."""
        image, d = self.image.double(), self.image.ndim - 2
        edges = [image.select(k + 2, end).flatten(2) for k in range(d) for end in (0, -1)]
        border = torch.cat(edges, 2).median(2).values.view(1, -1, *[1] * d)
        mass = (image - border).abs().sum(1)[0]
        if self.mask is not None:
            mass = mass * self.mask[0, 0]
        total = mass.sum().clamp_min(torch.finfo(torch.float64).tiny)
        points = self.points()
        centre = (mass * points).flatten(1).sum(1) / total
        away = (points - centre.view(-1, *[1] * d)).square().sum(0)
        return Mass(
            centre, float(((mass * away).sum() / total).sqrt().clamp_min(min(self.spacing)))
        )


class Mass(NamedTuple):
    """First two moments of an image."""

    centre: Tensor
    radius: float


def levels_of(
    fixed: PlacedPixels, moving: PlacedPixels, most: int
) -> list[tuple[PlacedPixels, PlacedPixels]]:
    """Return both images at the resolutions of linear stages, the coarsest first.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        most: about the largest number of pixels of the finest level of means.
    """
    sides = [n * h for n, h in zip(fixed.sizes, fixed.spacing)]
    edge = math.prod(sides) ** (1 / len(sides))
    finest = max(*fixed.spacing, edge / min(most, _MOST) ** (1 / len(sides)))
    coarsest = max(finest, edge / _COARSEST[len(sides)])
    count = round(math.log2(coarsest / finest))
    levels, shapes = [], set[tuple[int, ...]]()
    for k in reversed(range(count + 1)):
        pair = tuple(image.coarsen(finest * 2**k) for image in (fixed, moving))
        if pair[0].sizes not in shapes:
            shapes.add(pair[0].sizes)
            levels.append((pair[0], pair[1]))
    return levels


def _convolve(image: Tensor, stds: Sequence[float]) -> Tensor:
    """Return the convolution with a Gaussian of a standard deviation per axis, in pixels."""
    channels, d = image.shape[1], len(stds)
    for k, std in enumerate(stds):
        reach = min(math.ceil(3 * std), image.shape[k + 2] - 1)
        taps = torch.arange(-reach, reach + 1, dtype=image.dtype)
        kernel = (-0.5 * (taps / std).square()).exp()
        kernel = (kernel / kernel.sum()).view([-1 if j == k else 1 for j in range(d)])
        widths = [reach if j == k else 0 for j in reversed(range(d)) for _ in (0, 1)]
        padded = pad(image, widths, mode="replicate")
        convolve = conv2d if d == 2 else conv3d
        image = convolve(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    return image


def pool(image: Tensor, halved: Sequence[bool]) -> Tensor:
    """Return the means of two pixels along some axes; the last pixel is repeated if one is missing."""
    kernel = [2 if half else 1 for half in halved]
    missing = [n % k for n, k in zip(image.shape[2:], kernel)]
    padded = pad(image, [m for n in reversed(missing) for m in (0, n)], mode="replicate")
    return (avg_pool2d if image.ndim == 4 else avg_pool3d)(padded, kernel)
