"""Count the bytes that a launch of the generated CUDA source reads from its tensors and writes to them.

The compiler reports every access to memory that is left in the kernel after its optimization, as it
does for ThreadSanitizer. Registers and shared memory do not count.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from tests.kernels.generated_cuda import generate, launch_on_grid, load
from tests.kernels.recorded_launches import Launch


@dataclass(frozen=True)
class Traffic:
    """Bytes of the accesses to a tensor.

    Attributes:
        read: bytes that the threads read.
        written: bytes that the threads write.
        read_by_warps: bytes that warps would read with a perfect cache each: a word counts once per
            warp.
        read_by_blocks: bytes that blocks would read with a perfect cache each.
    """

    read: int = 0
    written: int = 0
    read_by_warps: int = 0
    read_by_blocks: int = 0

    def __add__(self, more: Traffic) -> Traffic:
        return Traffic(
            self.read + more.read,
            self.written + more.written,
            self.read_by_warps + more.read_by_warps,
            self.read_by_blocks + more.read_by_blocks,
        )


def count_traffic(launch: Launch) -> dict[str, Traffic]:
    """Run a launch in the order of its threads, and return the traffic of each tensor by its field.

    Args:
        launch: launch of a kernel, whose blocks have 256 threads.
    """
    tensors = launch.tensors()
    packed = launch.pack(tensors)
    library = load(generate(launch.kernel), "counts")
    starts = [tensor.data_ptr() for tensor in tensors.values()]
    ends = [start + t.nbytes for start, t in zip(starts, tensors.values(), strict=True)]
    places = ctypes.c_ulonglong * len(tensors)
    library.watch(len(tensors), places(*starts), places(*ends))
    launch_on_grid(launch.kernel, launch.tasks, packed, kind="counts")
    numbers = (ctypes.c_longlong * (4 * len(tensors)))()
    library.counted(numbers)
    library.watch(0, places(), places())
    return {name: Traffic(*numbers[4 * k : 4 * k + 4]) for k, name in enumerate(tensors)}


def total(traffic: dict[str, Traffic]) -> Traffic:
    """Return the sum over the tensors."""
    return sum(traffic.values(), Traffic())
