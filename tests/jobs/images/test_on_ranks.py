"""``invtoolbox ct`` by the processes of torchrun: the volume of one process, resumption, refusals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

import invtoolbox as it
from invtoolbox.geometry.grids import Grid
from invtoolbox.jobs.images import on_ranks
from invtoolbox.jobs.images import run as image_run
from invtoolbox.jobs.images.slabs import SlabVolume, slab_file
from tests.command_line import Run, one_sentence

SCAN = ("ct", "projections.h5", "--geometry", "cone.toml")
TV = ("--prior", "tv,nonnegative", "--solver", "fista", "--regularization", "0.3")


def environment(rank: int, count: int) -> dict[str, str]:
    """Return what torchrun gives a process, with a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    names = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return {name: str(value) for name, value in names.items()}


@pytest.fixture
def launched(cone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A scan, and this process as the only one of torchrun."""
    for module in (on_ranks, image_run):
        monkeypatch.setattr(module, "is_launched", lambda: True)
    for name, value in environment(0, 1).items():
        monkeypatch.setenv(name, value)
    yield cone
    if dist.is_initialized():
        dist.destroy_process_group()


def volume(name: str) -> np.ndarray:
    opened = it.datasets.open(name)
    assert isinstance(opened, it.datasets.Volume)
    return opened.slices()


def test_slabs_of_different_thickness_are_one_volume(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).random((7, 3, 2), dtype=np.float32)
    for number, (start, stop) in enumerate(((0, 2), (2, 3), (3, 7))):
        np.save(slab_file(tmp_path, number), whole[start:stop])
    slabs = SlabVolume(tmp_path, [0, 2, 3], (7, 3, 2), Grid())
    assert np.array_equal(slabs.slices(), whole)
    assert np.array_equal(slabs.slices(1, 4), whole[1:4])


def test_fbp_and_tv_of_a_rank_are_those_of_one_process(
    run: Run, launched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"fdk": ("--fbp",), "tv": (*TV, "--max-iterations", "3")}
    for name, options in methods.items():
        ran = run(*SCAN, *options, "--output", f"{name}.mha")
        assert ran.code == 0, ran.err
        assert "on 1 ranks" in ran.out and "1 ranks, slabs from the slices [0]" in ran.out
        assert not list(Path().glob("*.checkpoint"))
    for module in (on_ranks, image_run):
        monkeypatch.setattr(module, "is_launched", lambda: False)
    for name, options in methods.items():
        assert run(*SCAN, *options, "--output", f"{name}_alone.mha").code == 0
        alone = volume(f"{name}_alone.mha")
        assert np.allclose(volume(f"{name}.mha"), alone, atol=1e-5 * abs(alone).max())


def test_what_ranks_do_not_take_is_one_sentence(run: Run, launched: Path) -> None:
    def refuse(*options: str) -> str:
        sentence = one_sentence(run(*SCAN, *options))
        if dist.is_initialized():
            dist.destroy_process_group()
        return sentence

    output = ("--output", "x.mha")
    assert "leave --memory and workers out" in refuse("--fbp", "--memory", "1GB", *output)
    assert "give a number as regularization" in refuse("--prior", "tv", *output, "--overwrite")
    assert "one --output" in refuse("--fbp", *output, "--output", "y.mha", "z.mha")
    assert "is not taken on ranks" in refuse("--fbp", "--stripes", *output, "--overwrite")
    Path("w.mha.checkpoint").mkdir()
    assert "give --resume to go on" in refuse("--fbp", "--output", "w.mha")


@pytest.mark.slow
def test_a_killed_rank_stops_the_other_and_three_go_on(run: Run, cone: Path) -> None:
    options = [*SCAN, *TV, "--set", "solver.tolerance=1e-9", "--output"]

    def start(count: int, iterations: str, *arguments: str) -> list[subprocess.Popen[str]]:
        shared = environment(0, count)
        return [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "invtoolbox", *options, "two.mha"),
                    *("--max-iterations", iterations, *arguments),
                ],
                env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]

    first, second = start(2, "20000")
    while not list(Path().glob("two.mha.checkpoint/loop.*1of2")) and first.poll() is None:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    _, sentence = first.communicate()
    second.communicate()
    assert first.returncode == 2 and sentence.count("\n") == 1, sentence
    assert "stopped because another rank did" in sentence
    for process in start(3, "20", "--resume"):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert volume("two.mha").shape == (10, 16, 16)
