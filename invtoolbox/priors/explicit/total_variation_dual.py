"""The proximal operator of total variation, by its dual."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from invtoolbox.priors.explicit.smoothed_norm import huber

# The momentum of an accelerated gradient method is (k - 1) / (k + MOMENTUM); any value above 2 makes the
# iterates converge (Chambolle & Dossal 2015), and 6 reached a small gap in the fewest iterations on
# photographs.
_MOMENTUM = 6.0


class TotalVariationDual:
    r"""Accelerated projected gradient on ``min 1/2 |x - D^T p|^2 + smoothing/2 |p|^2`` over the unit ball of the dual norm.

    That is the dual of ``min 1/2 |u - x|^2 + sum h(|D u|)``, h the modulus, or Huber's function with a threshold. Everything
    the iteration touches is allocated here once: a fresh temporary costs more than its arithmetic.

    Args:
        x: ``(items, groups, members, *space)``; p has one such tensor an axis of space.
        slopes: the factor of the differences along every axis.
        lower, upper: bounds of u, which broadcast against x.
        smoothing: the threshold of Huber's function, ``(items, 1, ...)``, or ``None``.
    """

    def __init__(
        self,
        x: Tensor,
        isotropic: bool,
        periodic: bool,
        slopes: tuple[float, ...],
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        smoothing: Tensor | None = None,
    ) -> None:
        self.x, self.isotropic, self.periodic = x.contiguous(), isotropic, periodic
        self.lower, self.upper, self.smoothing = lower, upper, smoothing
        self.axes, self.slopes = range(3, x.ndim), slopes
        self.bound = sum(4 * a * a for a in slopes)  # of |D|^2
        self.p, self.q, self.g = ([torch.zeros_like(self.x) for _ in self.axes] for _ in range(3))
        self.u, self.norm, self.difference = (torch.empty_like(self.x) for _ in range(3))

    def solve(self, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor]:
        """``(u, relative gap)`` for every item; items leave as they finish."""
        result = torch.empty_like(self.x)
        reached = torch.zeros(self.x.shape[0], dtype=self.x.dtype, device=self.x.device)
        active = torch.arange(self.x.shape[0], device=self.x.device)
        check = 10
        for k in range(1, max_iterations + 1):
            self._step(k)
            if k < check and k < max_iterations:
                continue
            # The same iterations are checked whatever the batch is, so company changes nothing.
            check = max(k + 10, int(1.15 * k))
            self._primal(self.p)
            gap = self._relative_gap()
            # Written so that an item that is not finite counts as finished.
            going = (gap > tolerance) & (k < max_iterations)
            left = int(going.sum())
            if left == len(active):
                continue
            done = (~going).nonzero().flatten()
            result[active[done]] = self.u[done]
            reached[active[done]] = gap[done]
            if not left:
                break
            index = going.nonzero().flatten()
            active = active[index]
            self._keep(index)
        return result, reached

    def _step(self, k: int) -> None:
        """``p = project(q + (D u - smoothing q) / L)`` with ``u = x - D^T q``, then ``q = p + beta (p - p_before)``."""
        self._primal(self.q)
        if self.smoothing is not None:
            self._smooth_step(k)
            return
        for axis, slope, q, g in zip(self.axes, self.slopes, self.q, self.g):
            for inside, difference in self._differences(axis):
                torch.add(
                    _at(q, axis, inside),
                    difference,
                    alpha=slope / self.bound,
                    out=_at(g, axis, inside),
                )
        self._project(self.g)
        beta = (k - 1) / (k + _MOMENTUM)
        for p, q, g in zip(self.p, self.q, self.g):
            torch.sub(g, p, out=p)
            torch.add(g, p, alpha=beta, out=q)
        self.p, self.g = self.g, self.p

    def _smooth_step(self, k: int) -> None:
        """The same where the dual is strongly convex: the momentum stays below what that asks for (Nesterov 2004)."""
        assert self.smoothing is not None
        total = self.bound + self.smoothing
        root = (self.smoothing / total).sqrt()
        beta = ((1 - root) / (1 + root)).clamp_max((k - 1) / (k + _MOMENTUM))
        for axis, slope, q, g in zip(self.axes, self.slopes, self.q, self.g):
            torch.mul(q, 1 - self.smoothing / total, out=g)
            for inside, difference in self._differences(axis):
                _at(g, axis, inside).addcmul_(difference, slope / total)
        self._project(self.g)
        for p, q, g in zip(self.p, self.q, self.g):
            torch.sub(g, p, out=p)
            torch.addcmul(g, p, beta, out=q)
        self.p, self.g = self.g, self.p

    def _primal(self, p: list[Tensor]) -> None:
        """``u = x - D^T p``, clamped to the bounds."""
        self.u.copy_(self.x)
        for axis, slope, part in zip(self.axes, self.slopes, p):
            n = part.shape[axis]
            inside = part.narrow(axis, 0, n - 1)
            self.u.narrow(axis, 0, n - 1).add_(inside, alpha=slope)
            self.u.narrow(axis, 1, n - 1).sub_(inside, alpha=slope)
            if self.periodic:
                last = part.narrow(axis, n - 1, 1)
                self.u.narrow(axis, n - 1, 1).add_(last, alpha=slope)
                self.u.narrow(axis, 0, 1).sub_(last, alpha=slope)
        if self.lower is not None:
            torch.maximum(self.u, self.lower, out=self.u)
        if self.upper is not None:
            torch.minimum(self.u, self.upper, out=self.u)

    def _differences(self, axis: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """The differences of ``u`` along an axis, without its slope, piece by piece with their place ``(start, length)``."""
        u, n = self.u, self.u.shape[axis]
        inside = self.difference.narrow(axis, 0, n - 1)
        torch.sub(u.narrow(axis, 1, n - 1), u.narrow(axis, 0, n - 1), out=inside)
        yield (0, n - 1), inside
        if self.periodic:
            last = self.difference.narrow(axis, n - 1, 1)
            torch.sub(u.narrow(axis, 0, 1), u.narrow(axis, n - 1, 1), out=last)
            yield (n - 1, 1), last

    def _project(self, g: list[Tensor]) -> None:
        """Onto the unit ball of the norm that is dual to the one in the energy."""
        members = self.x.shape[2]
        if self.isotropic:
            self._squares(g)
            factor = self._shared(self.norm, members).clamp_min_(1).rsqrt_()
            for part in g:
                part.mul_(factor)
        elif members == 1:
            for part in g:
                part.clamp_(-1, 1)
        else:
            for part in g:
                self._squares([part])
                part.mul_(self._shared(self.norm, members).clamp_min_(1).rsqrt_())

    def _squares(self, parts: list[Tensor]) -> None:
        torch.mul(parts[0], parts[0], out=self.norm)
        for part in parts[1:]:
            self.norm.addcmul_(part, part)

    @staticmethod
    def _shared(squares: Tensor, members: int) -> Tensor:
        """The sum over the members of a group, in place of its first member."""
        first = squares.narrow(2, 0, 1)
        for k in range(1, members):
            first.add_(squares.narrow(2, k, 1))
        return first

    def _relative_gap(self) -> Tensor:
        """``(h(|D u|) + smoothing/2 |p|^2 - <D u, p>) / (1/2 |u - x|^2 + h(|D u|))``.

        Written so, every pixel's part of the gap is nonnegative, and nothing large cancels.
        """
        members = self.x.shape[2]
        # The buffers g are free between steps: they take the differences.
        for axis, slope, g in zip(self.axes, self.slopes, self.g):
            for inside, difference in self._differences(axis):
                torch.mul(difference, slope, out=_at(g, axis, inside))
            if not self.periodic:
                g.narrow(axis, g.shape[axis] - 1, 1).zero_()
        variation = torch.zeros_like(self.norm.narrow(2, 0, 1))
        for group in [self.g] if self.isotropic else [[g] for g in self.g]:
            self._squares(group)
            variation.add_(self._loss(self._shared(self.norm, members).sqrt_()))
        torch.mul(self.g[0], self.p[0], out=self.norm)
        for g, p in zip(self.g[1:], self.p[1:]):
            self.norm.addcmul_(g, p)
        total = variation.flatten(1).sum(1)
        variation.sub_(self._shared(self.norm, members))
        if self.smoothing is not None:
            self._squares(self.p)
            variation.addcmul_(self._shared(self.norm, members), 0.5 * self.smoothing)
        gap = variation.flatten(1).sum(1).clamp_min(0)
        misfit = torch.sub(self.u, self.x, out=self.norm).flatten(1)
        primal = total + 0.5 * torch.linalg.vector_norm(misfit, dim=1).square()
        return torch.where(gap > 0, gap / primal, gap)

    def _loss(self, norm: Tensor) -> Tensor:
        return norm if self.smoothing is None else huber(norm, self.smoothing)

    def _keep(self, index: Tensor) -> None:
        self.x, self.u, self.norm, self.difference = (
            t.index_select(0, index) for t in (self.x, self.u, self.norm, self.difference)
        )
        self.lower, self.upper, self.smoothing = (
            None if b is None else b.index_select(0, index)
            for b in (self.lower, self.upper, self.smoothing)
        )
        self.p, self.q, self.g = (
            [t.index_select(0, index) for t in parts] for parts in (self.p, self.q, self.g)
        )


def _at(tensor: Tensor, axis: int, place: tuple[int, int]) -> Tensor:
    return tensor.narrow(axis, *place)
