"""Arrays of any memory layout, where a user passes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import invtoolbox as it
from invtoolbox.core.guards import as_tensor
from invtoolbox.errors import InputError

ARRAY = np.random.default_rng(0).random((6, 8))
LAYOUTS = {
    "flipped": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "fortran": np.asfortranarray,
    "records": lambda a: np.rec.fromarrays([a, a > 0], names="a,b")["a"],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    "use",
    [
        as_tensor,
        lambda a: it.operators.Blur(a[:5, :5] / a[:5, :5].sum(), (6, 8)).kernel,
        lambda a: it.operators.Inpainting(a > 0.5, (6, 8)).mask,
        lambda a: it.operators.CartesianMRI(a > 0.5, (6, 8)).mask,
        lambda a: it.as_operator(a, (1, 8))(torch.ones(1, 1, 8)),
        lambda a: it.Problem(a[None, None], it.operators.Identity((1, 6, 8))).y,
        lambda a: it.data_terms.LeastSquares(weights=a).weights,
        lambda a: it.geometry.Mesh(a[:, :3], np.array([[0, 1, 2]])).vertices,
    ],
)
def test_layouts_of_memory_do_not_matter(
    use: Callable[[Any], torch.Tensor], layout: Callable[[Any], Any]
) -> None:
    assert torch.equal(use(layout(ARRAY)), use(ARRAY))


def test_read_only_arrays_are_copied() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    tensor = as_tensor(array)
    tensor += 1
    assert array.sum() == 0 and as_tensor([1.0, 2.0], dtype=torch.float64).dtype == torch.float64


def test_a_mask_and_a_path_are_not_lost() -> None:
    """The mask of a masked array was dropped, and its garbage was fitted."""
    masked = np.ma.masked_array(ARRAY, mask=ARRAY > 0.9)
    with pytest.raises(InputError, match="the array masks [0-9]+ of 48 values"):
        it.Problem(masked[None, None], it.operators.Identity((1, 6, 8)))
    assert torch.equal(as_tensor(np.ma.masked_array(ARRAY)), as_tensor(ARRAY))
    with pytest.raises(InputError, match="got the text 'photo.png'"):
        it.reconstruct("photo.png", it.operators.Identity((1, 6, 8)))


class Elsewhere:
    """An array on another device, as of CuPy."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use `.get()`")


class Table:
    """A table, as of pandas, or an array of another package."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return ARRAY


def test_arrays_of_other_packages_are_taken_or_refused_in_one_sentence() -> None:
    A = it.operators.Identity((1, 6, 8))
    assert torch.equal(as_tensor(Table()), torch.from_numpy(ARRAY))
    picture = Image.new("L", (8, 6), 3)
    assert as_tensor(picture).tolist() == [[3] * 8] * 6
    assert it.reconstruct(Table(), A, "tikhonov", max_iterations=1, progress=False).x.ndim == 4
    with pytest.raises(InputError, match=r"use `.get\(\)`\); convert it"):
        it.reconstruct(Elsewhere(), A)


def test_a_number_as_text_is_no_rule() -> None:
    y, A = torch.rand(1, 1, 8, 8), it.operators.Identity((1, 8, 8))
    with pytest.raises(InputError, match="is the text '0.1'; give the number 0.1"):
        it.reconstruct(y, A, regularization="0.1")
