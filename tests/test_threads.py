"""The number of threads: who chooses it, and that a resumed run keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.core import threads


def test_order_of_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "free_processors", lambda: 2)
    monkeypatch.setattr(threads, "_AT_START", 4)
    with threads.limit_torch_threads(4):
        assert threads.choose_threads() == 2
        assert threads.choose_threads(3) == 3
    with threads.limit_torch_threads(3):  # a number that the user gave to torch
        assert threads.choose_threads() == 3
    with threads.limit_torch_threads(4):
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert threads.choose_threads() == 4
        monkeypatch.setenv(threads.VARIABLE, "5")
        assert threads.choose_threads() == 5
        monkeypatch.setenv(threads.VARIABLE, "many")
        with pytest.raises(it.InputError, match=r"INVTOOLBOX_THREADS.*'many'"):
            threads.choose_threads()
    with pytest.raises(it.InputError, match="at least 1"):
        threads.choose_threads(0)


def test_busy_processors_are_not_free() -> None:
    # Twice as many processes as processors, so that none is free wherever this one runs.
    program = "print(flush=True)\nwhile True: pass"
    spinning = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        for process in spinning:
            assert process.stdout is not None and process.stdout.readline()
        count = threads._AT_START
        assert threads._processor_time(count, 0.5) < 0.85 * count
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_resumed_run_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_AT_START", 4)  # so that 2 is a number that the user gave
    problem = it.Problem(torch.rand(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    seen: list[int] = []

    def run(steps: int) -> None:
        it.solve(
            problem,
            it.priors.TotalVariation(),
            it.solvers.PDHG(),
            regularization=1.0,
            tolerance=0.0,
            max_iterations=steps,
            checkpoint=tmp_path / "run.safetensors",
            callbacks=[lambda _: seen.append(torch.get_num_threads())],
            progress=False,
        )

    with threads.limit_torch_threads(2):
        run(2)
    run(4)
    assert seen == [2, 2, 2, 2] and torch.get_num_threads() == 1


def test_command_applies_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    from invtoolbox.cli import demo, main

    seen: list[int] = []
    monkeypatch.setattr(demo, "command", lambda _: seen.append(torch.get_num_threads()) or 0)
    assert main(["demo", "--threads", "2"]) == 0
    assert seen == [2] and torch.get_num_threads() == 1


def _operators() -> dict[str, Any]:
    """Return operators whose bits do not depend on the number of threads."""
    O, draw = it.operators, torch.Generator().manual_seed(0)
    shape, angles = (187, 181), torch.arange(5) * torch.pi / 5
    mask = torch.rand(*shape, generator=draw) < 0.6
    kernel = torch.rand(5, 3, generator=draw) / 7
    orbit = {"source_origin": 500.0, "source_detector": 900.0, "detector_spacing": 2.0}
    return {
        "blur": O.Blur(kernel, shape),
        "inpainting": O.Inpainting(mask, shape),
        "parallel beam": O.ParallelBeam(shape, angles, 190),
        "fan beam": O.FanBeam(shape, angles, 190, **orbit),
        "cone beam": O.ConeBeam((31, 37, 37), angles, (41, 43), **orbit),
        "cartesian mri": O.CartesianMRI(mask, shape),
        "non-uniform fourier": O.NonUniformFourier(torch.rand(60, 2, generator=draw) - 0.5, shape),
        "wavelet": O.Wavelet((1, *shape)),
    }


@pytest.mark.parametrize("name", list(_operators()))
def test_operators_have_the_same_bits_with_one_thread_and_with_two(name: str) -> None:
    A = _operators()[name]
    x = torch.rand(2, *A.domain_shape, generator=torch.Generator().manual_seed(1))
    predictions, images = [], []
    for count in (1, 2):
        with threads.limit_torch_threads(count):
            predictions.append(A(x))
            images.append(A.adjoint(predictions[0]))
    assert torch.equal(*predictions) and torch.equal(*images)


def test_a_dense_product_depends_on_the_number_of_threads_in_its_last_bits_alone() -> None:
    # The BLAS computes the product, and on some processors it divides a sum among its threads. The
    # number of threads belongs to the process, and an operator does not change it. What is promised
    # is the same bits for an item alone and in a batch with an equal number of threads, and
    # closeness in float32 for two numbers of threads.
    draw = torch.Generator().manual_seed(0)
    A = it.operators.Matrix(torch.rand(11, 187 * 181, generator=draw), (1, 187, 181))
    x = torch.rand(2, *A.domain_shape, generator=draw)
    y = torch.rand(2, *A.range_shape, generator=draw)
    results = []
    for count in (1, 2):
        with threads.limit_torch_threads(count):
            results.append((A(x), A.adjoint(y)))
            for k in range(2):
                assert torch.equal(A(x[k : k + 1])[0], results[-1][0][k])
                assert torch.equal(A.adjoint(y[k : k + 1])[0], results[-1][1][k])
    for one, two in zip(*results):
        apart, size = (t.flatten(1).double().norm(dim=1) for t in (one - two, one))
        assert bool((apart <= 1e-6 * size).all())
