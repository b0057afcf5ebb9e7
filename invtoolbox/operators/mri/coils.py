"""Coils of MRI: their sensitivities, and the combination of their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.mri.fourier import complex_dtype


class CoilOperator(LinearOperator):
    """Base class of operators from one complex image to the samples of one coil or several.

    Attributes:
        coil_maps: complex sensitivities, ``(1 or batch, coil, *space)``; None for one coil.
        coils: number of coils.
    """

    needs_complex_start = True

    def _set_coils(self, image_shape: Sequence[int], coil_maps: Any) -> tuple[int, ...]:
        """Set the domain and the coils, and return the domain ``(1, *space)``."""
        shape = to_shape(self, image_shape=image_shape)
        shape = (1, *shape) if len(shape) == 2 else shape
        name = type(self).__name__
        if len(shape) < 2 or shape[0] != 1:
            raise InputError(
                f"the image_shape of {name} is (row, column), or (1, *space) with one complex "
                f"channel, got {shape}"
            )
        self.domain_shape = shape
        self.coil_maps: Tensor | None = None
        if coil_maps is not None:
            self.coil_maps = _check_maps(as_tensor(coil_maps), shape[1:], name)
        self.coils = 1 if self.coil_maps is None else self.coil_maps.shape[1]
        return shape

    def explain_shape(self, y: Any) -> str:
        count = y.shape[1] if isinstance(y, Tensor) and y.ndim > 2 else 1
        if self.coil_maps is not None or count < 2:
            return ""
        return (
            f"of {count} coils, give {type(self).__name__} their coil_maps, for example "
            "it.operators.estimate_coil_maps(y)"
        )

    def _check_new_maps(self, maps: Tensor) -> Tensor:
        """Return maps that replace those of the operator, which have the same number of coils."""
        checked = _check_maps(maps, self.domain_shape[1:], type(self).__name__)
        if checked.shape[1] != self.coils:
            raise InputError(f"{self} has {self.coils} coils, got maps of {checked.shape[1]}")
        return checked

    def _divide_by_power(self, combined: Tensor) -> Tensor:
        """Divide by ``sum_j |s_j|^2``; pixels without sensitivity become 0."""
        if self.coil_maps is None:
            return combined
        power = self.coil_maps.abs().square().sum(1, keepdim=True).to(combined.real.dtype)
        return torch.where(power > 0, combined / torch.where(power > 0, power, 1), 0)


def combine_coils(images: Tensor, maps: Tensor | None) -> Tensor:
    """Compute ``sum_j conj(s_j) image_j``, ``(batch, 1, *space)``, of ``(batch, coil, *space)``."""
    return images if maps is None else (maps.to(images.dtype).conj() * images).sum(1, keepdim=True)


def _check_maps(maps: Tensor, space: tuple[int, ...], name: str) -> Tensor:
    """Return complex maps ``(1 or batch, coil, *space)`` after checking them.

    Axes of space may have length 1.
    """
    full = maps.unsqueeze(0) if maps.ndim == len(space) + 1 else maps
    if full.ndim != len(space) + 2 or any(m not in (1, n) for m, n in zip(full.shape[2:], space)):
        raise InputError(
            f"the coil_maps of {name} have shape {tuple(maps.shape)}, expected "
            f"(coil, {', '.join(map(str, space))}), with a batch axis in front if items differ"
        )
    if not bool(full.isfinite().all()):
        raise InputError(f"the coil_maps of {name} have entries that are NaN or infinite")
    return full if full.is_complex() else full.to(complex_dtype(full))
