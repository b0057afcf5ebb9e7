"""DICOM: slices of clinical CT in Hounsfield units, or turned into attenuation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.datasets.files import Bounded, decoding, require_file, require_plausible, sniff
from invtoolbox.datasets.measurement import Measurement, as_tensor, checked_index
from invtoolbox.datasets.scan_geometry import ScanGeometry
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
        InputError: for a multi-frame or colour image, a file without pixels, or an image that has no rescale.
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
        path = self.files[checked_index(index, len(self))]
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
        raise InputError(f"{path}: a colour image; only grey slices are read, export it as PNG")
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
