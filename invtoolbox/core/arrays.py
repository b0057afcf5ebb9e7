"""Arrays of NumPy with any memory layout, as tensors."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError


def as_tensor(
    values: Any, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Return `torch.as_tensor` of numbers, also of arrays whose memory a tensor cannot share.

    Args:
        values: a tensor, an array or numbers.
        dtype: type of the tensor; that of the values by default.
        device: device of the tensor; that of the values by default.

    Raises:
        InputError: for a masked array with masked entries, whose mask a tensor cannot hold, and for
            a text, such as a path.

    >>> as_tensor(np.arange(3)[::-1]).tolist()
    [2, 1, 0]
    """
    if isinstance(values, (str, bytes, PurePath)):
        raise InputError(
            f"an array or a tensor is expected, got the text {str(values)!r}; "
            "it.datasets.open(path)[0].y reads the measurements of a file"
        )
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(
            f"the array masks {int(np.ma.getmaskarray(values).sum())} of {values.size} values, which "
            "a tensor cannot hold; give y.filled(0) and the weights of what is measured, "
            "it.data_terms.LeastSquares(weights=1.0 - y.mask)"
        )
    _refuse_images(values)
    values = _as_array(values)
    if isinstance(values, np.ndarray):
        # A tensor cannot share memory with a read-only array, a foreign byte order, a flipped axis or
        # a field of records.
        native, size = values.dtype.newbyteorder("="), max(1, values.itemsize)
        is_irregular = any(stride < 0 or stride % size for stride in values.strides)
        if not values.flags.writeable or values.dtype != native or is_irregular:
            values = values.astype(native, order="C")
    try:
        return torch.as_tensor(values, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(values, (Tensor, float, int, complex)):
            raise
        kind = f"{type(values).__module__}.{type(values).__qualname__}".removeprefix("builtins.")
        if isinstance(values, np.ndarray):
            kind = f"an array of {values.dtype}"
        raise InputError(
            f"an array or a tensor of numbers is expected, got {kind} "
            f"({' '.join(str(error).split())[:100]}); check the order of the arguments"
        ) from error


def _as_array(values: Any) -> Any:
    """Return the array of a table of pandas, a picture of PIL, or an array of another package."""
    is_array = hasattr(values, "__array__") or hasattr(values, "__array_interface__")  # of PIL
    if isinstance(values, (Tensor, np.ndarray)) or not is_array:
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # arrays of CuPy raise a TypeError, other packages anything
        try:
            return torch.utils.dlpack.from_dlpack(values)
        except Exception:  # no common device
            kind = f"{type(values).__module__}.{type(values).__qualname__}"
            raise InputError(
                f"an array on the CPU is expected, got {kind}, which is no array there "
                f"({' '.join(str(error).split())[:100]}); convert it, for example by .get() or "
                "numpy.asarray"
            ) from error


def _refuse_images(values: Any) -> None:
    """Refuse images of other packages, whose axes and places an array would lose."""
    package = type(values).__module__.partition(".")[0]
    if package in ("SimpleITK", "itk") and hasattr(values, "GetDirection"):
        way = f"{package}.GetArrayFromImage(image), with the axes (slice, row, column)"
    elif package == "nibabel" and hasattr(values, "dataobj"):
        way = "image.get_fdata().T, with the axes (slice, row, column)"
    else:
        return
    raise InputError(
        f"an array or a tensor is expected, got an image of {package}; give {way}; it.register takes "
        "such images with their place"
    )
