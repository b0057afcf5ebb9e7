"""Writer of DICOM series: one image per slice, of CT in Hounsfield units, or of MR."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.output import Written, writing_folder
from invtoolbox.datasets.volumes.dicom import WATER_ATTENUATION
from invtoolbox.datasets.volumes.volume import grid_to_write, slices_of
from invtoolbox.errors import InputError

#: Fields that an image of MR must have: research mode, without variants; the others may be empty.
_MR_FIELDS = {
    "ScanningSequence": "RM",
    "SequenceVariant": "NONE",
    **dict.fromkeys(("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength"), None),
}
_NAME = re.compile(r"slice_\d+\.dcm")


def write_dicom_series(
    folder: str | os.PathLike[str],
    volume: Any,
    water: float = WATER_ATTENUATION,
    overwrite: bool = False,
    modality: str = "CT",
    fields: Mapping[str, Any] | None = None,
) -> Written:
    """Write a volume as a folder of DICOM images of 16 bits: CT in Hounsfield units, or MR.

    Attenuations in 1/mm become ``HU = 1000 (mu - water) / water``; values of MR stay as they are.
    Slope and intercept cover the range of the volume, or are
    those of a `Volume` with a `scale`. Position, orientation and spacing are those of the grid.

    Args:
        folder: path of the new folder.
        volume: tensor, array or `Volume`, ``(slices, rows, columns)``.
        water: attenuation of water in 1/mm.
        overwrite: replace the images in an existing folder.
        modality: "CT" or "MR".
        fields: further fields of every image by their keywords in DICOM, such as ``EchoTime``.

    >>> import tempfile
    >>> from invtoolbox.datasets import DicomSeries
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = write_dicom_series(place + "/ct", np.full((2, 3, 4), 0.0193)).path
    ...     sorted(file.name for file in folder.iterdir())
    ['slice_0000.dcm', 'slice_0001.dcm']
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = write_dicom_series(place + "/mr", np.ones((1, 3, 4)), modality="MR", fields={"EchoTime": 9.5}).path
    ...     DicomSeries(folder)[0].y.unique()
    tensor([1.])
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    check_choice("write_dicom_series", ("CT", "MR"), modality=modality)
    storage = CTImageStorage if modality == "CT" else MRImageStorage
    folder = Path(folder).expanduser()
    _check_folder(folder, overwrite)
    shape, _, pages = slices_of(folder, volume)
    grid = grid_to_write(folder, volume, None)
    if grid.unit != "mm":
        raise InputError(
            f"{folder}: lengths in {grid.unit}; DICOM has millimetres, write another format"
        )
    scale = getattr(volume, "scale", None)
    if scale is None:
        scale = slope, intercept = _scale_of(slices_of(folder, volume)[2])
        pages = (np.clip(np.rint((page - intercept) / slope), 0, 65535) for page in pages)
    # A decimal string of DICOM has at most 16 characters.
    factor, zero = (1000 / water, 1000.0) if modality == "CT" else (1.0, 0.0)
    words = {"RescaleSlope": scale[0] * factor, "RescaleIntercept": scale[1] * factor - zero}
    along, rows, columns = (np.array(direction) for direction in grid.directions)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    digits = max(4, len(str(shape[0] - 1)))
    with writing_folder(folder) as hidden:
        for number, page in enumerate(pages):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = storage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
            place = np.array(grid.origin) + number * grid.voxel_size[0] * along
            content: dict[str, Any] = {
                "SOPClassUID": storage,
                "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
                "StudyInstanceUID": study,
                "SeriesInstanceUID": series,
                "FrameOfReferenceUID": frame,
                "Modality": modality,
                "PatientName": "",
                "PatientID": "",
                "ImageType": ["DERIVED", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"],
                "InstanceNumber": number + 1,
                "ImagePositionPatient": [_decimal(x) for x in place],
                "ImageOrientationPatient": [_decimal(x) for x in (*columns, *rows)],
                "PixelSpacing": [_decimal(x) for x in grid.voxel_size[1:]],
                "SliceThickness": _decimal(grid.voxel_size[0]),
                "Rows": shape[1],
                "Columns": shape[2],
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 0,
                "RescaleType": "HU" if modality == "CT" else "US",
                **{name: _decimal(x) for name, x in words.items()},
                **(_MR_FIELDS if modality == "MR" else {}),
                **{
                    name: _decimal(value) if isinstance(value, float) else value
                    for name, value in (fields or {}).items()
                },
                "PixelData": np.ascontiguousarray(page, "<u2").tobytes(),
            }
            for name, value in content.items():
                setattr(image, name, value)
            image.save_as(hidden / f"slice_{number:0{digits}}.dcm", enforce_file_format=True)
    return Written(folder)


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be made, or that holds other files than a series."""
    if not folder.parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.parent} does not exist; make it first")
    if folder.exists() and not (folder.is_dir() and overwrite):
        raise InputError(f"{folder}: it exists already; choose another, or pass overwrite=True")
    if folder.exists() and any(not _NAME.fullmatch(file.name) for file in folder.iterdir()):
        raise InputError(f"{folder}: the folder holds other files; choose another")


def _scale_of(pages: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the slope and the intercept by which 16 bits cover the range of some slices."""
    limits = [(float(page.min()), float(page.max())) for page in pages]
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    return (high - low) / 65535 or 1e-9, low


def _decimal(number: Any) -> str:
    return f"{float(number) + 0.0:.9g}"
