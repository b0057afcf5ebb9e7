"""The Fourier transforms: unitary, centred where it says, the non-uniform one against the direct sum; sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import (
    CartesianMRI,
    Fourier,
    NonUniformFourier,
    Sampling,
    radial_trajectory,
)
from invtoolbox.testing import check_operator


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("shape", "axes"), [((1, 8), None), ((2, 5, 6), None), ((1, 3, 4, 5), 2), ((1, 3, 4, 5), None)]
)
def test_fourier_keeps_the_contract(
    shape: tuple[int, ...], axes: int | None, centred: bool
) -> None:
    assert check_operator(Fourier(shape, axes, centred), noise(3, *shape)).ok


def test_fourier_is_numpys_with_the_origin_in_the_middle() -> None:
    x = noise(1, 1, 5, 8)
    wanted = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x[0, 0].numpy()), norm="ortho"))
    np.testing.assert_allclose(Fourier((1, 5, 8))(x)[0, 0].numpy(), wanted, atol=1e-14)
    # A point in the middle has a flat, real spectrum.
    point = torch.zeros(1, 1, 5, 8, dtype=torch.complex128)
    point[0, 0, 2, 4] = 1
    torch.testing.assert_close(Fourier((1, 5, 8))(point), torch.full_like(point, 1 / math.sqrt(40)))
    with pytest.raises(it.InputError, match="between 1 and 2 axes"):
        Fourier((1, 5, 8), axes=3)


def direct_sum(k: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The exact transform of ``(row, column)`` at the frequencies ``(m, 2)``."""
    rows, columns = x.shape
    n = (
        torch.stack(
            torch.meshgrid(
                (torch.arange(rows) - rows // 2) / rows,
                (torch.arange(columns) - columns // 2) / columns,
                indexing="ij",
            ),
            -1,
        )
        .reshape(-1, 2)
        .double()
    )
    return torch.exp(-2j * torch.pi * (k.double() @ n.T)) @ x.flatten() / math.sqrt(rows * columns)


@pytest.mark.parametrize(
    ("size", "width", "bound"), [((16, 16), 6, 2e-5), ((15, 22), 6, 2e-5), ((16, 17), 8, 5e-7)]
)
def test_the_non_uniform_transform_is_the_direct_sum(
    size: tuple[int, int], width: int, bound: float
) -> None:
    k = (
        torch.rand(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    ) * torch.tensor(size)
    k[0], k[1] = torch.tensor([-size[0] / 2, -size[1] / 2]), 0.0
    x = noise(1, 1, *size)
    exact = direct_sum(k, x[0, 0])
    found = NonUniformFourier(k, size, width=width)(x)[0, 0]
    assert float((found - exact).norm() / exact.norm()) < bound


def test_on_the_grid_it_is_the_cartesian_transform() -> None:
    rows, columns = torch.meshgrid(torch.arange(10) - 5, torch.arange(9) - 4, indexing="ij")
    maps, x = noise(3, 10, 9, seed=1), noise(2, 1, 10, 9, seed=2)
    A = NonUniformFourier(torch.stack([rows, columns], -1).double(), (10, 9), maps, width=8)
    torch.testing.assert_close(
        A(x), CartesianMRI(torch.ones(10, 9), (10, 9), maps)(x), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("items", [1, 3])
def test_the_non_uniform_transform_keeps_the_contract(items: int) -> None:
    # As many spokes as items: the trajectory belongs to all of them all the same.
    A = NonUniformFourier(
        radial_trajectory(12, spokes=3, samples=16), (12, 11), noise(items, 2, 12, 11)
    )
    assert A.range_shape == (2, 3, 16)
    assert check_operator(A, noise(3, 1, 12, 11, seed=1)).ok
    volume = NonUniformFourier(torch.rand(20, 3) * 4 - 2, (1, 4, 5, 6), width=4)
    assert check_operator(volume, noise(2, 1, 4, 5, 6)).ok


def test_a_trajectory_an_item() -> None:
    k = radial_trajectory(12, spokes=2, samples=10)
    shared = NonUniformFourier(k, (12, 11), noise(1, 2, 12, 11))
    A = shared.with_parameters(trajectory=torch.stack([k, 0.9 * k, k + 0.2]))
    assert A.items == 3 and shared.items is None
    assert check_operator(A, noise(3, 1, 12, 11, seed=1)).ok
    x = noise(3, 1, 12, 11, seed=1)
    torch.testing.assert_close(A(x)[1:2], shared.with_parameters(trajectory=0.9 * k)(x[1:2]))
    assert A.density().shape == (3, 2, 10)
    same = shared.with_parameters(**shared.item_parameters(3))
    torch.testing.assert_close(same(x), shared(x))


def test_a_real_trajectory_is_an_unknown_beside_a_complex_image() -> None:
    rows, columns = ((torch.arange(16, dtype=torch.float64) - 8) / 8 for _ in range(2))
    x = torch.exp(-12 * ((rows[:, None] - 0.1) ** 2 + (columns - 0.2) ** 2)).to(torch.complex128)[
        None, None
    ]
    k = radial_trajectory(16, spokes=30).double() * 0.95
    y = NonUniformFourier(k, (16, 16))(x)
    generator = torch.Generator().manual_seed(0)
    wrong = k + 0.1 * torch.randn(k.shape, generator=generator, dtype=torch.float64)
    problem = it.Problem(y, NonUniformFourier(wrong, (16, 16)), unknown={"trajectory": None})
    solution = it.solve(
        problem,
        it.priors.Tikhonov(),
        it.solvers.LBFGS(),
        regularization=1e-3,
        max_iterations=100,
        progress=False,
    )
    assert (
        solution.parameters is not None and solution.parameters["trajectory"].dtype == torch.float64
    )
    assert solution.parameters["trajectory"].shape == (1, 30, 32, 2)
    # Shifts of single samples and the image are not told apart, but together they explain what the
    # wrong trajectory cannot.
    known = it.solve(
        it.Problem(y, NonUniformFourier(wrong, (16, 16))),
        it.priors.Tikhonov(),
        regularization=1e-3,
        progress=False,
    )
    left = [float((s.problem.operator(s.x) - y).norm()) for s in (solution, known)]
    assert left[0] < 0.5 * left[1]


def test_gradients_in_trajectory_and_coil_maps() -> None:
    A = NonUniformFourier(
        torch.rand(6, 2, dtype=torch.float64) * 3 - 1.5, (5, 4), noise(1, 2, 5, 4), width=5
    )
    x = noise(1, 1, 5, 4, seed=1)
    k = (
        torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 3 - 1.5
    ).requires_grad_()
    maps = noise(1, 2, 5, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t, m: A.with_parameters(trajectory=t, coil_maps=m)(x), (k, maps), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda t, m: A.with_parameters(trajectory=t, coil_maps=m).adjoint(A(x)),
        (k, maps),
        fast_mode=True,
    )


def test_gridding_gives_the_image_back_at_its_own_scale() -> None:
    rows, columns = ((torch.arange(64) - 32) / 32 for _ in range(2))
    x = torch.exp(-12 * (rows[:, None] ** 2 + (columns - 0.2) ** 2)).to(torch.complex64)[None, None]
    A = NonUniformFourier(radial_trajectory(64, spokes=110), (64, 64))
    back = A.pseudo_inverse(A(x))
    assert float((back - x).norm() / x.norm()) < 0.02
    # The areas add up to that of the disc of k-space that the spokes cover.
    assert float(A.density().sum()) == pytest.approx(math.pi * 32**2, rel=0.03)


def test_wrong_trajectories_get_one_sentence() -> None:
    with pytest.raises(it.InputError, match="cycles per field of view"):
        NonUniformFourier(torch.full((3, 2), 9.0), (8, 8))
    with pytest.raises(it.InputError, match=r"\(\*samples, 2\)"):
        NonUniformFourier(torch.rand(3, 3), (8, 8))
    with pytest.raises(it.InputError, match="create a new"):
        NonUniformFourier(torch.rand(3, 2), (8, 8)).with_parameters(trajectory=torch.rand(4, 2))


# -- sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        torch.arange(20) % 3 == 0,
        torch.tensor([3, 19, 3, 0]),
        torch.tensor([[1, 2], [5, 5], [0, 9]]),
    ],
)
def test_sampling_keeps_the_contract(where: torch.Tensor) -> None:
    shape = where.reshape(4, 5) if where.dtype == torch.bool else where
    A = Sampling(shape, (2, 4, 5))
    assert check_operator(A).ok
    assert check_operator(A, noise(3, 2, 4, 5)).ok
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    back = A.pseudo_inverse(A(x))
    torch.testing.assert_close(A(back), A(x))
    torch.testing.assert_close(back, torch.where(A.counts() > 0, x, 0))


def test_sampling_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(it.InputError, match="Inpainting"):
        Sampling(torch.tensor([[True, False], [True, True]]), (1, 2))
    for where, message in (
        (torch.zeros(2, dtype=torch.bool), "nothing is measured"),
        (torch.tensor([5]), "0..1"),
        (torch.ones(2), "whole-numbered"),
        (torch.ones(3, dtype=torch.bool), "expected"),
    ):
        with pytest.raises(it.InputError, match=message):
            Sampling(where, (1, 2))
