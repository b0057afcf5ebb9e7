"""Run the CUDA source that Warp generates for a kernel on a CPU, with the blocks and threads of CUDA.

Warp writes the source of a module without a driver. g++ compiles it as it is, between
``emulated_grid.h`` and ``emulated_launch.h``. The threads of the grid run in the order of their
numbers on one thread of the CPU, or in a random order on several. The threads of a block that
cooperate are fibers, which take turns at its barriers. A launch runs in this process, or in a
program of its own under the sanitizers of g++.

This finds places that two threads of the grid write to, reads and writes beyond a tensor, undefined
arithmetic, missing barriers, and results that depend on an order. It cannot find anything about
time, the arithmetic of a device's own functions, or streams.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.native import Kernel, warp

#: Threads of a block in `wp.launch`, which the package does not change.
BLOCK = 256
#: Architecture that the source is written for. It does not depend on it.
ARCHITECTURE = 80

#: Flags of g++ by their names. No product and sum is contracted, so that bits can be compared.
BUILDS: dict[str, tuple[str, ...]] = {
    "plain": ("-O2",),
    "host": ("-O2",),
    "addresses": ("-O1", "-g1", "-fno-sanitize-recover=all", "-fsanitize=address,undefined"),
    "threads": ("-O1", "-g1", "-fsanitize=thread"),
    "counts": ("-O2", "-fsanitize=thread"),
}
#: How floating-point numbers are added, see ``emulated_grid.h``.
ADDITIONS = {"atomic": 0, "plain": 1, "wide": 2}
_COMMON = ("-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-w", "-pthread")
#: Every library but that of ThreadSanitizer, whose functions ``emulated_counts.h`` has.
_WITHOUT_SANITIZER = ("-nodefaultlibs", "-lstdc++", "-lm", "-lc", "-lgcc_s")
_SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0",
}
#: Seconds after which a compiled kernel that no run has used is removed.
_KEPT = 7 * 86_400
#: What is wrong with a launch that returns no number of additions.
NO_END = "threads of a block wait at different barriers, or at one that not all of them reach"
_HERE = Path(__file__).parent

#: Changes from float32 to float64 in the definitions of a kernel.
_WIDER = {"REAL float": "REAL double", "SINGLE 1": "SINGLE 0", "EXP expf": "EXP exp"}
_WIDER |= {"LOG logf": "LOG log"}


@cache
def why_not(build: str = "plain") -> str | None:
    """Return why the generated source cannot run here, in one sentence, or None if it can.

    Args:
        build: a name of `BUILDS`.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"threads of a block are switched by code for x86-64, not for {platform.machine()}"
    if shutil.which("g++") is None:
        return "the generated CUDA source is compiled by g++, which is not installed"
    wp = warp()
    context = getattr(wp, "_src", wp).context  # `_src` from version 1.10 on
    if not hasattr(wp, "compile_aot_module") or not context.runtime.is_cuda_enabled:
        return "this Warp was built without CUDA"
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "probe.cpp", Path(folder) / "probe"
        source.write_text("#include <thread>\nint main() { std::thread([] {}).join(); }\n")
        command = ["g++", *_COMMON, *BUILDS[build], str(source), "-o", str(program)]
        for step in (command, [*_fixed_addresses(build), str(program)]):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
                return f"g++ cannot build and run a program with {BUILDS[build][-1]}: {reason}"
    return None


def _fixed_addresses(build: str) -> list[str]:
    """Return the command that starts a program at fixed addresses, which older TSan needs."""
    return ["setarch", "-R"] if build == "threads" and shutil.which("setarch") else []


@cache
def generate(kernel: Kernel, host: bool = False) -> str:
    """Return the CUDA source of a kernel, or the source for the CPU, as Warp writes it."""
    how: dict[str, Any] = {"device": "cpu"} if host else {"arch": ARCHITECTURE, "use_ptx": True}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is compiled for this processor is not kept
        warp().compile_aot_module(kernel.entry.module, module_dir=folder, **how)
        (path,) = Path(folder).glob("*.cpp" if host else "*.cu")
        return path.read_text()


def widen(source: str) -> str:
    """Return the source of the same kernel in float64."""
    for narrow, wide in _WIDER.items():
        source = source.replace(f"#define {narrow}\n", f"#define {wide}\n")
    return source


@cache
def _cache() -> Path:
    """Return the folder of compiled kernels, which no other user can write to.

    What no run has used for a week, such as kernels of an earlier source, is removed.
    """
    folder = Path(tempfile.gettempdir()) / f"invtoolbox-generated-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} belongs to another user or others can write to it; remove it"
        )
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removes it too
            if path.stat().st_mtime < time.time() - _KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def build(source: str, name: str) -> Path:
    """Compile a generated source, unless this was done before, and return the path of the result.

    Args:
        source: generated CUDA source of one kernel.
        name: a name of `BUILDS`: "plain", "host" and "counts" make a library, the sanitizers a
            program.

    Raises:
        RuntimeError: if g++ does not compile it.
    """
    cooperative, on_device = "__shared__" in source, name != "host"
    # The last function is the entry of the kernel.
    kernel = re.findall(r"\bvoid (?:WP_\w+\([^)]*\) )*(\w+_forward)\(", source)[-1]
    kinds = {"plain": (), "host": ("-DHOST",), "counts": ("-DCOUNTS",)}
    kind = kinds.get(name, ("-DSTANDALONE",))
    defined = (*kind, f"-DKERNEL={kernel}", *(["-DCOOPERATIVE"] if cooperative else []))
    launcher = _read("emulated_launch.h")
    # Warp's own memory of a block, in source for the CPU; the kernel's path for CUDA in the other.
    first = "#define __CUDA_ARCH__ 800\n" if on_device else ""
    first += "#undef tile_shared_storage_t\n" if cooperative and not on_device else ""
    whole = f'#include "prefix.h"\n{first}{source}\n#undef __CUDA_ARCH__\n{launcher}'
    flags = _flags(name)
    target = _cache() / _digest(whole, _prefix(), _compiler(), *flags, *defined)
    if not target.exists():
        command = ["g++", *flags, *defined, f"-I{_precompile(flags)}", "module.cpp"]
        if name == "counts":
            command += _WITHOUT_SANITIZER
        _compile(target, "module.cpp", whole, command)
    target.touch()
    return target


def _flags(name: str) -> tuple[str, ...]:
    kind = ("-shared", "-fPIC") if name in ("plain", "host", "counts") else ()
    return (*_COMMON, *BUILDS[name], *kind, f"-I{Path(warp().__file__).parent / 'native'}")


def _prefix() -> str:
    """Return the source before that of a kernel: Warp's headers, then the emulated device."""
    native = Path(warp().__file__).parent / "native"
    # Early versions of Warp have no deterministic.h.
    files = [file for file in ("builtin.h", "deterministic.h") if (native / file).exists()]
    includes = "".join(f'#include "{file}"\n' for file in files)
    return f"#define WP_NO_BFLOAT16\n{includes}{(_HERE / 'emulated_grid.h').read_text()}"


def _read(name: str) -> str:
    """Return a header of this folder with the headers that it includes in their place."""
    lines = (_HERE / name).read_text().splitlines()
    names = [re.fullmatch(r'#include "(emulated_\w+\.h)"', line) for line in lines]
    return "\n".join(_read(m[1]) if m else line for m, line in zip(names, lines)) + "\n"


def _precompile(flags: tuple[str, ...]) -> Path:
    """Return the folder of the precompiled prefix: Warp's headers take longer than a kernel."""
    folder = _cache() / _digest(_prefix(), _compiler(), *flags)
    folder.mkdir(exist_ok=True)
    if not (folder / "prefix.h").exists():
        _write(folder / "prefix.h", _prefix())
    if not (folder / "prefix.h.gch").exists():
        command = ["g++", *(flag for flag in flags if flag != "-shared"), "-x", "c++-header"]
        _compile(folder / "prefix.h.gch", "prefix.h", _prefix(), [*command, "prefix.h"])
    os.utime(folder)
    return folder


def _compile(target: Path, file: str, source: str, command: list[str]) -> None:
    """Compile a file in a folder of its own, and put the result in its place in one step."""
    with tempfile.TemporaryDirectory(dir=_cache()) as folder:
        (Path(folder) / file).write_text(source)
        done = subprocess.run(
            [*command, "-o", "result"], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"g++ does not compile {file}: {done.stderr[:2000]}")
        (Path(folder) / "result").replace(target)


def _write(target: Path, text: str) -> None:
    """Write a file in one step: another process may read it meanwhile."""
    with tempfile.NamedTemporaryFile("w", dir=_cache(), delete=False) as file:
        file.write(text)
    Path(file.name).replace(target)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def launch_on_grid(
    kernel: Kernel, tasks: int, packed: Any, seed: int = 0, threads: int = 1, kind: str = "grid"
) -> int:
    """Run a launch in this process, and return the number of its atomic additions of floats.

    Args:
        kernel: kernel to run.
        tasks: number of tasks.
        packed: struct of the arguments, as `Kernel.pack` returns it.
        seed: seed of the order of the threads of the grid; 0 keeps the order of their numbers.
        threads: number of threads of the CPU.
        kind: "grid"; "sums" adds float32 terms in float64, on one thread; "float64" runs the kernel
            in float64, for which every float32 tensor must be a float64 tensor; "host" runs the
            source for the CPU, compiled by the same compiler, in the order of the tasks; "counts"
            counts accesses to memory, see `tests.kernels.memory_traffic`.

    Raises:
        RuntimeError: if threads of a block wait for each other forever.
    """
    record = packed.__ctype__()
    function = _function(generate(kernel, host=kind == "host"), kind)
    additions = ADDITIONS["wide" if kind == "sums" else "atomic"]
    number = int(function(ctypes.addressof(record), tasks, BLOCK, seed, threads, additions))
    if number < 0:
        raise RuntimeError(f"{kernel.file}: {NO_END}")
    return number


def grid_launcher(seed: int) -> Callable[[Kernel, int, Any, Any], int]:
    """Return a launcher for `tests.emulated_cuda.emulate_cuda`.

    Args:
        seed: seed of the order of the threads of the grid, which changes from launch to launch; 0
            keeps the order of their numbers, on one thread.
    """
    numbers = count(seed)

    def launch(kernel: Kernel, tasks: int, packed: Any, arguments: Any) -> int:
        threads = 2 if seed else 1
        return launch_on_grid(kernel, tasks, packed, next(numbers) if seed else 0, threads)

    return launch


@cache
def _function(source: str, kind: str) -> Any:
    """Return the function that runs a launch of a source."""
    function = load(source, kind).emulate
    sizes = [ctypes.c_uint] * 2 + [ctypes.c_int] * 2
    function.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong, *sizes]
    function.restype = ctypes.c_longlong
    return function


def load(source: str, kind: str) -> Any:
    """Return the library that runs a source; `kind` is that of `launch_on_grid`, or "counts"."""
    source = widen(source) if kind == "float64" else source
    return ctypes.CDLL(str(build(source, kind if kind in BUILDS else "plain")))


def launch_alone(
    kernel: Kernel,
    tasks: int,
    packed: Any,
    tensors: dict[str, Tensor],
    name: str,
    seed: int = 0,
    threads: int = 1,
    additions: str = "atomic",
) -> tuple[str, dict[str, Tensor]]:
    """Run a launch as a program under sanitizers.

    Args:
        kernel: kernel to run.
        tasks: number of tasks.
        packed: struct of the arguments, as `Kernel.pack` returns it.
        tensors: the tensors among the arguments, by their fields. They are not changed.
        name: "addresses" or "threads", see `BUILDS`.
        seed: see `launch_on_grid`.
        threads: see `launch_on_grid`.
        additions: a name of `ADDITIONS`; "plain" replaces atomic additions by others, a fault.

    Returns:
        the report of the sanitizers, "" if they found nothing, and the tensors after the launch.
        These are missing if the sanitizer stopped the program.
    """
    program = build(generate(kernel), name)
    record = packed.__ctype__()
    buffers = {field: tensor.detach().cpu().numpy().tobytes() for field, tensor in tensors.items()}

    def number(value: int) -> bytes:
        return value.to_bytes(8, "little", signed=True)

    with tempfile.TemporaryDirectory() as folder:
        recorded, results = Path(folder) / "launch", Path(folder) / "results"
        with recorded.open("wb") as file:
            sizes = (tasks, BLOCK, seed, threads, ADDITIONS[additions], ctypes.sizeof(record))
            file.write(b"".join(map(number, sizes)))
            file.write(bytes(record) + number(len(buffers)))
            for field, data in buffers.items():
                place = getattr(type(record), field).offset
                file.write(number(place) + number(len(data)) + data)
        command = [*_fixed_addresses(name), str(program), str(recorded), str(results)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **_SANITIZERS}
        )
        report = done.stderr or (f"exit code {done.returncode}" if done.returncode else "")
        data = results.read_bytes() if results.exists() else b""
    after: dict[str, Tensor] = {}
    start = 0
    for field, before in buffers.items():
        if len(data) == sum(map(len, buffers.values())):
            after[field] = _from_bytes(data[start : start + len(before)], tensors[field])
        start += len(before)
    return report, after


def _from_bytes(data: bytes, like: Tensor) -> Tensor:
    if not data:
        return torch.empty_like(like)
    return torch.frombuffer(bytearray(data), dtype=like.dtype).view(like.shape)
