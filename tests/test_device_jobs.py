"""Every job runs on an emulated GPU: on one device, without hidden copies, and with few waits."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.kernels.native import Kernel
from tests.device_jobs import (
    DRAWS,
    JOBS,
    count_per_step,
    count_steady,
    measured,
    picture,
    solve,
)
from tests.emulated_cuda import emulate_cuda
from tests.kernels.cuda_variants import SIZES, variants

SLOW = {"scene flow of a street"}
#: Jobs whose waits `make test` counts; the slow tests count those of the others.
FAST = {"CT, fan beam, TV, PDHG", "scene flow, NSFP", "voxels", "Gaussians"}
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in JOBS]


def switches(kernel: Kernel) -> tuple[object, ...]:
    chosen = {name: v for name, v in kernel.definitions.items() if name not in SIZES}
    return kernel.file, *sorted(chosen.items())


@cache
def compiled() -> set[tuple[object, ...]]:
    return {switches(make()) for _, make in variants()}


@pytest.mark.parametrize("name", NAMES)
def test_a_job_on_an_emulated_gpu(name: str) -> None:
    on_cpu = JOBS[name]("cpu", 10)
    with emulate_cuda() as tally:
        on_cuda = JOBS[name]("cuda", 10).cpu()
    # The kernels of CUDA add in another order.
    assert torch.allclose(on_cuda, on_cpu, rtol=1e-3, atol=1e-3 * float(on_cpu.abs().max()))
    assert not tally.hidden_copies
    for kernel, _ in tally.kernels:
        assert switches(kernel) in compiled()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in JOBS if n not in SLOW],
)
def test_a_job_waits_and_copies_little(name: str) -> None:
    counts = count_per_step(JOBS[name], 10, 20)
    # The loop waits at every tenth step.
    assert counts["synchronizations"] <= 0.1 and counts["copies"] <= 0, counts


@pytest.mark.parametrize(
    ("name", "captured"),
    [
        ("CT, fan beam, TV, FISTA", True),
        pytest.param("Gaussians", False, marks=pytest.mark.slow),
        ("sampling, Langevin", False),
    ],
)
def test_steps_between_two_readings_neither_wait_nor_copy(name: str, captured: bool) -> None:
    steady = count_steady(name, 20, 40)
    counts = steady.counts
    assert counts["synchronizations"] <= 0 and counts["copies"] <= 0, counts
    # A graph has fixed buffers for the state; other states get new memory at every step.
    assert steady.captured == captured and (steady.places == 1) == captured
    if captured:
        plain = count_steady(name, 20, 40, capture=False)
        assert 3 * counts["launches"] < plain.counts["launches"]


S, P = it.solvers, it.priors
#: Further solvers and priors on a picture of 16 x 16 pixels, deblurred or scanned.
FURTHER: dict[str, tuple[str, Any, Any]] = {
    "automatic weight": ("scan", P.TotalVariation(), None),
    "L-BFGS": ("scan", P.Tikhonov(), S.LBFGS()),
    "Krylov": ("scan", P.TotalVariation(), S.KrylovMM()),
    "TGV": ("blur", P.TotalGeneralizedVariation(), None),
    "graph Laplacian": ("scan", P.GraphLaplacian(first="tv"), None),
    "nuclear norm": ("blur", P.NuclearNorm(), None),
    "half-quadratic": ("blur", P.TotalVariation(), S.HalfQuadratic()),
    "SIRT": ("scan", None, S.SIRT()),
    "OS-SART": ("scan", None, S.OSSART()),
    "LSMR": ("scan", None, "lsmr"),
    "stochastic PDHG": ("scan", P.TotalVariation(), S.StochasticPDHG()),
    "Condat-Vu": ("blur", P.TotalVariation(), S.CondatVu()),
    "Douglas-Rachford": ("blur", P.TotalVariation(), S.DouglasRachford()),
    "nonlinear ADMM": ("blur", P.TotalVariation(), S.NonlinearADMM()),
    "Levenberg-Marquardt": ("blur", P.CoordinateNetwork(width=6, depth=1), S.LevenbergMarquardt()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
def test_further_solvers_on_an_emulated_gpu(name: str) -> None:
    kind, prior, solver = FURTHER[name]
    scan = it.operators.ParallelBeam((16, 16), torch.linspace(0, 3.1, 16), 24)
    A = scan if kind == "scan" else it.operators.Blur(torch.ones(3, 3) / 9, (16, 16))
    problem = measured(A, picture(1, 1, 16, 16))
    weight: Any = "auto" if name == "automatic weight" else 0.1

    def solved(device: str) -> torch.Tensor:
        return solve(problem, prior, solver, device, 4, regularization=weight)

    on_cpu = solved("cpu")
    with emulate_cuda():
        on_cuda = solved("cuda").cpu()
    assert torch.allclose(on_cuda, on_cpu, rtol=1e-3, atol=1e-3 * float(on_cpu.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", JOBS)
def test_a_job_on_a_gpu(name: str) -> None:
    on_cpu, on_gpu = JOBS[name]("cpu", 10), JOBS[name]("cuda", 10).cpu()
    assert on_gpu.isfinite().all() and on_gpu.shape == on_cpu.shape
    if name not in DRAWS:
        assert torch.allclose(on_gpu, on_cpu, rtol=1e-2, atol=1e-2 * float(on_cpu.abs().max()))


def stop_early(solver: Any) -> tuple[it.Solution, it.Solution]:
    """Return the solutions on the CPU and on an emulated GPU of items that stop at different steps."""
    A = it.operators.Inpainting(picture(1, 6, 6) + 0.2, (1, 6, 6))
    y = picture(4, 1, 6, 6) * torch.tensor([1.0, 1e-3, 0.0, 2.0]).view(4, 1, 1, 1)
    problem = it.Problem(y, A)

    def solved(device: str) -> it.Solution:
        return it.solve(
            problem,
            0.1 * it.priors.Tikhonov("gradient"),
            solver,
            regularization=torch.tensor([0.1, 1.0, 1.0, 10.0]),
            device=device,
            max_iterations=60,
            tolerance=1e-3,
            progress=False,
        )

    on_cpu = solved("cpu")
    with emulate_cuda():
        on_cuda = solved("cuda")
        on_cuda = dataclasses.replace(on_cuda, x=on_cuda.x.cpu())
    assert len(set(on_cpu.iterations.tolist())) > 1
    assert on_cuda.status == on_cpu.status
    return on_cpu, on_cuda


def test_an_item_that_converges_between_looks_keeps_its_answer() -> None:
    on_cpu, on_cuda = stop_early(it.solvers.HalfQuadratic())
    assert torch.equal(on_cuda.iterations, on_cpu.iterations)
    assert torch.equal(on_cuda.x, on_cpu.x)


@pytest.mark.parametrize(
    "solver", [it.solvers.ConjugateGradient(), it.solvers.LSMR(), it.solvers.GradientDescent()]
)
def test_a_gap_is_computed_at_looks_alone(solver: Any) -> None:
    """An item goes on to the next look, every tenth step, because a gap costs products."""
    on_cpu, on_cuda = stop_early(solver)
    looks = (on_cpu.iterations + 9) // 10 * 10
    # The gap of the steps from one look to the next may decide one look later.
    assert bool(((on_cuda.iterations == looks) | (on_cuda.iterations == looks + 10)).all())
    torch.testing.assert_close(on_cuda.x, on_cpu.x, rtol=0, atol=1e-2)
