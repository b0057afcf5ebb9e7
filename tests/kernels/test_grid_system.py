"""Systems of pixels and their neighbours: product, solution, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invtoolbox.kernels.grids.grid_system import GridSystem
from invtoolbox.solvers.linear_systems import conjugate_gradients


def system(channels: int, dtype: torch.dtype, batch: int = 2) -> GridSystem:
    """Return positive definite systems of 7 by 21 pixels, a part of which has no edges."""
    generator = torch.Generator().manual_seed(0)
    right, down = torch.rand(2, batch, channels, 7, 21, generator=generator, dtype=dtype)
    right[..., -1] = down[..., -1, :] = 0
    right[..., :2, :] = down[..., :2, :] = 0  # the first two rows have no edges
    across = None
    diagonal = right + down
    diagonal[..., 1:] += right[..., :-1]
    diagonal[..., 1:, :] += down[..., :-1, :]
    diagonal[..., 2:, :] += 0.01
    if channels == 2:
        across = torch.rand(batch, 1, 7, 21, generator=generator, dtype=dtype)
        across[..., :2, :] = 0
        diagonal = diagonal + across
    return GridSystem(diagonal, right, down, across)


def dense(M: GridSystem, item: int) -> Tensor:
    one = M.diagonal[item : item + 1]
    own = GridSystem(
        one,
        M.right[item : item + 1],
        M.down[item : item + 1],
        None if M.across is None else M.across[item : item + 1],
    )
    units = torch.eye(one.numel(), dtype=one.dtype).view(-1, *one.shape[1:])
    return torch.stack([own.product(unit[None]).flatten() for unit in units])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_solves_the_system(channels: int, dtype: torch.dtype) -> None:
    M = system(channels, dtype)
    b = torch.randn(M.diagonal.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    b = torch.where(M.diagonal > 0, b, 0)
    small = 1e-5 if dtype == torch.float32 else 1e-12
    x = M.solve(b, torch.full((2,), small), 2000)
    A = dense(M, 1)
    assert torch.equal(A, A.T)
    assert torch.allclose(A @ x[1].flatten(), b[1].flatten(), atol=3e-5 if small > 1e-9 else 1e-10)
    assert bool((x[M.diagonal == 0] == 0).all())
    y, _ = conjugate_gradients(M.product, b, 1e-6, 2000, M.precondition)
    assert torch.allclose(x, y, atol=1e-3)


def test_two_channels_need_no_coupling() -> None:
    M = system(2, torch.float64)
    apart = GridSystem(M.diagonal, M.right, M.down)
    b = torch.where(M.diagonal > 0, torch.ones_like(M.diagonal), 0)
    x = apart.solve(b, torch.full((2,), 1e-10), 2000)
    assert torch.allclose(apart.product(x), b, atol=1e-8)


def test_an_item_is_solved_alike_alone_and_in_a_batch() -> None:
    M = system(2, torch.float32)
    b = torch.randn(M.diagonal.shape, generator=torch.Generator().manual_seed(1))
    goal = torch.tensor([1e-1, 1e-4])
    both = M.solve(b, goal, 100)
    assert M.across is not None
    for k in range(2):
        own = GridSystem(
            M.diagonal[k : k + 1], M.right[k : k + 1], M.down[k : k + 1], M.across[k : k + 1]
        )
        assert torch.equal(own.solve(b[k : k + 1], goal[k : k + 1], 100), both[k : k + 1])


def test_a_preconditioner_saves_steps() -> None:
    scale = torch.logspace(0, 4, 147).view(1, 1, 7, 21)
    right = torch.ones(1, 1, 7, 21)
    plain = conjugate_gradients(lambda u: scale * u, right, 1e-5, 3)[1].norm()
    better = conjugate_gradients(lambda u: scale * u, right, 1e-5, 3, lambda r: r / scale)[1].norm()
    assert better < 1e-5 * plain
