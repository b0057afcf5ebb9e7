"""Which cubes of space hold a point already: how a cloud of many sweeps is thinned while it is made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError

# Three whole numbers of 21 bits in one of 63.
_BITS = 21
_HALF = 1 << (_BITS - 1)


class Cells:
    """The occupied cubes of a grid, in a sorted array of eight bytes each.

    Args:
        side: of a cube, metres; 0 means that no two points share one.

    >>> cells = Cells(1.0)
    >>> cells.fresh(torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [1.5, 0.0, 0.0]]))
    tensor([ True, False,  True])
    >>> cells.fresh(torch.tensor([[0.9, 0.9, 0.9], [3.0, 0.0, 0.0]]))
    tensor([False,  True])
    """

    def __init__(self, side: float) -> None:
        self.side = side
        self._taken = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._taken)

    def fresh(self, points: Tensor) -> Tensor:
        """Which points are the first in their cubes, boolean ``(N,)``; their cubes are taken from now on."""
        if not self.side:
            return torch.ones(len(points), dtype=torch.bool)
        keys = self._keys(points.to(torch.float64).cpu().numpy())
        unique, first = np.unique(keys, return_index=True)
        place = np.searchsorted(self._taken, unique)
        known = place < len(self._taken)
        known[known] = self._taken[place[known]] == unique[known]
        chosen = np.zeros(len(keys), dtype=bool)
        chosen[first[~known]] = True
        self._taken = np.insert(self._taken, place[~known], unique[~known])
        return torch.from_numpy(chosen)

    def forget(self, centre: Tensor, radius: float) -> None:
        """Free the cubes whose corner is farther than `radius` metres from a place in the plane, ``(3,)``."""
        if len(self._taken):
            corners = [
                ((self._taken >> shift) & (2 * _HALF - 1)) - _HALF for shift in (2 * _BITS, _BITS)
            ]
            away = [self.side * corner - float(centre[axis]) for axis, corner in enumerate(corners)]
            self._taken = self._taken[away[0] ** 2 + away[1] ** 2 <= radius**2]

    def _keys(self, points: np.ndarray) -> np.ndarray:
        cells = np.floor(points / self.side)
        if cells.size and not float(np.abs(cells).max()) < _HALF:
            raise InputError(
                f"points reach {float(np.abs(points).max()):g} m, which is too far for cubes of {self.side:g} m; choose "
                "larger ones, or leave far points out"
            )
        x, y, z = (cells.astype(np.int64) + _HALF).T
        keys: np.ndarray = (x << (2 * _BITS)) | (y << _BITS) | z
        return keys
