"""How k-space was sampled, its readouts on a grid, and the base class of its readers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.measurement import Measurement, check_index
from invtoolbox.datasets.mri.acquisitions import Acquisitions
from invtoolbox.datasets.mri.header import Encoding
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator

#: Largest and least number of rows and columns from which coil maps are estimated.
_CALIBRATION, _LEAST = 24, 6


@dataclass(frozen=True, eq=False)
class KSpace:
    """Sampling of k-space: a mask on a grid or a trajectory, and the samples that show the coils.

    Attributes:
        image_shape: shape of the image that k-space encodes, ``(row, column)`` or
            ``(slice, row, column)``.
        coils: number of coils.
        mask: sampled frequencies, boolean, of the shape of the image; None with a trajectory.
        trajectory: frequencies ``(*samples, axes)`` in cycles per field of view; None with a mask.
        calibration: k-space on the grid that shows the coils, ``(1 or slice, coil, row, column)``,
            0 where it was not sampled; None with one coil or a trajectory.
        shown_shape: shape of the middle of the image that results show; the whole image if None.

    >>> KSpace((4, 6), 1, mask=torch.ones(4, 6), shown_shape=(4, 4)).operator().range_shape
    (1, 4, 6)
    """

    image_shape: tuple[int, ...]
    coils: int
    mask: Tensor | None = None
    trajectory: Tensor | None = None
    calibration: Tensor | None = None
    shown_shape: tuple[int, ...] | None = None

    @property
    def range_shape(self) -> tuple[int, ...]:
        """Shape of one item's measurements, ``(coil, *samples)``."""
        if self.trajectory is not None:
            return (self.coils, *self.trajectory.shape[:-1])
        return (self.coils, *self.image_shape)

    def check_measured(self, shape: tuple[int, ...], source: str) -> None:
        """Raise an `InputError` if measurements of this shape do not belong to this sampling.

        Args:
            shape: shape of the measurements, ``(1, coil, *samples)``.
            source: name of the measurements for the error message.
        """
        if shape[1:] != self.range_shape:
            raise InputError(
                f"{source}: k-space has the shape {shape[1:]}, and its sampling "
                f"{self.range_shape}; give both for the same coils and samples"
            )

    def operator(self, coil_maps: Any = None) -> LinearOperator:
        """Build the forward operator, `CartesianMRI` or `NonUniformFourier`.

        Args:
            coil_maps: sensitivities ``(coil, *image_shape)``; estimated by default.

        Raises:
            InputError: the samples do not show the coils; see `coil_maps`.
        """
        from invtoolbox.operators.mri.cartesian import CartesianMRI
        from invtoolbox.operators.mri.non_uniform_fourier import NonUniformFourier

        maps = self.coil_maps() if coil_maps is None else coil_maps
        if self.trajectory is not None:
            return NonUniformFourier(self.trajectory, (1, *self.image_shape), maps)
        return CartesianMRI(self.mask, (1, *self.image_shape), maps)

    def coil_maps(self) -> Tensor | None:
        """Estimate the sensitivities of the coils, ``(coil, *image_shape)``; None for one coil.

        They come from the largest rectangle in the middle of k-space that is sampled completely, of
        at most 24 x 24 samples, by `invtoolbox.operators.estimate_coil_maps`.

        Raises:
            InputError: fewer than 6 x 6 samples in the middle are complete.
        """
        from invtoolbox.operators.mri.cartesian import estimate_coil_maps

        if self.coils == 1:
            return None
        if self.calibration is None:
            raise InputError(
                f"k-space of {self.coils} coils holds no samples that show them; give "
                "geometry.operator(coil_maps)"
            )
        rows, columns = _complete_middle((self.calibration != 0).flatten(0, 1).any(0))
        if min(rows, columns) < _LEAST:
            raise InputError(
                f"the middle of k-space is sampled completely on {rows} x {columns} samples only, and "
                f"maps of {self.coils} coils need {_LEAST} x {_LEAST}: give calibration lines, or "
                "geometry.operator(coil_maps)"
            )
        maps = estimate_coil_maps(self.calibration, (rows, columns))
        return maps[0] if len(self.image_shape) == 2 else maps.movedim(0, 1)

    def crop(self, x: Tensor) -> Tensor:
        """Return the middle of images ``(..., *image_shape)`` that results show.

        Args:
            x: images.
        """
        for axis, size in enumerate(self.shown_shape or (), start=-len(self.image_shape)):
            x = x.narrow(axis, x.shape[axis] // 2 - size // 2, size)
        return x

    def mix_coils(self, matrix: Tensor) -> KSpace:
        """Return the sampling of virtual coils, mixtures of these.

        Args:
            matrix: complex weights ``(virtual coil, coil)``.
        """
        calibration = self.calibration
        if calibration is not None:
            calibration = torch.einsum("vc,scij->svij", matrix.to(calibration), calibration)
        return dataclasses.replace(self, coils=len(matrix), calibration=calibration)


def calibration_of(y: Tensor, trajectory: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Grid the middle of non-Cartesian k-space, ``(1 or slice, coil, row, column)``.

    Args:
        y: samples ``(1, coil, *samples)``.
        trajectory: frequencies ``(*samples, axes)`` in cycles per field of view.
        image_shape: shape of the image.
    """
    from invtoolbox.operators.mri.fourier import centred_fft
    from invtoolbox.operators.mri.non_uniform_fourier import NonUniformFourier

    single = NonUniformFourier(trajectory, (1, *image_shape))
    images = single.pseudo_inverse(y.movedim(1, 0))[:, 0]  # (coil, *image_shape)
    images = images[:, None] if images.ndim == 3 else images
    gridded = centred_fft(images, 2).movedim(0, 1)
    middle = torch.zeros(gridded.shape[-2:], dtype=torch.bool)
    # Samples in the corners of the box must lie within the disc of the trajectory.
    reach = float(trajectory.abs().reshape(-1, trajectory.shape[-1]).amax(0).min()) / math.sqrt(2)
    spans = [min(n, _CALIBRATION, max(_LEAST, 2 * int(reach))) for n in middle.shape]
    rows, columns = (
        slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(middle.shape, spans)
    )
    middle[rows, columns] = True
    return gridded * middle


def grid_of(
    position: np.ndarray,
    directions: Sequence[np.ndarray],
    sizes: Sequence[int],
    voxel_size: Sequence[float],
) -> Grid:
    """Return the grid of an image whose voxel ``n // 2``, the origin of the transform, is placed.

    Args:
        position: position of that voxel in the patient, in mm (x to the left, y to the back, z to
            the head).
        directions: unit vectors along slices, rows and columns.
        sizes: number of voxels along the three axes.
        voxel_size: their sizes in mm.
    """
    origin = position.astype(np.float64)
    for direction, count, size in zip(directions, sizes, voxel_size):
        origin = origin - (count // 2) * size * direction
    along, rows, columns = ((float(d[0]), float(d[1]), float(d[2])) for d in directions)
    return Grid(
        (float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2])),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        (along, rows, columns),
    )


class KSpaceData(ABC):
    """Data set of the slices of one or several volumes, measured in k-space.

    An item's `y` is complex, ``(1, coil, *samples)``, and its `geometry` is a `KSpace`:
    ``it.reconstruct(item.y, item.geometry.operator())``.

    Attributes:
        path: path of the file.
        notes: what the file does not state, and what was left out.
        volumes: numbers of the items of every volume, in the order of its slices.
    """

    path: Path
    notes: tuple[str, ...]
    volumes: tuple[range, ...]

    def __len__(self) -> int:
        return self.volumes[-1].stop

    def __getitem__(self, index: int) -> Measurement:
        return self._read(check_index(index, len(self)))

    @abstractmethod
    def _read(self, index: int) -> Measurement:
        """Read one item."""

    def volume_of(self, index: int) -> int:
        """Return the number of the volume of an item."""
        return next(k for k, items in enumerate(self.volumes) if index in items)

    def step_of(self, items: Sequence[int]) -> int:
        """Return the distance of the numbers of items; 1 of a single one.

        Args:
            items: numbers of items of one volume.

        Raises:
            InputError: numbers that do not rise evenly.
        """
        steps = {int(b) - int(a) for a, b in itertools.pairwise(items)} or {1}
        if len(steps) > 1 or min(steps) < 1:
            raise InputError(
                f"{self.path}: the slices {', '.join(map(str, items[:8]))} are not evenly spaced, and form "
                "no volume; choose START:STOP:STEP"
            )
        return min(steps)

    @abstractmethod
    def stack(self, images: Tensor, items: Sequence[int]) -> tuple[Tensor, Grid]:
        """Join the images of items of one volume, and place them in the patient.

        Args:
            images: ``(item, row, column)``, or ``(1, slice, row, column)`` of a 3D trajectory, as
                `KSpace.crop` returns them.
            items: numbers of the items, evenly spaced.

        Returns:
            The volume ``(slice, row, column)`` with rows along the phase encoding and columns along
            the readout, and the positions of its voxels.
        """


def _complete_middle(sampled: Tensor) -> tuple[int, int]:
    """Return the sides of the largest rectangle around frequency zero that is sampled completely."""
    height, width = sampled.shape
    best = (0, 0)
    for rows in range(1, min(height, _CALIBRATION) + 1):
        top = height // 2 - rows // 2
        lines = sampled[top : top + rows].all(0)
        for columns in range(min(width, _CALIBRATION), 0, -1):
            left = width // 2 - columns // 2
            if bool(lines[left : left + columns].all()):
                if (min(rows, columns, _LEAST), rows * columns) > (
                    min(*best, _LEAST),
                    best[0] * best[1],
                ):
                    best = (rows, columns)
                break
    return best


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
