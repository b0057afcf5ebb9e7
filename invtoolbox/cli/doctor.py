"""``invtoolbox doctor``: check that this machine can run the toolbox."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: Bytes of memory and of disk below which a warning is printed.
_LITTLE_MEMORY, _LITTLE_DISK = 2 * 2**30, 2**30


class Finding(NamedTuple):
    """Result of a check: whether all is well, and a sentence."""

    fine: bool
    sentence: str


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Check what the toolbox needs of this machine. The exit code is 1 if a check fails."
    )
    parser.epilog = "example:\n  invtoolbox doctor"


def command(arguments: argparse.Namespace) -> int:
    """Run the checks and print one line each."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            finding = check()
        except Exception as error:  # a check of a broken machine may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            finding = Finding(False, reason)
        failed += not finding.fine
        print(f"  {'ok' if finding.fine else 'FAILS':<7}{name:<14}{finding.sentence}")
    return 1 if failed else 0


def check_home() -> Finding:
    """Check that a file can be written into HOME."""
    home = Path("~").expanduser()
    return _check_folder(home, "set HOME to a folder that can be written")


def check_cache() -> Finding:
    """Check the folder of the compiled kernels."""
    import warnings

    from invtoolbox.kernels.native import warp

    warp.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wp = warp()
    for warning in caught:
        if "WARP_CACHE_PATH" in str(warning.message):
            return Finding(False, str(warning.message))
    return _check_folder(Path(wp.config.kernel_cache_dir), "set WARP_CACHE_PATH to another folder")


def check_compiler() -> Finding:
    """Compile a kernel, or load it from the cache, and run it on the processor."""
    import torch

    from invtoolbox.operators import ParallelBeam

    start = time.monotonic()
    A = ParallelBeam((8, 8), torch.arange(4.0), 12)
    sinogram = A(torch.ones(1, 1, 8, 8))
    # Every view sees the whole mass of the square.
    if not torch.allclose(sinogram.sum(-1), torch.full((1, 1, 4), 64.0), rtol=0.05):
        return Finding(False, "a compiled kernel computed a wrong projection; clear the cache")
    return Finding(True, f"a kernel was compiled or loaded, and run, in {_seconds(start)}")


def check_memory() -> Finding:
    """Check the memory that is available."""
    from invtoolbox.core.memory import available_memory

    left = available_memory()
    if left is None:
        return Finding(True, "the available memory is not known on this system")
    words = f"{left / 2**30:.1f} GiB are available"
    return Finding(left >= _LITTLE_MEMORY, words)


def check_disk() -> Finding:
    """Check the room in the working folder and in the folder of temporary files."""
    folders = {Path.cwd(), Path(tempfile.gettempdir())}
    free = {folder: shutil.disk_usage(folder).free for folder in sorted(folders)}
    words = ", ".join(f"{count / 2**30:.1f} GiB free in {folder}" for folder, count in free.items())
    return Finding(min(free.values()) >= _LITTLE_DISK, words)


def check_versions() -> Finding:
    """Compare the installed packages with the versions that the toolbox needs."""
    from invtoolbox.core.environment import unmet_requirements, versions

    unmet = unmet_requirements()
    if unmet:
        return Finding(False, "; ".join(unmet))
    installed = versions()
    return Finding(
        True, ", ".join(f"{k} {installed[k]}" for k in ("Python", "torch", "numpy", "warp-lang"))
    )


def check_gpu() -> Finding:
    """Run a kernel on every GPU, if there is one."""
    import torch

    if not torch.cuda.is_available():
        built = "no device" if torch.version.cuda else "this build of torch is for CPUs"
        return Finding(True, f"none ({built}); everything runs on the processor")
    from invtoolbox.operators import ParallelBeam

    names = []
    for k in range(torch.cuda.device_count()):
        start = time.monotonic()
        A = ParallelBeam((8, 8), torch.arange(4.0), 12).to(device=f"cuda:{k}")
        A(torch.ones(1, 1, 8, 8, device=f"cuda:{k}")).sum().item()
        names.append(f"cuda:{k} {torch.cuda.get_device_name(k)}, a kernel in {_seconds(start)}")
    return Finding(True, "; ".join(names))


#: The checks by their name, in their order.
CHECKS: dict[str, Callable[[], Finding]] = {
    "home": check_home,
    "kernel cache": check_cache,
    "compiler": check_compiler,
    "memory": check_memory,
    "disk": check_disk,
    "versions": check_versions,
    "GPU": check_gpu,
}


def _check_folder(folder: Path, remedy: str) -> Finding:
    from invtoolbox.core.kernel_cache import require_writable

    try:
        require_writable(folder)
    except OSError as error:
        return Finding(
            False, f"{folder} cannot be written ({os.strerror(error.errno or 0)}); {remedy}"
        )
    return Finding(True, str(folder))


def _seconds(start: float) -> str:
    return f"{time.monotonic() - start:.1f} s"
