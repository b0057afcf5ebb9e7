"""Sobolev data terms: known weights, the closed-form prox, and the conditioning that the order sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import LeastSquares, Sobolev
from invtoolbox.errors import InputError
from invtoolbox.operators import LinearOperator


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


VARIANTS = {
    "plain": Sobolev(-0.7),
    "strong": Sobolev(1.3, length_scale=0.2, noise_std=0.5),
    "per-item": Sobolev(0.5, noise_std=torch.tensor([0.5, 2.0])),
    "homogeneous": Sobolev(0.5, homogeneous=True),
    "neumann": Sobolev(-1.0, boundary="neumann", noise_std=0.3),
    "samples": Sobolev(1.0, length_scale=3.0, unit="sample"),
    "detector": Sobolev(0.5, axes=(-1,)),
    "detector-neumann": Sobolev(-0.5, axes=(3,), boundary="neumann"),
}


def test_order_zero_is_least_squares() -> None:
    p, y = noise(2, 1, 9, 8), noise(2, 1, 9, 8, seed=1)
    for boundary in ("periodic", "neumann"):
        term, plain = Sobolev(0.0, noise_std=0.3, boundary=boundary), LeastSquares(noise_std=0.3)  # type: ignore[arg-type]
        torch.testing.assert_close(term.value(p, y), plain.value(p, y))
        torch.testing.assert_close(term.grad(p, y), plain.grad(p, y))
        torch.testing.assert_close(term.prox(p, y, 0.7), plain.prox(p, y, 0.7))


def test_weight_of_a_plane_wave() -> None:
    """Integer wavenumbers by default; radians a sample on request; half wavenumbers for mirrored data."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(32.0), indexing="ij")
    wave = torch.cos(2 * math.pi * (3 * rows / 16 + 5 * columns / 32)).double().view(1, 1, 16, 32)
    cosine = torch.cos(math.pi * 3 * (rows + 0.5) / 16).double().view(1, 1, 16, 32)
    energy = 0.5 * wave.square().sum()

    def ratio(term: Sobolev, r: Tensor) -> float:
        """The weight at the wave over the weight at frequency 0."""
        flat = torch.ones_like(r)
        return float(
            term.value(r, 0 * r)
            / r.square().sum()
            / (term.value(flat, 0 * r) / flat.square().sum())
        )

    assert float(energy) > 0
    assert ratio(Sobolev(0.5), wave) == pytest.approx((1 + 9 + 25) ** 0.5)
    assert ratio(Sobolev(-1.0, length_scale=2.0), wave) == pytest.approx(1 / (1 + 4 * 34))
    xi = (2 * math.pi * 3 / 16) ** 2 + (2 * math.pi * 5 / 32) ** 2
    assert ratio(Sobolev(1.0, unit="sample"), wave) == pytest.approx(1 + xi)
    assert ratio(Sobolev(1.0, boundary="neumann"), cosine) == pytest.approx(1 + 1.5**2)
    assert ratio(Sobolev(1.0, axes=(3,)), wave) == pytest.approx(1 + 25)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_have_mean_one_and_are_symmetric(name: str) -> None:
    """The mean of a residual of white noise is that of least squares, which is the trace of W."""
    term = VARIANTS[name]
    shape = (2, 1, 6, 10)
    assert float(term.frequency_weights(shape).mean()) == pytest.approx(1)
    a, b = noise(*shape), noise(*shape, seed=1)
    assert float((term.weighted(a) * b).sum()) == pytest.approx(float((a * term.weighted(b)).sum()))
    basis = torch.eye(60, dtype=torch.float64).view(60, 1, 6, 10)
    matrix = Sobolev(
        term.order, term.length_scale, None, term.axes, term.homogeneous, term.boundary, term.unit
    ).weighted(basis)
    assert float(matrix.view(60, 60).trace()) == pytest.approx(60)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_prox_and_curvature(name: str) -> None:
    term, p, y = VARIANTS[name], noise(2, 1, 6, 10), noise(2, 1, 6, 10, seed=1)
    free = p.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(term.value(free, y).sum(), free)
    torch.testing.assert_close(term.grad(p, y), gradient)
    step = torch.tensor([0.2, 3.0], dtype=torch.float64)
    u = term.prox(p, y, step)
    torch.testing.assert_close(
        term.grad(u, y) + (u - p) / step.view(-1, 1, 1, 1), torch.zeros_like(p), rtol=0, atol=1e-10
    )
    bound = term.curvature(y).view(-1)
    slope = term.weighted(p)
    assert bool(
        (slope.flatten(1).norm(dim=1) <= bound * p.flatten(1).norm(dim=1) * (1 + 1e-12)).all()
    )


def test_an_item_has_the_same_bits_alone() -> None:
    p, y = (noise(3, 1, 15, 15, seed=s) for s in (0, 1))
    found = Sobolev(-1.0).grad(p, y)
    assert torch.equal(Sobolev(-1.0).grad(p[1:2], y[1:2]), found[1:2])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_items_precision_and_purity(name: str, dtype: torch.dtype) -> None:
    term = VARIANTS[name]
    p, y = (noise(2, 1, 6, 9, seed=s).to(dtype) for s in (0, 1))
    if dtype.is_complex:
        p, y = p * (1 + 0.5j), y * (0.3 - 1j)
    step = torch.tensor([0.2, 3.0])
    tolerance = 1e-5 if p.real.dtype == torch.float32 else 1e-12
    bound = term.prepare(it.Problem(y, it.operators.Identity((1, 6, 9)), term), None)
    for t in (term, bound):
        assert t.prox(p, y, step).dtype == dtype and t.value(p, y).shape == (2,)
        assert torch.equal(t.prox(p, y, step), term.prox(p, y, step)) and torch.equal(
            t.grad(p, y), term.grad(p, y)
        )
        for k in range(2):
            alone = t.select(torch.tensor([k]))
            i = slice(k, k + 1)
            torch.testing.assert_close(
                alone.value(p[i], y[i]), term.value(p, y)[i], rtol=tolerance, atol=tolerance
            )
            torch.testing.assert_close(
                alone.prox(p[i], y[i], step[i]),
                term.prox(p, y, step)[i],
                rtol=tolerance,
                atol=tolerance,
            )


@pytest.mark.parametrize("order", [-1.0, 0.5])
def test_the_expected_discrepancy_is_met_by_both_kinds_of_noise(order: float) -> None:
    term = Sobolev(order, noise_std=0.2)
    white = 0.2 * noise(200, 1, 16, 16)
    # Noise of covariance 0.2^2 W^-1 is white noise after W^-1/2, which has weights w^-1/2.
    spectrum = torch.fft.fft2(white) * term.frequency_weights(white.shape).rsqrt()
    colored = torch.fft.ifft2(spectrum).real
    expected = term.expected_discrepancy(white)
    assert expected is not None and expected.shape == (200,)
    for residual in (white, colored):
        assert float(
            term.discrepancy(residual, 0 * residual).square().mean().sqrt()
        ) == pytest.approx(16, rel=0.02)
        assert float(expected[0]) == pytest.approx(16)


def test_bad_input_is_refused() -> None:
    y = noise(1, 1, 4, 4)
    for make in (
        lambda: Sobolev(float("nan")),
        lambda: Sobolev(1.0, length_scale=0.0),
        lambda: Sobolev(1.0, noise_std=-1.0),
        lambda: Sobolev(1.0, boundary="reflect"),
        lambda: Sobolev(1.0, unit="pixel"),  # type: ignore[arg-type]
        lambda: Sobolev(1.0, axes=(0,)).value(y, y),
        lambda: Sobolev(1.0, axes=(4,)).value(y, y),
        lambda: Sobolev(1.0, axes=(3, -1)).value(y, y),
    ):
        with pytest.raises(InputError):
            make()


class Filter(LinearOperator):
    """Multiplication in the Fourier domain by a real, even symbol."""

    def __init__(self, symbol: Tensor) -> None:
        self.symbol = symbol
        self.domain_shape = self.range_shape = (1, *symbol.shape)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * self.symbol).real

    _adjoint = _forward


def bracket(n: int) -> Tensor:
    """``(1 + |xi|^2)^(1/2)`` for integer wavenumbers."""
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    return (1 + k[:, None] ** 2 + k[None, :] ** 2).sqrt()


def gradient_steps(
    A: LinearOperator, term: Sobolev, truth: Tensor, low: float, high: float, most: int
) -> int:
    """Steps of ``2 / (L + mu)`` from 0 until the relative error is at most 1e-2."""
    y, x = A(truth), torch.zeros_like(truth)
    for k in range(1, most + 1):
        x = x - 2 / (low + high) * A.adjoint(term.grad(A(x), y))
        if float((x - truth).norm() / truth.norm()) <= 1e-2:
            return k
    return most + 1


@pytest.mark.parametrize(
    ("a", "order", "condition", "most"),
    [
        (1.0, 1.0, 1.0, 1),
        (2.0, 2.0, 1.0, 1),
        (1.0, 0.5, 181.02, 417),
        (1.0, 1.5, 181.02, 417),
    ],
)
def test_the_order_of_the_operator_is_a_perfect_preconditioner(
    a: float, order: float, condition: float, most: int
) -> None:
    """S2: where A smooths by ``<xi>^-a``, one step at ``s = a``, at most 417 half an order away."""
    n = 256
    A = Filter(bracket(n) ** -a)
    # All of the error in the two frequencies that converge slowest: the constant and the
    # checkerboard.
    checkerboard = (-1.0) ** torch.arange(n, dtype=torch.float64)
    truth = (1 + checkerboard[:, None] * checkerboard).view(1, 1, n, n)
    term = Sobolev(order).prepare(it.Problem(truth, A), None)
    symbol = term.frequency_weights((1, 1, n, n)) * A.symbol**2
    low, high = float(symbol.min()), float(symbol.max())
    assert high / low == pytest.approx(condition, rel=1e-3)
    steps = gradient_steps(A, term, truth, low, high, most)
    assert steps == 1 if order == a else 400 < steps <= most


def test_semi_convergence_is_ordered_by_the_order() -> None:
    """S3, smaller: with noise, Landweber peaks later and falls less the smaller s is."""
    from skimage import data

    image = torch.from_numpy(data.camera()[::4, ::4].astype(np.float64) / 255)[None, None]
    k = torch.fft.fftfreq(128, dtype=torch.float64)
    A = Filter(torch.exp(-2 * (math.pi * 1.5) ** 2 * (k[:, None] ** 2 + k[None, :] ** 2)))
    y = A(image) + 0.02 * noise(1, 1, 128, 128)
    peaks, falls = [], []
    for order in (-0.5, 0.0, 0.5):
        term = Sobolev(order).prepare(it.Problem(y, A, Sobolev(order)), None)
        step = 1 / float((term.frequency_weights(y.shape) * A.symbol**2).max())
        x, errors = torch.zeros_like(y), []
        for _ in range(200):
            x = x - step * A.adjoint(term.grad(A(x), y))
            errors.append(float((x - image).square().mean()))
        best = int(np.argmin(errors))
        peaks.append(best)
        falls.append(10 * math.log10(errors[-1] / errors[best]))
    assert peaks[0] > peaks[1] >= peaks[2] and falls[0] < falls[1] - 1 < falls[2] - 2
