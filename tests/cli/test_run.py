"""``invtoolbox run``: the scene runner behind a command; scenes themselves are tested in tests/test_scene_file.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import Run, one_sentence

SCENE = """# A small blurred picture.
[measurements.simulate]
path = "truth.npy"
noise_std = 0.01
[operator]
name = "blur"
kernel = { gaussian = 1.0 }
[prior]
name = "tikhonov"
weight = 100.0
[solver]
name = "gradient-descent"
max_iterations = 5
[evaluation]
metrics = ["psnr", "ssim"]
"""


@pytest.fixture
def scene(here: Path) -> Path:
    path = here / "small.toml"
    path.write_text(SCENE)
    return path


def test_a_run_prints_what_was_done_and_where(run: Run, scene: Path) -> None:
    ran = run("run", scene.name, "--set", "solver.max_iterations=3")
    assert ran.code == 0, ran.err
    assert (
        "at most 3 iterations" in ran.out
        and "psnr" in ran.out
        and "results/small/report.html" in ran.out
    )
    assert run("run", scene.name, "--overwrite", "--quiet").out == ""


def test_results_are_not_written_over(run: Run, scene: Path) -> None:
    assert run("run", scene.name, "--output", "out").code == 0
    before = {p.name: p.read_bytes() for p in Path("out").iterdir()}
    sentence = one_sentence(run("run", scene.name, "--output", "out"))
    assert "--resume" in sentence and "--overwrite" in sentence
    assert {p.name: p.read_bytes() for p in Path("out").iterdir()} == before


def test_a_finished_run_says_so(run: Run, scene: Path) -> None:
    loose = ("--set", "solver.tolerance=0.5")
    assert run("run", scene.name, *loose).code == 0
    assert "was finished already" in run("run", scene.name, *loose, "--resume").out


@pytest.mark.parametrize(
    "override",
    ["solver.max_iteration=3", "priors=tv", "prior.weight=-1", "operator.name=blurr", "seed"],
)
def test_faults_of_overrides_are_one_sentence(run: Run, scene: Path, override: str) -> None:
    one_sentence(run("run", scene.name, "--set", override))
    assert not Path("results").exists()


def test_a_run_killed_by_ctrl_c_goes_on_bitwise(run: Run, scene: Path) -> None:
    """A real signal to a real process, at a moment that is not chosen."""
    options = [
        "--set",
        "solver.tolerance=0",
        "--set",
        "solver.max_iterations=1500",
        "--set",
        'output.formats=["npy"]',
    ]
    command = [sys.executable, "-m", "invtoolbox", "run", scene.name, *options]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while (
        not Path("results/small/scene.json").exists()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    time.sleep(0.15)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("the run ended before it was interrupted; give it more iterations")
    assert process.returncode == 130 and "Traceback" not in error
    assert "--resume goes on from it" in error or "nothing was computed yet" in error
    assert run("run", scene.name, *options, "--resume").code == 0
    assert run("run", scene.name, *options, "--output", "whole").code == 0
    assert (
        Path("results/small/reconstruction.npy").read_bytes()
        == Path("whole/reconstruction.npy").read_bytes()
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_output_device_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "invtoolbox", "list", "scenes"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
        )
    assert ran.returncode == 2 and ran.stderr.strip() == (
        "invtoolbox: no room left on the disk; free some or choose another folder"
    )
