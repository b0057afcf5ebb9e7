"""Reader of MATLAB files of versions 5 and 7.3: plain arrays, as sinograms, images or k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from invtoolbox.core.checks import decoding, require_plausible, sniff
from invtoolbox.datasets.volumes.arrays import Arrays
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError


class Matlab(Arrays):
    """Data set from the numeric arrays of a `.mat` file; see `Arrays`.

    In MATLAB the items come last, ``(rows, columns, channel, items)``, and the axes are turned.
    Complex arrays of three axes are k-space, ``(rows, columns, coils)``: one item. Structs, cells
    and text are left out.
    """

    @staticmethod
    def _load(path: Path) -> dict[str, np.ndarray]:
        kind = sniff(path)
        if kind not in ("mat5", "mat7.3"):
            raise InputError(f"{path}: not a MATLAB file of version 5 or 7.3; save it with -v7")
        with decoding(path, "MATLAB"):
            arrays = _load_matlab(path) if kind == "mat5" else _load_matlab_hdf5(path)
            return {name: turn(array) for name, array in arrays.items()}


def matlab_names(path: Path) -> list[str]:
    """Return the names of the variables of a MATLAB file of version 5 or 7.3."""
    with decoding(path, "MATLAB"):
        if sniff(path) == "mat5":
            from scipy.io import whosmat

            return [name for name, *_ in whosmat(path)]
        with open_hdf5(path) as file:
            return list(file)


def _load_matlab(path: Path) -> dict[str, np.ndarray]:
    """Load the numeric arrays of a MATLAB file of version 5; nothing in the file is executed."""
    from scipy.io import loadmat, whosmat

    classes = {name: kind for name, shape, kind in whosmat(path)}
    kinds = ("double", "single", "logical")
    names = [n for n, kind in classes.items() if kind in kinds or kind.startswith(("int", "uint"))]
    variables = loadmat(path, variable_names=names) if names else {}
    return {name: np.asarray(variables[name]) for name in names}


def _load_matlab_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Load the numeric arrays of a MATLAB file of version 7.3, in MATLAB's order of axes."""
    import h5py

    arrays = {}
    with open_hdf5(path) as file:
        for name, stored in file.items():
            is_number = isinstance(stored, h5py.Dataset) and "MATLAB_empty" not in stored.attrs
            if not is_number or stored.dtype == h5py.ref_dtype:
                continue
            require_plausible(path, stored.shape or (1,), stored.dtype)
            values = np.asarray(stored).T
            if values.dtype.names == ("real", "imag"):
                values = values["real"] + 1j * values["imag"]
            arrays[name] = values
    return arrays


def turn(array: np.ndarray) -> np.ndarray:
    """Put the axes of an array of MATLAB into the order of this package.

    >>> turn(np.zeros((4, 5, 3))).shape, turn(np.zeros((4, 5, 3), complex)).shape
    ((3, 4, 5), (1, 3, 4, 5))
    """
    if array.ndim < 3:
        return array
    turned = np.moveaxis(array, (0, 1), (-2, -1))
    turned = turned.transpose(*reversed(range(array.ndim - 2)), -2, -1)
    return turned[None] if array.ndim == 3 and np.iscomplexobj(array) else turned
