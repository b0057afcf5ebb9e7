"""The environment of a run: versions, machine, devices, optional packages, freed memory."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError, MissingDependency

if TYPE_CHECKING:
    import torch

DISTRIBUTION = "invtoolbox-torch"
VERSION = "0.1.0"

#: Packages whose version can change a result.
_SHOWN = (
    "torch",
    "numpy",
    "scipy",
    "warp-lang",
    "deepinv",
    "kornia",
    "scikit-image",
    "h5py",
    "pydicom",
)


def versions() -> dict[str, str]:
    """Return the versions of the toolbox, of Python and of the packages that results depend on.

    >>> sorted(versions())[:2]
    ['Python', 'deepinv']
    """
    installed = {"invtoolbox": VERSION, "Python": platform.python_version()}
    for name in _SHOWN:
        installed[name] = _version(name) or "not installed"
    import torch

    installed["torch"] = str(torch.__version__)  # with the build (+cpu, +cu132)
    return installed


def machine() -> dict[str, str]:
    """Return processor, cores, memory, threads, GPUs and operating system as text."""
    import torch

    described = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": f"{_cores()} usable of {os.cpu_count()}",
        "threads": f"{torch.get_num_threads()} (torch)",
    }
    memory = _memory()
    if memory:
        described["memory"] = f"{memory:.0f} GiB"
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(k)
            described[f"cuda:{k}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        described["cuda"] = "no device" if torch.version.cuda else "this build of torch is for CPUs"
    return described


def device_named(name: str | None, for_kernels: bool = True) -> torch.device | None:
    """Return the device of a name, if this machine has it.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or None.
        for_kernels: refuse devices of torch on which the kernels of this package do not run.

    Raises:
        InputError: if there is no such device, or the kernels do not run on it.

    >>> device_named("cpu")
    device(type='cpu')
    """
    import torch

    if name is None:
        return None
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"there is no device named {name!r}; give cpu, cuda or cuda:1") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            devices = (
                f"there are {count}" if count else "this machine, or this build of torch, has none"
            )
            raise InputError(f"the device {name} was given, and {devices}; see `invtoolbox info`")
    elif not for_kernels:
        try:
            torch.empty(0, device=device)
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise InputError(
                f"the device {name} was given, and torch has none here ({reason}); give cpu, or see "
                "`invtoolbox info`"
            ) from None
    elif device.type != "cpu":
        raise InputError(f"the kernels run on cpu and cuda, not on {name}")
    return device


def extras() -> dict[str, dict[str, str | None]]:
    """Return the optional packages by extra, each with its installed version or None.

    >>> "pytest" in extras()["test"]
    True
    """
    installed: dict[str, dict[str, str | None]] = {}
    for name, packages in _declared().items():
        installed[name] = {package: _version(package) for package in packages}
    return installed


def unmet_requirements() -> list[str]:
    """Return one sentence per required package that is missing or of a version that does not fit."""
    from packaging.requirements import Requirement

    problems = []
    for requirement in map(Requirement, _required()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None:
            problems.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(installed.partition("+")[0], prereleases=True):
            problems.append(
                f"{requirement.name} is {installed}, and {requirement.specifier} is needed"
            )
    return problems


def _required() -> list[str]:
    import tomllib

    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        path = Path(__file__).resolve().parents[2] / "pyproject.toml"
        if not path.is_file():
            return []
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return [str(line) for line in content["project"]["dependencies"]]


def how_to_get(extra: str) -> str:
    """Return the command that installs an extra.

    Args:
        extra: name of the extra, for example ``"lidar"``.
    """
    root = Path(__file__).resolve().parents[2]
    target = (
        f'-e "{root}[{extra}]"'
        if (root / "pyproject.toml").is_file()
        else f'"{DISTRIBUTION}[{extra}]"'
    )
    return f"{sys.executable} -m pip install {target}"


def optional_package(name: str, need: str, extra: str, otherwise: str = "") -> Any:
    """Import an optional package, or a module of it.

    Args:
        name: name of the module.
        need: beginning of the error message: what needs the package.
        extra: name of the extra that installs the package.
        otherwise: end of the error message: another way.

    Raises:
        MissingDependency: if it is not installed, or lacks a library of the system.

    >>> optional_package("json", "this needs json;", "all").__name__
    'json'
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        # An installed package may lack a library of the system.
        cause = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise MissingDependency(f"{need} {how_to_get(extra)}{otherwise}{cause}") from error


def trimesh() -> Any:
    """Import the package trimesh, or raise a `MissingDependency`."""
    return optional_package("trimesh", "this needs trimesh; install it with", "3d")


def open3d() -> Any:
    """Import the package Open3D, or raise a `MissingDependency`."""
    return optional_package("open3d", "this needs Open3D; install it with", "3d")


def _declared() -> dict[str, list[str]]:
    import re

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return _declared_in_checkout()
    requirements: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if extra:
            requirements.setdefault(extra.group(1), []).append(_package(line))
    return requirements


def _declared_in_checkout() -> dict[str, list[str]]:
    import tomllib

    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not path.is_file():
        return {}
    declared = tomllib.loads(path.read_text(encoding="utf-8"))["project"].get(
        "optional-dependencies", {}
    )
    return {name: [_package(line) for line in lines] for name, lines in declared.items()}


def _package(requirement: str) -> str:
    import re

    matched = re.match(r"[A-Za-z0-9._-]+", requirement)
    return matched.group(0) if matched else requirement


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep up to 512 MB of freed memory in the process, from now on.

    By default glibc returns free memory to the system at the end of a step, and the next step
    fetches it page by page: a fifth of the time of a training whose temporaries are a few megabytes
    large. No result changes, and nothing happens with another C library.

    A process has one such setting, so only the program that owns the process should change it:
    ``invtoolbox train`` does, and the function `train` does not. In a script that mainly trains,
    call this first.

    Returns:
        Whether the C library accepted the setting.

    >>> import platform
    >>> keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # glibc accepts no threshold above 32 MB; larger tensors are still mapped and unmapped.
    return bool(mallopt(_MMAP_THRESHOLD, 32 << 20)) and bool(mallopt(_TRIM_THRESHOLD, 512 << 20))
