"""Registers, local memory, shared memory and occupancy of the kernels, read from their machine code.

The machine code is that of NVIDIA's compiler, which Warp contains; NVIDIA's programs `cuobjdump`
and `nvdisasm` read it. No GPU is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from invtoolbox.kernels.native import Kernel, warp

#: Threads of a block in `wp.launch`.
BLOCK = 256


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of a streaming multiprocessor.

    From "Compute Capabilities" in NVIDIA's CUDA C++ Programming Guide 12.9; the units of allocation
    are those of its occupancy calculator, the same for the three architectures.

    Attributes:
        shared: shared memory in bytes.
        registers: number of 32-bit registers.
        threads: largest number of resident threads.
        blocks: largest number of resident blocks.
        register_unit: registers are allocated to a warp in multiples of this number.
        warp_unit: number of warps, one per quarter, among which registers are divided.
        reserved: bytes of shared memory that the system takes per block.
    """

    shared: int
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32
    register_unit: int = 256
    warp_unit: int = 4
    reserved: int = 1024


#: Limits by compute capability: A100, H100 and B200.
MULTIPROCESSORS = {
    80: Multiprocessor(shared=164 * 1024),
    90: Multiprocessor(shared=228 * 1024),
    100: Multiprocessor(shared=228 * 1024),
}


@dataclass(frozen=True)
class Resources:
    """Resources of a kernel on an architecture.

    Attributes:
        registers: registers per thread.
        stack: bytes of the stack per thread.
        shared: bytes of static shared memory per block.
        local: number of instructions that read or write local memory: spilled registers, and
            arrays whose index is known at run time only.
    """

    registers: int
    stack: int
    shared: int
    local: int


def occupancy(resources: Resources, architecture: int, block: int = BLOCK) -> float:
    """Return the resident threads over the largest number of them.

    >>> occupancy(Resources(registers=64, stack=0, shared=2048, local=0), 80)
    0.5
    >>> occupancy(Resources(registers=65, stack=0, shared=2048, local=0), 80)
    0.375
    """
    limits = MULTIPROCESSORS[architecture]
    warps = -(-block // 32)
    unit = limits.register_unit
    registers_of_warp = -(-resources.registers * 32 // unit) * unit
    fitting = limits.registers // registers_of_warp // limits.warp_unit * limits.warp_unit
    blocks = min(
        fitting // warps,
        limits.blocks,
        limits.threads // block,
        limits.shared // (resources.shared + limits.reserved),
    )
    return blocks * warps * 32 / limits.threads


@cache
def programs() -> tuple[str, str] | None:
    """Return the paths of `cuobjdump` and `nvdisasm`, or None if one of them is missing.

    The packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm install them outside of PATH.
    """
    folders = [str(path) for base in sys.path for path in Path(base).glob("nvidia/cu*/bin")]
    search = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    paths = shutil.which("cuobjdump", path=search), shutil.which("nvdisasm", path=search)
    return (paths[0], paths[1]) if paths[0] and paths[1] else None


def measure(kernel: Kernel, architecture: int) -> Resources:
    """Compile a kernel for an architecture, and return its resources.

    Args:
        kernel: kernel to compile.
        architecture: compute capability times ten, such as 80.

    Raises:
        RuntimeError: if a program of NVIDIA is missing or fails.
    """
    cuobjdump, _ = _tools()
    with tempfile.TemporaryDirectory() as folder:
        cubin = _compile(kernel, architecture, folder)
        usage = _run(cuobjdump, "--dump-resource-usage", cubin)
    numbers = {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    # Without a stack there is no local memory.
    code = count_instructions(kernel, architecture) if numbers["STACK"] else Counter()
    local = sum(number for name, number in code.items() if name[:3] in ("LDL", "STL"))
    return Resources(numbers["REG"], numbers["STACK"], numbers["SHARED"], local)


def count_instructions(kernel: Kernel, architecture: int) -> Counter[str]:
    """Compile a kernel for an architecture, and count the instructions of its machine code by name.

    Raises:
        RuntimeError: if a program of NVIDIA is missing or fails.
    """
    _, nvdisasm = _tools()
    with tempfile.TemporaryDirectory() as folder:
        code = _run(nvdisasm, "-c", _compile(kernel, architecture, folder))
    return Counter(re.findall(r"^\s+/\*\w+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", code, flags=re.M))


def _tools() -> tuple[str, str]:
    tools = programs()
    if tools is None:
        raise RuntimeError(
            "cuobjdump or nvdisasm is missing; pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    return tools


def _compile(kernel: Kernel, architecture: int, folder: str) -> str:
    """Compile a kernel, and return the path of its machine code."""
    warp().compile_aot_module(
        kernel.entry.module, arch=architecture, module_dir=folder, use_ptx=False
    )
    (cubin,) = Path(folder).glob("*.cubin")
    return str(cubin)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[:300]}")
    return done.stdout


def name_of(kernel: Kernel) -> str:
    """Return the file of a kernel and its definitions, as one text.

    >>> from invtoolbox.kernels.tomography.joseph import joseph_kernel
    >>> import torch
    >>> name_of(joseph_kernel("scatter", torch.float32, 1, 0, LINES=1))
    'tomography/joseph_scatter float IMAGES=1 LINES=1 MODE=0'
    """
    fixed = ("REAL", "SINGLE", "EXP", "LOG", "TILE", "GEOMETRY", "BLOCK", "SHARED_BYTES")
    chosen = sorted((k, v) for k, v in kernel.definitions.items() if k not in fixed)
    switches = " ".join(f"{name}={value}" for name, value in chosen)
    return f"{kernel.file.removesuffix('.cpp')} {kernel.definitions['REAL']} {switches}".strip()


def breaks_rule(resources: Resources) -> bool:
    """Return whether a kernel needs more than 64 registers, a stack or local memory."""
    return resources.registers > REGISTERS or resources.stack > 0 or resources.local > 0


@dataclass(frozen=True)
class Listed:
    """An exception from the rule for the variants whose names match a pattern.

    Attributes:
        pattern: regular expression that the whole name matches.
        registers: largest number of registers.
        stack: largest stack in bytes.
        reason: what the registers or the stack hold.
    """

    pattern: str
    registers: int
    stack: int
    reason: str

    def covers(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None

    def allows(self, name: str, resources: Resources) -> bool:
        fits = resources.registers <= self.registers and resources.stack <= self.stack
        return self.covers(name) and fits


#: Largest number of registers, at which half of the threads are resident with 256 per block.
REGISTERS = 64
#: Reasons of more registers, and of a stack. Below the limit of 255 registers the compiler need not
#: spill: the stack is explained by arrays in the source with an index known at run time only.
EXCEPTIONS = (
    Listed(
        r"grids/eikonal_(sweep|march) double AXES=[23]",
        registers=110,
        stack=0,
        reason="a quadratic equation in float64 with one or two neighbours along every axis",
    ),
    Listed(
        r"points/rotation_fit .*",
        registers=94,
        stack=176,
        reason="3 x 3 matrices in float64, whose pivot is found at run time",
    ),
    Listed(
        r"rendering/raycast .*",
        registers=72,
        stack=88,
        reason="a box's axis found at run time, and the slow path of sine and cosine",
    ),
    Listed(
        r"rendering/splat_compositing_pixel_gradient .*",
        registers=128,
        stack=0,
        reason="features of a splat and of the pixel, more of them for more features",
    ),
    Listed(
        r"rendering/splat_compositing_block_gradient float .* FEATURES=(7|9|32) .*",
        registers=102,
        stack=0,
        reason="features of the pixel and 16 terms that the warp sums, more for more features",
    ),
    Listed(
        r"rendering/splat_compositing_block float FEATURES=32 .*",
        registers=78,
        stack=0,
        reason="the sums of 32 features",
    ),
    Listed(
        r"rendering/splat_compositing_block_gradient double .*",
        registers=166,
        stack=0,
        reason="as in float32, two registers per number",
    ),
    Listed(
        r"rendering/splat_compositing_(pixel|block|sum) double .*",
        registers=128,
        stack=0,
        reason="9 and 32 features in float64",
    ),
    Listed(
        r"rendering/splat_projection float .*",
        registers=93,
        stack=40,
        reason="rotation, covariance and camera; the thinnest axis of a normal is found at run time",
    ),
    Listed(
        r"rendering/splat_projection double .*",
        registers=133,
        stack=72,
        reason="as in float32, two registers per number",
    ),
    Listed(
        r"rendering/splat_projection_gradient float .*",
        registers=166,
        stack=72,
        reason="the projection and its derivatives, and the thinnest axis of a normal",
    ),
    Listed(
        r"rendering/splat_projection_gradient double .*",
        registers=254,
        stack=144,
        reason="as in float32, two registers per number",
    ),
    Listed(
        r"rendering/voxel_rendering float .*",
        registers=96,
        stack=0,
        reason="eight corners of a cell, and colors in up to 9 basis functions",
    ),
    Listed(
        r"rendering/voxel_rendering double .*",
        registers=168,
        stack=0,
        reason="as in float32, two registers per number",
    ),
    Listed(
        r"rendering/voxel_rendering_gradient .*",
        registers=255,
        stack=192,
        reason="corners, colors and their derivatives in up to 9 basis functions: at 255 registers "
        "some are spilled in float64",
    ),
    Listed(
        r"rendering/window_blur double .*",
        registers=75,
        stack=0,
        reason="14 pixels and 4 sums in float64",
    ),
    Listed(
        r"tomography/joseph_project double .*",
        registers=72,
        stack=0,
        reason="three sums in float64 and the places of a ray",
    ),
    Listed(
        r"tomography/voxel_project double .*",
        registers=66,
        stack=0,
        reason="four weights and the arc tangent in float64",
    ),
    Listed(
        r"tomography/volume_geometry .*",
        registers=164,
        stack=176,
        reason="derivatives in 13 numbers; the main axis of a ray is found at run time; if curved, "
        "the slow path of sine and cosine",
    ),
    Listed(
        r"tomography/volume_(project|scatter|backproject) .*",
        registers=112,
        stack=176,
        reason="the main axis of a ray is found at run time; if curved, the slow path of sine and "
        "cosine",
    ),
)
