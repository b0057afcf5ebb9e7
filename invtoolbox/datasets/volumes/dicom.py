"""Readers of DICOM: clinical CT in Hounsfield units or as attenuation, MR and others as stored.

`Dicom` reads single slices and the frames of multi-frame files. `DicomSeries` reads a series as a
volume, with slices in order, voxel sizes and orientation. The two conversions between Hounsfield
units and attenuation belong to them.
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
from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Volume, join_first
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid

#: Fields of pixels: float, double, and whole numbers.
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
#: Linear attenuation of water in 1/mm at 70 keV, about the mean energy of a 120 kV spectrum (NIST
#: XCOM).
WATER_ATTENUATION = 0.0193
_AIR = -1000.0
# A slice is missing between two slices whose distance exceeds the median by this factor.
_GAP = 1.5
# Largest relative deviation of a distance from the median in a regular grid.
_UNEVEN = 0.05


class Dicom:
    """Data set of DICOM slices: one file, or all files of a folder.

    The files of a folder are sorted by series and by position along the normal of the slices.
    `DicomSeries` reads one series of a folder as a volume instead. Every frame of a multi-frame
    file is an item, in the order of the file.

    An item's `y` is the slice, ``(1, 1, rows, columns)``: stored value times RescaleSlope plus
    RescaleIntercept, if the file has them. Of CT these are Hounsfield units; of MR and other
    modalities ``meta["units"]`` is "as stored". Pixels that the file marks as padding are set to
    air, -1000 HU, or to 0. `meta` holds ``pixel_size`` (row spacing, column spacing) in mm, or None
    if the file does not contain it.

    Args:
        path: path of a file or a folder.
        geometry: must be None, because DICOM files hold images.
        units: "HU" for Hounsfield units, "1/mm" for attenuation (`hounsfield_to_attenuation`).

    Raises:
        InputError: for a color image, a file without pixels, a CT image without RescaleSlope and
            RescaleIntercept, or an attenuation of another modality.
    """

    def __init__(
        self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None, units: str = "HU"
    ) -> None:
        if geometry is not None:
            raise InputError(
                f"{path}: a DICOM file holds an image, not a sinogram, so no geometry belongs to it; "
                "`invtoolbox run ct-dicom` simulates a scan of such an image"
            )
        check_choice(self, ("HU", "1/mm"), units=units)
        self.units = units
        folder = Path(path).expanduser()
        if folder.is_dir():
            headers = read_headers(folder)
        else:
            with decoding(require_file(folder), "DICOM"):
                headers = [_header(folder)]
        self.files = [header.path for header in headers for _ in range(header.frames)]
        self.frames = [frame for header in headers for frame in range(header.frames)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Measurement:
        index = check_index(index, len(self))
        path, frame = self.files[index], self.frames[index]
        # pydicom decodes a field at its first access, so any line of this block may find damage.
        with decoding(path, "DICOM"):
            header = read_header(path)
            y = as_tensor(read_slice(path, header, frame))[None, None]
            measures = ("PixelMeasuresSequence", "PixelSpacing")
            spacing = _numbers(_field_of(header, frame, *measures), 2)
            thickness = _field_of(header, frame, measures[0], "SliceThickness")
            is_ct = _is_ct(header)
            if not is_ct and self.units == "1/mm":
                raise InputError(
                    f"{path}: an image of {_modality(header)} has no attenuation; leave units out"
                )
            meta = {
                "source": str(path),
                "units": self.units if is_ct else "as stored",
                "modality": _modality(header),
                "pixel_size": None if spacing is None else (spacing[0], spacing[1]),
                "slice_thickness": _number(thickness),
                "kvp": _number(header.get("KVP")),
            }
        return Measurement(y=y if self.units == "HU" else hounsfield_to_attenuation(y), meta=meta)


def hounsfield_to_attenuation(hounsfield: Tensor, water: float = WATER_ATTENUATION) -> Tensor:
    """Convert Hounsfield units to linear attenuation in 1/mm, ``water * (1 + HU / 1000)``.

    Values below air become zero. `processing.to_hounsfield` is the inverse for all others.

    Args:
        hounsfield: values in HU, of any shape.
        water: linear attenuation of water in 1/mm.

    >>> import torch
    >>> hounsfield_to_attenuation(torch.tensor([-1000.0, 0.0, 1000.0]), water=0.02)
    tensor([0.0000, 0.0200, 0.0400])
    """
    return (water * (1 + hounsfield / 1000)).clamp(min=0)


class DicomSeries(Volume):
    """Data set of the slices of one DICOM series in a folder, in Hounsfield units if it is CT.

    A file is read when its item is accessed. ImagePositionPatient orders the slices along the
    normal of their planes; the names of the files do not matter. `grid` is computed from
    PixelSpacing, ImageOrientationPatient and the distances between the positions (SliceThickness is
    not used, because slices may overlap). Slices that are shifted against each other (a tilted
    gantry) give a slanted grid.

    Args:
        path: path of the folder.
        geometry: must be None, because DICOM files hold images.
        items: "slices" or "volume".
        series: SeriesInstanceUID, for a folder that holds several series.

    Raises:
        InputError: for several series (it lists them), missing slices (it gives their positions),
            two slices at one position, uneven distances, different shapes or orientations, and a
            missing position or pixel spacing.
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
                f"{folder}: a DICOM series holds images, not sinograms, so no geometry belongs to it"
            )
        if not folder.is_dir():
            raise InputError(
                f"{folder}: there is no such folder; a DICOM series is a folder of slices"
            )
        headers = read_headers(folder)
        present = list(dict.fromkeys(h.series for h in headers))
        if series is None and len(present) > 1:
            raise InputError(
                f"{folder}: holds {len(present)} series; choose one with series= from "
                f"{join_first(present)}"
            )
        headers = [h for h in headers if series is None or h.series == series]
        if not headers:
            raise InputError(f"{folder}: no series {series}; choose from {join_first(present)}")
        if several := [h.path for h in headers if h.frames > 1]:
            raise InputError(f"{several[0]}: a file of several slices; open it by itself")
        self._files = [h.path for h in headers]
        grid, units = _grid(folder, headers), "HU" if headers[0].is_ct else "as stored"
        super().__init__(folder, (len(headers), *headers[0].shape), grid, units, items=items)

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        slices = []
        for path in self._files[start:stop]:
            with decoding(path, "DICOM"):
                slices.append(read_slice(path, read_header(path)).astype(np.float32))
            if slices[-1].shape != self.shape[1:]:
                raise InputError(
                    f"{path}: a slice of shape {slices[-1].shape} in a series of {self.shape[1:]}; "
                    "export it again"
                )
        return np.stack(slices)


def read_header(path: Path, pixels: bool = True) -> Any:
    """Read the fields of a DICOM file, with or without its pixels."""
    from pydicom.filereader import read_partial
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with Bounded(require_file(path)) as file:
        # Older files begin with the first field of group 2 or 8, without a preamble.
        start = file.read(4)
        file.seek(0)
        is_old = start[:2] in (b"\x02\0", b"\x08\0") and start[3:] == b"\0"
        # Zeros behind the fields are no fields, and a sparse file has gigabytes of them.
        header = read_partial(
            file, lambda tag, *_: not tag or (tag in _PIXELS and not pixels), force=is_old
        )
    if is_old and "TransferSyntaxUID" not in header.file_meta:
        is_implicit = header.original_encoding[0]
        syntax = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        header.file_meta.TransferSyntaxUID = syntax
    return header


def _is_ct(header: Any) -> bool:
    """Return whether the values of an image are Hounsfield units."""
    return _modality(header) in ("CT", "")


def _modality(header: Any) -> str:
    """Return the modality of an image, a code of at most 16 letters."""
    return "".join(filter(str.isalnum, str(header.get("Modality", ""))))[:16]


def _field_of(header: Any, frame: int, sequence: str, name: str) -> Any:
    """Return a field of a frame: from the frame, from all frames of the file, or from the file."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or ()
    per_frame = groups[frame : frame + 1]
    for group in (*per_frame, *(header.get("SharedFunctionalGroupsSequence") or ())):
        for table in group.get(sequence) or ():
            if table.get(name) is not None:
                return table.get(name)
    return header.get(name)


def read_slice(path: Path, header: Any, frame: int = 0) -> np.ndarray:
    """Read a slice of a DICOM file, in Hounsfield units if it is CT.

    Args:
        path: the file.
        header: its fields, from `read_header`.
        frame: number of the slice in a multi-frame file.
    """
    from pydicom.pixels.utils import pixel_array

    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise InputError(f"{path}: a color image; only grey slices are read, export it as PNG")
    if "PixelData" not in header:
        raise InputError(
            f"{path}: holds no pixels ({_modality(header) or 'unknown modality'}); give an image"
        )
    scale = [
        _field_of(header, frame, "PixelValueTransformationSequence", f"Rescale{name}")
        for name in ("Slope", "Intercept")
    ]
    if None in scale:
        if _is_ct(header):
            raise InputError(
                f"{path}: no RescaleSlope and RescaleIntercept, so its values are not in Hounsfield "
                "units; give a CT image"
            )
        scale = [1, 0]
    _check_size(path, header)
    stored = pixel_array(header, index=frame)
    image = stored.astype(np.float64) * float(scale[0]) + float(scale[1])
    padding = header.get("PixelPaddingValue")
    if padding is not None:
        limit = header.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((int(padding), int(limit)))
        image[(stored >= low) & (stored <= high)] = _AIR if _is_ct(header) else 0.0
    return np.asarray(image)


@dataclass(frozen=True)
class Header:
    """The fields of a slice that determine its place in a series, and its geometry."""

    path: Path
    series: str
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    number: float
    frames: int
    is_ct: bool

    @property
    def height(self) -> float:
        """Position of the slice along the normal of its plane, in mm; along z without orientation.

        A slice without a position has height 0.
        """
        if self.position is None:
            return 0.0
        if self.orientation is None:
            return self.position[2]
        return float(np.dot(np.cross(self.orientation[:3], self.orientation[3:]), self.position))


def read_headers(folder: Path) -> list[Header]:
    """Read the headers of the slices in a folder, sorted by series and then along the normal."""
    files = sorted(
        f for f in folder.iterdir() if f.is_file() and f.name.upper() != "DICOMDIR" and is_slice(f)
    )
    if not files:
        raise InputError(
            f"{folder}: no DICOM files in this folder; give the folder that holds the slices"
        )
    headers = []
    for path in files:
        with decoding(path, "DICOM"):
            headers.append(_header(path))
    return sorted(headers, key=lambda h: (h.series, h.height, h.number, h.path.name))


def _header(path: Path) -> Header:
    """Read the header of a file; a multi-frame file lies at the place of its first frame."""
    fields = read_header(path, pixels=False)
    spacing = _numbers(_field_of(fields, 0, "PixelMeasuresSequence", "PixelSpacing"), 2)
    frames = int(fields.get("NumberOfFrames") or 1)
    # A damaged number is bounded by the bytes, of which a frame has one at least.
    if not 0 < frames <= path.stat().st_size:
        raise InputError(f"{path}: declares {frames} frames; truncated or damaged, fetch it again")
    position = _field_of(fields, 0, "PlanePositionSequence", "ImagePositionPatient")
    orientation = _field_of(fields, 0, "PlaneOrientationSequence", "ImageOrientationPatient")
    return Header(
        path,
        series=str(fields.get("SeriesInstanceUID", "")),
        shape=(int(fields.get("Rows") or 0), int(fields.get("Columns") or 0)),
        position=_numbers(position, 3),
        orientation=_numbers(orientation, 6),
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        number=float(fields.get("InstanceNumber") or 0),
        frames=frames,
        is_ct=_is_ct(fields),
    )


def is_slice(path: Path) -> bool:
    """Return whether a file has the suffix or the first bytes of DICOM."""
    return path.suffix.lower() in (".dcm", ".dicom") or sniff(path) == "dicom"


def _check_size(path: Path, header: Any) -> None:
    """Raise an error unless rows, columns and bits fit the bytes; otherwise one is damaged."""
    rows, columns, bits = int(header.Rows), int(header.Columns), int(header.BitsAllocated)
    frames = int(header.get("NumberOfFrames") or 1)
    require_plausible(path, (frames, rows, columns), np.uint8)
    syntax = header.file_meta.get("TransferSyntaxUID")
    packed = syntax is not None and syntax.is_compressed
    expected, stored = frames * rows * columns * bits // 8, len(header.PixelData)
    if not packed and stored not in (expected, expected + expected % 2):
        raise InputError(
            f"{path}: its pixels have {stored:,} bytes, but {frames} frames of {rows} rows, "
            f"{columns} columns and {bits} bits need {expected:,}; truncated or damaged, fetch it again"
        )


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None or len(values) == 0:
        return None
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(
            f"{numbers} is not a position, orientation or spacing; {count} finite numbers are "
            "expected"
        )
    return numbers


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _grid(folder: Path, slices: Sequence[Header]) -> Grid:
    first = slices[0]
    for header in slices:
        for field in ("position", "orientation", "spacing"):
            if getattr(header, field) is None:
                raise InputError(
                    f"{header.path}: has no {field} (ImagePositionPatient, ImageOrientationPatient, "
                    "PixelSpacing), so it has no place in a volume; open the folder with "
                    'reader="dicom" for single slices'
                )
        ours: list[float] = [*header.orientation, *header.spacing]  # type: ignore[misc]
        theirs: list[float] = [*first.orientation, *first.spacing]  # type: ignore[misc]
        if header.shape != first.shape or not np.allclose(ours, theirs, atol=1e-4):
            raise InputError(
                f"{header.path}: a slice of shape {header.shape}, orientation {header.orientation} "
                f"and spacing {header.spacing} in a series of {first.shape}, {first.orientation} "
                f"and {first.spacing}; keep slices of one kind in a series"
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
            f"{first.path}: orientation {first.orientation} and spacing {first.spacing} are not "
            "directions and lengths; export it again"
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
    median = float(np.median(steps))
    for number, step in enumerate(steps):
        if step <= 1e-3 * max(median, 1e-6):
            raise InputError(
                f"{folder}: {slices[number].path.name} and {slices[number + 1].path.name} lie in "
                f"one place ({heights[number]:g} mm); keep one of them, or one series per folder"
            )
    gaps = np.flatnonzero(steps > _GAP * median)
    if gaps.size:
        places = [
            f"{heights[g] + median * (k + 1):g}"
            for g in gaps
            for k in range(max(round(steps[g] / median) - 1, 1))
        ]
        before, after = (slices[gaps[0] + k].path.name for k in (0, 1))
        raise InputError(
            f"{folder}: slices are missing at {join_first(places)} mm along the normal (between "
            f"{before} and {after}, {median:g} mm apart elsewhere); export the series again"
        )
    if np.abs(steps - median).max() > _UNEVEN * median:
        worst = int(np.argmax(np.abs(steps - median)))
        raise InputError(
            f"{folder}: slices are {steps[worst]:g} mm apart at {slices[worst].path.name} and "
            f"{median:g} mm elsewhere, but a volume has even distances; open the folder with "
            'reader="dicom" for single slices'
        )
