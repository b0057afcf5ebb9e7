"""A file system whose n-th call fails, as SQLite tests its writes."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Faults:
    """Counts the calls that change files below a folder, and lets some of them fail.

    Counted are opening for writing, write, fsync, rename, link and mkdir.

    Args:
        folder: folder below which calls are counted.
        first: number of the first call that fails; None lets none fail.
        persistent: whether all later calls fail too, as on a full disk, or this one alone.
        error: number of the error.
    """

    def __init__(
        self, folder: Path, first: int | None, persistent: bool, error: int = errno.ENOSPC
    ) -> None:
        self.folder, self.first, self.persistent, self.error = str(folder), first, persistent, error
        self.count = 0

    def check(self, path: Any) -> None:
        """Count a call, and fail if it is its turn."""
        try:
            name = os.fspath(path) if not isinstance(path, int) else self.folder
        except TypeError:
            return
        name = os.fsdecode(name)
        if not os.path.abspath(name).startswith(self.folder):
            return
        number, self.count = self.count, self.count + 1
        if (
            self.first is None
            or number < self.first
            or (number > self.first and not self.persistent)
        ):
            return
        raise OSError(self.error, os.strerror(self.error), name)


class FaultyFile(io.FileIO):
    """A raw file whose writes are counted."""

    faults: Faults

    def write(self, data: Any) -> int:
        self.faults.check(self.name)
        return super().write(data) or 0


@contextmanager
def failing(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Count and fail the calls of a block."""
    real_open = builtins.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa+"):
            return real_open(file, mode, *arguments, **settings)
        faults.check(file)
        if "b" not in mode or "+" in mode:
            return real_open(file, mode, *arguments, **settings)
        raw = FaultyFile(file, mode.replace("b", ""))
        raw.faults = faults
        return io.BufferedWriter(raw)

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **settings: Any) -> Any:
            faults.check(path)
            return real(path, *arguments, **settings)

        patch.setattr(os, name, call)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", opening)
        patch.setattr(io, "open", opening)
        for name in ("fsync", "replace", "rename", "link", "mkdir", "write"):
            wrap(name)
        yield
