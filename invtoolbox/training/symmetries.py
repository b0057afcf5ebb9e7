"""Groups of transformations under which a set of images does not change.

`Rotations` and `Shifts` transform each image of a batch by its own draw. Losses without ground
truth use them to learn what the operator does not measure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, item_norm


class Symmetry(ABC):
    """Base class of groups of transformations; a subclass writes `draw` and `transform`."""

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draw an element of the group per image, ``(count, ...)``."""

    @abstractmethod
    def transform(self, x: Tensor, elements: Tensor, inverse: bool = False) -> Tensor:
        """Transform each image by its element of the group.

        Args:
            x: images ``(count, channel, rows, columns)``, or volumes with further axes before the
                rows.
            elements: result of `draw`, ``(count, ...)``.
            inverse: whether to apply the inverse elements.
        """


@dataclass(frozen=True)
class Rotations(Symmetry):
    """Rotations of an image about its centre by multiples of an angle, with or without mirroring.

    With a step of 90 or 180 degrees pixels move and nothing is lost; 90 degrees need square images.
    Other steps are interpolated bilinearly, with zeros outside. The slices of a volume turn alike.

    Args:
        step: smallest angle in degrees, a divisor of 360.
        mirror: whether half of the draws are also mirrored.

    >>> x = torch.arange(4.0).view(1, 1, 2, 2)
    >>> Rotations().transform(x, torch.tensor([[1, 0]]))[0, 0].tolist()
    [[1.0, 3.0], [0.0, 2.0]]
    """

    step: float = 90.0
    mirror: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.step <= 180 or abs(360 / self.step - round(360 / self.step)) > 1e-9:
            raise InputError(
                f"Rotations needs a step in degrees that divides 360, such as 90 or 1, "
                f"got {self.step}"
            )

    def draw(self, count: int, generator: Generator) -> Tensor:
        turns = torch.randint(
            round(360 / self.step), (count,), generator=generator, device=generator.device
        )
        mirrored = torch.randint(
            1 + self.mirror, (count,), generator=generator, device=generator.device
        )
        return torch.stack([turns, mirrored], 1)

    def transform(self, x: Tensor, elements: Tensor, inverse: bool = False) -> Tensor:
        turns, mirrored = elements.unbind(1)
        if not inverse:
            x = _mirror(x, mirrored)
        x = self._turn(x, -turns if inverse else turns)
        return _mirror(x, mirrored) if inverse else x

    def _turn(self, x: Tensor, turns: Tensor) -> Tensor:
        if self.step not in (90, 180):
            from kornia.geometry.transform import rotate

            if x.is_complex():
                return torch.complex(self._turn(x.real, turns), self._turn(x.imag, turns))
            return rotate(x.flatten(1, -3), self.step * turns.to(x.dtype)).view(x.shape)
        rows, columns = x.shape[-2:]
        turns = turns * round(self.step / 90)
        if rows != columns and self.step == 90:
            raise InputError(
                f"Rotations by 90 degrees needs square images, got {rows} x {columns}; use "
                "Rotations(step=180) or Shifts"
            )
        place = torch.arange(rows * columns, device=x.device).view(rows, columns)
        sources = torch.stack([place.rot90(k).flatten() for k in range(4)])
        source = _along(sources[turns % 4], x.flatten(-2), -1)
        return x.flatten(-2).gather(-1, source.expand_as(x.flatten(-2))).view_as(x)


@dataclass(frozen=True)
class Shifts(Symmetry):
    """Periodic shifts of an image by whole pixels.

    Args:
        largest: largest shift in pixels along each axis, in both directions.

    >>> Shifts(2).transform(torch.arange(3.0).view(1, 1, 1, 3), torch.tensor([[0, 1]])).flatten()
    tensor([2., 0., 1.])
    """

    largest: int

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "largest")

    def draw(self, count: int, generator: Generator) -> Tensor:
        span = 2 * self.largest + 1
        drawn = torch.randint(span, (count, 2), generator=generator, device=generator.device)
        return drawn - self.largest

    def transform(self, x: Tensor, elements: Tensor, inverse: bool = False) -> Tensor:
        for axis, shift in zip((-2, -1), elements.unbind(1)):
            shift = -shift if inverse else shift
            place = torch.arange(x.shape[axis], device=x.device)
            source = (place - shift[:, None]) % x.shape[axis]
            x = x.gather(axis, _along(source, x, axis).expand_as(x))
        return x


def measure_equivariance(operator: Operator, symmetry: Symmetry, seed: int = 0) -> float:
    """Measure how far ``A^T A`` is from commuting with a group, relative to ``A^T A T x``.

    If ``A^T A`` commutes with every transformation T of the group, T maps the null space of A to
    itself: the measurements of transformed images contain nothing new, and equivariant imaging
    learns nothing (Tachella, Chen and Davies, "Sensing theorems for unsupervised learning in linear
    inverse problems", JMLR 24, 2023). The figure is the largest of eight draws: 0 for an operator
    that commutes, about 1 for a random one.

    Args:
        operator: A, of images.
        symmetry: group of transformations.
        seed: seed of the images and of the transformations.

    >>> import invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8), boundary="periodic")
    >>> measure_equivariance(A, Shifts(3)) < 1e-5
    True
    """
    if not isinstance(operator, LinearOperator):
        raise InputError(f"{operator} is not linear, so its null space cannot be compared")
    device = next((value.device for value in operator.parameters().values()), None)
    generator = torch.Generator(device or "cpu").manual_seed(seed)
    x = torch.randn(8, *operator.domain_shape, generator=generator, device=device)
    elements = symmetry.draw(len(x), generator)
    with torch.no_grad():
        transformed = operator.normal(symmetry.transform(x, elements))
        difference = transformed - symmetry.transform(operator.normal(x), elements)
    return float(
        (item_norm(difference) / item_norm(transformed)).nan_to_num(0.0).max()
    )  # A = 0: 0 / 0


def _mirror(x: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(_along(mirrored[:, None], x, -1) > 0, x.flip(-1), x)


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return values ``(count, n)`` with n along an axis of x, and axes of length 1 elsewhere."""
    shape = [len(values)] + [1] * (x.ndim - 1)
    shape[axis] = values.shape[1]
    return values.view(shape)
