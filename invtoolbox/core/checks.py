"""Checks of the arrays that a kernel takes, and of the files that a reader reads."""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.memory import is_out_of_memory, memory_error
from invtoolbox.core.trust import check_archive, refuse_special, unpacked_budget
from invtoolbox.errors import InputError, MissingDependency, nearest, suggest

_REAL, _COMPLEX = (torch.float32, torch.float64), (torch.complex64, torch.complex128)


def check_input(
    value: Tensor, shape: tuple[int, ...], what: str, axes: str, takes_complex: bool = True
) -> None:
    """Refuse a tensor of another shape than ``(batch, *shape)``, or of an unsuitable data type.

    Args:
        value: tensor to check.
        shape: expected shape without the batch.
        what: beginning of the error message, for example "project takes images".
        axes: names of the axes, separated by commas.
        takes_complex: whether complex numbers are accepted.

    Raises:
        InputError: another shape or data type.
    """
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
        raise InputError(
            f"{what} of shape (batch, {', '.join(map(str, shape))}) = (batch, {axes}), got "
            f"{tuple(value.shape)}"
        )
    if value.dtype not in (*_REAL, *(_COMPLEX if takes_complex else ())):
        kinds = "float32, float64 or complex" if takes_complex else "float32 or float64"
        raise InputError(f"{what} in {kinds}, got {value.dtype}; convert with .float()")


def missing_path(path: str | os.PathLike[str], kind: str = "", names: Iterable[str] = ()) -> str:
    """Return the error message for a path that does not exist, with the nearest names.

    The names are those in the folder in which the first missing part of the path would lie.

    Args:
        path: the path in the user's words.
        kind: what the path could name instead, such as "scene"; empty if it can only be a path.
        names: known names of this kind.

    >>> missing_path("/no-such-folder/scan.npy")
    '/no-such-folder/scan.npy: the folder /no-such-folder does not exist; check the path'
    """
    near = near_paths(path)
    missing = _first_missing(Path(path).expanduser())
    fault = "there is no such file or folder"
    if missing != Path(path).expanduser():
        fault = f"the folder {missing} does not exist"
    remedy = "check the path"
    if kind:
        near += nearest(os.fspath(path).rstrip(os.sep), names, 2, 0.6)
        fault += f", and no {kind} has this name"
        remedy += f", or see `invtoolbox list {kind.replace(' ', '')}s`"
    return f"{os.fspath(path)}: {fault}{suggest(near) if near else f'; {remedy}'}"


def near_paths(path: str | os.PathLike[str]) -> list[str]:
    """Return existing paths whose names are written like the first missing part of a path.

    Args:
        path: a path that does not exist.
    """
    missing = _first_missing(Path(path).expanduser())
    with suppress(OSError):
        names = [entry.name for entry in missing.parent.iterdir() if entry.name[:1] != "."]
        return [str(missing.parent / name) for name in nearest(missing.name, names, 2, 0.6)]
    return []


def _first_missing(path: Path) -> Path:
    return next((p for p in (*reversed(path.parents), path) if not p.exists()), path)


def require_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that exists and is not empty.

    Raises:
        InputError: the path does not exist, is a folder or a special file (a pipe would block), or
            the file is empty or cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(missing_path(path))
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the path of a file in it")
    refuse_special(path)
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise InputError(f"{path}: the file is empty; fetch or write it again")
    except OSError as error:
        raise InputError(
            f"{path}: the file cannot be read ({error.strerror}); check permissions"
        ) from None
    return path


@contextmanager
def naming_unreadable() -> Iterator[None]:
    """Replace the error of a file that another user owns by an `InputError`."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{error.filename}: the file cannot be read ({error.strerror}); check permissions"
        ) from None


@contextmanager
def decoding(path: Path, format_name: str) -> Iterator[None]:
    """Replace exceptions of a decoder by an `InputError` that names the file.

    An `InputError` passes, with the name of the file in front.

    Args:
        path: the file.
        format_name: name of the format, for the message.
    """
    try:
        yield
    except MissingDependency:  # the file may be whole
        raise
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise InputError(f"{path}: {memory_error(error)}") from error
        # On damaged bytes libraries raise many types (zlib.error, struct.error, TypeError, their
        # own subclasses of Exception), and no list of them is complete. The cause stays attached.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path}: truncated or not a readable {format_name} file ({reason}); fetch or "
            "export it again"
        ) from error


@contextmanager
def reading(path: str | os.PathLike[str], format_name: str) -> Iterator[Path]:
    """Check that a file exists (`require_file`), and name it in errors of a decoder (`decoding`).

    Args:
        path: the file.
        format_name: name of the format, for the message.

    Yields:
        the path of the file.
    """
    file = require_file(path)
    with decoding(file, format_name):
        yield file


def require_keys(what: str, keys: Iterable[str], present: Container[str], remedy: str) -> None:
    """Refuse a table, a header or an archive that lacks keys.

    Args:
        what: beginning of the error message, for example "scan.pcd: the header lacks".
        keys: names of the keys.
        present: names that are present.
        remedy: end of the error message.
    """
    missing = [key for key in keys if key not in present]
    if missing:
        raise InputError(f"{what} {', '.join(missing)}; {remedy}")


def require_bytes(
    path: Path, offset: int, shape: Sequence[int], dtype: Any, whole: bool = True
) -> None:
    """Refuse a file that does not hold the uncompressed array that its header declares.

    Args:
        path: the file with the array.
        offset: position of the first byte of the array.
        shape: declared shape; the first axis counts the slices.
        dtype: declared data type.
        whole: whether the array must end the file. Otherwise a header with damaged sizes would give
            a smaller image of the same bytes.

    Raises:
        InputError: with the number of bytes in the file, the expected number, and the slices that
            are missing.
    """
    expected_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if expected_bytes <= 0 or offset < 0:
        raise InputError(
            f"{path}: the header declares an array of shape {tuple(shape)} at byte {offset:,}, "
            "which is none; correct the header"
        )
    present_bytes = max(path.stat().st_size - offset, 0)
    if present_bytes < expected_bytes:
        complete = present_bytes * shape[0] // expected_bytes
        raise InputError(
            f"{path}: truncated, {present_bytes:,} of {expected_bytes:,} bytes are there, so of {shape[0]} slices "
            f"those from {complete} on are missing; fetch or export it again"
        )
    if whole and present_bytes > expected_bytes:
        raise InputError(
            f"{path}: {present_bytes:,} bytes are there, but an array of shape {tuple(shape)} and type "
            f"{np.dtype(dtype)} has {expected_bytes:,}; shape, type or offset are wrong"
        )


def require_plausible(path: Path, shape: Sequence[int], dtype: Any) -> None:
    """Refuse a compressed array that is declared larger than its file can hold.

    It is refused before memory is allocated.

    Args:
        path: the file.
        shape: declared shape.
        dtype: declared data type.
    """
    unpacked_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if unpacked_bytes <= 0 or unpacked_bytes > unpacked_budget(path):
        raise InputError(
            f"{path}: truncated or damaged, an array of shape {tuple(shape)} and type "
            f"{np.dtype(dtype)} is declared in a file of {path.stat().st_size:,} bytes; fetch or "
            "export it again"
        )


def open_arrays(path: str | os.PathLike[str]) -> Any:
    """Open a ``.npz`` archive or a ``.npy`` file as `numpy.load` does, without objects.

    Args:
        path: the file.

    Raises:
        InputError: no such file, a special file, or an archive that unpacks to too many bytes.
    """
    path = require_file(path)
    with path.open("rb") as stream:
        # Also an archive without its end, which `numpy.load` would leave open.
        is_archive = stream.read(2) == b"PK"
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
    return np.load(path, allow_pickle=False)


def map_slices_of_file(
    path: Path, offset: int, shape: Sequence[int], dtype: Any, start: int, stop: int
) -> np.ndarray:
    """Map slices of an uncompressed array in a file into memory; no other bytes are read.

    Args:
        path: the file.
        offset: position of the first byte of the array.
        shape: shape of the whole array; the first axis counts the slices.
        dtype: data type.
        start: number of the first slice.
        stop: number after the last slice.
    """
    slice_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    return np.memmap(
        path,
        dtype=dtype,
        mode="r",
        offset=offset + start * slice_bytes,
        shape=(stop - start, *shape[1:]),
    )


class Bounded(io.BufferedReader):
    """File whose reads are limited to the remaining bytes.

    A damaged header can declare any number of bytes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"MATLAB 7.3": "mat7.3",
    b"MATLAB 5.0": "mat5",
}


#: Brands of pictures (not of videos) that are coded by HEVC.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")
#: Lengths of the header of the versions of BMP.
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def sniff(path: Path) -> str:
    """Return the format that the first bytes of a file show, or "" for an unknown format.

    The formats are "png", "jpeg", "bmp", "tiff", "webp", "heif", "npy", "npz", "hdf5", "mat5", "mat7.3", "dicom",
    "nifti" and "metaimage". Of a file that gzip packed, the format of the content is returned.
    """
    with path.open("rb") as stream:
        head = stream.read(1024)
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 600)
        except zlib.error:
            return ""
        return "nifti" if _is_nifti(head) else ""
    # Before the magic words of other formats: the preamble of a DICOM file may be a TIFF header.
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    # Two letters are little; the number after them is the length of the second header.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "heif"
    if _is_nifti(head):
        return "nifti"
    if head.lstrip().startswith((b"ObjectType", b"NDims")):
        return "metaimage"
    return ""


def _is_nifti(head: bytes) -> bool:
    """Return whether bytes begin a NIfTI file.

    Version 1 has its magic word at the end of 348 bytes, version 2 after the first four bytes.
    """
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")
