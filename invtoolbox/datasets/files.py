"""What every reader does first: is the file there, and what does it hold?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invtoolbox.errors import InputError


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
        raise InputError(f"{path}: the file cannot be read ({error.strerror}); check permissions") from None
    return path


@contextmanager
def decoding(path: Path, format_name: str) -> Iterator[None]:
    """Turn what a decoder raises on a damaged file into one sentence that names the file.

    An `InputError` passes, with the name of the file before it.
    """
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    except Exception as error:
        # On damaged bytes each library raises what happened to go wrong (zlib.error, struct.error, TypeError,
        # its own
        # subclasses of Exception): a list of them is never complete. The cause stays attached.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: truncated or not a readable {format_name} file ({reason}); fetch or "
                         "export it again") from error


def sniff(path: Path) -> str:
    """The format that the first bytes of a file show, or "" where they show none that is known.

    One of "png", "jpeg", "tiff", "npy", "npz", "hdf5", "mat5", "mat7.3", "dicom".
    """
    with path.open("rb") as stream:
        head = stream.read(520)
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
    return "dicom" if head[128:132] == b"DICM" else ""
