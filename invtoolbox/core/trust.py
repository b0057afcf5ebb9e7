"""Trust in files from elsewhere: which files a file may name, and how much it may unpack to.

A file that was downloaded is not trusted. Readers take the paths of other files from it only
through `named_file`, open archives through `core.checks.open_arrays` and HDF5 through `open_hdf5`
(`datasets.volumes.hdf5`), and begin with `core.checks.require_file`, which refuses special files.
"""

from __future__ import annotations

import gzip
import os
import zipfile
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path

from invtoolbox.core.contexts import setting
from invtoolbox.errors import InputError

#: DEFLATE packs at most 1,032 bytes into one; the other compressions pack little more unless the
#: data are constant.
LARGEST_RATIO = 1100
#: Number of bytes that every file may unpack to: constant slices pack better than any ratio.
ALWAYS_PLAUSIBLE = 2**26
#: Largest number of members of an archive, and of objects of an HDF5 file.
MOST_MEMBERS = 100_000

_TRUSTING: ContextVar[bool] = ContextVar("trusting", default=False)


def trusting(trusted: bool = True) -> AbstractContextManager[None]:
    """Trust the files that are opened within a block.

    They may then name files outside of their folder, and unpack to any size. The environment
    variable ``INVTOOLBOX_TRUSTED=1`` trusts every file.

    Args:
        trusted: whether to trust the files; False changes nothing.

    >>> with trusting():
    ...     is_trusting()
    True
    """
    return setting(_TRUSTING, trusted or _TRUSTING.get())


def is_trusting() -> bool:
    """Return whether the files that are opened now are trusted."""
    return _TRUSTING.get() or os.environ.get("INVTOOLBOX_TRUSTED", "") not in ("", "0")


def named_file(folder: Path, name: str, named_in: Path) -> Path:
    """Return the path of a file that another file names.

    Links of the file system are followed: they belong to the user, and names in a file do not.

    Args:
        folder: folder to which the name is relative.
        name: the name.
        named_in: the file that holds the name, for the error message.

    Raises:
        InputError: the name is absolute or leads out of the folder, unless files are trusted; or it
            is no name of a file.

    >>> named_file(Path("scan"), "images/1.png", Path("scan/transforms.json")).as_posix()
    'scan/images/1.png'
    """
    if not name or "\0" in name or len(name) > 4096:
        raise InputError(f"{named_in}: {name[:40]!r} is no name of a file; correct it")
    path = folder / name
    if path.parts[0].startswith("~"):  # a reader would take it for a home folder
        path = path.absolute()
    if not is_trusting() and not is_inside(path, folder):
        raise InputError(
            f"{named_in}: it names {name[:120]!r}, which lies outside of the folder {folder}; "
            "if you trust the file, pass trusted=True, or set INVTOOLBOX_TRUSTED=1"
        )
    return path


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder, by name alone: links are not followed.

    Args:
        path: the path.
        folder: the folder.

    >>> is_inside(Path("scan/images/1.png"), Path("scan")), is_inside(Path("scan/../1"), Path("scan"))
    (True, False)
    """
    inside, root = os.path.abspath(path), os.path.abspath(folder)
    return os.path.commonpath([root, inside]) == root


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a socket, at which a reader would wait or never end.

    Args:
        path: the path; a missing file and a folder pass.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: this is a special file, such as a pipe; give a regular file")


def unpacked_budget(path: Path) -> int:
    """Return the number of bytes that a compressed file may unpack to.

    Args:
        path: the file.
    """
    if is_trusting():
        return 2**63
    return max(ALWAYS_PLAUSIBLE, LARGEST_RATIO * path.stat().st_size)


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that declares more members or more bytes than its file can honestly hold.

    Args:
        path: the file of the archive.
        archive: the opened archive.
    """
    members = archive.infolist()
    declared = sum(member.file_size for member in members)
    if len(members) > MOST_MEMBERS or declared > unpacked_budget(path):
        raise InputError(
            f"{path}: {len(members):,} members of {declared:,} bytes in all are declared in a file "
            f"of {path.stat().st_size:,} bytes; if you trust the file, pass trusted=True, or set "
            "INVTOOLBOX_TRUSTED=1"
        )


def check_declared(path: Path, declared: int) -> None:
    """Refuse a file that declares more bytes than it can honestly hold.

    Args:
        path: the file.
        declared: number of bytes of its content once it is unpacked.
    """
    if declared > unpacked_budget(path):
        raise InputError(
            f"{path}: {declared:,} bytes are declared in a file of {path.stat().st_size:,} bytes; if "
            "you trust the file, pass trusted=True, or set INVTOOLBOX_TRUSTED=1"
        )


def refuse_padding(path: Path) -> None:
    """Refuse a file that gzip packed and that ends in zeros, which are read one by one.

    Args:
        path: the file, whose last four bytes are the length of its content.
    """
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        if not any(stream.read(4)):
            raise InputError(f"{path}: damaged, a packed file that ends in zeros; fetch it again")


def check_unpacked(path: Path) -> None:
    """Refuse a file that gzip packed if it unpacks to more bytes than its budget.

    Args:
        path: the file; one that is not packed passes.
    """
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return
    refuse_padding(path)
    left = unpacked_budget(path)
    with gzip.open(path, "rb") as packed:
        while block := packed.read(2**20):
            left -= len(block)
            if left < 0:
                raise InputError(
                    f"{path}: a file of {path.stat().st_size:,} bytes unpacks to more than "
                    f"{unpacked_budget(path):,}; if you trust the file, pass trusted=True, or set "
                    "INVTOOLBOX_TRUSTED=1"
                )
