"""The CUDA source that Warp generates, run on a CPU with the grid of CUDA, also under sanitizers.

The whole list takes half an hour of one core at its first run. Compiled kernels are kept in a folder
of temporary files, see `tests.kernels.generated_cuda`.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from invtoolbox.kernels import native
from invtoolbox.kernels.native import Kernel, native_kernel
from tests import device_jobs
from tests.emulated_cuda import emulate_cuda
from tests.kernels.cuda_variants import CPU_ONLY, variants
from tests.kernels.device_launches import NAMES, record
from tests.kernels.generated_cuda import grid_launcher, why_not
from tests.kernels.recorded_launches import Launch, Recorder, compare, same_bits, variant

#: Kernels that the normal tests run: a projection, its transpose by atomic additions,
#: compositing by blocks of threads, and its gradient.
SHORT = (
    "tomography/joseph_project.cpp",
    "tomography/joseph_scatter.cpp",
    "rendering/splat_compositing_block.cpp",
    "rendering/splat_compositing_block_gradient.cpp",
)
#: Largest difference over the largest value. Of sums by atomic additions, from sums in float64; of
#: all results, from Warp's compiler for the CPU, which contracts products and sums.
SUMS, CONTRACTION = 1e-6, {"float": 5e-6, "double": 1e-13}

ROOT = Path(__file__).parents[2]
#: Tests that use the emulated device.
EMULATED = (
    "tests/geometry/test_splatting.py",
    "tests/kernels/test_pair_buffer.py",
    "tests/test_device_jobs.py",
    "tests/test_emulated_cuda.py",
    "tests/test_gpu_benchmark.py",
)


def need(*builds: str) -> None:
    for build in builds:
        if (reason := why_not(build)) is not None:
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def a_compiler() -> None:
    need("plain")


@cache
def short() -> dict[str, Launch]:
    """Return one launch of each kernel of `SHORT`."""
    recorder = Recorder()
    with emulate_cuda(recorder):
        device_jobs.ct_2d("cuda", 1)
        device_jobs.gaussians("cuda", 1)
    return {key[0]: launch for key, launch in recorder.launches.items() if key[0] in SHORT}


def check_bits(launch: Launch) -> None:
    """Check that the grid gives the CPU's bits in any order, and sums by atomics nearly so."""
    result = compare(launch)
    assert result.host, result
    assert result.orders or result.additions, result
    assert result.cpu <= CONTRACTION[str(launch.kernel.definitions["REAL"])], result
    assert result.order <= SUMS and (result.sums or 0.0) <= SUMS, result


def check_sanitizers(launch: Launch) -> None:
    """Check that the sanitizers report nothing, and that programs under them give the same bits."""
    results, additions = launch.on_grid()
    for build, seed, threads in (("addresses", 0, 1), ("threads", 1, 2)):
        report, after = launch.alone(build, seed=seed, threads=threads)
        assert not report, (variant(launch.kernel), build, report)
        assert (additions and threads > 1) or same_bits(after, results), variant(launch.kernel)


# -- the short selection -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHORT)
def test_the_grid_gives_the_bits_of_the_cpu(file: str) -> None:
    check_bits(short()[file])


def test_sanitizers_report_nothing() -> None:
    need("addresses", "threads")
    check_sanitizers(short()["tomography/joseph_scatter.cpp"])
    check_sanitizers(short()["rendering/splat_compositing_block_gradient.cpp"])


def test_a_write_past_the_end_is_reported() -> None:
    need("addresses")
    launch = short()["tomography/joseph_scatter.cpp"]
    # The last place that the kernel writes to is the first one behind the shortened tensor.
    last = int(launch.on_grid()[0]["columns"].flatten().nonzero()[-1])
    cut = launch.tensors()["columns"].flatten()[:last].clone()
    report, after = launch.alone("addresses", changed={"columns": cut})
    assert "AddressSanitizer: heap-buffer-overflow" in report and not after


def test_an_atomic_addition_made_plain_is_reported() -> None:
    need("threads")
    launch = short()["tomography/joseph_scatter.cpp"]
    assert is_race_reported(launch, additions="plain")


def is_race_reported(launch: Launch, **options: Any) -> bool:
    """Return whether a race is reported in one of eight runs.

    On a busy machine one thread may end before the next one begins, and the sanitizer forgets its
    accesses.
    """
    reports = (launch.alone("threads", seed=k, threads=2, **options)[0] for k in range(1, 9))
    return any("ThreadSanitizer: data race" in report for report in reports)


@dataclass
class ControlArguments:
    """Argument of the kernels with faults."""

    values: Tensor


def control(folder: Path, body: str, block: int = 1) -> Launch:
    """Return a launch of a kernel with a fault, which 1024 tasks run."""
    file = folder / f"control{len(list(folder.iterdir()))}.cpp"  # a file is read once
    file.write_text(body)
    kernel: Kernel = native_kernel(str(file), {"REAL": "int"}, ControlArguments, block=block)
    return Launch(kernel, 1024, {"values": torch.zeros(1024, dtype=torch.int32)})


def neighbours(folder: Path, barrier: str) -> Launch:
    """Return a launch in which each thread of a block reads what the next one wrote."""
    body = "SHARED(int, places, BLOCK);\nplaces[thread] = task;\n" + barrier
    body += "((int*)values)[task] = places[(thread + 1) % BLOCK];\n"
    include = f'#include "{Path(native.__file__).parent / "block.h"}"\n'
    return control(folder, include + body, block=256)


def test_undefined_arithmetic_is_reported(tmp_path: Path) -> None:
    need("addresses")
    launch = control(tmp_path, "((REAL*)values)[task] = 2147483000 + task;\n")
    report, after = launch.alone("addresses")
    assert "signed integer overflow" in report and not after


def test_a_result_that_depends_on_the_order_is_noticed(tmp_path: Path) -> None:
    launch = control(tmp_path, "((REAL*)values)[task / 7] = task;\n")
    result = compare(launch)
    assert result.host and not result.orders and not result.additions
    with pytest.raises(AssertionError):
        check_bits(launch)


def test_a_missing_barrier_is_reported(tmp_path: Path) -> None:
    need("threads")
    tasks = torch.arange(1024)
    right = (tasks // 256 * 256 + (tasks + 1) % 256).int()
    complete = neighbours(tmp_path, "SYNC;\n")
    assert torch.equal(complete.on_grid(seed=3, threads=2)[0]["values"], right)
    assert not complete.alone("threads", seed=1, threads=2)[0]
    assert not complete.alone("addresses")[0]
    missing = neighbours(tmp_path, "")
    assert not torch.equal(missing.on_grid(seed=3, threads=2)[0]["values"], right)
    assert is_race_reported(missing)


def test_threads_at_different_barriers_are_reported(tmp_path: Path) -> None:
    apart = neighbours(tmp_path, "if (thread < 100)\n    SYNC;\nelse\n    SYNC;\n")
    with pytest.raises(RuntimeError, match="wait at different barriers"):
        apart.on_grid()


def test_a_job_runs_on_the_grid() -> None:
    """The emulated device launches the CUDA source, in other orders at every launch."""
    on_cpu = device_jobs.ct_2d("cpu", 5)
    results = []
    for seed in (1, 2):
        with emulate_cuda(grid_launcher(seed)):
            results.append(device_jobs.ct_2d("cuda", 5).cpu())
    for result in results:
        assert float((result - on_cpu).abs().max() / on_cpu.abs().max()) < 1e-5
    # Sums by atomic additions differ in their last bits; the deterministic mode does not add so.
    assert not torch.equal(*results)


# -- the whole list ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_gives_the_bits_of_the_cpu(name: str) -> None:
    for launch in record(name, ordered=False):
        check_bits(launch)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_deterministic_mode_adds_no_floats_in_any_order(name: str) -> None:
    """Under `torch.use_deterministic_algorithms(True)` no kernel's bits depend on an order."""
    for launch in record(name, ordered=True):
        result = compare(launch)
        assert result.host and result.orders and not result.additions, result


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_sanitizers_report_nothing_of_any_variant(name: str) -> None:
    need("addresses", "threads")
    both = {
        variant(launch.kernel): launch for mode in (True, False) for launch in record(name, mode)
    }
    for launch in both.values():
        check_sanitizers(launch)


@pytest.mark.slow
def test_the_names_reach_every_source_and_many_variants() -> None:
    reached = {
        variant(launch.kernel)
        for name in NAMES
        for mode in (False, True)
        for launch in record(name, mode)
    }
    files, number = {make().file for _, make in variants()}, len(list(variants()))
    print(f"{len(reached)} variants of {len(files)} sources; cuda_variants.py lists {number}")
    assert {file for file, _ in reached} == files and not files & CPU_ONLY
    assert len(reached) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("file", EMULATED)
def test_tests_of_the_emulated_device_pass_on_the_grid(file: str) -> None:
    """The kernels run as generated CUDA source, with their threads in random orders."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not gpu", "--grid", "1"]
    done = subprocess.run(
        [*command, file], cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-3000:]
