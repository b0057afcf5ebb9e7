"""A DICOM series as a volume: slices in order, voxel sizes, orientation, Hounsfield units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invtoolbox.datasets.dicom import Header, headers, hounsfield, read_header
from invtoolbox.datasets.files import decoding
from invtoolbox.datasets.scan_geometry import ScanGeometry
from invtoolbox.datasets.volume import Grid, Volume
from invtoolbox.errors import InputError

# Neighbouring slices further apart than so many times the usual distance have lost one between them.
_GAP = 1.5
# Distances that differ by more than this share are no regular grid.
_UNEVEN = 0.05
_NAMED = 8


class DicomSeries(Volume):
    """A data set of the slices of one DICOM series in a folder, in Hounsfield units; a file is read when it is asked for.

    Slices are ordered along the normal of their planes by ImagePositionPatient, whatever the names of the files are. `grid`
    is made of PixelSpacing, ImageOrientationPatient and the distances of the positions (not SliceThickness, which may
    overlap); slices that are shifted against each other (a tilted gantry) give a slanted grid.

    Args:
        path: the folder.
        series: the SeriesInstanceUID, where the folder holds several.

    Raises:
        InputError: several series (which), missing slices (where), two slices in one place, uneven distances, different
            shapes or orientations, no position or pixel spacing.
    """

    format_name = "DICOM"

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        items: str = "slices",
        series: str | None = None,
    ) -> None:
        folder = Path(path).expanduser()
        if geometry is not None:
            raise InputError(
                f"{folder}: a DICOM series holds images, not sinograms; leave the geometry out"
            )
        if not folder.is_dir():
            raise InputError(
                f"{folder}: there is no such folder; a DICOM series is a folder of slices"
            )
        found = headers(folder)
        known = list(dict.fromkeys(h.series for h in found))
        if series is None and len(known) > 1:
            raise InputError(
                f"{folder}: holds {len(known)} series; choose one with series= out of {', '.join(known[:_NAMED])}"
            )
        chosen = [h for h in found if series is None or h.series == series]
        if not chosen:
            raise InputError(f"{folder}: no series {series}; there is {', '.join(known[:_NAMED])}")
        self._files = [h.path for h in chosen]
        grid = _grid(folder, chosen)
        super().__init__(folder, (len(chosen), *chosen[0].shape), grid, "HU", items=items)

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        slices = []
        for path in self._files[start:stop]:
            with decoding(path, "DICOM"):
                slices.append(hounsfield(path, read_header(path)).astype(np.float32))
            if slices[-1].shape != self.shape[1:]:
                raise InputError(
                    f"{path}: a slice of shape {slices[-1].shape} in a series of {self.shape[1:]}; export it again"
                )
        return np.stack(slices)


def _grid(folder: Path, slices: Sequence[Header]) -> Grid:
    first = slices[0]
    for header in slices:
        for what in ("position", "orientation", "spacing"):
            if getattr(header, what) is None:
                raise InputError(
                    f"{header.path}: has no {what} (ImagePositionPatient, ImageOrientationPatient, PixelSpacing), so it "
                    'has no place in a volume; open the folder with reader="dicom" for single slices'
                )
        if header.shape != first.shape or not np.allclose(
            [*header.orientation, *header.spacing],  # type: ignore[misc]
            [*first.orientation, *first.spacing],
            atol=1e-4,
        ):  # type: ignore[misc]
            raise InputError(
                f"{header.path}: a slice of shape {header.shape}, orientation {header.orientation} and spacing "
                f"{header.spacing} in a series of {first.shape}, {first.orientation} and {first.spacing}; keep slices "
                "of one kind in a series"
            )
    assert (
        first.orientation is not None and first.spacing is not None and first.position is not None
    )
    row, column = np.array(first.orientation[3:]), np.array(first.orientation[:3])
    if (
        abs(row @ column) > 1e-2
        or not np.allclose([row @ row, column @ column], 1, atol=1e-2)
        or min(first.spacing) <= 0
    ):
        raise InputError(
            f"{first.path}: orientation {first.orientation} and spacing {first.spacing} are no directions and lengths; "
            "export it again"
        )
    if len(slices) == 1:
        step = np.cross(column, row)
    else:
        _check_distances(folder, slices)
        last = slices[-1].position
        assert last is not None
        step = (np.array(last) - np.array(first.position)) / (len(slices) - 1)
    size = float(np.linalg.norm(step))
    vectors = [tuple(float(v) for v in direction) for direction in (step / size, row, column)]
    return Grid((size, *first.spacing), first.position, tuple(vectors))  # type: ignore[arg-type]


def _check_distances(folder: Path, slices: Sequence[Header]) -> None:
    heights = np.array([h.height for h in slices])
    steps = np.diff(heights)
    usual = float(np.median(steps))
    for number, step in enumerate(steps):
        if step <= 1e-3 * max(usual, 1e-6):
            raise InputError(
                f"{folder}: {slices[number].path.name} and {slices[number + 1].path.name} lie in one place "
                f"({heights[number]:g} mm); keep one of them, or one series a folder"
            )
    gaps = np.flatnonzero(steps > _GAP * usual)
    if gaps.size:
        places = [
            f"{heights[g] + usual * (k + 1):g}"
            for g in gaps
            for k in range(max(round(steps[g] / usual) - 1, 1))
        ]
        named = ", ".join(places[:_NAMED]) + (
            f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        )
        raise InputError(
            f"{folder}: slices are missing at {named} mm along the normal (between {slices[gaps[0]].path.name} and "
            f"{slices[gaps[0] + 1].path.name}, {usual:g} mm apart elsewhere); export the series again"
        )
    if np.abs(steps - usual).max() > _UNEVEN * usual:
        worst = int(np.argmax(np.abs(steps - usual)))
        raise InputError(
            f"{folder}: slices are {steps[worst]:g} mm apart at {slices[worst].path.name} and {usual:g} mm elsewhere; "
            'a volume has even distances, open the folder with reader="dicom" for single slices'
        )
