"""A package that declares entry points is found by name: in the API, in a scene file and on the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

MODULE = '''
import torch
import invtoolbox as it

class Mine(it.priors.ExplicitPrior):
    def __init__(self, strength=1.0):
        """Squares, weighed by hand."""
        self.strength = strength
    def energy(self, x):
        return 0.5 * self.strength * x.flatten(1).square().sum(1)
    def __repr__(self):
        return f"Mine({self.strength})"

class Twice(it.operators.LinearOperator):
    """Everything is doubled."""
    def __init__(self, image_shape):
        self.domain_shape = self.range_shape = tuple(image_shape)
    def _forward(self, x):
        return 2 * x

class Lines:
    """Text files of numbers."""
    def __init__(self, path, geometry=None):
        self.rows = [[float(v) for v in line.split()] for line in open(path)]
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return it.datasets.Measurement(torch.tensor(self.rows)[None, None], meta={"source": "lines", "units": "1"})
'''
SCENE = """# With a plug-in for everything.
[measurements]
path = "numbers.txt"
reader = "lines"
[operator]
name = "twice"
[prior]
name = "mine"
strength = 2.0
[solver]
name = "steepest"
[regularization]
weight = 1.0
[output]
formats = ["npy"]
"""


@pytest.fixture
def plugged(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the plug-in is installed."""
    (tmp_path / "plug.py").write_text(MODULE)
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[invtoolbox.priors]\nmine = plug:Mine\ntv = plug:Mine\nbroken = "
        "gone:Gone\n[invtoolbox.operators]\ntwice = plug:Twice\n[invtoolbox.solvers]\nsteepest = "
        "invtoolbox.solvers:GradientDescent\n[invtoolbox.readers]\nlines = plug:Lines\n"
    )
    (tmp_path / "scene.toml").write_text(SCENE)
    (tmp_path / "numbers.txt").write_text("2 4\n6 8\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


def ran(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plug_in_works_everywhere(plugged: dict[str, str], tmp_path: Path) -> None:
    # The minimizer of 1/2 |2 x - y|^2 + 1/2 2 |x|^2 is y / 3.
    code = (
        "from invtoolbox.cli import main; assert main(['list']) == 0\n"
        "assert main(['run', 'scene.toml', '-q']) == 0\n"
        "import numpy, torch, invtoolbox as it\nx = "
        "numpy.load('results/scene/reconstruction.npy')\nassert numpy.allclose(x.ravel() * 3, [2, "
        "4, 6, 8], atol=1e-3), x\nA = it.operators.Identity((1, 2, 2))\ns = "
        "it.reconstruct(torch.ones(2, 2), A, prior='mine', regularization=1.0, "
        "progress=False)\nassert torch.allclose(s.x, torch.tensor(0.5), atol=1e-4), s.x\n"
        # A plug-in may not take a name of the toolbox's own.
        "from invtoolbox.catalogue.registry import lookup; assert lookup('priors', 'tv') is "
        "it.priors.TotalVariation\n"
    )
    listed = ran(["-c", code], plugged, tmp_path)
    assert (
        "mine " in listed
        and "Everything is doubled" in listed
        and "Text files of numbers" in listed
    )
    assert "broken " in listed and "ModuleNotFoundError: No module named 'gone'" in listed


def test_the_page_that_brings_a_prior_into_a_scene(tmp_path: Path) -> None:
    """Its two files as they stand there, installed by hand, and its command on fewer pixels."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "how_do_i" / "own_prior.md").read_text()

    def block(language: str) -> str:
        found = re.search(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        assert found is not None
        return found[1]

    module, project = block("py"), tomllib.loads(block("toml"))["project"]
    assert sum(bool(line.strip()) for line in (module + block("toml")).splitlines()) <= 20
    (tmp_path / "my_priors.py").write_text(module)
    info = tmp_path / f"my_priors-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    ((group, points),) = project["entry-points"].items()
    (info / "entry_points.txt").write_text(
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in points.items())
    )
    command = next(line for line in block("sh").splitlines() if line.startswith("invtoolbox run"))
    fewer = [
        "measurements.simulate.crop.rows=32",
        "measurements.simulate.crop.columns=40",
        "regularization=1.0",
        'output.formats=["npy"]',
    ]
    printed = ran(
        ["-m", *command.split(), *(f"--set={change}" for change in fewer), "--output", "here"],
        {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        tmp_path,
    )
    assert "LogDifferences" in printed and (tmp_path / "here" / "reconstruction.npy").is_file()
