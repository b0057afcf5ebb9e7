"""Read and write transforms; the content of a file decides which reader reads it."""

from __future__ import annotations

import os
from pathlib import Path

from invtoolbox.core.checks import decoding, require_file, sniff
from invtoolbox.datasets.output import Written, write_bytes
from invtoolbox.datasets.transforms.fields import (
    read_metaimage_field,
    read_nifti_field,
    write_metaimage_field,
    write_nifti_field,
)
from invtoolbox.datasets.transforms.itk_files import FILES
from invtoolbox.datasets.transforms.itk_parameters import from_records, to_records
from invtoolbox.datasets.volumes.nifti import check_available
from invtoolbox.errors import InputError
from invtoolbox.geometry.transforms import Affine, Composite, DisplacementField, Transform

#: Kinds of files that are written, by suffix.
WRITTEN = {
    ".tfm": "text",
    ".txt": "text",
    ".mat": "matlab",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".mha": "metaimage",
}
#: Beginnings of files of other programs, and how to convert them.
_FOREIGN = {
    b"(Transform ": 'a file of elastix; set (WriteITKCompositeTransform "true") in its parameters '
    "and give the .h5 or .tfm that it then writes",
    b"MNI Transform File": "a transform of MINC; convert it with `itk_convert_xfm`",
    b"type ": "a transform of FreeSurfer; convert it with `lta_convert --outitk`",
    b"# transform file": "a transform of FreeSurfer; convert it with `lta_convert --outitk`",
    b"NRRD": "an image of NRRD; save it as .nii.gz or .mha",
}


def read_transform(path: str | os.PathLike[str]) -> Transform:
    """Read a transform from the fixed image's space to the moving one's.

    Args:
        path: text of ITK (.tfm, .txt), ANTs' `0GenericAffine.mat`, a displacement field (.nii,
            .nii.gz, .mha, .mhd) or HDF5 of ITK (.h5). The content decides, not the suffix.

    Returns:
        an `Affine`, a `DisplacementField`, or a `Composite` of them.

    Raises:
        InputError: no such file, another or a damaged file, or a kind of transform that is not read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_transform(folder + "/a.tfm", Affine([[1, 0, 5], [0, 1, 0], [0, 0, 1]]))
    ...     read_transform(folder + "/a.tfm").matrix[0]
    tensor([1., 0., 5.], dtype=torch.float64)
    """
    path = require_file(path)
    kind = sniff(path)
    if kind in ("mat5", "mat7.3"):
        raise InputError(f"{path}: a MATLAB file of version 5 or later; ITK writes version 4")
    with decoding(path, "transform"):
        if kind == "nifti":
            return read_nifti_field(path)
        if kind == "metaimage":
            return read_metaimage_field(path)
        if kind == "hdf5":
            return from_records(FILES["hdf5"][0](path))
        with path.open("rb") as stream:
            head = stream.read(256)
        if head.startswith(b"#Insight Transform File"):
            return from_records(FILES["text"][0](path))
        foreign = next((s for word, s in _FOREIGN.items() if head.lstrip().startswith(word)), "")
        if foreign or kind:
            raise InputError(f"{path}: {foreign or f'a file of the format {kind}, no transform'}")
        if path.suffix.lower() != ".mat" or head[:1].strip().isdigit():
            raise InputError(
                f"{path}: no transform of ITK; a matrix as text (FSL's flirt, for example) is "
                "converted with `c3d_affine_tool`, -fsl2ras -oitk"
            )
        return from_records(FILES["matlab"][0](path))


def write_transform(
    path: str | os.PathLike[str], transform: Transform, overwrite: bool = False
) -> Written:
    """Write a transform as ITK does, so that SimpleITK, 3D Slicer and ANTs read it.

    Args:
        path: the file. An affine map is written as `.tfm`, `.txt`, `.mat` or `.h5`; a displacement
            field as `.nii.gz`, `.nii`, `.mha` or `.h5`; a composite as `.h5`, or, of affine maps
            alone, as their product in `.tfm`, `.txt` and `.mat`.
        transform: the transform.
        overwrite: replace an existing file.

    Raises:
        InputError: a suffix of no format, a transform that the format does not hold, or a file that
            exists.
    """
    path = Path(path).expanduser()
    kind = WRITTEN[check_suffix(path)]
    steps = transform.steps if isinstance(transform, Composite) else [transform]
    if kind in ("nifti", "metaimage"):
        if not isinstance(transform, DisplacementField):
            raise InputError(
                f"{path}: a field is written on a grid, which {type(transform).__name__} lacks; "
                "write it as .h5, or sample it with DisplacementField.sample"
            )
        write = write_nifti_field if kind == "nifti" else write_metaimage_field
        write(path, transform, overwrite)
        return Written(path)
    if kind != "hdf5":
        matrix = Affine.identity(transform.dimensions).matrix
        for step in steps:
            if not isinstance(step, Affine):
                raise InputError(
                    f"{path}: it holds affine maps only, and not a {type(step).__name__}; use .h5, "
                    "or .nii.gz or .mha for a displacement field"
                )
            matrix = step.matrix.cpu() @ matrix
        transform = Affine(matrix)
    return Written(write_bytes(path, FILES[kind][1](to_records(transform)), overwrite))


def check_suffix(path: Path) -> str:
    """Return the suffix of a file to which a transform is to be written, before it is computed.

    Raises:
        InputError: a suffix of no format.
        MissingDependency: a NIfTI file without nibabel.
    """
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    if suffix not in WRITTEN:
        raise InputError(
            f"{path}: no format of transforms for the suffix {suffix!r}; use {', '.join(WRITTEN)}"
        )
    if WRITTEN[suffix] == "nifti":
        check_available()
    return suffix
