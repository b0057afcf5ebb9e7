"""Open k-space of a scanner; files of scanners that are not read are named with their converter."""

from __future__ import annotations

import os
from pathlib import Path

from invtoolbox.core.checks import decoding, require_file, sniff
from invtoolbox.datasets.mri.acquisitions import groups_of
from invtoolbox.datasets.mri.fastmri import FastMRI, is_fastmri
from invtoolbox.datasets.mri.ismrmrd import Ismrmrd
from invtoolbox.datasets.mri.kspace import KSpaceData
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError

#: Raw data of scanners by suffix or name, and the converters of the ISMRMRD project.
_CONVERTERS = {
    ".dat": ("Siemens", "siemens_to_ismrmrd"),
    ".7": ("GE", "ge_to_ismrmrd"),
    ".lab": ("Philips", "philips_to_ismrmrd"),
    "fid": ("Bruker", "bruker_to_ismrmrd"),
    "rawdata.job0": ("Bruker", "bruker_to_ismrmrd"),
}


def open_kspace(
    path: str | os.PathLike[str],
    group: str | None = None,
    encoding: int | None = None,
    whiten: bool = True,
) -> KSpaceData:
    """Open an ISMRMRD or fastMRI file as a data set of slices.

    Args:
        path: path of the file.
        group: name of the measurement in an ISMRMRD file; ``dataset``, or the only one, by default.
        encoding: number of the encoding of an ISMRMRD file; the first one by default.
        whiten: whether noise scans make the noise of the coils white.

    Raises:
        InputError: no file with k-space, or a fault that `Ismrmrd` or `FastMRI` reports.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in (".h5", ".hdf5", ".mrd")]
        if len(files) != 1:
            raise InputError(
                f"{path}: the folder holds {len(files)} files .h5, .hdf5 or .mrd; give one file"
            )
        path = files[0]
    if sniff(require_file(path)) != "hdf5":
        vendor, converter = _CONVERTERS.get(
            path.name.lower(), _CONVERTERS.get(path.suffix.lower(), ("", ""))
        )
        if vendor:
            raise InputError(
                f"{path}: raw data of {vendor} are not read; convert them with {converter}, and give "
                "the .h5 file"
            )
        raise InputError(
            f"{path}: no HDF5 file; k-space is read from ISMRMRD and fastMRI files (.h5, .mrd); "
            "an array y of k-space is reconstructed by it.reconstruct(y, it.operators.CartesianMRI(...))"
        )
    with decoding(path, "HDF5"), open_hdf5(path) as file:
        is_ismrmrd, has_array, names = bool(groups_of(file)), is_fastmri(file), list(file)[:8]
    if is_ismrmrd:
        return Ismrmrd(path, None, group, encoding or 0, whiten)
    if not has_array:
        raise InputError(
            f"{path}: an HDF5 file without k-space: neither a group with acquisitions (ISMRMRD) nor a "
            f"complex array kspace (fastMRI); it holds {', '.join(names) or 'nothing'}"
        )
    if group is not None or encoding is not None:
        raise InputError(
            f"{path}: a file of fastMRI has one measurement and one encoding; leave group and encoding "
            "out"
        )
    return FastMRI(path)
