"""Native kernels: C++ files that Warp compiles for the CPU and for CUDA on the user's machine.

A kernel is the body of one task in a ``.cpp`` file next to the Python module that launches it.
Preprocessor definitions choose the variant (precision, sizes, switches), and a dataclass declares
the arguments. Kernels are native code because the layout decides the speed on a CPU: with plain
pointers, and sizes that the compiler knows, the inner loops become vector instructions.
"""

# No `from __future__ import annotations`: Warp needs the annotations of the two closures as types.
import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NewType

import torch

from invtoolbox.kernels.launch import Kernel, warp

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
