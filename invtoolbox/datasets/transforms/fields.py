"""Displacement fields as images of vectors: NIfTI (.nii, .nii.gz) and MetaImage (.mha)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.datasets.output import writing
from invtoolbox.datasets.volumes import metaimage, nifti
from invtoolbox.errors import InputError
from invtoolbox.geometry.transforms import DisplacementField

#: Meanings of NIfTI's vectors: ITK turns the first ones to its frame, and takes the second as they are.
_DISPLACEMENT, _VECTOR = 1006, 1007
_OTHERS = {
    2006: "a field of FSL, whose vectors are in a frame of its own; convert it with `wb_command "
    "-convert-warpfield -from-fnirt`",
    2007: "coefficients of FSL; write the field with `fnirtfileutils`, and convert it with "
    "`wb_command -convert-warpfield -from-fnirt`",
    2008: "coefficients of FSL; write the field with `fnirtfileutils`, and convert it with "
    "`wb_command -convert-warpfield -from-fnirt`",
    2009: "coefficients of FSL; write the field with `fnirtfileutils`, and convert it with "
    "`wb_command -convert-warpfield -from-fnirt`",
}


class _VectorNifti(nifti.Nifti):
    """NIfTI file whose components, the fifth axis, are read as frames."""

    most_axes = 5


class _VectorMetaImage(metaimage.MetaImage):
    """MetaImage file whose components are read as neighbouring columns."""

    takes_vectors = True


def read_nifti_field(path: Path) -> DisplacementField:
    """Read a displacement field of NIfTI, as ITK does.

    Raises:
        InputError: no vectors, or a field of another program.
    """
    file = _VectorNifti(path)
    if file.intent in _OTHERS:
        raise InputError(f"it holds {_OTHERS[file.intent]}")
    if file.intent_name == "Mapping":
        raise InputError(
            "it holds a deformation of SPM, positions in place of displacements; subtract the "
            "positions of its voxels, and write it with the intent code 1007"
        )
    if file.intent not in (_DISPLACEMENT, _VECTOR) or file.frames not in (2, 3):
        raise InputError(
            f"it is an image of {file.frames} components with the intent code {file.intent}; a "
            "displacement field has 2 or 3 and the code 1007: give the field, not an image"
        )
    field = np.stack([file.slices(frame=k) for k in range(file.frames)])
    if file.intent == _DISPLACEMENT:
        field[:2] *= -1  # from the frame of NIfTI
    return _field(field, file)


def read_metaimage_field(path: Path) -> DisplacementField:
    """Read a displacement field of MetaImage.

    Raises:
        InputError: no vectors.
    """
    file = _VectorMetaImage(path)
    if file.channels not in (2, 3) or file.frames != 1:
        raise InputError(
            f"it is an image of {file.channels} channels and {file.frames} frames; a displacement "
            "field has one channel per axis: give the field, not an image"
        )
    values = file.slices()
    return _field(np.moveaxis(values.reshape(*values.shape[:2], -1, file.channels), -1, 0), file)


def write_nifti_field(path: Path, transform: DisplacementField, overwrite: bool) -> None:
    """Write a displacement field as ITK does, with the intent of vectors."""
    shape, dtype, array = _array(transform)
    sizes = [*shape[::-1], 1, 1][:3]
    start = nifti.start_of_file([*sizes, 1, len(array)], dtype, transform.grid, intent="vector")
    with writing(path, overwrite) as stream:
        blocks = (np.ascontiguousarray(component).tobytes() for component in array)
        nifti.write_packed(path, stream, itertools.chain([start], blocks))


def write_metaimage_field(path: Path, transform: DisplacementField, overwrite: bool) -> None:
    """Write a displacement field with the components of a voxel next to each other."""
    shape, dtype, array = _array(transform)
    fields = [f"ElementNumberOfChannels = {len(array)}"]
    with writing(path, overwrite) as stream:
        stream.write(metaimage.start_of_file(shape, transform.grid, dtype, None, fields))
        stream.write(np.ascontiguousarray(np.moveaxis(array, 0, -1)).tobytes())


def _array(transform: DisplacementField) -> tuple[tuple[int, ...], np.dtype, np.ndarray]:
    array = transform.displacement.detach().cpu().numpy()
    dtype = array.dtype.newbyteorder("<")
    return array.shape[1:], dtype, array.astype(dtype, copy=False)


def _field(values: np.ndarray, file: Any) -> DisplacementField:
    d = len(values)
    if d == 2 and values.shape[1] != 1:
        raise InputError(f"it has two components on {values.shape[1]} slices; a volume needs three")
    if values.dtype.kind != "f":
        raise InputError(f"its vectors are whole numbers ({values.dtype}); write them as float")
    array = np.array(values[:, 0] if d == 2 else values, dtype=values.dtype.newbyteorder("="))
    return DisplacementField(torch.from_numpy(array), file.grid)
