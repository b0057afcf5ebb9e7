"""Imports run one way, and heavy packages wait until they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "deepinv",
    "kornia",
    "skimage",
    "h5py",
    "matplotlib",
    "pydantic",
    "warp",
    "numba",
    "scipy",
    "pydicom",
    "PIL",
    "safetensors",
    "tifffile",
    "pywt",
    "torchvision",
)


def test_imports_run_one_way() -> None:
    """The contracts of import-linter in pyproject.toml."""
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr


#: Runs every argument in a process of its own, which has imported torch and NumPy and nothing else.
EACH_ALONE = """
import os, sys
import numpy, torch
for code in sys.argv[1:]:
    if not (child := os.fork()):
        exec(code)
        sys.stdout.flush()
        os._exit(0)  # without taking down what the process of torch has set up
    assert os.waitpid(child, 0)[1] == 0, code
"""


def run_each_alone(*codes: str) -> str:
    command = [sys.executable, "-c", EACH_ALONE, *codes]
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    ).stdout


def test_heavy_packages_wait_until_they_are_used() -> None:
    look = f"print(*(m for m in {HEAVY} if m in sys.modules))"
    uses = (
        "import invtoolbox",
        "import invtoolbox as it; it.Problem, it.solvers.CGLS, it.priors.TotalVariation, "
        "it.operators.Identity",
        "import invtoolbox.cli; invtoolbox.cli.parser()",
    )
    assert run_each_alone(*(f"{use}; {look}" for use in uses)).split() == []


def test_any_module_may_be_imported_first() -> None:
    modules = (
        "jobs.images.reconstruct",
        "solve",
        "priors",
        "catalogue.registry",
        "catalogue.shelves",
        "jobs.images.run",
        "plotting",
    )
    check = "import invtoolbox as it; assert callable(it.solve) and callable(it.reconstruct)"
    run_each_alone(*(f"import invtoolbox.{module}; {check}" for module in modules))
