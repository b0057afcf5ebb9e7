"""Hounsfield units: attenuation relative to water and air."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def to_hounsfield(attenuation: Tensor, water: float, air: float = 0.0) -> Tensor:
    """``1000 (mu - mu_water) / (mu_water - mu_air)``, in HU: water is 0, air -1000.

    Args:
        attenuation: linear attenuation, of any shape, in 1/length.
        water: that of water at the energy of the scan, in the same unit; `water_attenuation` measures it in an image.
        air: that of air; 0, or what a reconstruction shows outside the object.

    >>> to_hounsfield(torch.tensor([0.0, 0.02, 0.04]), water=0.02)
    tensor([-1000.,     0.,  1000.])
    """
    _check(water, air)
    return 1000 * (attenuation - water) / (water - air)


def from_hounsfield(hounsfield: Tensor, water: float, air: float = 0.0) -> Tensor:
    """``mu_water + HU (mu_water - mu_air) / 1000``, in the unit of ``water`` (1/length): the inverse of `to_hounsfield`.

    Nothing is clamped: noise below air becomes negative attenuation (`it.datasets.hounsfield_to_attenuation` clamps).

    >>> from_hounsfield(torch.tensor([-1000.0, 0.0, 1000.0]), water=0.02)
    tensor([0.0000, 0.0200, 0.0400])
    """
    _check(water, air)
    return water + hounsfield * ((water - air) / 1000)


def water_attenuation(image: Tensor, region: Tensor) -> Tensor:
    """The median attenuation in a region of water, ``(batch,)``, in the unit of the image (1/length).

    Args:
        image: ``(batch, channel, *space)``.
        region: True where there is water, broadcast against ``image``.

    >>> water_attenuation(torch.tensor([[[0.02, 0.021, 0.022, 0.5]]]), torch.tensor([True, True, True, False]))
    tensor([0.0210])
    """
    inside = region.expand_as(image)
    if not bool(inside.flatten(1).any(1).all()):
        raise InputError("the region of water holds no pixel of some item")
    return torch.stack([values[chosen].median() for values, chosen in zip(image, inside)])


def _check(water: float, air: float) -> None:
    if not float(water) > float(air):
        raise InputError(
            f"Hounsfield units need water to attenuate more than air, got {water} and {air}"
        )
