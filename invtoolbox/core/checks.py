"""What a batch of images, sinograms or volumes has to look like for a kernel to take it.

What every reader does first: is the file there, and what does it hold?
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError

_REAL, _COMPLEX = (torch.float32, torch.float64), (torch.complex64, torch.complex128)


def check_input(
    value: Tensor, shape: tuple[int, ...], what: str, axes: str, takes_complex: bool = True
) -> None:
    """Raise an `InputError` for another shape than ``(batch, *shape)``, or another kind of number.

    Args:
        what: who takes what, the beginning of the sentence.
        axes: the names of the axes, with commas.
    """
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
        raise InputError(
            f"{what} of shape (batch, {', '.join(map(str, shape))}) = (batch, {axes}), got {tuple(value.shape)}"
        )
    if value.dtype not in (*_REAL, *(_COMPLEX if takes_complex else ())):
        kinds = "float32, float64 or complex" if takes_complex else "float32 or float64"
        raise InputError(f"{what} in {kinds}, got {value.dtype}; convert with .float()")


# DEFLATE packs at most 1,032 bytes into one, and the other compressions in use little more where the data are not constant.
_LARGEST_RATIO = 1100
# What is smaller is read whatever the file's length: constant slices pack better than any ratio.
_ALWAYS_PLAUSIBLE = 2**26


def require_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that exists and is not empty, else an `InputError` that says which it is."""
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path}: there is no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the path of a file in it")
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
def decoding(path: Path, format_name: str) -> Iterator[None]:
    """Turn what a decoder raises on a damaged file into one sentence that names the file.

    An `InputError` passes, with the name of the file before it.
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        # On damaged bytes each library raises what happened to go wrong (zlib.error, struct.error, TypeError, its own
        # subclasses of Exception): a list of them is never complete. The cause stays attached.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path}: truncated or not a readable {format_name} file ({reason}); fetch or "
            "export it again"
        ) from error


def require_bytes(
    path: Path, offset: int, shape: Sequence[int], dtype: Any, whole: bool = True
) -> None:
    """Refuse a file that does not hold the uncompressed array its header declares.

    Args:
        path: the file that holds the array.
        offset: where the array begins.
        shape, dtype: what the header declares; the first axis counts the slices.
        whole: nothing may follow the array. A header whose sizes were damaged would otherwise give a smaller
            image of the same bytes.

    Raises:
        InputError: with the number of bytes that are there and that are wanted, and the slices that are missing.
    """
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if wanted <= 0 or offset < 0:
        raise InputError(
            f"{path}: the header declares an array of shape {tuple(shape)} at byte {offset:,}, which is none; "
            "correct the header"
        )
    there = max(path.stat().st_size - offset, 0)
    if there < wanted:
        complete = there * shape[0] // wanted
        raise InputError(
            f"{path}: truncated, {there:,} of {wanted:,} bytes are there, so of {shape[0]} slices those from "
            f"{complete} on are missing; fetch or export it again"
        )
    if whole and there > wanted:
        raise InputError(
            f"{path}: {there:,} bytes are there, but an array of shape {tuple(shape)} and type "
            f"{np.dtype(dtype)} has {wanted:,}; shape, type or offset are wrong"
        )


def require_plausible(path: Path, shape: Sequence[int], dtype: Any) -> None:
    """Refuse a compressed array that is declared larger than its file can hold, before memory is asked for it."""
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if wanted <= 0 or wanted > max(_ALWAYS_PLAUSIBLE, _LARGEST_RATIO * path.stat().st_size):
        raise InputError(
            f"{path}: truncated or damaged, an array of shape {tuple(shape)} and type {np.dtype(dtype)} is declared "
            f"in a file of {path.stat().st_size:,} bytes; fetch or export it again"
        )


def map_slices_of_file(
    path: Path, offset: int, shape: Sequence[int], dtype: Any, start: int, stop: int
) -> np.ndarray:
    """Slices ``start`` to ``stop`` of an uncompressed array in a file, mapped into memory: nothing else is read."""
    one = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    return np.memmap(
        path, dtype=dtype, mode="r", offset=offset + start * one, shape=(stop - start, *shape[1:])
    )


class Bounded(io.BufferedReader):
    """A file whose reads never ask for more than is left: decoders ask for as many bytes as a damaged header says."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def sniff(path: Path) -> str:
    """The format that the first bytes of a file show, or "" where they show none that is known.

    One of "png", "jpeg", "tiff", "npy", "npz", "hdf5", "mat5", "mat7.3", "dicom", "nifti", "metaimage". A file that gzip
    packed shows what is in it.
    """
    with path.open("rb") as stream:
        head = stream.read(1024)
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 600)
        except zlib.error:
            return ""
        return "nifti" if _is_nifti(head) else ""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"MATLAB 7.3"):
        return "mat7.3"
    if head.startswith(b"MATLAB 5.0"):
        return "mat5"
    if _is_nifti(head):
        return "nifti"
    if head.lstrip().startswith((b"ObjectType", b"NDims")):
        return "metaimage"
    return "dicom" if head[128:132] == b"DICM" else ""


def _is_nifti(head: bytes) -> bool:
    """Version 1 has its magic word at the end of 348 bytes, version 2 behind the first four."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")
