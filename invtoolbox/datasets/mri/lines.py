"""Cartesian readouts of ISMRMRD on the grid of their encoding, and the removal of oversampling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from invtoolbox.datasets.mri.acquisitions import Acquisitions
from invtoolbox.datasets.mri.header import Encoding
from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Lines:
    """Places readouts on the grid of an encoding.

    Attributes:
        path: path of the file, for error messages.
        encoding: the encoding.
        coils: number of coils.
        scan: acquisitions of the file.
    """

    path: Path
    encoding: Encoding
    coils: int
    scan: Acquisitions

    def place(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return the means of readouts on the grid, how often each was measured, and notes.

        Args:
            chosen: numbers of the acquisitions, ascending.

        Returns:
            K-space ``(coil, partition, line, readout)`` with frequency zero at ``n // 2`` and 0
            where nothing was measured; and counts ``(partition, line, readout)``.
        """
        shape, heads, notes = self.encoding.encoded.matrix, self.scan.heads, []
        total = np.zeros((self.coils, *shape), np.complex64)
        counts = np.zeros(shape, np.int32)
        partitions, rows = (self._rows(chosen, step, axis) for axis, step in enumerate((2, 1)))
        is_centred = True
        for number, partition, row, (values, _) in zip(
            chosen, partitions, rows, self.scan.samples(chosen)
        ):
            width, head = values.shape[1], heads[number]
            center = int(head["center_sample"]) - int(head["discard_pre"])
            if int(head["center_sample"]) == 0:  # the default of writers that do not state it
                center, is_centred = width // 2, False
            left = shape[2] // 2 - center
            if left < 0 or left + width > shape[2]:
                raise InputError(
                    f"{self.path}: acquisition {number} has {width} samples around sample {center}, and "
                    f"its matrix {shape[2]} around {shape[2] // 2}; correct center_sample, or the matrix "
                    "in the header"
                )
            total[:, partition, row, left : left + width] += values
            counts[partition, row, left : left + width] += 1
        if not is_centred:
            notes.append("the centre of readouts is not stated; it is taken as their middle sample")
        total /= np.maximum(counts, 1)
        return total, counts, notes

    def _rows(self, chosen: np.ndarray, step: int, axis: int) -> np.ndarray:
        """Return the index on the grid of encoding step 1 or 2 of every acquisition."""
        count, center = self.encoding.encoded.matrix[axis], self.encoding.centers[axis]
        steps = self.scan.heads["idx"][f"kspace_encode_step_{step}"][chosen].astype(int)
        rows = steps if center is None else steps - center + count // 2
        outside = np.flatnonzero((rows < 0) | (rows >= count))
        if len(outside):
            number, value = chosen[outside[0]], steps[outside[0]]
            words = "" if center is None else f" around step {center}"
            raise InputError(
                f"{self.path}: {len(outside)} acquisitions lie beyond the matrix, the first is "
                f"acquisition {number} with encoding step {step} = {value}; the header declares {count} "
                f"steps{words}; correct the header, or convert the raw data again"
            )
        return rows


def remove_oversampling(y: Tensor, width: int, keeps_images: bool = False) -> Tensor:
    """Return k-space of the middle of the image along the readout, which is complete.

    Args:
        y: k-space ``(..., readout)``.
        width: number of pixels of the middle.
        keeps_images: whether the result stays transformed along the readout.
    """
    from invtoolbox.operators.mri.fourier import centred_fft, centred_ifft

    if y.shape[-1] == width and not keeps_images:
        return y
    images = centred_ifft(y, 1)
    images = images.narrow(-1, y.shape[-1] // 2 - width // 2, width)
    return images if keeps_images else centred_fft(images, 1)
