"""Blur kernels in a MATLAB 7.3 cell array, as those of Levin et al. are published.

Levin, Weiss, Durand, Freeman, "Understanding and evaluating blind deconvolution algorithms", CVPR 2009.
"""

from __future__ import annotations

import os

import numpy as np

from invtoolbox.datasets.files import decoding, require_file
from invtoolbox.datasets.hdf5_open import open_hdf5
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.datasets.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError


class BlurKernels:
    """A data set of blur kernels, the entries of the cell array `kernels`, for `invtoolbox.operators.Blur`.

    An item's `y` is ``(1, 1, rows, columns)``, not negative, with the sum 1. Items count from 0, so the
    kernel that the papers call 1 is item 0.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None) -> None:
        if geometry is not None:
            raise InputError(f"{path}: blur kernels have no scanning geometry; leave it out")
        import h5py

        self.path = require_file(path)
        self._kernels: list[np.ndarray] = []
        with decoding(self.path, "MATLAB 7.3"), open_hdf5(self.path) as file:
            if "kernels" not in file or file["kernels"].dtype != h5py.ref_dtype:
                raise InputError(
                    f"{self.path}: no cell array named kernels (found "
                    f"{', '.join(file) or 'nothing'})"
                )
            for reference in np.asarray(file["kernels"]).ravel():
                # MATLAB stores columns first.
                self._kernels.append(np.asarray(file[reference], dtype=np.float64).T)
        for number, kernel in enumerate(self._kernels):
            if (
                kernel.ndim != 2
                or not np.isfinite(kernel).all()
                or (kernel < 0).any()
                or kernel.sum() <= 0
            ):
                raise InputError(
                    f"{self.path}: kernel {number} is not a non-negative image with a positive sum"
                )

    def __len__(self) -> int:
        return len(self._kernels)

    def __getitem__(self, index: int) -> Measurement:
        index = checked_index(index, len(self))
        kernel = self._kernels[index]
        return Measurement(
            y=as_tensor(kernel / kernel.sum())[None, None],
            meta={"source": str(self.path), "item": index, "units": "1 (sums to 1)"},
        )
