"""The stationary wavelet transform and its sparsity: the mean over all shifts of the decimated one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import StationaryWavelet
from invtoolbox.priors import L1, StationaryWaveletL1, WaveletL1


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    "shape", [(1, 40, 37), (2, 13, 16), (1, 1, 30), (1, 2), (3, 64, 5), (2, 9, 8, 10)]
)
@pytest.mark.parametrize(("wavelet", "levels"), [("haar", 3), ("db4", 2)])
def test_adjoint_and_norm(shape: tuple[int, ...], wavelet: str, levels: int) -> None:
    A = StationaryWavelet(shape, wavelet, levels)
    x, y = draw(2, *shape), draw(2, *A.range_shape)
    torch.testing.assert_close((A(x) * y).sum(), (x * A.adjoint(y)).sum())
    v = draw(1, *shape)
    for _ in range(100):
        v = A.normal(v)
        v /= v.norm().clamp_min(1e-30)
    assert float(A.normal(v).norm().sqrt()) <= float(A.norm(dtype=torch.float64)) + 1e-12


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_it_is_the_mean_over_all_shifts(wavelet: str) -> None:
    """An image inside an empty border has all details, and no shift wraps any around."""
    x = torch.zeros(1, 1, 48, 48, dtype=torch.float64)
    x[..., 20:29, 19:30] = draw(9, 11)
    shifts = list(itertools.product(range(4), range(4)))
    energies = [WaveletL1(wavelet, levels=2).energy(x.roll(by, (2, 3))) for by in shifts]
    details = StationaryWavelet((1, 48, 48), wavelet, levels=2)(x)
    torch.testing.assert_close(L1().energy(details), torch.stack(energies).mean(0))


def test_it_has_the_details_of_pywavelets() -> None:
    import pywt

    x = np.random.default_rng(0).normal(size=(32, 32))
    theirs = pywt.swt2(x, "haar", level=2)
    ours = StationaryWavelet((1, 32, 32), "haar", levels=2)(torch.from_numpy(x)[None, None])
    for level, bands in enumerate(band for _, band in reversed(theirs)):
        for k, (name, band) in enumerate(zip("VHD", (bands[1], bands[0], bands[2]))):
            # At the far borders their details wrap around, and ours are 0.
            inside = slice(0, 33 - 2 ** (level + 1))
            mine = ours[0, 3 * level + k].numpy() * 4 ** (level + 1)
            np.testing.assert_allclose(
                mine[inside, inside], band[inside, inside], atol=1e-12, err_msg=name
            )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
@pytest.mark.parametrize("coupled", [False, True])
def test_what_solvers_rely_on(dtype: torch.dtype, coupled: bool) -> None:
    report = it.testing.check_prior(
        StationaryWaveletL1(coupled=coupled), draw(2, 2, 11, 14, dtype=dtype)
    )
    assert report.ok, report


def test_the_prox_keeps_its_gap() -> None:
    x = draw(3, 1, 24, 20)
    u, gap = StationaryWaveletL1(tolerance=1e-6).prox_with_gap(x, torch.tensor([0.0, 0.5, 50.0]))
    assert bool((gap <= 1e-6).all())
    torch.testing.assert_close(u[0], x[0])
    # A large step leaves the mean alone.
    torch.testing.assert_close(u[2], x[2].mean().expand_as(u[2]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("solver", ["pdhg", "admm", "fista", "condat-vu"])
def test_solvers_agree(solver: str) -> None:
    y = draw(1, 1, 16, 16)
    A = it.operators.Blur(torch.full((3, 3), 1 / 9), (1, 16, 16))
    problem = it.Problem(A(y) + 0.1 * y, A)
    settings = {"regularization": 0.05, "tolerance": 1e-5, "max_iterations": 5000}
    wanted = it.solve(problem, "wavelet", "pdhg", progress=False, **settings)
    solution = it.solve(problem, "wavelet", solver, progress=False, **settings)
    assert wanted.status == solution.status == ("converged",)
    assert float((solution.x - wanted.x).norm() / wanted.x.norm()) < 2e-3


def test_by_its_name_it_beats_the_decimated_transform() -> None:
    from skimage import data

    truth = torch.from_numpy(data.camera()[128:192, 200:264] / 255).float()[None, None]
    noisy = truth + 0.1 * draw(*truth.shape).float()
    problem = it.Problem(
        noisy, it.operators.Identity((1, 64, 64)), it.data_terms.LeastSquares(noise_std=0.1)
    )
    with_shifts, without = (
        it.metrics.psnr(it.solve(problem, name, progress=False).x, truth, data_range=1.0)
        for name in ("wavelet", "orthogonal-wavelet")
    )
    assert float(with_shifts) > float(without) + 1.5


@pytest.mark.parametrize("settings", [{"wavelet": "db44"}, {"wavelet": "bior2.2"}, {"levels": 0}])
def test_refused(settings: dict[str, object]) -> None:
    with pytest.raises(it.InputError):
        StationaryWaveletL1(**settings)
