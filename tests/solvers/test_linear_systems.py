"""GMRES: against dense solutions, item by item, with matrices that are singular or not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.solvers.linear_systems import HessenbergSystem, gmres


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessenberg(batch: int, columns: int) -> Tensor:
    """Return random Hessenberg matrices ``(batch, columns + 1, columns)``."""
    return torch.triu(random(batch, columns + 1, columns), diagonal=-1)


def appended(H: Tensor, beta: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the coefficients and the least residual after all columns of H."""
    system, used = HessenbergSystem(beta), torch.ones(len(H), dtype=torch.bool)
    for k in range(H.shape[2]):
        residual = system.append(list(H[:, : k + 2, k].unbind(1)), used)
    return system.solve(), residual


def test_coefficients_and_residual_are_those_of_the_pseudo_inverse() -> None:
    H, beta = hessenberg(6, 9), random(6).abs()
    right = torch.zeros(6, 10, 1, dtype=torch.float64)
    right[:, 0, 0] = beta
    expected = torch.linalg.pinv(H) @ right
    c, residual = appended(H, beta)
    torch.testing.assert_close(torch.stack(c, 1), expected[..., 0], rtol=1e-9, atol=1e-9)
    norms = (right - H @ expected).flatten(1).norm(dim=1)
    torch.testing.assert_close(residual, norms, rtol=1e-9, atol=1e-9)


def test_a_column_without_a_new_direction_changes_nothing() -> None:
    H, beta = hessenberg(1, 3), torch.tensor([2.0])
    H[:, :, 2] = 0
    H[:, :2, 2] = H[:, :2, 0]  # the column repeats the first one
    c, residual = appended(H, beta)
    fewer, before = appended(H[:, :3, :2], beta)
    assert float(c[2]) == 0
    assert torch.equal(torch.stack(c[:2]), torch.stack(fewer)) and torch.equal(residual, before)


def test_an_item_has_its_bits_alone_and_next_to_one_that_is_not_finite() -> None:
    A, b = random(3, 8, 8) + 4 * torch.eye(8, dtype=torch.float64), random(3, 8, seed=1)
    A[1] = torch.inf

    def solve(items: slice) -> tuple[Tensor, Tensor]:
        def product(v: Tensor) -> Tensor:
            # One row at a time, so that the product of an item has the same bits in every batch.
            return torch.stack([matrix @ row for matrix, row in zip(A[items], v)])

        return gmres(product, b[items], 1e-10, 30)

    x, residual = solve(slice(0, 3))
    for k in (0, 2):
        alone, error = solve(slice(k, k + 1))
        assert torch.equal(alone[0], x[k]) and torch.equal(error[0], residual[k])
        torch.testing.assert_close(x[k], torch.linalg.solve(A[k], b[k]), rtol=1e-8, atol=1e-8)
    assert not bool(residual[1] < 1e-10)


def test_a_restart_goes_on_until_the_tolerance() -> None:
    A, b = torch.eye(20, dtype=torch.float64) + 0.1 * random(20, 20), random(2, 20, seed=2)
    x, residual = gmres(lambda v: v @ A.T, b, 1e-9, 200, restart=4)
    assert bool((residual < 1e-9).all())
    torch.testing.assert_close(x, torch.linalg.solve(A, b.T).T, rtol=1e-7, atol=1e-7)
    # A singular system whose right-hand side is not in its range ends at the least residual.
    P = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    x, residual = gmres(lambda v: v @ P, torch.ones(1, 3, dtype=torch.float64), 1e-9, 9)
    assert bool(x.isfinite().all())
    torch.testing.assert_close(residual, torch.full((1,), 3**-0.5, dtype=torch.float64))
