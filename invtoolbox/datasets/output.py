"""Write files atomically: bytes, PNG, NPY and HDF5.

A file is written whole or not at all, and never over an existing file unless ``overwrite`` is
given.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from invtoolbox.errors import InputError

#: Names of the hidden files and folders of this module.
_HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
#: Suffixes of headers and of the values that they describe, which are written together.
_PAIRED = {".mhd", ".raw", ".toml"}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Written:
    """Record of a file that was written.

    Attributes:
        path: the file.
        low, high: values that became black and white in a PNG; None for other formats.
        clipped: number of values outside of that range.
    """

    path: Path
    low: float | None = None
    high: float | None = None
    clipped: int = 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.path}: values as they are"
        cut = f", {self.clipped} values outside were clipped" if self.clipped else ""
        return f"{self.path}: {self.low:g} is black, {self.high:g} is white{cut}"


def write_png(
    path: str | os.PathLike[str],
    image: Tensor | np.ndarray,
    value_range: tuple[float, float] | None = None,
    bit_depth: int = 8,
    overwrite: bool = False,
) -> Written:
    """Write one grey or color image as PNG.

    Args:
        path: the file.
        image: ``(rows, columns)``, ``(channel, rows, columns)`` or ``(1, channel, rows, columns)``.
        value_range: values that become black and white; by default the least and the greatest of
            the image. Pass (0, 1) for photographs. Values outside are clipped and counted in the
            record.
        bit_depth: 8, or 16 for grey images.
        overwrite: replace an existing file.

    Returns:
        A record with the values that became black and white; the PNG holds the same as text, under
        the keyword "Description".
    """
    from PIL import Image, PngImagePlugin

    array = _picture(path, image)
    low, high = value_range if value_range is not None else (float(array.min()), float(array.max()))
    if not low <= high or not np.isfinite([low, high]).all():
        raise InputError(
            f"{path}: value_range is ({low:g}, {high:g}); give the smaller value first, both finite"
        )
    if bit_depth not in (8, 16) or (bit_depth == 16 and array.ndim == 3):
        raise InputError(
            f"{path}: PNG is written with 8 bits, or with 16 in grey; write .tif for more"
        )
    white = 2**bit_depth - 1
    clipped = int(((array < low) | (array > high)).sum())
    # In place, because a large photograph in double precision takes hundreds of megabytes.
    share = array - low if high > low else np.zeros_like(array)
    share /= (high - low) or 1.0
    np.clip(share, 0, 1, out=share)
    share *= white
    codes = np.rint(share, out=share).astype(np.uint8 if bit_depth == 8 else np.uint16)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Description", f"value = {low!r} + code * {(high - low) / white!r}")
    stream = io.BytesIO()
    Image.fromarray(codes).save(stream, format="PNG", pnginfo=notes)
    return Written(
        write_bytes(path, stream.getvalue(), overwrite), float(low), float(high), clipped
    )


def write_npy(
    path: str | os.PathLike[str], x: Tensor | np.ndarray, overwrite: bool = False
) -> Written:
    """Write an array as NPY, with its shape, values and data type."""
    stream = io.BytesIO()
    np.save(stream, as_array(path, x), allow_pickle=False)
    return Written(write_bytes(path, stream.getvalue(), overwrite))


def write_hdf5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Tensor | np.ndarray],
    attributes: Mapping[str, str | int | float] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write named arrays as data sets of one HDF5 file, with plain attributes at its root."""
    import h5py

    stream = io.BytesIO()
    # The file is made in memory, because HDF5 fails without order on a full disk.
    with h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=as_array(path, array))
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    return Written(write_bytes(path, stream.getvalue(), overwrite))


def write_bytes(path: str | os.PathLike[str], content: bytes, overwrite: bool = False) -> Path:
    """Write a file atomically, through a hidden file in the same folder.

    Raises:
        InputError: the file exists and `overwrite` is false, the folder does not exist, or the disk
            is full.
    """
    with writing(path, overwrite) as stream:
        stream.write(content)
    return Path(path).expanduser()


@contextmanager
def writing(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a stream into a hidden file.

    The file is moved to `path` when the block ends without an error. The stream is meant for
    content larger than memory; the errors are those of `write_bytes`.
    """
    path = Path(path).expanduser()
    if not overwrite and path.exists():
        raise _exists(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    temporary: Path | None = None
    try:
        with _open_hidden(path) as stream:
            temporary = Path(stream.name)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _put(temporary, path, overwrite)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        # An error in NumPy's own writing has no number.
        if error.errno in _NO_ROOM or "requested and" in str(error):
            raise InputError(
                f"{path}: no room left on the disk, nothing was written; free some or choose "
                "another folder"
            ) from error
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_pair(
    description: Path,
    values: Path,
    describe: Callable[[int], bytes],
    parts: Iterable[bytes],
    overwrite: bool = False,
) -> None:
    """Write a file of values and the file that describes them.

    Both are complete before one of them takes its place. An earlier description is removed before
    the values change, so a description never belongs to other values.

    Args:
        description: path of the description.
        values: path of the values.
        describe: function of the number of bytes of the values that returns the description.
        parts: the values in parts.
        overwrite: replace existing files.
    """
    with writing(description, overwrite) as head, writing(values, overwrite) as stream:
        stream.writelines(parts)
        head.write(describe(stream.tell()))
        for file in (stream, head):
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            description.unlink(missing_ok=True)


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """Fill a hidden folder, which takes the place of `folder` when the block ends without an error.

    An existing folder is replaced as a whole.

    Args:
        folder: path of the folder.
    """
    remove_stale(folder.parent, folder.name)
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        hidden.mkdir()
        handle = os.open(hidden, os.O_RDONLY)
        try:
            lock(handle)
            yield hidden
        finally:
            os.close(handle)
        _exchange(hidden, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder of results, and the folders above it, if they do not exist.

    Args:
        folder: path of the folder.

    Raises:
        InputError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made ({error.strerror or error}); choose another"
        ) from error
    return folder


def refuse_inputs(places: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse results that would replace what they are computed from.

    Links and hard links are followed. A header and the values that it describes count as one file.

    Args:
        places: files and folders of the results.
        inputs: files and folders that are read. A file directly in such a folder is an input too.

    Raises:
        InputError: a place is an input.

    >>> refuse_inputs([Path("slice.tif")], [Path("sinogram.tif")])
    """
    sources = list(inputs)
    for place, source in itertools.product(places, sources):
        if _is_same(place, source) or (place.is_file() and _is_same(place.parent, source)):
            raise InputError(
                f"{place}: results are never written into the source {source}, or over it; give "
                "another --output"
            )


def _is_same(place: Path, source: Path) -> bool:
    """Return whether two paths are the same file or folder, or a header and its values."""
    place, source = place.expanduser(), source.expanduser()
    with contextlib.suppress(OSError):
        if os.path.samefile(place, source):
            return True
    place, source = place.resolve(), source.resolve()
    suffixes = {place.suffix.lower(), source.suffix.lower()}
    is_pair = suffixes <= _PAIRED and place.with_suffix("") == source.with_suffix("")
    return place == source or is_pair


@contextmanager
def locking(place: str | os.PathLike[str]) -> Iterator[None]:
    """Refuse a second run that writes to the same place at the same time.

    A hidden file next to the place is locked by the system, which releases it when the process ends
    in any way. On a file system without locks nothing is refused.

    Args:
        place: file or folder of results.

    Raises:
        InputError: another run writes there.

    >>> with locking("results"):
    ...     Path(".results.lock").exists()
    True
    """
    place = Path(place).expanduser().resolve()
    made = [folder for folder in place.parents if not folder.exists()]
    make_folder(place.parent)
    is_inside = place.is_dir() and not os.access(place.parent, os.W_OK)
    guard = place / ".lock" if is_inside else place.with_name(f".{place.name}.lock")
    try:
        stream = _open_locked(guard)
    except BlockingIOError:
        raise InputError(
            f"{place}: another run writes there; wait until it ends, or give another --output"
        ) from None
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            guard.unlink()
        stream.close()
        with contextlib.suppress(OSError):  # a run that wrote nothing leaves no folder
            for folder in made:
                folder.rmdir()


def _open_locked(guard: Path) -> BinaryIO:
    """Open and lock a file; a `BlockingIOError` if another process has locked it."""
    while True:
        stream = guard.open("ab")
        try:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise
        except (ImportError, OSError):
            return stream
        # The run that ended may have removed the file between the two lines.
        if os.fstat(stream.fileno()).st_nlink > 0:
            return stream
        stream.close()


def lock(handle: int, wait: bool = True) -> bool:
    """Lock an open file until it is closed or its process dies.

    Args:
        handle: descriptor of the file.
        wait: wait for another process that has locked it.

    Returns:
        Whether the file is locked; false also on a system or a file system without locks.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def remove_stale(folder: str | os.PathLike[str], *names: str) -> list[Path]:
    """Remove the hidden files and folders that killed processes left in a folder.

    The hidden file of a process that still writes is locked, and stays.

    Args:
        folder: folder of results; it may be missing.
        names: names of the files that were being written; all files by default.

    Returns:
        The removed paths.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in Path(folder).iterdir():
            hidden = _HIDDEN.fullmatch(path.name)
            if hidden is None or path.is_symlink() or (names and hidden[1] not in names):
                continue
            if _remove(path):
                removed.append(path)
    return removed


def _remove(path: Path) -> bool:
    """Remove a hidden file or folder, unless a process has locked it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not lock(handle, wait=False):
            return False
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _open_hidden(path: Path) -> Any:
    """Open and lock a new hidden file next to `path`."""
    while True:
        stream = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp").open("xb")
        lock(stream.fileno())
        # `remove_stale` of another process may have come between the two lines.
        if os.fstat(stream.fileno()).st_nlink > 0:
            return stream
        stream.close()


def _exchange(hidden: Path, folder: Path) -> None:
    """Give a hidden folder its name, and the hidden name to the folder that had it."""
    if not folder.exists():
        hidden.rename(folder)
        return
    here, flag = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        swap = None
    if swap is not None and swap(here, os.fsencode(hidden), here, os.fsencode(folder), flag) == 0:
        return
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    folder.rename(old)
    try:
        hidden.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        # Unlike a rename, a link fails if another process made the file in the meantime.
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links.
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _exists(path: Path) -> InputError:
    return InputError(
        f"{path}: there is a file of that name already; choose another, or pass overwrite=True"
    )


def file_names(names: Sequence[str]) -> list[str]:
    """Return one distinct file name without a suffix per name.

    The folder that all names share and the suffixes are left out, and separators become underscores.
    A name that another one has already, also in other upper and lower case, gets a number.

    Args:
        names: names of pictures or items, such as paths relative to a data set.

    >>> file_names(["images/left/1.png", "images/right/1.png", "images/left_1.png"])
    ['left_1', 'right_1', 'left_1-2']
    """
    paths = [[p for p in re.split(r"[/\\]", name) if p not in ("", ".", "..")] for name in names]
    folders = zip(*(path[:-1] for path in paths))
    shared = len(list(itertools.takewhile(lambda names: len(set(names)) == 1, folders)))
    stems: list[str] = []
    used: set[str] = set()
    for path in paths:
        stem = "_".join([*path[shared:-1], Path(path[-1]).stem]) if path else ""
        # Control characters, and what file systems of other machines refuse; 255 bytes at most.
        stem = re.sub(r'[\x00-\x1f<>:"|?*\x7f]', "_", stem).lstrip(".")[:60] or "item"
        name, number = stem, 1
        while name.casefold() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.casefold())
        stems.append(name)
    return stems


def as_array(path: Any, x: Tensor | np.ndarray) -> np.ndarray:
    """Return a tensor or an array as a numeric NumPy array; `path` begins the error message."""
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype.kind not in "biufc":
        raise InputError(f"{path}: an array of {array.dtype} holds no numbers; give a numeric one")
    return array


def _picture(path: Any, image: Tensor | np.ndarray) -> np.ndarray:
    """Return one image as (rows, columns) or (rows, columns, 3), in float64."""
    array = as_array(path, image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    elif array.ndim != 2:
        raise InputError(
            f"{path}: shape {array.shape} is not one picture; give (rows, columns) or (channel, "
            "rows, columns) with 1 or 3 channels"
        )
    if array.size == 0 or np.iscomplexobj(array) or not np.isfinite(array).all():
        raise InputError(
            f"{path}: the image is empty, complex, or holds NaN or infinite values; write .npy "
            "instead"
        )
    return array.astype(np.float64)
