"""What the formats of synchrotrons share: counts with flat and dark fields, one sinogram a detector row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from invtoolbox.datasets.center import center_of_rotation
from invtoolbox.datasets.files import decoding
from invtoolbox.datasets.geometry import Geometry
from invtoolbox.datasets.geometry_3d import Geometry3D
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.datasets.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError

# Rows that take part in finding the axis: more cost time and add little.
_ROWS_FOR_AXIS = 8
# Beyond this share of unusable values the flat or dark field does not belong to the data.
_LARGEST_UNUSABLE_SHARE = 0.1


class DetectorRows(ABC):
    """A data set with one sinogram for each detector row of a parallel-beam scan; rows are read when they are asked for.

    Counts become line integrals by ``y = -log((data - dark) / (white - dark))`` with the means of flat and dark fields
    over their frames. Two kinds of values have no logarithm, and are treated so:

    - a detector element whose flat field is not above its dark field is dead: its column is interpolated from
      its neighbours (`meta["dead_columns"]`);
    - a count at or below the dark field (a starved ray) takes the smallest positive transmission of its
      sinogram, the largest attenuation that was measured (`meta["starved_rays"]` counts them).

    More than 10 % of either is an error. With the geometry of a 3D scan all rows are one item, ``(views, rows, columns)``.
    """

    format_name: str
    path: Path
    geometry: ScanGeometry
    _rows: int

    @abstractmethod
    def _counts(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts ``(views, columns)`` of a detector row, and the means ``(columns,)`` of its flat and dark fields."""

    def __len__(self) -> int:
        return 1 if isinstance(self.geometry, Geometry3D) else self._rows

    def __getitem__(self, index: int) -> Measurement:
        row = checked_index(index, len(self))
        if isinstance(self.geometry, Geometry3D):
            return self._projections(self.geometry)
        assert isinstance(self.geometry, Geometry)
        sinogram, dead, starved = self._sinogram(row)
        return Measurement(
            y=as_tensor(sinogram)[None, None],
            geometry=self.geometry,
            meta={
                "source": str(self.path),
                "row": row,
                "units": "1 (line integral of the attenuation)",
                "image_units": f"1/{self.geometry.length_unit}",
                "center_column": self.geometry.axis_column,
                "dead_columns": dead,
                "starved_rays": starved,
            },
        )

    def _projections(self, geometry: Geometry3D) -> Measurement:
        """All rows together, as the views of a panel."""
        first, dead, starved = self._sinogram(0)
        y = np.empty((len(first), self._rows, first.shape[1]), dtype=np.float32)
        y[:, 0] = first
        dead_cells = len(dead)
        for row in range(1, self._rows):
            y[:, row], dead, more = self._sinogram(row)
            dead_cells, starved = dead_cells + len(dead), starved + more
        return Measurement(
            y=as_tensor(y)[None, None],
            geometry=geometry,
            meta={
                "source": str(self.path),
                "units": "1 (line integral of the attenuation)",
                "image_units": f"1/{geometry.length_unit}",
                "dead_cells": dead_cells,
                "starved_rays": starved,
            },
        )

    def _find_geometry(
        self, angles: np.ndarray, columns: int, center: float | None, pixel_size: float | None
    ) -> Geometry:
        """The scan about the axis that is given or found, and the square of the image that all views see."""
        if center is None:
            count = min(self._rows, _ROWS_FOR_AXIS)
            rows = [int(r) for r in np.linspace(0, self._rows - 1, count).round()]
            center = center_of_rotation(np.stack([self._sinogram(row)[0] for row in rows]), angles)
        spacing = 1.0 if pixel_size is None else pixel_size
        reaches = (center + 0.5, columns - 0.5 - center)
        # Half a turn sees whole what the shorter side of the detector reaches; a full turn, what the longer
        # one does.
        full_turn = np.ptp(angles) > 2 * np.pi * (1 - 1.5 / angles.size)
        size = max(2 * round(max(reaches) if full_turn else min(reaches)), 1)
        return Geometry(
            kind="parallel",
            angles=tuple(angles),
            num_detectors=columns,
            image_shape=(size, size),
            pixel_size=spacing,
            detector_spacing=spacing,
            detector_shift=((columns - 1) / 2 - center) * spacing,
            length_unit="pixel" if pixel_size is None else "mm",
        )

    def _sinogram(self, row: int) -> tuple[np.ndarray, tuple[int, ...], int]:
        """Line integrals (views, columns) of a detector row, its dead columns, and its number of starved
        rays."""
        with decoding(self.path, self.format_name):
            counts, white, dark = self._counts(row)
        return line_integrals(counts, white, dark, f"{self.path}, row {row}")


def line_integrals(
    counts: np.ndarray, white: np.ndarray, dark: np.ndarray, source: str = "counts"
) -> tuple[np.ndarray, tuple[int, ...], int]:
    """``-log((counts - dark) / (white - dark))`` of counts (views, columns), with nothing left undefined.

    Returns the line integrals, the dead columns (interpolated from their neighbours), and the number of
    starved rays (set to the smallest positive transmission); see `DataExchange`.

    >>> line_integrals(np.array([[50.0, 25.0]]), white=np.full(2, 100.0), dark=np.zeros(2))[0].round(3)
    array([[0.693, 1.386]])
    """
    bad = np.argwhere(~np.isfinite(counts))
    if bad.size:
        raise InputError(
            f"{source}: {len(bad)} of {counts.size} counts are NaN or infinite, the first at view "
            f"{bad[0, 0]}, column {bad[0, 1]}; repair them"
        )
    alive = white > dark
    if (~alive).mean() > _LARGEST_UNUSABLE_SHARE:
        raise InputError(
            f"{source}: the flat field is not above the dark field in {(~alive).sum()} of "
            f"{alive.size} columns; check that data_white and data_dark are not swapped"
        )
    transmission = (counts - dark) / np.where(alive, white - dark, 1.0)
    if (~alive).any():
        columns = np.arange(alive.size)
        transmission = np.stack(
            [np.interp(columns, columns[alive], view[alive]) for view in transmission]
        )
    starved = transmission <= 0
    if starved.mean() > _LARGEST_UNUSABLE_SHARE:
        raise InputError(
            f"{source}: {starved.sum()} of {starved.size} counts are not above the dark field; "
            "check the dark field"
        )
    if starved.any():
        transmission = np.where(starved, transmission[~starved].min(), transmission)
    return -np.log(transmission), tuple(np.flatnonzero(~alive).tolist()), int(starved.sum())
