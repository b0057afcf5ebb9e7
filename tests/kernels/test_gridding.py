"""The gridding kernels against torch's sums, their transposes and derivatives."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.kernels.grids.gridding import Gridding
from invtoolbox.operators import NonUniformFourier


def pair(
    shape: tuple[int, ...], dtype: torch.dtype, items: int = 1, width: int = 4
) -> tuple[NonUniformFourier, NonUniformFourier]:
    """Return an operator that runs the kernels, and the same one with torch's sums."""
    draw = torch.Generator().manual_seed(0)
    half = torch.tensor(shape) / 2
    k = (2 * torch.rand(items, 30, len(shape), generator=draw) - 1) * half
    k[:, 0], k[:, 1] = half, -half  # the kernel wraps around
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    maps = torch.randn(2, *shape, dtype=dtype, generator=draw)
    A = NonUniformFourier(k[0].to(real), (1, *shape), maps, width=width)
    if items > 1:
        A = A.with_parameters(trajectory=k.to(real))
    assert A.gridding is not None
    B = A.select(torch.arange(items)) if items > 1 else A.with_parameters()
    B.gridding = None
    return A, B


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(8, 7), (4, 5, 6)])
def test_kernels_are_the_sums_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    for items in (1, 3):
        A, B = pair(shape, dtype, items)
        x = torch.randn(3, 1, *shape, dtype=dtype, generator=draw)
        y = torch.randn(3, *A.range_shape, dtype=dtype, generator=draw)
        bound = 1e-13 if dtype == torch.complex128 else 2e-6
        for ours, sums in ((A(x), B(x)), (A.adjoint(y), B.adjoint(y))):
            assert float((ours - sums).abs().max() / sums.abs().max()) < bound
        alone = A.select(torch.tensor([1])) if items > 1 else A
        assert torch.equal(alone(x[1:2]), A(x)[1:2])
        assert torch.equal(alone.adjoint(y[1:2]), A.adjoint(y)[1:2])


def test_more_samples_than_a_task_takes_and_every_number_of_threads() -> None:
    draw = torch.Generator().manual_seed(2)
    k = 15 * (2 * torch.rand(3000, 2, generator=draw) - 1)
    A = NonUniformFourier(k, (32, 32))
    x = torch.randn(1, 1, 32, 32, dtype=torch.complex64, generator=draw)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = A(x)
            results.append((y, A.adjoint(y)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results))
    A.gridding = None
    torch.testing.assert_close(A(x), results[0][0], atol=1e-5, rtol=1e-4)


def test_derivatives_and_vmap_reach_the_image() -> None:
    A, B = pair((5, 4), torch.complex128)
    x = torch.randn(2, 1, 5, 4, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(A, (x,))
    assert torch.autograd.gradgradcheck(A, (x,), fast_mode=True)
    many = torch.randn(3, 2, 1, 5, 4, dtype=torch.complex128)
    torch.testing.assert_close(torch.vmap(A._forward)(many), torch.stack([*map(B._forward, many)]))
    tangent = torch.func.jvp(A._forward, (x.detach(),), (many[0],))[1]
    torch.testing.assert_close(tangent, B._forward(many[0]))


def test_derivatives_in_the_trajectory_take_the_other_path() -> None:
    A, _ = pair((5, 4), torch.complex128)
    k, x = A.trajectory, torch.ones(1, 1, 5, 4, dtype=torch.complex128)

    def energy(points: torch.Tensor) -> torch.Tensor:
        return A.with_parameters(trajectory=points)(x).abs().square().sum()

    reverse = torch.autograd.functional.jacobian(energy, k)
    assert float(reverse.abs().max()) > 0
    forward = torch.func.jacfwd(energy)(k)
    torch.testing.assert_close(forward, reverse)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(k, torch.ones_like(k))
        tangent = torch.autograd.forward_ad.unpack_dual(energy(dual)).tangent
    torch.testing.assert_close(tangent, reverse.sum())


def test_a_grid_as_small_as_the_kernel_wraps_around_once() -> None:
    corners = torch.tensor([[2]])
    weights = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    P = Gridding([corners], [weights], (3,))
    values = torch.tensor([1.0 + 1.0j])
    torch.testing.assert_close(P.scatter(values), torch.tensor([2.0, 3.0, 1.0]) * (1 + 1j))
