"""Reader of fastMRI's HDF5 files: k-space of slices, with mask, header and reference.

Source: Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI",
arXiv:1811.08839, 2018.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.core.trust import is_trusting
from invtoolbox.datasets.measurement import Measurement, as_tensor
from invtoolbox.datasets.mri.header import Encoding, read_header
from invtoolbox.datasets.mri.kspace import KSpace, KSpaceData, grid_of, remove_oversampling
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

#: Names of the reference image: root of the sum of squares, or emulated single coil.
_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


def is_fastmri(file: Any) -> bool:
    """Return whether an open HDF5 file has the array of fastMRI.

    Args:
        file: the file.
    """
    import h5py

    data = file.get("kspace")
    return isinstance(data, h5py.Dataset) and data.dtype.kind == "c" and data.ndim in (3, 4)


class FastMRI(KSpaceData):
    """Data set of the slices of a fastMRI file, in k-space.

    The array ``kspace`` is ``(slice, coil, readout, phase encoding)``, or without the axis of the
    coils. The mask of the file marks the phase encodings that count; without one, samples that are
    0 in all coils were not measured. The oversampling of the readout is removed, and the
    `reference` is the image in the file.

    Args:
        path: path of the file.
        geometry: must be None, because the file states how k-space was sampled.

    Raises:
        InputError: no such array, a mask of another length, k-space of zeros, or a damaged file.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: Any = None) -> None:
        if geometry is not None:
            raise InputError(f"{path}: the file states how k-space was sampled; leave geometry out")
        self.path, self._trusted = require_file(path), is_trusting()
        with decoding(self.path, "HDF5"), open_hdf5(self.path) as file:
            if not is_fastmri(file):
                raise InputError(
                    "no array kspace of complex numbers (slice, coil, readout, phase encoding); the "
                    f"file holds {', '.join(list(file)[:8]) or 'nothing'}"
                )
            shape = tuple(int(n) for n in file["kspace"].shape)
            require_plausible(self.path, shape[1:], file["kspace"].dtype)
            words = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
            mask = np.asarray(file["mask"]).ravel() if "mask" in file else None
            self._reference = next((name for name in _REFERENCES if name in file), None)
        if min(shape) < 1:
            raise InputError(f"{self.path}: kspace has the shape {shape}, without samples")
        self.coils = shape[1] if len(shape) == 4 else 1
        self._rows, self._columns = shape[-2:]
        if mask is not None and len(mask) != self._columns:
            raise InputError(
                f"{self.path}: the mask has {len(mask)} entries and k-space {self._columns} phase "
                "encodings; write one entry per phase encoding"
            )
        self._lines = None if mask is None else torch.from_numpy(mask.astype(np.float64)) != 0
        self.volumes = (range(shape[0]),)
        notes = [
            "the file states no position and no directions: x, y and z are the image's own axes"
        ]
        self._encoding: Encoding | None = None
        self._facts: dict[str, Any] = {}
        if words is None:
            notes.append(
                "no ismrmrd_header: the sizes of pixels are unknown, and nothing is cropped"
            )
        else:
            header = read_header(words, self.path)
            self._encoding, self._facts = header.encodings[0], header.of_contrast()
        self.notes = tuple(notes)

    def _shown(self, count: int, axis: int) -> int:
        """Return the number of pixels of the image along an axis of the header."""
        encoding = self._encoding
        if encoding is None:
            return count
        whole, fov = encoding.encoded.fov[axis], encoding.recon.fov[axis]
        size = round(count * fov / whole) if 0 < fov < whole else count
        matrix = encoding.recon.matrix[axis]
        # Fields of view are rounded in the header.
        return min(count, matrix if abs(size - matrix) <= 1 else max(size, 1))

    def _read(self, index: int) -> Measurement:
        with decoding(self.path, "HDF5"), open_hdf5(self.path, self._trusted) as file:
            values = np.asarray(file["kspace"][index])
            truth = None
            if self._reference is not None:
                truth = as_tensor(file[self._reference][index])[None, None]
        y = as_tensor(values.reshape(self.coils, self._rows, self._columns))[None]
        sampled = (y[0] != 0).any(0)
        if not bool(sampled.any()):
            raise InputError(
                f"{self.path}: k-space of slice {index} is 0 everywhere, so nothing was measured"
            )
        mask, notes = self._mask(sampled)
        y = y * mask
        rows, columns = self._shown(self._rows, 2), self._shown(self._columns, 1)
        if bool((mask.all(0) | ~mask.any(0)).all()):  # readouts are complete
            y = remove_oversampling(y.transpose(-1, -2), rows).transpose(-1, -2).contiguous()
            mask = mask.any(0).expand(rows, -1)
        sampling = KSpace(
            (mask.shape[0], mask.shape[1]),
            self.coils,
            mask=mask,
            calibration=y if self.coils > 1 else None,
            shown_shape=None if tuple(mask.shape) == (rows, columns) else (rows, columns),
        )
        meta = {
            "source": str(self.path),
            "item": index,
            "volume": 0,
            "units": "as stored",
            "notes": (*self.notes, *notes),
            **self._facts,
        }
        return Measurement(y, sampling, reference=truth, meta=meta)

    def _mask(self, sampled: Tensor) -> tuple[Tensor, list[str]]:
        """Return the mask ``(readout, phase encoding)``, and notes on how it came about.

        Args:
            sampled: whether a sample is not 0 in all coils.
        """
        lines = sampled.any(0)
        if self._lines is not None:
            empty = int((self._lines & ~lines).sum())
            notes = [f"{empty} phase encodings of the mask are 0 and do not count"] if empty else []
            if not bool((self._lines & lines).any()):
                raise InputError(f"{self.path}: the mask chooses no phase encoding with samples")
            return (self._lines & lines).expand_as(sampled), notes
        share = float(sampled.double().mean())
        # A sample that happens to be 0 in a complete readout was measured.
        by_lines = float(sampled[:, lines].double().mean()) > 0.99
        mask = lines.expand_as(sampled) if by_lines else sampled
        if bool(mask.all()):
            return mask, ["the file has no mask, and no phase encoding is 0: k-space is complete"]
        return mask, [
            f"the file has no mask: {1 - share:.0%} of k-space is 0 and is taken as not measured"
        ]

    def stack(self, images: Tensor, items: Sequence[int]) -> tuple[Tensor, Grid]:
        size, encoding = [1.0, 1.0, 1.0], self._encoding
        if encoding is not None:  # rows lie along the readout
            recon, encoded = encoding.recon, encoding.encoded
            size = [
                recon.fov[0] / recon.matrix[0] or 1.0,
                encoded.fov[2] / self._rows or 1.0,
                encoded.fov[1] / self._columns or 1.0,
            ]
        size[0] *= self.step_of(items)
        return images, grid_of(np.zeros(3), list(np.eye(3)[::-1]), (1, *images.shape[1:]), size)
