"""Kernels whose tasks run native code: C++ and CUDA C++ at once, declared in one line.

Native, because the layout decides the speed on a CPU: with plain pointers, and sizes that the compiler knows, the inner loops become
vector instructions.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping
from typing import Any

import torch

from invtoolbox.kernels.launch import warp

#: What a number of a precision is called in native code.
REAL = {torch.float32: "float", torch.float64: "double"}

_TYPES = {
    "address": "wp.uint64",
    "int": "wp.int32",
    "long": "wp.int64",
    "float": "wp.float32",
    "double": "wp.float64",
}


def filled(source: str, words: Mapping[str, str | int]) -> str:
    """The source with every word replaced by what it stands for.

    >>> filled("REAL sum[2 * ROW];", {"REAL": "float", "ROW": 3})
    'float sum[2 * 3];'
    """
    meant = {
        word: value if isinstance(value, str) else str(int(value)) for word, value in words.items()
    }
    return re.sub(rf"\b({'|'.join(meant)})\b", lambda found: meant[found[0]], source)


def native_kernel(
    name: str, source: str, words: Mapping[str, str | int], parameters: str, task: str = "task"
) -> Any:
    """A kernel for `launch`, in a module of its own, so that only the variant that is used gets compiled.

    Args:
        name: of the kernel.
        source: what a task does: the body of a function of the parameters and of the task's number.
        words: what words of the source stand for, such as types, sizes and switches of ``#if``; see `filled`.
        parameters: in the order in which `launch` hands them over, ``"address image, out; int height, width; double near"``; an address is
            that of a tensor.
        task: what the source calls the task's number.
    """
    wp = warp()
    groups = [group.split(maxsplit=1) for group in parameters.split(";")]
    declared = {
        parameter.strip(): _TYPES[kind] for kind, names in groups for parameter in names.split(",")
    }
    signature = ", ".join(f"{parameter}: {kind}" for parameter, kind in declared.items())
    python = (
        f"def {name}_task({signature}, {task}: wp.int32): ...\n"
        f"def {name}_kernel({signature}, first_task: wp.int32):\n"
        f"    {name}_task({', '.join(declared)}, wp.tid() + first_task)\n"
    )
    # Warp reads the Python that it compiles; this is where it looks.
    file = f"<kernel {name}({signature})>"
    linecache.cache[file] = (len(python), None, python.splitlines(keepends=True), file)
    defined: dict[str, Any] = {"wp": wp, "__name__": __name__}
    exec(compile(python, file, "exec", dont_inherit=True), defined)
    defined[f"{name}_task"] = wp.func_native(snippet=filled(source, words))(defined[f"{name}_task"])
    return wp.kernel(module="unique", enable_backward=False)(defined[f"{name}_kernel"])
