"""Open files and folders of every format; the content of a file decides which reader reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invtoolbox.catalogue.registry import reader_named
from invtoolbox.catalogue.shelves import read_toml
from invtoolbox.core.checks import decoding, naming_unreadable, require_file, sniff
from invtoolbox.core.trust import trusting
from invtoolbox.datasets.events.opening import EVENT_READERS
from invtoolbox.datasets.measurement import DataSet
from invtoolbox.datasets.models.gaussians import read_splats, read_voxels
from invtoolbox.datasets.models.meshes import read_dmat, read_mesh
from invtoolbox.datasets.mri.acquisitions import groups_of
from invtoolbox.datasets.mri.fastmri import FastMRI, is_fastmri
from invtoolbox.datasets.mri.ismrmrd import Ismrmrd
from invtoolbox.datasets.scans.geometry_file import read_geometry
from invtoolbox.datasets.scans.htc2022 import HTC2022
from invtoolbox.datasets.scans.nikon import XTek
from invtoolbox.datasets.scans.pose_tables import Rtk, ViewTable
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.segy import read_segy
from invtoolbox.datasets.scans.skyscan import SkyScan
from invtoolbox.datasets.scans.synchrotron import DataExchange, NXtomo, entries
from invtoolbox.datasets.scans.zeiss import Txm, Txrm
from invtoolbox.datasets.sweeps.flow_files import read_flow
from invtoolbox.datasets.sweeps.opening import (
    RECORDINGS,
    SWEEP_READERS,
    SWEEP_TYPES,
    reader_of_folder,
    refuse_others,
)
from invtoolbox.datasets.transforms.opening import read_transform
from invtoolbox.datasets.views.opening import VIEW_READERS, reader_of_views
from invtoolbox.datasets.views.photograph_files import refuse_foreign_picture
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.volumes.arrays import Arrays
from invtoolbox.datasets.volumes.dicom import Dicom, DicomSeries, is_slice
from invtoolbox.datasets.volumes.hdf5 import BlurKernels, Hdf5, open_hdf5
from invtoolbox.datasets.volumes.matlab import Matlab, matlab_names
from invtoolbox.datasets.volumes.metaimage import MetaImage
from invtoolbox.datasets.volumes.nifti import Nifti
from invtoolbox.datasets.volumes.pictures import SUFFIXES, Pictures
from invtoolbox.datasets.volumes.raw import Raw, sidecar_of
from invtoolbox.datasets.volumes.tiff import TiffStack, is_stack
from invtoolbox.errors import InputError, match_name
from invtoolbox.geometry.sweeps import Sweep

#: Readers of the toolbox by name: ``READERS[name](path, geometry)`` is a data set. For the names in
#: `SWEEP_READERS` and `VIEW_READERS`, ``READERS[name](path)`` is a sequence of lidar sweeps or a
#: set of pictures with poses. Plug-ins register readers under the entry point
#: ``invtoolbox.readers``.
READERS: dict[str, Callable[..., Any]] = {
    "htc2022": HTC2022,
    "dxchange": DataExchange,
    "dicom": Dicom,
    "pictures": Pictures,
    "arrays": Arrays,
    "matlab": Matlab,
    "blur-kernels": BlurKernels,
    "tiff-stack": TiffStack,
    "nifti": Nifti,
    "dicom-series": DicomSeries,
    "nxtomo": NXtomo,
    "ismrmrd": Ismrmrd,
    "fastmri": FastMRI,
    "hdf5": Hdf5,
    "metaimage": MetaImage,
    "raw": Raw,
    "xtekct": XTek,
    "skyscan": SkyScan,
    "txrm": Txrm,
    "txm": Txm,
    "rtk": Rtk,
    "view-table": ViewTable,
    **SWEEP_READERS,
    **VIEW_READERS,
}

#: Readers of files that are no data sets, by name: ``FILE_READERS[name](path)``.
FILE_READERS: dict[str, Callable[[Path], Any]] = {
    "mesh": read_mesh,
    "splats": read_splats,
    "voxels": read_voxels,
    "flow": read_flow,
    "geometry": read_geometry,
    "dmat": read_dmat,
    "segy": read_segy,
    "toml": read_toml,
    "transform": read_transform,
    **EVENT_READERS,
}

_SIMPLE_ITK = 'sitk.WriteImage(sitk.ReadImage(IN), "volume.mha"), with import SimpleITK as sitk'
#: Calls that convert volumes, which are not read here, by suffix.
_CONVERTERS = {
    **dict.fromkeys((".nrrd", ".nhdr", ".gipl", ".vtk", ".mnc", ".img"), _SIMPLE_ITK),
    ".mgz": 'nibabel.save(nibabel.load(IN), "volume.nii.gz")',
    ".zarr": 'numpy.save("volume.npy", zarr.open(IN)[:])',
}

_READER_OF = {
    "png": "pictures",
    "jpeg": "pictures",
    "bmp": "pictures",
    "tiff": "pictures",
    "webp": "pictures",
    "heif": "pictures",
    "npy": "arrays",
    "npz": "arrays",
    "dicom": "dicom",
    "nifti": "nifti",
    "metaimage": "metaimage",
}
# Readers by suffix, for formats that the first bytes do not show.
_READER_OF_SUFFIX = {
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".nii": "nifti",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".raw": "raw",
    ".xtekct": "xtekct",
    ".log": "skyscan",
    ".txrm": "txrm",
    ".txm": "txm",
    ".xml": "rtk",
    ".csv": "view-table",
}
# Beginning of the files that describe a scan, by suffix; a file of another program has another one.
_SCAN_FILES = {
    ".xtekct": b"[XTekCT]",
    ".log": b"[System]",
    ".txrm": b"\xd0\xcf\x11\xe0",
    ".xml": b"RTKThreeDCircularGeometry",
    ".csv": b"",
}


def open(
    path: str | os.PathLike[str],
    geometry: ScanGeometry | str | os.PathLike[str] | None = None,
    reader: str | None = None,
    trusted: bool = False,
) -> DataSet:
    """Open a file, or a folder of pictures or slices, as a data set.

    Args:
        path: `.mat` of HTC2022 or of plain arrays, DXchange, NXtomo, ISMRMRD, fastMRI or plain HDF5,
            DICOM, NIfTI, MetaImage, PNG, JPEG, TIFF, `.npy` or `.npz`; the first bytes decide. A
            scanner's file, or the folder with it:
            Nikon `.xtekct`, Zeiss `.txrm` and `.txm`, Bruker `.log`, RTK `geometry.xml`, or a
            `.csv` of twelve numbers per picture. Raw values need a TOML file next to
            them. A TIFF with several grey pages, and a folder of numbered TIFF files, are volumes
            with the values that are stored (reader "tiff-stack", or "pictures" for the range 0 to
            1). A folder with a file of cameras is a set of pictures with poses. A recording of a lidar
            is a sequence of sweeps.
        geometry: a `Geometry`, or the path of a geometry file, for arrays without a geometry.
        reader: name of a reader in `READERS` or of a plug-in, in place of the automatic choice.
        trusted: whether the file may name files outside of its folder, and unpack to any size; see
            `trusting`.

    Returns:
        Measurements; or sweeps, if the folder is a lidar sequence or the file describes a simulated
        street (`open_sweeps` also takes settings); or `PosedPictures` (`open_views` also takes
        settings).

    Raises:
        InputError: a missing, empty, truncated or unknown file; the sentence names the file.

    >>> import tempfile, numpy
    >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file:
    ...     numpy.save(file.name, numpy.zeros((3, 4)))
    ...     open(file.name)[0].y.shape
    torch.Size([1, 1, 3, 4])
    """
    with trusting(trusted), naming_unreadable():
        if geometry is not None and not isinstance(geometry, ScanGeometry):
            geometry = read_geometry(geometry)
        if reader is None:
            path = Path(path).expanduser()
            path = (scan_file(path) if path.is_dir() else None) or path
            views = reader_of_views(path) if path.is_dir() else None
            if views is not None:
                reader, path = views
            else:
                reader = _reader_of_folder(path) if path.is_dir() else _reader_of_file(path)
        reader = match_name(reader, READERS) or reader
        if reader in SWEEP_READERS or reader in VIEW_READERS:
            if geometry is not None:
                content = "lidar sweeps" if reader in SWEEP_READERS else "pictures with poses"
                raise InputError(
                    f"{path}: a geometry is that of a scan, and the reader {reader!r} reads "
                    f"{content}; leave it out"
                )
            return READERS[reader](path)
        return reader_named("reader", reader, READERS)(path, geometry)


def open_measurements(
    path: str | os.PathLike[str],
    geometry: ScanGeometry | str | os.PathLike[str] | None = None,
    reader: str | None = None,
    trusted: bool = False,
) -> DataSet:
    """Open measurements of an image, as `open` does.

    Args:
        path: a file or a folder.
        geometry: geometry, or path of a geometry file.
        reader: name of a reader.
        trusted: see `open`.

    Raises:
        InputError: lidar sweeps, pictures with poses, or a fault that `open` reports.
    """
    opened = open(path, geometry, reader, trusted)
    if isinstance(opened, PosedPictures):
        raise InputError(
            f"{path}: these are pictures with poses, and no measurements of one image; "
            "`it.datasets.open_views` reads them for a scene"
        )
    # A plug-in's data set is of sweeps if its first item is one.
    from_plugin = reader is not None and match_name(reader, READERS) is None and len(opened) > 0
    if isinstance(opened, SWEEP_TYPES) or (from_plugin and isinstance(opened[0], Sweep)):
        raise InputError(
            f"{path}: these are lidar sweeps, and no measurements of an image; their motion is "
            "what `it.scene_flow` finds"
        )
    return opened


def _reader_of_file(path: Path) -> str:
    kind = sniff(require_file(path))
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return "street" if "simulated" in read_toml(path) else "raw"
    if kind in ("", "dicom") and sidecar_of(path) is not None:
        return "raw"
    if kind in ("", "tiff"):  # raw pictures of cameras begin as TIFF does
        refuse_foreign_picture(path)
    if kind == "hdf5":
        with decoding(path, "HDF5"), open_hdf5(path) as file:
            if "exchange" in file:
                return "dxchange"
            if groups_of(file):
                return "ismrmrd"
            if is_fastmri(file):
                return "fastmri"
            return "nxtomo" if entries(file) else "hdf5"
    if kind == "tiff":
        return "tiff-stack" if is_stack(path) else "pictures"
    if kind.startswith("mat"):
        names = matlab_names(path)
        if any(name.startswith("CtData") for name in names):
            return "htc2022"
        return "blur-kernels" if kind == "mat7.3" and "kernels" in names else "matlab"
    if kind:
        return _READER_OF[kind]
    # Old DICOM files lack the preamble that shows the format; the other readers report the fault.
    if suffix in _READER_OF_SUFFIX or path.name.lower().endswith(".nii.gz"):
        return _READER_OF_SUFFIX.get(suffix, "nifti")
    if suffix in RECORDINGS:
        return RECORDINGS[suffix]
    refuse_others([path])
    if suffix in (".sgy", ".segy"):
        raise InputError(
            f"{path}: this is a file of seismic records; read it by `it.datasets.read_segy`"
        )
    if suffix in _CONVERTERS:
        raise InputError(
            f"{path}: volumes of the kind {suffix} are not read here; convert it first, for example "
            f"in Python by {_CONVERTERS[suffix].replace('IN', repr(str(path)))}"
        )
    raise InputError(
        f"{path}: the first bytes show no known format; readable are MATLAB .mat, DXchange, "
        "NXtomo, ISMRMRD, fastMRI and plain HDF5, DICOM, NIfTI, MetaImage, PNG, JPEG, BMP, TIFF, "
        "WebP, HEIC, .npy, .npz, the scans .xtekct, .txrm, .log, .xml and .csv, and raw values with "
        "a TOML file next to them"
    )


def scan_file(path: Path) -> Path | None:
    """Return the file of a scanner that a path is, or that its folder holds; None for other paths.

    Args:
        path: path of a file or a folder.

    Raises:
        InputError: a folder with several scans.
    """
    files = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        suffix = file.suffix.lower()
        if suffix in _SCAN_FILES and file.is_file():
            with file.open("rb") as stream:
                head = stream.read(4096)
            is_table = suffix != ".csv" or head.rstrip().rsplit(b"\n")[0].count(b",") == 11
            if is_table and _SCAN_FILES[suffix] in head:
                files.append(file)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise InputError(
            f"{path}: the folder holds several scans ({names}); give one of these files"
        )
    return files[0] if files else None


def _reader_of_folder(path: Path) -> str:
    files = [f for f in path.iterdir() if f.is_file()]
    has_pictures = bool({f.suffix.lower() for f in files} & set(SUFFIXES))
    has_slices = any(is_slice(f) for f in files)
    if has_slices == has_pictures:
        sweeps = None if has_slices else reader_of_folder(path)
        if sweeps is not None:
            return sweeps
        if any(f.name in ("zarr.json", ".zarray", ".zgroup") for f in files):
            raise InputError(
                f"{path}: only `deconvolve` reads a folder of Zarr; convert it first, for example in "
                f"Python by {_CONVERTERS['.zarr'].replace('IN', repr(str(path)))}, where a group takes "
                'the name of an array first, as in zarr.open(...)["0"][:]'
            )
        content = (
            "both DICOM slices and pictures"
            if has_slices
            else "neither DICOM slices, nor pictures, nor lidar sweeps"
        )
        raise InputError(f"{path}: the folder holds {content}; give one file, or reader=")
    if has_slices:
        return "dicom"
    return "tiff-stack" if is_stack(path) else "pictures"
