"""Native kernels: C++ files that Warp compiles for the CPU and for CUDA on the user's machine.

A kernel is the body of one task in a ``.cpp`` file next to the Python module that launches it.
Preprocessor definitions choose the variant (precision, sizes, switches), and a dataclass declares
the arguments. Kernels are native code because the layout decides the speed on a CPU: with plain
pointers, and sizes that the compiler knows, the inner loops become vector instructions.

Warp itself runs a launch on the CPU serially. `launch` divides it among threads with
`run_on_threads`, which runs any Python work that releases the interpreter lock on several threads,
on torch's own threads if possible.
"""

# No `from __future__ import annotations`: Warp needs the annotations of the two closures as types.
import ctypes
import dataclasses
import os
import sys
import tempfile
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NewType

import torch
from torch import Tensor

from invtoolbox.core.kernel_cache import init_warp

_LOCK = threading.RLock()
_NO_DRIVER = b"Could not find or load the NVIDIA CUDA driver"
#: Parts of a launch per thread. More than one, so that a thread with light parts helps one with
#: heavy parts.
_PARTS_PER_THREAD = 6


@cache
def warp() -> Any:
    """Return the Warp module, imported at the first call and started without its banner."""
    with _LOCK:
        already = "warp" in sys.modules
        import warp as wp

        if not already:
            # A user who works with Warp keeps their own settings.
            if hasattr(wp.config, "log_level"):
                wp.config.log_level = getattr(wp, "LOG_WARNING", 30)
            else:
                wp.config.quiet = True  # type: ignore[attr-defined]
        with _without_driver_warning():
            init_warp(wp)
        return wp


@dataclass(frozen=True, eq=False)
class Kernel:
    """A Warp kernel of one struct of arguments and the number of its first task.

    Attributes:
        entry: the Warp kernel.
        record: the Warp struct of its arguments.
        file: path of the C++ file below ``kernels/``.
        definitions: preprocessor definitions of the variant.
        block: number of consecutive tasks that cooperate in a block; 1 if none do.
    """

    entry: Any
    record: Any
    file: str
    definitions: Mapping[str, str | int]
    block: int = 1

    def pack(self, arguments: Any) -> tuple[Any, torch.device]:
        """Return the struct that holds the arguments, and the device of the first tensor.

        Args:
            arguments: dataclass instance that declares the same fields; a tensor is passed as its
                address, and ``None`` as 0.

        Raises:
            AssertionError: if a tensor is not contiguous.
        """
        packed, device = self.record(), None
        # Setting the fields of the C struct itself is three times as fast as setting Warp's.
        fields = packed.__ctype__()
        for name in self.record.vars:
            value = getattr(arguments, name)
            if isinstance(value, Tensor):
                device = device or value.device
                value = address(value)
            setattr(fields, name, 0 if value is None else value)
        if device is None:
            raise AssertionError("a kernel needs a tensor, which names its device")
        return packed, device


def launch(kernel: Kernel, tasks: int, arguments: Any, work: float) -> None:
    """Run a kernel for every task in ``range(tasks)``.

    The kernel computes the number of its task as ``wp.tid() + first_task``; no two tasks may write
    to the same place (or they use atomics, on CUDA, or belong to one block). On the CPU the tasks are
    divided among ``torch.get_num_threads()`` threads. The result does not depend on which thread runs a task.

    Args:
        kernel: kernel that `invtoolbox.kernels.native.native_kernel` returned.
        tasks: number of tasks, a multiple of the kernel's block.
        arguments: instance of the dataclass that the kernel was declared with. It must outlive the
            call.
        work: number of elementary steps; small launches stay on the calling thread.

    Raises:
        RuntimeError: if a kernel of cooperating tasks runs on a CPU, and Warp is too old for that.
    """
    if tasks == 0:
        return
    wp = warp()
    packed, device = kernel.pack(arguments)
    if device.type == "cuda":
        _launch_on_cuda(kernel, tasks, packed, device)
        return
    if kernel.block > 1:
        with _compiled(kernel):
            launch_blocks(kernel, tasks, packed)
        return

    def part(first: int, last: int) -> None:
        wp.launch(kernel.entry, dim=last - first, inputs=[packed, first], device="cpu")

    threads = min(torch.get_num_threads(), tasks)
    if threads == 1 or work < 2e5:
        with _compiled(kernel):
            part(0, tasks)
        return
    parts = min(tasks, threads * _PARTS_PER_THREAD)
    edges = [tasks * k // parts for k in range(parts + 1)]
    if kernel not in _READY:
        with _compiled(kernel):
            part(edges[0], edges[1])
        edges = edges[1:]
    run_on_threads(threads, pairwise(edges), part)


def launch_blocks(kernel: Kernel, tasks: int, packed: Any) -> None:
    """Run a kernel on the CPU with the blocks of cooperating tasks that it has on CUDA.

    This is for tests: kernels for a CPU are much faster there.

    Args:
        kernel: kernel whose ``block`` is greater than 1.
        tasks: number of tasks.
        packed: struct of the arguments, as `Kernel.pack` returns it.

    Raises:
        RuntimeError: if this version of Warp has no such blocks.
    """
    wp = warp()
    if not hasattr(wp.config, "enable_cpu_blocks"):
        raise RuntimeError(
            f"{kernel.file} needs blocks of threads on the CPU, which Warp {wp.config.version} does "
            "not have; install warp-lang 1.19 or later, or choose another kernel"
        )
    with _LOCK:
        before, wp.config.enable_cpu_blocks = wp.config.enable_cpu_blocks, True
        try:
            wp.launch(
                kernel.entry, dim=tasks, inputs=[packed, 0], device="cpu", block_dim=kernel.block
            )
        finally:
            wp.config.enable_cpu_blocks = before


def _launch_on_cuda(kernel: Kernel, tasks: int, packed: Any, device: torch.device) -> None:
    wp = warp()
    with torch.cuda.device(device):
        # On torch's own stream, so that its allocator knows when the tensors are free again.
        stream = wp.stream_from_torch(torch.cuda.current_stream(device))
        # 256 threads per block, which is Warp's default, unless the kernel needs another number.
        block = kernel.block if kernel.block > 1 else 256
        wp.launch(kernel.entry, dim=tasks, inputs=[packed, 0], stream=stream, block_dim=block)


def address(tensor: Tensor) -> int:
    """Return the address of a contiguous tensor, as kernels take it."""
    if not tensor.is_contiguous():
        raise AssertionError("a kernel was given a tensor that is not contiguous")
    return tensor.data_ptr()


@contextmanager
def _compiled(kernel: Kernel) -> Iterator[None]:
    """Let the first launch of a kernel, which compiles it, run alone.

    Warp's compiler is not thread-safe.
    """
    if kernel in _READY:
        yield
        return
    with _LOCK:
        yield
        _READY.add(kernel)


_READY: set[Kernel] = set()


@contextmanager
def _without_driver_warning() -> Iterator[None]:
    """Suppress the line that Warp's C++ writes to stderr on machines without a GPU.

    Other lines are passed on.
    """
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all (a service): nothing to keep clean
        yield
        return
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            lines = [
                line for line in captured.read().splitlines(keepends=True) if _NO_DRIVER not in line
            ]
            if lines:
                os.write(2, b"".join(lines))


def run_on_threads(
    threads: int, bounds: Iterator[tuple[int, int]], part: Callable[[int, int], None]
) -> None:
    """Call ``part(first, last)`` for every pair of ``bounds`` on several threads.

    The calling thread counts as one of ``threads``. The first exception of a part is raised once
    all threads have ended.

    >>> seen = []
    >>> run_on_threads(2, iter([(0, 1), (1, 2), (2, 3)]), lambda first, last: seen.append(first))
    >>> sorted(seen)
    [0, 1, 2]
    """
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work(_: Any = None) -> None:
        try:
            while not errors:
                with lock:
                    step = next(bounds, None)
                if step is None:
                    return
                part(*step)
        except BaseException as error:
            # Also Ctrl-C: nothing may be raised through C code, so it is raised again below.
            errors.append(error)

    openmp = _openmp()
    if openmp is not None:
        function, callback_type = openmp
        function(callback_type(work), None, threads, 0)
    else:
        helpers = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            helper.result()
    if errors:
        raise errors[0]


@cache
def _openmp() -> tuple[Any, Any] | None:
    """Return the entry of GNU OpenMP's parallel region in the copy that torch has loaded, or None.

    OpenMP's threads keep spinning for some milliseconds after each parallel operation of torch, so
    threads of our own would get half a core (measured on two cores: a projection of 4.3 ms took
    7.0 ms). Its own threads start at once.
    """
    no_load = getattr(os, "RTLD_NOLOAD", None)
    if no_load is None or not torch.backends.openmp.is_available():
        return None
    folder = Path(torch.__file__).parent
    for library in sorted(
        [*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]
    ):
        try:
            # Only a copy that is in use already: a second OpenMP in one process would have threads
            # of its own.
            region = ctypes.CDLL(str(library), mode=no_load | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        callback_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        region.argtypes = [callback_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        region.restype = None
        return region, callback_type
    return None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Keyed by the process, because threads do not survive a fork (data loaders).
    return ThreadPoolExecutor(threads, thread_name_prefix="invtoolbox-kernel")


#: The C++ type of a tensor's entries.
REAL = {torch.float32: "float", torch.float64: "double"}

#: Arguments that are 64-bit integers and 32-bit numbers in C++; `int` and `float` are 32 and 64
#: bits.
Int64 = NewType("Int64", int)
Float32 = NewType("Float32", float)

#: Bytes of shared memory that the arrays of a block take.
SHARED_BYTES = 16384

_FOLDER = Path(__file__).parent


def native_kernel(
    file: str,
    definitions: Mapping[str, Any],
    arguments: type,
    task: str = "task",
    block: int = 1,
) -> Kernel:
    """Return the kernel of a C++ file, for `launch`.

    Each variant is a Warp module of its own and is compiled at its first launch.

    Args:
        file: path of the C++ file below ``kernels/``: the body of a function of the arguments and
            ``task``.
        definitions: preprocessor definitions, such as ``{"REAL": "float", "LANES": 4}``.
        arguments: dataclass whose fields are Tensor (passed as its address), int, float, `Int64` or
            `Float32`; the C++ code sees each field as a local variable of the same name.
        task: name of the number of the task in the C++ code.
        block: number of consecutive tasks that cooperate, see ``block.h``; 1 if none do.
    """
    wp = warp()
    record = _record(arguments)
    defined = {name: v if isinstance(v, str) else int(v) for name, v in definitions.items()}
    if block > 1:
        defined |= {"BLOCK": block, "SHARED_BYTES": SHARED_BYTES}
    source = "".join(
        (
            *(f"#define {name} {value}\n" for name, value in defined.items()),
            *(f"const auto {name} = arguments.{name};\n" for name in record.vars),
            f"const int {task} = number;\n",
            _read(_FOLDER / file),
            *(f"\n#undef {name}" for name in defined),
            "\n",
        )
    )

    # The annotations are values that Warp reads, not types that mypy knows.
    @wp.func_native(snippet=source)  # type: ignore[untyped-decorator]
    def run_task(arguments: record, number: wp.int32): ...  # type: ignore

    @wp.kernel(module="unique", enable_backward=False)  # type: ignore[untyped-decorator]
    def kernel(arguments: record, first_task: wp.int32):  # type: ignore
        run_task(arguments, wp.tid() + first_task)

    return Kernel(kernel, record, file, defined, block)


@cache
def _record(arguments: type) -> Any:
    """Return the Warp struct with the fields of a dataclass."""
    wp = warp()
    types = {int: wp.int32, float: wp.float64, Int64: wp.int64, Float32: wp.float32}
    hints = typing.get_type_hints(arguments)
    fields = {
        field.name: types.get(hints[field.name], wp.uint64)
        for field in dataclasses.fields(arguments)
    }
    return wp.struct(
        type(arguments.__name__, (), {"__annotations__": fields, "__module__": __name__})
    )


@cache
def _read(file: Path) -> str:
    """Return a C++ file with the files that it includes in their place.

    Warp decides by the source alone whether a compiled kernel is up to date, so that an included
    file must be part of the source.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(
        _read(file.parent / line.split('"')[1]) if line.strip().startswith('#include "') else line
        for line in lines
    )
