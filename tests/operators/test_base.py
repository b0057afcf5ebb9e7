"""What every reduction stands on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators.base import inner

O = it.operators
ANGLES = torch.arange(4.0)


@pytest.mark.parametrize("n", [1000, 5_550, 20_003, 1 << 18, 3_000_001])
def test_inner_products_are_accurate_and_do_not_depend_on_the_batch(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, n, generator=generator), torch.rand(3, n, generator=generator)
    exact = (a.double() * b.double()).sum(1)
    assert float(((inner(a, b).double() - exact) / exact).abs().max()) < 5e-7
    for k in range(3):
        assert torch.equal(inner(a[k : k + 1].clone(), b[k : k + 1].clone())[0], inner(a, b)[k])


def test_inner_products_have_derivatives() -> None:
    a = torch.rand(2, 5000, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 5000, dtype=torch.float64)
    (slope,) = torch.autograd.grad(inner(a, b).sum(), a)
    assert torch.equal(slope, b)


@pytest.mark.parametrize(
    "A",
    [
        O.Blur(torch.ones(3, 3) / 9, (4, 4)),
        O.Blur3D(torch.ones(3, 3, 3) / 27, (4, 4, 4)),
        O.Fourier((1, 4, 4)),
        O.CartesianMRI(torch.ones(4, 4), (4, 4)),
        O.NonUniformFourier(torch.rand(5, 2), (4, 4)),
        O.HadamardSensing(image_shape=(4, 4), measurements=5, seed=0),
        O.ParallelBeam((4, 4), ANGLES, 6),
        O.ConeBeam((4, 4, 4), ANGLES, (14, 14), 10.0, 20.0, 1.0, 1.0),
    ],
    ids=lambda A: type(A).__name__,
)
def test_an_empty_batch_is_one_sentence(A: it.operators.LinearOperator) -> None:
    x, y = torch.zeros(0, *A.domain_shape), torch.zeros(0, *A.range_shape)
    calls: list[Callable[[], object]] = [
        lambda: A(x),
        lambda: A.adjoint(y),
        lambda: A.pseudo_inverse(y),
        lambda: A.simulate(x, 0.1),
        lambda: it.solve(it.Problem(y, A), progress=False),
    ]
    for call in calls:
        with pytest.raises(it.InputError, match="at least one item and one value"):
            call()


def test_empty_images_and_samples_are_one_sentence() -> None:
    for A in (
        O.Identity((1, 0, 4)),
        O.Matrix(torch.zeros(3, 0), domain_shape=(1, 0, 4)),
        O.Unmixing(torch.zeros(2, 0), (4, 4)),
    ):
        with pytest.raises(it.InputError, match="at least one item and one value"):
            A(torch.zeros(1, *A.domain_shape))
    with pytest.raises(it.InputError):
        it.Problem(torch.zeros(1, 0), O.Matrix(torch.zeros(0, 16), domain_shape=(1, 4, 4)))
    with pytest.raises(it.InputError, match="trajectory"):
        O.NonUniformFourier(torch.zeros(0, 2), (4, 4))


def test_empty_arrays_of_jobs_are_one_sentence() -> None:
    none, flat = torch.zeros(0, 1, 8, 8), torch.zeros(1, 1, 0, 8)
    calls: list[Callable[[], object]] = [
        lambda: it.register(none, none),
        lambda: it.register(flat, flat),
        lambda: it.find_bones(torch.zeros(0, 3), torch.zeros(2, 0, 3)),
        lambda: it.scene_flow(torch.zeros(0, 3), torch.rand(9, 3)),
        lambda: it.metrics.psnr(none, none),
        lambda: it.processing.line_integrals(flat, 1.0),
        lambda: it.processing.remove_rings(flat),
        lambda: it.processing.remove_zingers(flat),
    ]
    for call in calls:
        with pytest.raises(it.InputError):
            call()
