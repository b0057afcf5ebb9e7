"""Imports run one way, and heavy packages wait until they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "code",
    [
        "import invtoolbox",
        "import invtoolbox as it; it.Problem, it.solvers.CGLS, it.priors.TotalVariation, "
        "it.operators.Identity",
        "import invtoolbox.cli; invtoolbox.cli.parser()",
    ],
)
def test_heavy_packages_wait_until_they_are_used(code: str) -> None:
    look = f"{code}; import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.split() == []


@pytest.mark.parametrize(
    "first",
    [
        "invtoolbox.jobs.images.reconstruct",
        "invtoolbox.solve",
        "invtoolbox.priors",
        "invtoolbox.catalogue.registry",
        "invtoolbox.catalogue.shelves",
        "invtoolbox.jobs.images.run",
        "invtoolbox.plotting",
    ],
)
def test_any_module_may_be_imported_first(first: str) -> None:
    look = (
        f"import {first}, invtoolbox as it; assert callable(it.solve) and callable(it.reconstruct)"
    )
    subprocess.run([sys.executable, "-c", look], timeout=120, check=True)
