"""Images that a trained prior was trained on, and the same range in the unit of another image.

Slices of a body have a unit of their own: every one shows air and soft tissue, whose values differ
from unit to unit. `find_unit` compares the values of an image with those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from invtoolbox.errors import InputError

#: Values of air and of water in the units of CT images. The attenuation is that of about 70 keV.
UNITS = {
    "HU": (-1000.0, 0.0),
    "1/mm": (0.0, 0.0193),
    "1/cm": (0.0, 0.193),
    "1/m": (0.0, 19.3),
    "multiples of water": (0.0, 1.0),
    "0 at -1024 HU and 1 at 1024 HU": (24 / 2048, 0.5),
}
#: Hounsfield units of soft tissue, with room for the energy of the beam, of air, and of anything.
_TISSUE, _AIR, _BODY = (-250.0, 250.0), (-1300.0, -750.0), (-1300.0, 2500.0)
#: Least share of soft tissue and of air in an image, and of values that a body has.
_LEAST, _MOST = 0.04, 0.9
#: Number of blocks along a side, over whose pixels noise is averaged.
_BLOCKS = 64
#: Largest ratio of the size of a pixel to the sizes of the training.
_RATIO = 1.25


class TrainedOn(NamedTuple):
    """CT slices that a prior was trained on.

    Attributes:
        range: Hounsfield units that the network gets as 0 and 1.
        pixel_size: least and largest size of a pixel, in mm.
    """

    range: tuple[float, float]
    pixel_size: tuple[float, float]

    @classmethod
    def of_card(cls, table: Any) -> TrainedOn:
        """Read the table ``trained_on`` of a card.

        Args:
            table: ``hounsfield`` and ``pixel_size``, two numbers each.

        Raises:
            InputError: if one of them is missing, or does not have two numbers in rising order.
        """
        keys = {"hounsfield", "pixel_size"}
        if not isinstance(table, Mapping) or set(table) != keys:
            raise InputError(f"trained_on needs {' and '.join(sorted(keys))}, got {table!r}")
        pairs = []
        for key in ("hounsfield", "pixel_size"):
            pair = table[key]
            if not isinstance(pair, list) or len(pair) != 2 or not pair[0] < pair[1]:
                raise InputError(f"trained_on.{key} is two numbers in rising order, got {pair!r}")
            pairs.append((float(pair[0]), float(pair[1])))
        return cls(*pairs)

    def range_in(self, unit: str) -> tuple[float, float]:
        """Return the values ``(low, high)`` of the range in a unit of `UNITS`.

        >>> TrainedOn((-1024, 1024), (1.2, 1.9)).range_in("HU")
        (-1024.0, 1024.0)
        """
        air, water = UNITS[unit]
        low, high = (water + (water - air) * value / 1000 for value in self.range)
        return low, high

    def explain_pixels(self, pixel_size: float) -> str:
        """Return a remark on pixels of another size than the training's, or no words.

        Args:
            pixel_size: in mm.
        """
        least, largest = self.pixel_size
        if least / _RATIO <= pixel_size <= largest * _RATIO:
            return ""
        return (
            f"it was trained on pixels of {least:.2g} to {largest:.2g} mm, and these have "
            f"{pixel_size:.2g} mm, so it may be worse than prior='tv'"
        )


def find_unit(x: Tensor) -> str | None:
    """Return the unit of `UNITS` in which an image shows soft tissue, None if none does.

    Args:
        x: image, ``(1, 1, row, column)``.

    >>> import torch
    >>> slice_ = torch.full((1, 1, 64, 64), -1000.0)
    >>> slice_[..., 16:48, 16:48] = 40.0
    >>> find_unit(slice_), find_unit((slice_ + 1000) / 1000 * 0.0193), find_unit(7 * slice_)
    ('HU', '1/mm', None)
    """
    block = max(1, math.ceil(min(x.shape[-2:]) / _BLOCKS))
    values = F.avg_pool2d(x.detach().double(), block).flatten()
    shares = {}
    for unit, (air, water) in UNITS.items():
        hounsfield = 1000 * (values - water) / (water - air)
        tissue, air_share, body = (
            float(((hounsfield > low) & (hounsfield < high)).double().mean())
            for low, high in (_TISSUE, _AIR, _BODY)
        )
        if body >= _MOST and min(tissue, air_share) >= _LEAST:
            shares[unit] = tissue
    return max(shares, key=lambda unit: shares[unit], default=None)
