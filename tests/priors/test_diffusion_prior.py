"""The shipped diffusion prior: every level, every solver by its name, and draws with the right spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.datasets import photograph

NAME = "diffusion-natural"


def camera(size: int = 128) -> torch.Tensor:
    return photograph("camera")[..., 60 : 60 + size, 180 : 180 + size]


@pytest.mark.parametrize(("level", "least"), [(0.01, 2.0), (0.1, 9.0), (0.5, 14.0), (3.0, 23.0)])
def test_one_network_denoises_at_every_level(level: float, least: float) -> None:
    x = camera()
    y = x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    prior: Any = it.priors.load(NAME)
    assert sum(p.numel() for p in prior.network.parameters()) <= 1_000_000
    clean = prior.denoise(y, level)
    assert float(it.metrics.psnr(clean, x) - it.metrics.psnr(y, x)) > least
    other: Any = it.priors.load(NAME, {"intensity_range": (-1024.0, 1024.0)})
    scaled = other.denoise(2048 * y - 1024, 2048 * level)
    torch.testing.assert_close((scaled + 1024) / 2048, clean, rtol=0, atol=1e-3)


def test_items_sizes_colors_and_complex_images() -> None:
    prior: Any = it.priors.load(NAME)
    color = photograph("cat")[..., 60:109, 180:221]
    noisy = color + 0.1 * torch.randn(color.shape, generator=torch.Generator().manual_seed(0))
    both = prior.denoise(torch.cat([color, noisy]), torch.tensor([0.05, 0.1]))
    assert torch.equal(both[1:], prior.denoise(noisy, 0.1))
    assert float(it.metrics.psnr(both[1:], color) - it.metrics.psnr(noisy, color)) > 8
    twisted = torch.complex(camera(37), -camera(37))
    shaken = twisted + 0.1 * torch.randn(twisted.shape, dtype=twisted.dtype)
    error = [(z - twisted).abs().square().mean() for z in (prior.denoise(shaken, 0.07), shaken)]
    assert float(error[0]) < 0.3 * float(error[1])


def test_solvers_and_samplers_take_it_by_its_name() -> None:
    x = camera(48)
    A = it.operators.Blur(torch.ones(5, 5) / 25, (48, 48), boundary="periodic")
    problem = it.Problem(A.simulate(x, 0.02, seed=0), A, it.data_terms.LeastSquares(0.02))
    measured = float(it.metrics.psnr(problem.y, x))
    few: Any = {"at_once": 2, "max_iterations": 1}
    S = it.solvers
    solvers = {
        "dpir": "dpir",
        "red": "red",
        "pnp": S.ADMM(max_iterations=10),
        "dps": S.DPS(steps=20, **few),
        "diffpir": S.DiffPIR(steps=20, **few),
        "ddrm": S.DDRM(**few),
        "daps": S.DAPS(steps=6, levels=(0.3, 0.01), begin="restored", **few),
        "pigdm": S.PiGDM(steps=5, inner=3, levels=(0.2, 0.01), begin="restored", **few),
        "edm": S.EDM(steps=3, inner=3, levels=(0.2, 0.01), begin="restored", **few),
    }
    for name, solver in solvers.items():
        solution = it.solve(problem, NAME, solver, progress=False)
        gain = float(it.metrics.psnr(solution.x, x)) - measured
        assert gain > (0.5 if name in ("dps", "diffpir", "ddrm") else 2.0), name


def test_a_blurred_photograph_has_intervals_that_cover() -> None:
    x = camera(64)
    A = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64))
    problem = it.Problem(A.simulate(x, 0.03, seed=0), A, it.data_terms.LeastSquares(0.03))
    sampler = it.solvers.EDM(
        steps=4, inner=3, levels=(0.2, 0.01), begin="restored", at_once=6, max_iterations=1
    )
    posterior = it.solve(problem, NAME, sampler, progress=False).posterior
    assert float(it.metrics.psnr(posterior.mean, x)) > float(it.metrics.psnr(problem.y, x)) + 2
    assert float(posterior.coverage(x)) > 0.8


def test_the_scene_draws_from_the_posterior(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "measurements.simulate.crop": {"top": 90, "left": 200, "rows": 32, "columns": 40},
        "solver.steps": 3,
        "solver.at_once": 3,
        "output.formats": ["html"],
    }
    solution: it.Solution = it.run("deblur-diffusion", changes, output=tmp_path, progress=False)
    assert "DiffusionUNet" in solution.prior and bool((solution.posterior.std > 0).all())
    assert "Uncertainty" in (tmp_path / "report.html").read_text()


def test_a_scan_of_few_views_gains_from_the_prior_of_slices() -> None:
    """The slice is of a head, in 1/mm; the prior saw thoraxes."""
    scale = {"intensity_range": (-0.00046, 0.03928)}
    x = it.datasets.ct_small("1/mm").y[..., 40:88, 40:88]
    A = it.operators.ParallelBeam((48, 48), torch.arange(20) * (torch.pi / 20), 70)
    level = 0.01 * float(A(x).max())
    problem = it.Problem(A.simulate(x, level, seed=0), A, it.data_terms.LeastSquares(level))
    sampler = it.solvers.EDM(
        steps=3,
        inner=3,
        levels=(0.2, 0.01),
        begin="restored",
        at_once=3,
        max_iterations=1,
        intensity_range=scale["intensity_range"],
    )
    posterior = it.solve(
        problem, it.priors.load("diffusion-ct", scale), sampler, progress=False
    ).posterior
    flat = it.solve(problem, "tv", progress=False).x
    assert float(it.metrics.psnr(posterior.mean, x)) > float(it.metrics.psnr(flat, x))
    assert float(posterior.coverage(x)) > 0.8
