"""Every kernel compiles for CUDA, which needs no GPU: Warp contains NVIDIA's compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from invtoolbox.kernels import native
from invtoolbox.kernels.native import warp
from invtoolbox.kernels.points import nearest
from tests.kernels.cuda_variants import CPU_ONLY, variants

VARIANTS = list(variants())
GROUPS = tuple(dict.fromkeys(group for group, _ in VARIANTS))
#: Compute capabilities of the A100 and of the H100.
ARCHITECTURES = (80, 90)


@pytest.fixture(scope="module")
def compiler() -> Any:
    wp = warp()
    context = getattr(wp, "_src", wp).context  # ``_src`` from version 1.10 on
    if not hasattr(wp, "compile_aot_module") or not context.runtime.is_cuda_enabled:
        pytest.skip("this Warp was built without CUDA")
    return wp


def number_compiled(folder: Path) -> int:
    """Return the number of modules; early versions of Warp write PTX in place of machine code."""
    return len([path for path in folder.iterdir() if path.suffix in (".cubin", ".ptx")])


@pytest.mark.parametrize("group", GROUPS)
def test_the_largest_variant_compiles(group: str, compiler: Any, tmp_path: Path) -> None:
    """Compile the last variant of each file, which has every switch on, for one of the two."""
    last = {make().file: make() for name, make in VARIANTS if name == group}
    for k, kernel in enumerate(last.values()):
        architecture = ARCHITECTURES[(k + GROUPS.index(group)) % 2]
        compiler.compile_aot_module(kernel.entry.module, arch=architecture, module_dir=tmp_path)
    assert number_compiled(tmp_path) == len(last)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("group", GROUPS)
def test_every_variant_compiles(
    group: str, architecture: int, compiler: Any, tmp_path: Path
) -> None:
    kernels = {
        id(kernel): kernel for name, make in VARIANTS if name == group for kernel in [make()]
    }
    for kernel in kernels.values():
        compiler.compile_aot_module(kernel.entry.module, arch=architecture, module_dir=tmp_path)
    assert number_compiled(tmp_path) == len(kernels)


def test_every_kernel_is_listed() -> None:
    folder = Path(native.__file__).parent
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.cpp")}
    listed = {make().file for _, make in VARIANTS}
    assert listed | CPU_ONLY == files and not listed & CPU_ONLY


def test_importing_kernels_does_not_start_warp() -> None:
    modules = sorted(
        f"invtoolbox.kernels.{path.parent.name}.{path.stem}"
        for folder in ("points", "rendering", "tomography")
        for path in (Path(nearest.__file__).parents[1] / folder).glob("[a-z]*.py")
    )
    code = f"import sys, {', '.join(modules)}; print('warp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 12 and done.stdout.strip() == "False"
