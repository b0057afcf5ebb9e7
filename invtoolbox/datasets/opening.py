"""One call for every format: what a file holds decides which reader reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from invtoolbox.datasets.arrays import Arrays
from invtoolbox.datasets.blur_kernels import BlurKernels
from invtoolbox.datasets.dicom import Dicom
from invtoolbox.datasets.dxchange import DataExchange
from invtoolbox.datasets.files import require_file, sniff
from invtoolbox.datasets.geometry import Geometry, read_geometry
from invtoolbox.datasets.htc2022 import HTC2022
from invtoolbox.datasets.measurement import DataSet
from invtoolbox.datasets.pictures import SUFFIXES, Pictures
from invtoolbox.errors import InputError, unknown_name

#: Our readers by name: ``READERS[name](path, geometry)`` is a data set. Plug-ins register theirs under the
# entry point
#: ``invtoolbox.readers``.
READERS: dict[str, Callable[..., DataSet]] = {
    "htc2022": HTC2022,
    "dxchange": DataExchange,
    "dicom": Dicom,
    "pictures": Pictures,
    "arrays": Arrays,
    "blur-kernels": BlurKernels,
}

_READER_OF = {"png": "pictures", "jpeg": "pictures", "tiff": "pictures", "npy": "arrays", "npz": "arrays",
              "mat5": "htc2022", "mat7.3": "blur-kernels", "hdf5": "dxchange", "dicom": "dicom"}


def open(path: str | os.PathLike[str], geometry: Geometry | str | os.PathLike[str] | None = None,
         reader: str | None = None) -> DataSet:
    """Open a file, or a folder of pictures or DICOM slices, as a data set.

    Args:
        path: HTC2022 `.mat`, DXchange HDF5, DICOM, PNG, JPEG, TIFF, `.npy` or `.npz`; the first bytes decide.
        geometry: a `Geometry`, or the path of a geometry file, for arrays that come without one.
        reader: the name of a reader in `READERS` or of a plug-in, to decide by hand.

    Raises:
        InputError: for a missing, empty, truncated or unknown file, in one sentence that names it.

    >>> import tempfile, numpy
    >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file:
    ...     numpy.save(file.name, numpy.zeros((3, 4)))
    ...     open(file.name)[0].y.shape
    torch.Size([1, 1, 3, 4])
    """
    if geometry is not None and not isinstance(geometry, Geometry):
        geometry = read_geometry(geometry)
    if reader is None:
        path = Path(path).expanduser()
        reader = _reader_of_folder(path) if path.is_dir() else _reader_of_file(path)
    return _named(reader)(path, geometry)


def _named(reader: str) -> Callable[..., DataSet]:
    """A reader of ours, or one that a plug-in registered; a plug-in may not take a name of ours."""
    if reader in READERS:
        return READERS[reader]
    plugins = {point.name: point for point in entry_points(group="invtoolbox.readers")}
    if reader not in plugins:
        raise unknown_name("reader", reader, [*READERS, *plugins])
    found: Callable[..., DataSet] = plugins[reader].load()
    return found


def _reader_of_file(path: Path) -> str:
    kind = sniff(require_file(path))
    if kind:
        return _READER_OF[kind]
    # Old DICOM files lack the preamble that shows the format.
    if path.suffix.lower() in (".dcm", ".dicom"):
        return "dicom"
    raise InputError(f"{path}: the first bytes show no known format; readable are HTC2022 .mat, DXchange "
                     "HDF5, DICOM, PNG, JPEG, TIFF, .npy and .npz")


def _reader_of_folder(path: Path) -> str:
    suffixes = {f.suffix.lower() for f in path.iterdir()}
    has_slices, has_pictures = ".dcm" in suffixes, bool(suffixes & set(SUFFIXES))
    if has_slices == has_pictures:
        found = "both DICOM slices and pictures" if has_slices else "neither DICOM slices nor pictures"
        raise InputError(f"{path}: the folder holds {found}; give one file, or say reader=")
    return "dicom" if has_slices else "pictures"
