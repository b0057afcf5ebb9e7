"""Sinkhorn divergence: the contract, dense transport, translations and the bounds of its input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.pytrees import items_together
from invtoolbox.data_terms import Sinkhorn
from invtoolbox.data_terms.sinkhorn import _Transport
from invtoolbox.errors import InputError


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(x < 0.15, 0.0, x).to(dtype)


def blob(shape: tuple[int, ...], *place: float, width: float = 2.0) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    grid = torch.meshgrid(*axes, indexing="ij")
    squared = sum((x - p) ** 2 for x, p in zip(grid, place))
    return torch.exp(-squared / (2 * width**2))[None, None]


def dense(p: Tensor, y: Tensor, blur: float, spacing: tuple[float, ...]) -> float:
    """Compute the divergence of two images from the whole matrix of costs."""
    axes = [h * torch.arange(n, dtype=torch.float64) for n, h in zip(p.shape, spacing)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, p.ndim)
    cost, eps = (place[:, None] - place).square().sum(2) / 2, blur**2

    def transport(a: Tensor, b: Tensor) -> float:
        f, g = torch.zeros_like(a), torch.zeros_like(b)
        for _ in range(1000):
            f = -eps * torch.logsumexp(b.log() + (g - cost) / eps, 1)
            g = -eps * torch.logsumexp(a.log() + (f - cost) / eps, 1)
        plan = a[:, None] * b * torch.exp((f[:, None] + g - cost) / eps)
        return float(a @ f + b @ g - eps * (plan.sum() - 1))

    a, b = p.flatten() / p.sum(), y.flatten() / y.sum()
    return transport(a, b) - transport(a, a) / 2 - transport(b, b) / 2


@pytest.mark.parametrize(
    ("shape", "spacing"), [((6,), (1.0,)), ((3, 4), (1.0, 1.0)), ((3, 4), (0.5, 2.0))]
)
def test_the_divergence_is_that_of_the_dense_plan(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    p, y = images(1, 1, *shape), images(1, 1, *shape, seed=1)
    for blur in (2.0, 0.6):
        expected = dense(p[0, 0], y[0, 0], blur, spacing)
        found = float(Sinkhorn(blur, spacing, mass=0.0).value(p, y))
        assert found == pytest.approx(expected, rel=1e-8)
    amount = 0.5 * 3 * float((p.sum() / y.sum()).log()) ** 2
    found = float(Sinkhorn(blur, spacing, mass=3.0).value(p, y))
    assert found == pytest.approx(expected + amount, rel=1e-8)


@pytest.mark.parametrize("shape", [(2, 2, 7), (2, 1, 3, 4, 3)])
def test_the_contract_of_a_data_term(shape: tuple[int, ...]) -> None:
    it.testing.check_data_term(Sinkhorn(0.8), images(*shape) + 0.1, images(*shape, seed=1))


def test_the_gradient_is_exact() -> None:
    p, y = ((images(1, 2, 3, 2, seed=k) + 0.1).requires_grad_(True) for k in range(2))
    assert torch.autograd.gradcheck(Sinkhorn(0.8).value, (p, y), fast_mode=True)
    # A pixel without mass has a one-sided derivative.
    p, y = images(1, 1, 4, 3) + 0.1, images(1, 1, 4, 3, seed=1)
    p[0, 0, 1, 2] = 0
    more = p.clone()
    more[0, 0, 1, 2] = 1e-7
    slope = (Sinkhorn().value(more, y) - Sinkhorn().value(p, y)) / 1e-7
    assert float(slope) == pytest.approx(float(Sinkhorn().grad(p, y)[0, 0, 1, 2]), rel=1e-4)


def test_it_is_zero_at_the_measurements_and_positive_elsewhere() -> None:
    y = images(2, 1, 12, 10)
    for blur in (0.5, 1.0, 4.0):
        assert float(Sinkhorn(blur).value(y, y).abs().max()) < 1e-12
        assert float(Sinkhorn(blur).grad(y, y).abs().max()) < 1e-7
        assert float(Sinkhorn(blur).value(y.roll(1, 2), y).min()) > 1e-3


def test_a_translated_blob_has_half_the_squared_distance() -> None:
    still = blob((40, 30), 10, 8)
    for moved in (blob((40, 30), 13, 12), blob((40, 30), 30, 20)):
        d = 25 if moved.argmax() == 13 * 30 + 12 else 544
        assert float(Sinkhorn().value(moved, still)) == pytest.approx(d / 2, rel=1e-3)
        wide = Sinkhorn(3.0, (2.0, 2.0)).value(moved.float(), still.float())
        assert wide.dtype == torch.float32
        assert float(wide) == pytest.approx(2 * d, rel=1e-3)


def test_an_item_has_the_same_bits_alone_and_in_a_batch() -> None:
    p, y = images(3, 1, 9, 8, dtype=torch.float32), images(3, 1, 9, 8, seed=1, dtype=torch.float32)
    y[1] = blob((9, 8), 2, 3).float()  # another number of iterations
    together = Sinkhorn().value_and_grad(p, y)
    for k in range(3):
        alone = Sinkhorn().value_and_grad(p[k : k + 1], y[k : k + 1])
        assert all(torch.equal(a, b[k : k + 1]) for a, b in zip(alone, together))
    p[2] = float("nan")
    with items_together():
        mixed = Sinkhorn().value(p, y)
    torch.testing.assert_close(mixed[:2], together[0][:2])
    assert bool(mixed[2].isnan())


def test_lines_without_mass_and_predictions_without_any() -> None:
    y = torch.zeros(3, 1, 8, 8)
    y[:, :, 2, 3] = 4.0
    p = torch.zeros(3, 1, 8, 8)
    p[0, :, 5, 5] = 4.0
    p[1] = p[0]
    p[1, :, 0, 0] = -1.0
    value, gradient = Sinkhorn().value_and_grad(p, y)
    assert value.tolist() == pytest.approx([6.5, 6.5, float("inf")])
    assert bool(gradient.isfinite().all())
    assert bool((gradient[2] < 0).all())  # so that a solver can start without mass


def test_far_apart_blobs_are_found_where_least_squares_is_flat() -> None:
    A = it.as_operator(
        lambda z: torch.cat([blob((32, 32), *item[0, 0], width=1.5) for item in z]),
        (1, 1, 2),
    )
    y = blob((32, 32), 6.0, 25.0, width=1.5)
    start = torch.tensor([[[[24.0, 7.0]]]], dtype=torch.float64)
    found = {}
    for name, term in (("sinkhorn", Sinkhorn()), ("plain", it.data_terms.LeastSquares())):
        problem = it.Problem(y, A, term)
        solver = it.solvers.LBFGS(max_iterations=20)
        found[name] = it.solve(problem, solver=solver, initial=start, progress=False).x.flatten()
    assert found["sinkhorn"].tolist() == pytest.approx([6.0, 25.0], abs=0.01)
    assert found["plain"].tolist() == pytest.approx([24.0, 7.0], abs=0.01)


def test_over_relaxed_steps_never_lower_the_dual_value() -> None:
    x = torch.linspace(-6, 6, 601, dtype=torch.float64)
    for omega in (1.5, 1.9):
        step = _Transport(0.49, (1.0,), x.view(1, 1, -1)).relax(0 * x, 0.49 * x, omega) / 0.49
        # The change of ``f - exp(f - x)`` from 0, where the best step is x.
        gain = step + torch.exp(-x) - torch.exp(step - x)
        assert float(gain.min()) >= -1e-12
        assert bool((step.abs() >= x.abs()).all())


def test_bad_input_is_refused_in_one_sentence() -> None:
    term, y = Sinkhorn(), images(2, 1, 4, 4)
    for blur in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="blur of Sinkhorn must be positive"):
            Sinkhorn(blur)
    with pytest.raises(InputError, match="spacing of Sinkhorn must be positive"):
        Sinkhorn(spacing=(1.0, 0.0))
    with pytest.raises(InputError, match="iterations of Sinkhorn must be positive"):
        Sinkhorn(iterations=0)
    with pytest.raises(InputError, match="mass of Sinkhorn must not be negative"):
        Sinkhorn(mass=-1.0)
    with pytest.raises(InputError, match="3 numbers, and the images have 2 axes"):
        Sinkhorn(spacing=(1.0, 1.0, 1.0)).check(y)
    for other in (torch.zeros(2, 3), y + 0j, (y, y)):
        with pytest.raises(InputError, match="with an axis of space"):
            term.check(other)
    for value in (-1.0, float("nan"), float("inf")):
        bad = y.clone()
        bad[1, 0, 2, 3] = value
        with pytest.raises(InputError, match=r"got 1 others, the first at index \(1, 0, 2, 3\)"):
            term.check(bad)
    y[1] = 0
    with pytest.raises(InputError, match="channel 0 of item 1 is 0 everywhere"):
        term.check(y)
    with pytest.raises(InputError, match="first order, such as LBFGS"):
        term.gauss_newton(y, y)
