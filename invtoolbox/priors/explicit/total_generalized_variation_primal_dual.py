"""The minimisations inside total generalized variation: its energy and its proximal operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.symmetrised_gradient import SymmetrisedGradient
from invtoolbox.priors.explicit.sparsity import GroupL1, group_norm

_RELAXATION = 1.8
#: What the balance of primal to dual steps is multiplied by where u is free: the primal is strongly convex then, and on photographs
#: and affine pieces small primal steps halved the iterations to a gap of 1e-3.
_SHORT = 0.2
#: Of the total variation of x, below which an energy counts as 0: the gap of an affine picture is never small relative to its own.
_FLOOR = 1e-3


class TGVAnswer(NamedTuple):
    u: Tensor
    value: Tensor  # (batch,) the primal objective
    gap: Tensor  # (batch,) relative


class TGVPrimalDual:
    r"""Over-relaxed primal-dual steps (Chambolle & Pock 2011; Condat 2013) on

    ``min_{u, w} 1/2 |u - x|^2 + sum |D u - w| + ratio sum |E w|``, or with u fixed to x.

    The dual variables are p, ``|p| <= 1``, and q, ``|q| <= ratio``, with ``p = E^T q`` at the optimum. Every block has the step of
    Pock & Chambolle (ICCV 2011), the inverse of its absolute row or column sum, times the balance of primal to dual steps
    of the item.
    """

    def __init__(
        self, x: Tensor, ratio: float, spacing: Sequence[float] | None, coupled: int, fixed: bool
    ) -> None:
        self.x, self.ratio, self.fixed = x, ratio, fixed
        shape = tuple(x.shape[1:])
        self.D, self.E = (
            FiniteDifference(shape, spacing=spacing),
            SymmetrisedGradient(shape, spacing),
        )
        d, slopes = len(shape) - 1, self.E.slopes
        self.jumps, self.bends = GroupL1(coupled * d), GroupL1(coupled * d * (d + 1) // 2)
        half = math.sqrt(0.5)
        self.tau_u = 1 / sum(2 * a for a in slopes)
        self.tau_w = 1 / (1 + max(2 * a + 2 * half * (sum(slopes) - a) for a in slopes))
        self.sigma_p = 1 / (1 + 2 * max(slopes))
        self.sigma_q = 1 / max(
            [2 * a for a in slopes] + [2 * half * (slopes[i] + slopes[j]) for i, j in self.E.pairs]
        )
        self.u, self.w = x.clone(), self.D(torch.zeros_like(x))
        self.p, self.q = torch.zeros_like(self.w), x.new_zeros(x.shape[0], *self.E.range_shape)
        real = x.real.dtype if x.is_complex() else x.dtype
        self.floor = _FLOOR * self._total(self.D(x), self.jumps)
        self.balance = torch.full(
            (x.shape[0],), 1.0 if fixed else _SHORT, dtype=real, device=x.device
        )

    def solve(self, tolerance: float, max_iterations: int) -> TGVAnswer:
        """Items leave as they finish; the same iterations are checked whatever the batch is, so company changes nothing."""
        answer = TGVAnswer(
            torch.empty_like(self.x), torch.zeros_like(self.balance), torch.zeros_like(self.balance)
        )
        active, check, k = torch.arange(len(self.x), device=self.x.device), 0, 0
        while len(active):
            if k >= check or k >= max_iterations:
                check = max(k + 10, int(1.15 * k))
                u, value, gap = self._judged()
                going = (gap > tolerance) & (
                    k < max_iterations
                )  # false where something is not finite
                done = (~going).nonzero().flatten()
                for kept, new in zip(answer, (u, value, gap)):
                    kept[active[done]] = new[done]
                index = going.nonzero().flatten()
                if len(index) < len(active):
                    active = active[index]
                    self._keep(index)
                    if not len(active):
                        break
            k += 1
            self._step()
            if k % 10 == 0 and (k // 10) & (k // 10 - 1) == 0:
                self._rebalance()
        return answer

    def _step(self) -> None:
        balance = expand(self.balance, self.x)
        u, w = self._primal(balance)
        du, dw = u - self.u, w - self.w
        g = self.D(u + du).sub_(w + dw).mul_(self.sigma_p / balance).add_(self.p)
        h = self.E(w + dw).mul_(self.sigma_q / balance).add_(self.q)
        p, q = self._projected(g, h)
        self.u.add_(du, alpha=_RELAXATION)
        self.w.add_(dw, alpha=_RELAXATION)
        self.p.add_(p.sub_(self.p), alpha=_RELAXATION)
        self.q.add_(q.sub_(self.q), alpha=_RELAXATION)

    def _primal(self, balance: Tensor) -> tuple[Tensor, Tensor]:
        w = self.w - (self.tau_w * balance) * (self.E.adjoint(self.q) - self.p)
        if self.fixed:
            return self.x, w
        tau = self.tau_u * balance
        return (self.u + tau * (self.x - self.D.adjoint(self.p))) / (1 + tau), w

    def _projected(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Onto the balls; overwrites."""
        one = torch.ones_like(self.balance)
        return self.jumps.prox_conjugate(p, one, one), self.bends.prox_conjugate(
            q, one, self.ratio * one
        )

    def _judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """The primal point, its objective, and its gap, relative.

        For dual variables with ``p = E^T q`` the gap is
        ``sum (|r| - <r, p>) + sum (ratio |E w| - <E w, q>) + 1/2 |u - x + D^T p|^2``, ``r = D u - w``: every part is nonnegative, so
        nothing large cancels. Where u is free, they are ``(s E^T q, s q)``, s what makes that feasible, and the gap is a bound. Where u
        is fixed, that bound is a hundred times the error; there the variables are taken as they are, and
        ``<w - w*, E^T q - p>``, by which the gap may then be too small, is counted as ``sum |w| |E^T q - p|``.
        """
        p, q = self._projected(self.p.clone(), self.q.clone())
        r, e, back = self.D(self.u) - self.w, self.E(self.w), self.E.adjoint(q)
        value = self._total(r, self.jumps) + self.ratio * self._total(e, self.bends)
        if self.fixed:
            missing = (self.w.abs() * (back - p).abs()).flatten(1).sum(1)
            gap = value - inner(r, p) - inner(e, q) + missing
        else:
            s = expand(1 / self._norm(back, self.jumps).flatten(1).amax(1).clamp_min(1), back)
            gap = value - inner(r, back * s) - inner(e, q * s)
            left = self.u - self.x + self.D.adjoint(back * s)
            value = value + 0.5 * item_norm(self.u - self.x).square()
            gap = gap + 0.5 * item_norm(left).square()
        gap = gap.clamp_min(0)
        size = value.maximum(self.floor).clamp_min(torch.finfo(gap.dtype).tiny)
        return self.u, value, torch.where(gap > 0, gap / size, gap)

    def _rebalance(self) -> None:
        """Towards the sizes of the primal and the dual variables in the metric of their steps (Chambolle & Pock 2011, theorem 1).

        This changes finitely often up to any iteration and ever more rarely, and the step stays inside of its bound.
        """
        primal = item_norm(self.w).square() / self.tau_w
        if not self.fixed:
            primal = primal + item_norm(self.u - self.x).square() / self.tau_u
        dual = item_norm(self.p).square() / self.sigma_p + item_norm(self.q).square() / self.sigma_q
        ratio = (primal / dual.clamp_min(torch.finfo(dual.dtype).tiny)).sqrt() * (
            1.0 if self.fixed else _SHORT
        )
        usable = (primal > 0) & (dual > 0) & ratio.isfinite()
        self.balance = torch.where(usable, (self.balance * ratio).sqrt(), self.balance)

    @staticmethod
    def _norm(x: Tensor, groups: GroupL1) -> Tensor:
        return group_norm(*groups._grouped(x))

    def _total(self, x: Tensor, groups: GroupL1) -> Tensor:
        return self._norm(x, groups).flatten(1).sum(1)

    def _keep(self, index: Tensor) -> None:
        for name in ("x", "u", "w", "p", "q", "balance", "floor"):
            setattr(self, name, getattr(self, name).index_select(0, index))
