"""What every test shares: one thread, the folder of real measurements, and the errors of missing data."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--grid",
        type=int,
        metavar="SEED",
        help="emulated devices run the generated CUDA source, with its threads in a random order on "
        "two threads of the CPU; 0 for the order of their numbers on one",
    )


def pytest_configure(config: pytest.Config) -> None:
    if (seed := config.getoption("--grid", None)) is not None:
        # Imported here, so that other tests do not start with Warp.
        from tests import emulated_cuda
        from tests.kernels import generated_cuda

        if (reason := generated_cuda.why_not()) is not None:
            raise pytest.UsageError(f"--grid {seed}: {reason}")
        emulated_cuda.default_launcher = generated_cuda.grid_launcher(seed)
    # Without INVTOOLBOX_DATA, tests read the folder ../shared/data next to the repository.
    os.environ.setdefault("INVTOOLBOX_DATA", str(ROOT.parent / "shared" / "data"))
    # Two threads on two loaded cores can be much slower than one.
    torch.set_num_threads(1)
    # The tests start Python many times, and each process would compile the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A job in the background of a shell ignores SIGINT, and so would the runs that the tests start
    # and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def printed_as_before() -> Iterator[None]:
    """ODL changes how NumPy prints when it is imported, which would fail the examples in docstrings that run later."""
    before = np.get_printoptions()
    yield
    if np.get_printoptions() != before:
        np.set_printoptions(**before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real measurements, ``INVTOOLBOX_DATA``."""
    folder = Path(os.environ["INVTOOLBOX_DATA"])
    if not folder.is_dir():
        pytest.skip(
            f"no real measurements at {folder}; set INVTOOLBOX_DATA to the folder that holds them"
        )
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of the fixture `data_dir`, so that ``-m "not data"`` leaves it out."""
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """With INVTOOLBOX_REQUIRE_DATA a test of real measurements may not skip for want of them.

    A missing optional package is still a reason to skip.
    """
    outcome = yield
    report = outcome.get_result()
    if (
        report.skipped
        and "could not import" not in str(report.longrepr)
        and os.environ.get("INVTOOLBOX_REQUIRE_DATA")
        and item.get_closest_marker("data")
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs real measurements and skipped: {report.longrepr}"
