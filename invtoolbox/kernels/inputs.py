"""What a batch of images, sinograms or volumes has to look like for a kernel to take it."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError

_REAL, _COMPLEX = (torch.float32, torch.float64), (torch.complex64, torch.complex128)


def check_input(
    value: Tensor, shape: tuple[int, ...], what: str, axes: str, takes_complex: bool = True
) -> None:
    """Raise an `InputError` for another shape than ``(batch, *shape)``, or another kind of number.

    Args:
        what: who takes what, the beginning of the sentence.
        axes: the names of the axes, with commas.
    """
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
        raise InputError(
            f"{what} of shape (batch, {', '.join(map(str, shape))}) = (batch, {axes}), got {tuple(value.shape)}"
        )
    if value.dtype not in (*_REAL, *(_COMPLEX if takes_complex else ())):
        kinds = "float32, float64 or complex" if takes_complex else "float32 or float64"
        raise InputError(f"{what} in {kinds}, got {value.dtype}; convert with .float()")
