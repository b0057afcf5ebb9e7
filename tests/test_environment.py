"""A hostile environment works, or ends in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.cli import doctor, main
from invtoolbox.core import environment, kernel_cache
from invtoolbox.core.memory import available_memory, memory_error
from invtoolbox.errors import InputError, MissingDependency


class Warp:
    """The parts of Warp that choose the folder of its kernels."""

    def __init__(self, default: Path) -> None:
        self.config = SimpleNamespace(kernel_cache_dir=None)
        self.default = default

    def init(self) -> None:
        folder = Path(self.config.kernel_cache_dir or self.default) / "1.0"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.kernel_cache_dir = str(folder)


def test_a_home_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    wp = Warp(tmp_path / "home")
    with pytest.warns(UserWarning, match=r"home/1.0: Not a directory.* set WARP_CACHE_PATH"):
        kernel_cache.init_warp(wp)
    folder = Path(wp.config.kernel_cache_dir)
    kernel_cache.require_writable(folder)
    assert folder.parent.stat().st_mode & 0o77 == 0, "another user may not place kernels there"
    kernel_cache.init_warp(Warp(tmp_path / "cache"))  # no warning


def test_without_any_folder_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setattr(kernel_cache.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="WARP_CACHE_PATH"):
        kernel_cache.init_warp(Warp(tmp_path / "home"))


def test_an_allocation_that_fails_is_one_sentence() -> None:
    problem = it.Problem(torch.ones(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    for allocate in (lambda p: torch.empty(10**14), lambda p: np.empty(10**16)):
        with pytest.raises(InputError, match=r"^there is not enough memory: .*iB are needed at once and .*iB are available; compute fewer"):  # fmt: skip
            it.solve(problem, "tikhonov", regularization=1.0, callbacks=[allocate], progress=False)
    on_gpu = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 7.50 GiB is free."
    assert "20 GiB are needed at once and 7.5 GiB are available on the GPU" in str(
        memory_error(torch.OutOfMemoryError(on_gpu))
    )
    left = available_memory()
    assert left is None or left > 2**20
    with pytest.raises(RuntimeError, match="of another kind"):
        it.solve(problem, "tikhonov", regularization=1.0, callbacks=[fail], progress=False)


def fail(progress: Any) -> None:
    raise RuntimeError("of another kind")


def test_a_missing_package_is_not_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nibabel")
    path = tmp_path / "a.nii"
    it.datasets.write(path, it.datasets.VolumeInMemory(torch.ones(1, 3, 4, 5), it.datasets.Grid()))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingDependency, match=r"nibabel, which is not installed; .*\[medical\]"):
        it.datasets.open(path)


def test_the_doctor_finds_nothing_here_and_names_what_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The other checks compile.
    checks = {
        k: v for k, v in doctor.CHECKS.items() if k not in ("kernel cache", "compiler", "GPU")
    }
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_LITTLE_MEMORY", 0)
    monkeypatch.setattr(doctor, "_LITTLE_DISK", 0)
    assert main(["doctor"]) == 0
    assert "FAILS" not in capsys.readouterr().out
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(environment, "_required", lambda: ["numpy>=99", "no-such-package"])
    monkeypatch.setattr(doctor, "_LITTLE_DISK", 2**90)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "numpy is" in said and ">=99 is needed; no-such-package is not installed" in said
    assert said.count("FAILS") == 3 and "set HOME" in said
