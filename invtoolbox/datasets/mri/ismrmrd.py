"""Reader of ISMRMRD, the open format of raw data of MRI scanners.

Source: Inati et al., "ISMRM Raw data format: a proposed standard for MRI raw datasets", MRM 77, 2017.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.mri.acquisitions import COUNTERS, Acquisitions
from invtoolbox.datasets.mri.header import read_header
from invtoolbox.datasets.mri.kspace import (
    KSpace,
    KSpaceData,
    Lines,
    calibration_of,
    grid_of,
    remove_oversampling,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

#: Largest deviation of the distances of slices from their mean, relative to it.
_UNEVEN = 0.02


@dataclass(frozen=True, eq=False)
class _GriddedImage:
    """Samples of one image on a grid ``(partition, line, readout)``.

    A volume is transformed along its readout.

    Attributes:
        y: samples ``(coil, partition, line, readout)``, 0 where nothing was measured.
        mask: sampled frequencies ``(partition, line, readout)``.
        calibration: samples that show the coils, of the shape of `y`.
        noise_std: standard deviation of the noise; None if it is unknown.
        notes: notes on this image.
    """

    y: Tensor
    mask: Tensor
    calibration: Tensor
    noise_std: float | None
    notes: tuple[str, ...]


class Ismrmrd(KSpaceData):
    """Data set of the slices of an ISMRMRD file, in k-space.

    Items of 2D imaging are slices, ordered by their position; repetitions, phases, sets and contrasts
    are further volumes. A volume with two phase encodings and complete readouts is transformed along
    the readout, and its items are the planes across it. Averages are averaged, separate calibration
    lines show the coils, and other acquisitions are left out. With noise scans, the noise of an item
    is white with the standard deviation `noise_std`.

    Args:
        path: path of the file.
        geometry: must be None, because the file states how k-space was sampled.
        group: name of the measurement in the file; ``dataset``, or the only one, by default.
        encoding: number of the encoding.
        whiten: whether noise scans make the noise of the coils white.

    Raises:
        InputError: no XML header, no acquisition of an image, encoding steps beyond the matrix, a
            trajectory outside of the grid, noise scans of another number of coils, or a damaged
            file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: Any = None,
        group: str | None = None,
        encoding: int = 0,
        whiten: bool = True,
    ) -> None:
        if geometry is not None:
            raise InputError(f"{path}: the file states how k-space was sampled; leave geometry out")
        self.path = require_file(path)
        self._scan = Acquisitions(self.path, group)
        self.header = read_header(self._scan.header, self.path)
        if not 0 <= encoding < len(self.header.encodings):
            raise InputError(
                f"{self.path}: it has {len(self.header.encodings)} encodings, counted from 0, got "
                f"encoding={encoding}"
            )
        self.encoding = self.header.encodings[encoding]
        image, calibration, notes = self._scan.of_encoding(encoding)
        if encoding == 0 and len(self.header.encodings) > 1:
            notes.append(
                f"the file has {len(self.header.encodings)} encodings; the first one is read, "
                "encoding= chooses another"
            )
        if self.encoding.trajectory == "epi":
            notes.append(
                "samples of EPI are taken as evenly spaced, and echoes as having one phase"
            )
        self._image, self._calibration = np.flatnonzero(image), np.flatnonzero(calibration)
        self.coils = self._scan.coils(np.concatenate([self._image, self._calibration]))
        heads = self._scan.heads[self._image]
        has_trajectory = bool((heads["trajectory_dimensions"] > 0).any())
        is_on_grid = self.encoding.trajectory in ("cartesian", "epi")
        #: Whether samples lie on the grid of the encoding.
        self.is_cartesian = is_on_grid or not has_trajectory
        if not is_on_grid and not has_trajectory:
            raise InputError(
                f"{self.path}: the trajectory is {self.encoding.trajectory}, and no acquisition holds its "
                "frequencies; convert the raw data with them"
            )
        #: Whether two axes are phase-encoded, or a trajectory has three axes.
        self.is_3d = self.encoding.encoded.matrix[0] > 1
        self._whitening, more = self._noise(heads) if whiten else (None, [])
        self._order_images()
        self.notes = (*notes, *more, *self._placing())
        self._volume: tuple[int, _GriddedImage] | None = None

    # -- what the file holds -----------------------------------------------------------------------

    def _order_images(self) -> None:
        """Number the images: one key of counters per item, or per volume of 3D imaging."""
        keys = self._scan.counters(self._image)
        unique = np.unique(keys, axis=0)
        heads = self._scan.heads[self._image]
        heights = {
            number: float(heads["position"][chosen] @ heads["slice_dir"][chosen])
            for number in np.unique(keys[:, -1])
            for chosen in [int(np.flatnonzero(keys[:, -1] == number)[0])]
        }
        order = sorted(
            range(len(unique)),
            key=lambda k: (*unique[k, :-1], heights[unique[k, -1]], unique[k, -1]),
        )
        self._keys = unique[order]
        if self.is_3d:
            count = self.encoding.shown(2) if self.is_cartesian else 1
            ends = [count * (k + 1) for k in range(len(self._keys))]
        else:
            changes = np.flatnonzero((np.diff(self._keys[:, :-1], axis=0) != 0).any(1)) + 1
            ends = [*changes.tolist(), len(self._keys)]
        self.volumes = tuple(range(a, b) for a, b in zip([0, *ends], ends))
        self._first = {}
        for number in range(len(self._keys)):
            is_its = (keys == self._keys[number]).all(1)
            self._first[number] = self._scan.heads[self._image[int(is_its.argmax())]]

    def _noise(self, heads: np.ndarray) -> tuple[Tensor | None, list[str]]:
        """Return the matrix that whitens the noise, None without noise scans, and notes."""
        from invtoolbox.processing.coils import whitening_matrix

        chosen = np.flatnonzero(self._scan.noise)
        if not len(chosen):
            return None, ["the file has no noise scan: coils keep their own noise levels"]
        coils = self._scan.coils(chosen)
        if coils != self.coils:
            raise InputError(
                f"{self.path}: its noise scans have {coils} coils and its images {self.coils}; leave the "
                "noise out with whiten=False, or convert the raw data again"
            )
        dwell = float(heads["sample_time_us"][0])
        noise_dwell = float(self._scan.heads["sample_time_us"][chosen[0]])
        ratio, notes = self.header.noise_bandwidth, []
        if dwell > 0 and noise_dwell > 0:
            ratio *= dwell / noise_dwell
        else:
            notes.append("the dwell time of noise or image is not stated; they are taken as equal")
        noise = np.concatenate([values for values, _ in self._scan.samples(chosen)], 1)
        with decoding(self.path, "ISMRMRD"):
            return whitening_matrix(torch.from_numpy(noise), ratio), notes

    def _placing(self) -> list[str]:
        """Return notes on positions and directions that the file does not state."""
        heads = [self._first[number] for number in range(len(self._keys))]
        notes = []
        if any(_directions(head) is None for head in heads):
            notes.append("the directions of the image are not stated: x, y and z are its own axes")
        places = {tuple(head["position"].tolist()) for head in heads}
        slices = len(np.unique(self._keys[:, -1]))
        if not self.is_3d and slices > 1 and len(places) == 1:
            notes.append("all slices have one position: their distance is taken as their thickness")
        return notes

    # -- items -------------------------------------------------------------------------------------

    def _chosen(self, key: int, pool: np.ndarray, is_calibration: bool = False) -> np.ndarray:
        """Return the acquisitions of an image; calibration lines belong to all images of a slice."""
        keys = self._scan.counters(pool)
        if not is_calibration:
            return pool[(keys == self._keys[key]).all(1)]
        return pool[keys[:, -1] == self._keys[key, -1]]

    def _read(self, index: int) -> Measurement:
        number = self.volume_of(index)
        meta: dict[str, Any] = {
            "source": str(self.path),
            "item": index,
            "volume": number,
            "units": "as stored" if self._whitening is None else "standard deviations of the noise",
        }
        key = number if self.is_3d else index
        counters = dict(zip(COUNTERS, self._keys[key].tolist()))
        meta |= {**counters, **self.header.of_contrast(counters["contrast"])}
        if not self.is_cartesian:
            return self._read_trajectory(index, meta)
        plane = index - self.volumes[number].start if self.is_3d else 0
        if self._volume is None or self._volume[0] != key:
            self._volume = (key, self._read_lines(key))
        image = self._volume[1]
        if self.is_3d:  # complete along the readout
            y, mask = image.y[..., plane], image.mask[..., plane]
            calibration = image.calibration[..., plane]
            shown = (self.encoding.shown(0), self.encoding.shown(1))
        else:
            y, mask, calibration = image.y[:, 0], image.mask[0], image.calibration[:, 0]
            shown = (self.encoding.shown(1), self.encoding.shown(2))
        image_shape = (int(y.shape[1]), int(y.shape[2]))
        sampling = KSpace(
            image_shape,
            self.coils,
            mask=mask,
            calibration=calibration[None] if self.coils > 1 else None,
            shown_shape=None if shown == image_shape else shown,
        )
        meta["notes"] = (*self.notes, *image.notes)
        return Measurement(y[None].contiguous(), sampling, noise_std=image.noise_std, meta=meta)

    def _read_lines(self, key: int) -> _GriddedImage:
        """Read an image whose samples lie on a grid."""
        chosen, notes = self._chosen(key, self._image), []
        require_plausible(self.path, (self.coils, *self.encoding.encoded.matrix), np.dtype("c8"))
        lines = Lines(self.path, self.encoding, self.coils, self._scan)
        y, counts, more = lines.place(chosen)
        notes += more
        calibration = y
        separate = self._chosen(key, self._calibration, is_calibration=True)
        if len(separate):
            calibration, _, _ = lines.place(separate)
        taken = counts[counts > 0]
        if taken.min() != taken.max():
            notes.append(
                f"lines were measured {taken.min()} to {taken.max()} times, and their means count alike"
            )
        std = None if self._whitening is None else float(np.mean(1 / np.sqrt(taken)))
        mask = torch.from_numpy(counts > 0)
        width = self.encoding.shown(2)
        tensors = [self._white(torch.from_numpy(values)) for values in (y, calibration)]
        is_complete = bool((mask.all(-1) | ~mask.any(-1)).all())
        if self.is_3d and not is_complete:
            notes.append("echoes are partial: the missing ends of the readouts are taken as 0")
        if self.is_3d or is_complete:
            mask = mask.any(-1, keepdim=True).expand(*mask.shape[:-1], width)
            tensors = [remove_oversampling(t, width, keeps_images=self.is_3d) for t in tensors]
        return _GriddedImage(tensors[0], mask, tensors[1], std, tuple(notes))

    def _white(self, y: Tensor) -> Tensor:
        from invtoolbox.processing.coils import mix_coils

        return y if self._whitening is None else mix_coils(self._whitening, y, axis=0)

    def _read_trajectory(self, index: int, meta: dict[str, Any]) -> Measurement:
        """Read samples off the grid, ``(1, coil, readout, sample)``."""
        chosen = self._chosen(index, self._image)
        readouts = self._scan.samples(chosen)
        lengths = {values.shape[1] for values, _ in readouts}
        axes = {places.shape[1] for _, places in readouts}
        if len(lengths) != 1 or len(axes) != 1:
            raise InputError(
                f"{self.path}: readouts of {sorted(lengths)} samples with {sorted(axes)} axes belong to "
                "one image; give a scan whose readouts are alike"
            )
        values = torch.from_numpy(np.stack([values for values, _ in readouts], 1))
        k, notes = self._frequencies(chosen, np.stack([places for _, places in readouts]))
        shape = tuple(self.encoding.shown(axis) for axis in (range(3) if self.is_3d else (1, 2)))
        y, trajectory = self._white(values)[None].contiguous(), torch.from_numpy(k)
        calibration = calibration_of(y, trajectory, shape) if self.coils > 1 else None
        sampling = KSpace(shape, self.coils, trajectory=trajectory, calibration=calibration)
        std = None if self._whitening is None else 1.0
        meta["notes"] = (*self.notes, *notes)
        return Measurement(y, sampling, noise_std=std, meta=meta)

    def _frequencies(self, chosen: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Return a trajectory in cycles per field of view, in the order of the image's axes."""
        encoding, notes = self.encoding, []
        axes = 3 if self.is_3d else 2
        if places.shape[-1] < 2 or (places.shape[-1] > 3):
            raise InputError(
                f"{self.path}: trajectories of {places.shape[-1]} axes are not read; give kx, ky and, for "
                "a volume, kz"
            )
        if places.shape[-1] > axes:
            notes.append("the third number of the trajectory of a slice is not used")
        frequencies = places[..., :axes][..., ::-1].astype(np.float64)
        sizes = np.array([encoding.shown(axis) for axis in range(3 - axes, 3)], dtype=np.float64)
        spans = sizes[1:] if frequencies.shape[-1] < axes else sizes
        largest = np.abs(frequencies).reshape(-1, frequencies.shape[-1]).max(0)
        if (largest <= 0.5 * (1 + 1e-3)).all():
            frequencies = np.clip(frequencies, -0.5, 0.5) * spans
            notes.append("the trajectory is stored as cycles per pixel")
        elif (largest <= spans / 2 + 0.5).all() and (largest >= spans / 8).any():
            notes.append("the trajectory is stored as cycles per field of view")
        else:
            raise InputError(
                f"{self.path}: the trajectory reaches {', '.join(f'{k:.3g}' for k in largest[::-1])} along "
                f"kx, ky: outside of the grid of {', '.join(f'{n:.0f}' for n in spans[::-1])} voxels in "
                "cycles per pixel (up to 0.5) and in cycles per field of view (up to half the voxels)"
            )
        if frequencies.shape[-1] < axes:  # a stack: the second encoding step is kz
            center = encoding.centers[0]
            steps = self._scan.heads["idx"]["kspace_encode_step_2"][chosen].astype(np.float64)
            steps -= encoding.encoded.matrix[0] // 2 if center is None else center
            steps *= encoding.shown(0) / encoding.encoded.matrix[0]
            if (np.abs(steps) > sizes[0] / 2).any():
                raise InputError(
                    f"{self.path}: encoding steps 2 reach {np.abs(steps).max():.0f} from their centre, and "
                    f"the matrix has {encoding.encoded.matrix[0]} partitions; convert the data again"
                )
            along = np.broadcast_to(steps[:, None, None], (*frequencies.shape[:-1], 1))
            frequencies = np.concatenate([along, frequencies], -1)
        return np.ascontiguousarray(frequencies, np.float32), notes

    # -- places ------------------------------------------------------------------------------------

    def stack(self, images: Tensor, items: Sequence[int]) -> tuple[Tensor, Grid]:
        step, number = self.step_of(items), self.volume_of(items[0])
        head = self._first[number if self.is_3d else items[0]]
        directions = _directions(head) or tuple(np.eye(3)[::-1])
        size = [self.encoding.voxel_size(axis) for axis in range(3)]
        position = head["position"].astype(np.float64)
        if self.is_3d and not self.is_cartesian:
            volume = images[0]
            return volume, grid_of(position, directions, volume.shape, size)
        if self.is_3d:  # items are planes across the readout
            volume = images.permute(1, 2, 0)
            planes = self.volumes[number]
            first = items[0] - planes.start - len(planes) // 2  # from the middle of the readout
            position = position + first * size[2] * directions[2]
            size[2] *= step
            sizes = (*volume.shape[:2], 1)  # the first plane is placed
            return volume, grid_of(position, directions, sizes, size)
        others = [_directions(self._first[item]) for item in items]
        if any(d is not None and np.abs(np.subtract(d, directions)).max() > 1e-3 for d in others):
            raise InputError(
                f"{self.path}: its slices have different directions, and form no volume; choose slices of "
                "one direction"
            )
        places = np.array([self._first[item]["position"] for item in items], dtype=np.float64)
        size[0] *= step
        if len(items) > 1 and np.linalg.norm(places[-1] - places[0]) > 0:
            span = (places[-1] - places[0]) / (len(items) - 1)
            even = places[0] + np.arange(len(items))[:, None] * span
            if np.abs(places - even).max() > _UNEVEN * np.linalg.norm(span):
                raise InputError(
                    f"{self.path}: its slices are not evenly spaced or do not lie on a line; write slices "
                    "of one stack"
                )
            size[0] = float(np.linalg.norm(span))
            directions = (span / size[0], *directions[1:])
        return images, grid_of(places[0], directions, (1, *images.shape[1:]), size)


def _directions(head: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Return unit vectors along slices, phase encoding and readout; None if they are not stated."""
    vectors = [head[name].astype(np.float64) for name in ("slice_dir", "phase_dir", "read_dir")]
    lengths = [float(np.linalg.norm(v)) for v in vectors]
    if not all(np.isfinite(lengths)) or min(lengths) < 0.5:
        return None
    return tuple(v / length for v, length in zip(vectors, lengths))
