"""The problem of a subspace method: a quadratic in the coefficients of a basis, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from invtoolbox.core.pytrees import map_items

#: Added to the diagonal of the scaled system, because its inner products were summed in float32.
_RIDGE = 1e-7
_NEWTON_STEPS = 60
_ACCURACY = 1e-6  # of the discrepancy, relative


@dataclass
class SubspaceProblem:
    """``1/2 r^2(y) + eta q(y)`` around the coefficients y, one problem per item.

    r is the discrepancy and q the majorant of the prior.
    ``r^2(y + d) = squared + 2 <data_gradient, d> + <d, data_matrix d>``, and q has the same form.
    In terms of the step d nothing cancels: ``r`` is two orders of magnitude below the measurements,
    which ``<y, data_matrix y>`` would be as large as.
    """

    data_matrix: Tensor  # (batch, size, size) (A V)^T W (A V)
    prior_matrix: Tensor  # (batch, size, size) (L V)^T (L V)
    data_gradient: Tensor  # (batch, size) (A V)^T W (A x - y)
    prior_gradient: Tensor  # (batch, size) (L V)^T phi'(L x) / c
    squared: Tensor  # (batch,) the squared discrepancy at y
    coefficients: Tensor  # (batch, size) y

    @classmethod
    def zeros(cls, batch: int, size: int, device: torch.device) -> Self:
        def new(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=torch.float64, device=device)

        return cls(new(size, size), new(size, size), new(size), new(size), new(), new(size))

    def first(self, k: int) -> SubspaceProblem:
        """Return views of the part that belongs to the first k vectors."""
        return SubspaceProblem(
            self.data_matrix[:, :k, :k],
            self.prior_matrix[:, :k, :k],
            self.data_gradient[:, :k],
            self.prior_gradient[:, :k],
            self.squared,
            self.coefficients[:, :k],
        )

    def change_basis(self, new: Tensor, size: int) -> None:
        """Make the columns of ``new (batch, k, m)`` the first m vectors; the rest is empty."""
        small, m = self.first(size), new.shape[2]
        # In the basis V N the matrices are N^T M N, and the coefficients N^T y, because N is
        # orthonormal and y lies in its span.
        for matrix, block in (
            (self.data_matrix, small.data_matrix),
            (self.prior_matrix, small.prior_matrix),
        ):
            changed = map_items(lambda N, M: N.mT @ M @ N, new, block)
            matrix.zero_()
            matrix[:, :m, :m] = changed
        coefficients = times(new.mT, small.coefficients)
        self.coefficients.zero_()
        self.coefficients[:, :m] = coefficients


def minimize(small: SubspaceProblem, eta: Tensor) -> Tensor:
    """Return the step d that minimizes data term plus ``eta`` times majorant, ``(batch, k)``."""
    # (M_data + eta M_prior) d = -(g_data + eta g_prior)
    return -_Factor(small, eta).solve(small.data_gradient + eta.view(-1, 1) * small.prior_gradient)


def discrepancy_weight(
    small: SubspaceProblem, target: Tensor, start: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Return the ``eta`` from ``low`` to ``high`` whose minimizer has the discrepancy ``target``.

    If none has, it is the nearer end. The discrepancy increases with eta, so Newton's method on
    ``log r(eta) = log target`` in ``log eta`` is kept inside a bracket; a step out of it becomes a
    bisection. A finished item no longer changes, whatever its neighbours do.
    """
    low, high = low.log(), high.log()
    # Even the smallest weight leaves more: the basis cannot fit better.
    finished = _log_error(small, low, target)[0] >= 0
    t = torch.where(
        finished, low, start.clamp_min(torch.finfo(torch.float64).tiny).log().clamp(low, high)
    )
    for _ in range(_NEWTON_STEPS):
        if bool(finished.all()):
            break
        error, slope = _log_error(small, t, target)
        low, high = torch.where(error < 0, t, low), torch.where(error < 0, high, t)
        # t <- t - e / e' if that lies inside of the bracket, whose ends have errors of both signs.
        newton = t - error / slope.clamp_min(1e-12)
        inside = (newton > low) & (newton < high)
        new = torch.where(inside, newton, (low + high) / 2)
        done = (error.abs() <= _ACCURACY) | (high - low < 1e-9)
        t = torch.where(finished | done, t, new)
        finished = finished | done
    return t.exp()


def _log_error(small: SubspaceProblem, t: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log r - log target`` at ``eta = exp(t)`` and its derivative in t."""
    # With H = M_data + eta M_prior and the step d: dd/deta = -H^-1 (g_prior + M_prior d), and
    # d(r^2)/dt = 2 eta <g_data + M_data d, dd/deta>.
    eta = t.exp()
    factor = _Factor(small, eta)
    step = -factor.solve(small.data_gradient + eta.view(-1, 1) * small.prior_gradient)
    fitted = times(small.data_matrix, step)
    tiny = torch.finfo(torch.float64).tiny
    squared = (small.squared + ((2 * small.data_gradient + fitted) * step).sum(1)).clamp_min(tiny)
    decrease = factor.solve(small.prior_gradient + times(small.prior_matrix, step))
    slope = -eta * ((small.data_gradient + fitted) * decrease).sum(1) / squared
    return 0.5 * squared.log() - target.clamp_min(tiny).log(), slope


class _Factor:
    """The Cholesky factor of ``data_matrix + eta prior_matrix``, scaled to a unit diagonal."""

    def __init__(self, small: SubspaceProblem, eta: Tensor) -> None:
        matrix = small.data_matrix + eta.view(-1, 1, 1) * small.prior_matrix
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        # A vector that was dropped has a row of zeros: it keeps the coefficient 0.
        tiny = torch.finfo(torch.float64).tiny
        self.scale = torch.where(
            diagonal > 0, diagonal.clamp_min(tiny).rsqrt(), torch.zeros_like(diagonal)
        )
        scaled = matrix * self.scale.unsqueeze(1) * self.scale.unsqueeze(2)
        eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        scaled = scaled + eye * torch.where(diagonal > 0, _RIDGE, 1.0).unsqueeze(1)
        self.factor, failed = map_items(lambda M: torch.linalg.cholesky_ex(M)[:2], scaled)
        if bool((failed > 0).any()):  # rounding made it indefinite: damp the items in question
            damped = scaled + eye * torch.where(failed > 0, 1e-3, 0.0).view(-1, 1, 1)
            self.factor = map_items(lambda M: torch.linalg.cholesky_ex(M).L, damped)

    def solve(self, right: Tensor) -> Tensor:
        scaled = (right * self.scale).unsqueeze(2)
        return map_items(torch.cholesky_solve, scaled, self.factor).squeeze(2) * self.scale


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the product of each item's matrix and vector, ``(batch, m)``."""
    return map_items(lambda M, v: torch.bmm(M, v.unsqueeze(2)).squeeze(2), matrix, vector)
