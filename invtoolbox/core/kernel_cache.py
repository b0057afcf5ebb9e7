"""Folder of the compiled kernels: Warp's own, or a temporary one if that cannot be written."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError, warn_user


def init_warp(wp: Any) -> None:
    """Start Warp with a folder for its kernels that can be written.

    Warp writes to ``WARP_CACHE_PATH``, or to a folder in HOME. If this fails, kernels are compiled
    for this process alone, into a folder that no other user can write and that is removed at the
    end.

    Args:
        wp: the module of Warp, not yet started.

    Raises:
        InputError: no folder can be written.
    """
    try:
        wp.init()
        require_writable(Path(wp.config.kernel_cache_dir))
        return
    except OSError as error:
        reason = f"{error.filename or 'the folder'}: {error.strerror or error}"
    try:
        folder = tempfile.mkdtemp(prefix="invtoolbox-kernels-")
    except OSError as error:
        raise InputError(
            f"the compiled kernels cannot be kept ({reason}), nor in a temporary folder "
            f"({error.strerror or error}); set WARP_CACHE_PATH to a folder that can be written"
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    warn_user(
        f"the compiled kernels cannot be kept ({reason}), so every process compiles them anew; set "
        "WARP_CACHE_PATH to a folder that can be written"
    )
    wp.config.kernel_cache_dir = folder
    wp.init()
    if Path(wp.config.kernel_cache_dir).resolve().parts[:-1] != Path(folder).resolve().parts:
        _change_cache(folder)


def _change_cache(folder: str) -> None:
    """Change the folder of a Warp that has started."""
    for name in ("warp._src.build", "warp.build"):  # from version 1.10, and before
        with contextlib.suppress(ImportError):
            importlib.import_module(name).init_kernel_cache(folder)
            return


def require_writable(folder: Path) -> None:
    """Raise an `OSError` unless a file can be written into a folder.

    Args:
        folder: the folder.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass
