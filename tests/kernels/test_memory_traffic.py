"""Bytes and atomic additions of launches of generated CUDA source, counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invtoolbox.kernels.native import native_kernel
from invtoolbox.kernels.rendering.splat_binning import bin_splats
from invtoolbox.kernels.rendering.splat_compositing import Tasks, composite
from invtoolbox.kernels.rendering.splat_projection import Projection, project
from tests.emulated_cuda import emulate_cuda
from tests.geometry.test_splatting import scene
from tests.kernels.generated_cuda import why_not
from tests.kernels.memory_traffic import Traffic, count_traffic, total
from tests.kernels.recorded_launches import Launch, Recorder


@pytest.fixture(autouse=True)
def a_compiler() -> None:
    for build in ("plain", "counts"):
        if (reason := why_not(build)) is not None:
            pytest.skip(reason)


@dataclass
class SmoothingArguments:
    """Arguments of a kernel that adds neighbours."""

    values: Tensor
    sums: Tensor


def test_a_read_counts_once_per_thread_per_warp_and_per_block(tmp_path: Path) -> None:
    (tmp_path / "sums.cpp").write_text(
        "const REAL* v = (const REAL*)values + task;\n((REAL*)sums)[task] = v[0] + v[1];\n"
    )
    kernel = native_kernel(str(tmp_path / "sums.cpp"), {"REAL": "float"}, SmoothingArguments)
    launch = Launch(kernel, 512, {"values": torch.rand(513), "sums": torch.zeros(512)})
    traffic = count_traffic(launch)
    # 512 threads are 16 warps and 2 blocks.
    expected = Traffic(read=4 * 1024, read_by_warps=4 * 16 * 33, read_by_blocks=4 * 2 * 257)
    assert traffic == {"values": expected, "sums": Traffic(written=4 * 512)}
    assert total(traffic).written == 4 * 512


@pytest.mark.slow
def test_blocks_of_threads_read_less_and_add_nothing_by_atomics() -> None:
    *gaussians, views, K, width, height = scene(300, 1, 1, seed=2, size=(40, 30))
    inputs = (t[None].float() for t in (*gaussians, views, K))
    splats, boxes, reaches = project(*inputs, Projection(width, height, degree=1))
    launches: dict[Tasks, list[Launch]] = {}
    tasks: Tasks
    for tasks in ("pixel", "block"):
        recorder = Recorder()
        with emulate_cuda(recorder):
            free, *rest = (t.detach().to("cuda") for t in (splats, boxes, reaches))
            tiles = bin_splats(*rest, width, height)
            free.requires_grad_(True)
            composite(free, *rest, tiles, width, height, tasks=tasks).sum().backward()
        launches[tasks] = [v for v in recorder.launches.values() if tasks in v.kernel.file]
    read = {
        name: [total(count_traffic(launch)).read for launch in both]
        for name, both in launches.items()
    }
    assert all(pixel > 20 * block for pixel, block in zip(read["pixel"], read["block"]))
    # Nine numbers for each pair of a splat and a pixel, and none.
    additions = {name: both[1].on_grid()[1] for name, both in launches.items()}
    assert additions["block"] == 0
    assert additions["pixel"] % 9 == 0 and additions["pixel"] > 9 * len(tiles.entries)
