"""What the tests of the command line share: files of a user, and one way to run a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from invtoolbox.cli import main

GEOMETRY = """kind = "parallel"
num_detectors = 24
image_shape = [16, 16]
[angles]
unit = "degrees"
start = 0
stop = 180
count = 20
endpoint = false
"""


class Ran(NamedTuple):
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder as the current directory: a sinogram with its geometry, a picture with its kernel."""
    monkeypatch.chdir(tmp_path)
    import torch

    import invtoolbox as it

    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 5:11, 4:12] = 1
    Path("geometry.toml").write_text(GEOMETRY)
    A = it.datasets.read_geometry("geometry.toml").operator()
    np.save("sinogram.npy", A.simulate(truth, noise=0.05, seed=0)[0, 0].numpy())
    np.save("truth.npy", truth[0, 0].numpy())
    blurred = it.operators.Blur(torch.ones(3, 3) / 9, (16, 16))(truth)
    it.datasets.write_png("photo.png", blurred, (0.0, 1.0))
    it.datasets.write_png("kernel.png", torch.ones(3, 3), (0.0, 1.0))
    return tmp_path


def one_sentence(ran: Ran) -> str:
    """The sentence of a failed command: one line on stderr, no traceback, a non-zero exit code."""
    lines = ran.err.strip().splitlines()
    assert ran.code == 2, ran
    assert len(lines) == 1 and lines[0].startswith("invtoolbox: "), ran.err
    return lines[0]


CONE = """kind = "cone"
volume_shape = [10, 16, 16]
voxel_size = 0.5
detector_shape = [18, 26]
detector_spacing = 1.0
source_origin = 40.0
source_detector = 70.0

[angles]
unit = "degrees"
start = 0
stop = 360
count = 24
endpoint = false
"""


@pytest.fixture
def cone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a small simulated cone-beam scan."""
    monkeypatch.chdir(tmp_path)
    import torch

    import invtoolbox as it

    truth = torch.zeros(1, 1, 10, 16, 16)
    truth[..., 3:8, 5:11, 4:12] = 1
    Path("cone.toml").write_text(CONE)
    A = it.datasets.read_geometry("cone.toml").operator()
    y = A.simulate(truth, noise=0.02, seed=0)[0, 0]
    it.datasets.write_hdf5("projections.h5", {"projections": y})
    np.save("truth.npy", truth[0, 0].numpy())
    return tmp_path
