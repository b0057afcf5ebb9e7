"""DICOM: slices of clinical CT in Hounsfield units, or turned into attenuation.

A DICOM series as a volume: slices in order, voxel sizes, orientation, Hounsfield units.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.core.checks import Bounded, decoding, require_file, require_plausible, sniff
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Grid, Volume
from invtoolbox.errors import InputError

#: Linear attenuation of water in 1/mm at 70 keV, about the mean energy of a 120 kV spectrum (NIST XCOM).
WATER_ATTENUATION = 0.0193
_AIR = -1000.0


class Dicom:
    """A data set of DICOM slices: one file, or a folder of them sorted by series and position along its normal.

    `DicomSeries` makes one series of a folder a volume.

    An item's `y` is the slice, ``(1, 1, rows, columns)``, in Hounsfield units: stored value times
    RescaleSlope plus RescaleIntercept. Pixels that the file marks as padding are set to air, -1000 HU. `meta`
    holds ``pixel_size`` (row spacing, column spacing) in mm, or None where the file has none. With
    ``units="1/mm"`` the slice is attenuation instead (`hounsfield_to_attenuation`).

    Raises:
        InputError: for a multi-frame or color image, a file without pixels, or an image that has no rescale.
    """

    def __init__(
        self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None, units: str = "HU"
    ) -> None:
        if geometry is not None:
            raise InputError(
                f"{path}: a DICOM file holds an image, not a sinogram; leave the geometry out"
            )
        if units not in ("HU", "1/mm"):
            raise InputError(f"units is {units!r}; choose 'HU' or '1/mm'")
        self.units = units
        folder = Path(path).expanduser()
        self.files = (
            [s.path for s in headers(folder)] if folder.is_dir() else [require_file(folder)]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Measurement:
        path = self.files[check_index(index, len(self))]
        # pydicom decodes a field when it is asked for, so damage may show at any line of this block.
        with decoding(path, "DICOM"):
            header = read_header(path)
            y = as_tensor(hounsfield(path, header))[None, None]
            spacing = header.get("PixelSpacing")
            meta = {
                "source": str(path),
                "units": self.units,
                "modality": str(header.get("Modality", "")),
                "pixel_size": None if spacing is None else (float(spacing[0]), float(spacing[1])),
                "slice_thickness": _number(header.get("SliceThickness")),
                "kvp": _number(header.get("KVP")),
            }
        return Measurement(y=y if self.units == "HU" else hounsfield_to_attenuation(y), meta=meta)


def hounsfield_to_attenuation(hounsfield: Tensor, water: float = WATER_ATTENUATION) -> Tensor:
    """Linear attenuation in 1/mm, ``water * (1 + HU / 1000)``, and zero below air.

    >>> import torch
    >>> hounsfield_to_attenuation(torch.tensor([-1000.0, 0.0, 1000.0]), water=0.02)
    tensor([0.0000, 0.0200, 0.0400])
    """
    return (water * (1 + hounsfield / 1000)).clamp(min=0)


def attenuation_to_hounsfield(attenuation: Tensor, water: float = WATER_ATTENUATION) -> Tensor:
    """Hounsfield units, ``1000 * (attenuation / water - 1)``, of linear attenuation in 1/mm.

    >>> import torch
    >>> attenuation_to_hounsfield(torch.tensor([0.0, 0.02]), water=0.02)
    tensor([-1000.,     0.])
    """
    return 1000 * (attenuation / water - 1)


def read_header(path: Path, pixels: bool = True) -> Any:
    """The data set of a DICOM file."""
    from pydicom import dcmread

    with Bounded(require_file(path)) as file:
        return dcmread(file, stop_before_pixels=not pixels)


def hounsfield(path: Path, header: Any) -> np.ndarray:
    """The slice of a DICOM file in Hounsfield units."""
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise InputError(
            f"{path}: holds {header.NumberOfFrames} frames; only single slices are read, export "
            "one file a slice"
        )
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise InputError(f"{path}: a color image; only grey slices are read, export it as PNG")
    if "PixelData" not in header:
        raise InputError(
            f"{path}: holds no pixels ({header.get('Modality', 'unknown modality')}); give an image"
        )
    if header.get("RescaleSlope") is None or header.get("RescaleIntercept") is None:
        raise InputError(
            f"{path}: no RescaleSlope and RescaleIntercept, so its values are not in Hounsfield "
            "units; give a CT image"
        )
    _check_size(path, header)
    stored = header.pixel_array
    image = stored.astype(np.float64) * float(header.RescaleSlope) + float(header.RescaleIntercept)
    padding = header.get("PixelPaddingValue")
    if padding is not None:
        limit = header.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((int(padding), int(limit)))
        image[(stored >= low) & (stored <= high)] = _AIR
    return np.asarray(image)


def _check_size(path: Path, header: Any) -> None:
    """Rows, columns and bits must fit the bytes: else one of them is damaged."""
    rows, columns, bits = int(header.Rows), int(header.Columns), int(header.BitsAllocated)
    require_plausible(path, (rows, columns), np.uint32)
    packed = (
        header.file_meta.TransferSyntaxUID.is_compressed
        if "TransferSyntaxUID" in header.file_meta
        else False
    )
    wanted, there = rows * columns * bits // 8, len(header.PixelData)
    if not packed and there not in (wanted, wanted + wanted % 2):
        raise InputError(
            f"{path}: {there:,} bytes of pixels are there where {rows} rows, {columns} columns and {bits} bits need "
            f"{wanted:,}; truncated or damaged, fetch it again"
        )


@dataclass(frozen=True)
class Header:
    """What orders a slice in its series: the series, the place along the normal, and the geometry."""

    path: Path
    series: str
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    number: float

    @property
    def height(self) -> float:
        """The place of the slice along the normal of its plane, in mm; along z where it has no orientation."""
        if self.position is None:
            return 0.0
        if self.orientation is None:
            return self.position[2]
        return float(np.dot(np.cross(self.orientation[:3], self.orientation[3:]), self.position))


def headers(folder: Path) -> list[Header]:
    """The headers of the slices in a folder, by series and then along the normal."""
    files = sorted(
        f for f in folder.iterdir() if f.is_file() and f.name.upper() != "DICOMDIR" and is_slice(f)
    )
    if not files:
        raise InputError(
            f"{folder}: no DICOM files in this folder; give the folder that holds the slices"
        )
    found = []
    for path in files:
        with decoding(path, "DICOM"):
            header = read_header(path, pixels=False)
            position, orientation = (
                header.get("ImagePositionPatient"),
                header.get("ImageOrientationPatient"),
            )
            spacing = header.get("PixelSpacing")
            found.append(
                Header(
                    path,
                    str(header.get("SeriesInstanceUID", "")),
                    (int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
                    _numbers(position, 3),
                    _numbers(orientation, 6),
                    _pair(_numbers(spacing, 2)),
                    float(header.get("InstanceNumber") or 0),
                )
            )
    return sorted(found, key=lambda h: (h.series, h.height, h.number, h.path.name))


def is_slice(path: Path) -> bool:
    """Whether a file says by its suffix or by its first bytes that it is DICOM."""
    return path.suffix.lower() in (".dcm", ".dicom") or sniff(path) == "dicom"


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None or len(values) == 0:
        return None
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(
            f"{numbers} is no position, orientation or spacing; {count} finite numbers are expected"
        )
    return numbers


def _pair(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


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
        ours: list[float] = [*header.orientation, *header.spacing]  # type: ignore[misc]
        theirs: list[float] = [*first.orientation, *first.spacing]  # type: ignore[misc]
        if header.shape != first.shape or not np.allclose(ours, theirs, atol=1e-4):
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
