"""Registers, stack and occupancy of the kernels: the rule, its exceptions, and the formula."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invtoolbox.kernels.native import Kernel, native_kernel
from invtoolbox.kernels.rendering.splat_compositing import composite_kernel
from invtoolbox.kernels.tomography.joseph import joseph_kernel
from tests.kernels.cuda_variants import variants
from tests.kernels.generated_cuda import why_not
from tests.kernels.kernel_resources import (
    EXCEPTIONS,
    Resources,
    breaks_rule,
    measure,
    name_of,
    occupancy,
    programs,
)

GROUPS = tuple(dict.fromkeys(group for group, _ in variants()))


@pytest.fixture
def reader() -> None:
    if programs() is None:
        pytest.skip("nvidia-cuda-cuobjdump or nvidia-cuda-nvdisasm is not installed")
    if "CUDA" in (reason := why_not() or ""):
        pytest.skip(reason)


def check(kernel: Kernel, architecture: int) -> None:
    name, resources = name_of(kernel), measure(kernel, architecture)
    allowed = any(exception.allows(name, resources) for exception in EXCEPTIONS)
    assert allowed or not breaks_rule(resources), f"{name}, sm_{architecture}: {resources}"
    assert breaks_rule(resources) or occupancy(resources, architecture) >= 0.5


@pytest.mark.parametrize(
    ("registers", "shared", "block", "share"),
    [
        (32, 2048, 256, 1.0),
        (40, 2048, 256, 0.75),  # 6 blocks: 51 warps have registers, 48 of them in whole blocks
        (64, 2048, 256, 0.5),
        (65, 2048, 256, 0.375),  # a warp gets registers for 72
        (128, 2048, 256, 0.25),
        (255, 2048, 256, 0.125),
        (32, 48 * 1024, 256, 0.375),  # 3 blocks with 49 KiB of the A100's 164
        (16, 0, 32, 0.5),  # 32 blocks of one warp
    ],
)
def test_occupancy_follows_from_the_limits_of_the_card(
    registers: int, shared: int, block: int, share: float
) -> None:
    assert occupancy(Resources(registers, 0, shared, 0), 80, block) == share


def test_the_h100_has_more_shared_memory() -> None:
    resources = Resources(registers=32, stack=0, shared=48 * 1024, local=0)
    assert occupancy(resources, 90) == occupancy(resources, 100) == 0.5


def test_projection_and_compositing_keep_the_rule(reader: None) -> None:
    for kernel in (
        joseph_kernel("project", torch.float32, 1, 0, GROUP=1),
        composite_kernel(torch.float32, 3, None, False, "block", False),
    ):
        check(kernel, 90)


@dataclass
class ControlArguments:
    """Arguments of the kernel with an array in local memory."""

    places: Tensor
    values: Tensor


def test_an_array_with_an_index_of_the_run_time_breaks_the_rule(
    reader: None, tmp_path: Path
) -> None:
    body = """
    float numbers[40];
    for (int k = 0; k < 40; ++k)
        numbers[((const int*)places)[40 * task + k] % 40] = (REAL)k;
    for (int k = 0; k < 40; ++k)
        ((REAL*)values)[40 * task + k] = numbers[k];
    """
    (tmp_path / "control.cpp").write_text(body)
    kernel = native_kernel(str(tmp_path / "control.cpp"), {"REAL": "float"}, ControlArguments)
    resources = measure(kernel, 80)
    assert resources.stack >= 160 and resources.local > 40
    assert breaks_rule(resources)
    with pytest.raises(AssertionError, match="control float"):
        check(kernel, 80)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("group", GROUPS)
def test_every_variant_keeps_the_rule_or_is_listed(
    group: str, architecture: int, reader: None
) -> None:
    for kernel in {
        id(k): k for name, make in variants() if name == group for k in [make()]
    }.values():
        check(kernel, architecture)
