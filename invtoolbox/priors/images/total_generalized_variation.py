"""Total generalized variation of second order, for images made of slopes instead of plateaus.

`TotalGeneralizedVariation` is the prior. `TGVPrimalDual` is the minimization inside its energy and
its proximal operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.operators.finite_difference import FiniteDifference, SymmetrisedGradient
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.priors.images.itemwise_iteration import ItemwiseIteration
from invtoolbox.priors.images.sparsity import GroupL1, group_norm
from invtoolbox.priors.settings import check_spacing, format_changes


class TotalGeneralizedVariation(ExplicitPrior):
    """Total generalized variation of second order (TGV) of signals, images and volumes.

    ``R(x) = min_w sum |D x - w|_2 + ratio sum |E w|_F`` (Bredies, Kunisch & Pock, SIAM J. Imaging
    Sci. 3, 2010). ``w`` is a field of slopes that is free to follow the slopes of the image, and
    that costs where it bends. An affine picture costs nothing, a jump costs as much as in total
    variation, and a bend costs ``ratio`` times its angle. So there are no stairs. D are the forward
    differences of `TotalVariation`, E is `SymmetrisedGradient`.

    The energy and the prox are minimizations of their own, by an over-relaxed primal-dual method
    with steps for each item. An item stops once its duality gap is at most ``tolerance`` times its
    primal objective (or a thousandth of its total variation). For the prox the gap is a true bound,
    so the distance to the exact answer is at most ``sqrt(2 step gap)``; with the default, this is a
    few percent of the noise that is removed. The energy is too large by about ``tolerance``,
    relative. No state is kept between calls.

    Splitting methods (`PDHG`, which is the automatic choice, `CondatVu`, `StochasticPDHG`, `ADMM`)
    avoid these inner minimizations: `joint` gives them ``w`` as further channels of their variable.
    There every term has a closed form, and x and w are found together. Every other solver that
    takes a prox accepts this prior too, but runs hundreds of inner steps in each of its own.

    Args:
        ratio: price of a bend over the price of a jump; its unit is a length. 2 pixels suit most
            pictures; large values give affine pieces, small values let w follow everything.
        coupled: whether the channels of a pixel share their norms.
        spacing: distance of two neighbors along every axis, as for `TotalVariation`.
        tolerance, max_iterations: relative gap and number of iterations at which the inner
            minimization stops; `prox_with_gap` returns the gap that was reached.

    >>> ramp = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0]]])
    >>> tgv = TotalGeneralizedVariation()
    >>> tgv.energy(ramp).round(decimals=1)  # one bend, from slope 1 to slope -1
    tensor([4.])
    >>> import invtoolbox as it
    >>> problem = it.Problem(ramp, it.operators.Identity((1, 8)))
    >>> settings = dict(tolerance=1e-6, max_iterations=10000, progress=False)
    >>> solution = it.solve(problem, tgv, regularization=0.5, **settings)
    >>> bool((solution.x - tgv.prox(ramp, 0.5)).abs().max() < 0.01)
    True
    """

    is_convex = True
    is_smooth = False
    has_exact_prox = False

    def __init__(
        self,
        ratio: float = 2.0,
        coupled: bool = False,
        spacing: Sequence[float] | None = None,
        tolerance: float = 1e-3,
        max_iterations: int = 5000,
    ) -> None:
        check_range(self, "(0, inf)", ratio=ratio)
        check_range(self, "(0, inf]", tolerance=tolerance)
        check_range(self, "[1, inf)", max_iterations=max_iterations)
        self.ratio, self.coupled = float(ratio), coupled
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)
        self.tolerance, self.max_iterations = tolerance, max_iterations

    @property
    def offers(self) -> frozenset[str]:
        # The energy is accurate to the tolerance only, which is too rough for finite differences,
        # and it has kinks.
        return frozenset({"energy", "prox", "joint"})

    def energy(self, x: Tensor) -> Tensor:
        return (
            self._inner(x.detach(), fixed=True).solve(self._tolerance(x), self.max_iterations).value
        )

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.prox_with_gap(x, step)[0]

    def prox_with_gap(self, x: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the prox and the relative duality gap that it reached, ``(batch,)``."""
        with torch.no_grad():
            scale = expand(step, x).expand(x.shape[0], *[1] * (x.ndim - 1))
            # In units of the step, the dual ball has radius 1 for every item.
            unit = torch.where(scale > 0, scale, torch.ones_like(scale))
            # prox_{step R}(x) = step prox_R(x / step), because R is homogeneous of degree 1.
            answer = self._inner(x / unit, fixed=False).solve(
                self._tolerance(x), self.max_iterations
            )
            flat = scale.flatten()
            return torch.where(scale > 0, answer.u * unit, x), torch.where(
                flat > 0, answer.gap, torch.zeros_like(flat)
            )

    def joint(self, image_shape: tuple[int, ...]) -> tuple[int, PriorSum]:
        """Return ``sum |D x - w| + ratio sum |E w|``; w has the channels of the differences."""
        channels, dimensions = image_shape[0], len(image_shape) - 1
        # d differences, and d (d + 1) / 2 entries of a symmetric matrix, per channel.
        together, entries = (channels if self.coupled else 1), dimensions * (dimensions + 1) // 2
        left, bends = _SlopesLeft(image_shape, self.spacing), _Bends(image_shape, self.spacing)
        terms = (
            Term(1.0, GroupL1(dimensions * together) @ left),
            Term(self.ratio, GroupL1(entries * together) @ bends),
        )
        return channels * dimensions, PriorSum(terms)

    def _tolerance(self, x: Tensor) -> float:
        return max(self.tolerance, 8 * torch.finfo(x.real.dtype if x.is_complex() else x.dtype).eps)

    def _inner(self, x: Tensor, fixed: bool) -> TGVPrimalDual:
        dimensions, channels = x.ndim - 2, x.shape[1]
        check_spacing(self, self.spacing, dimensions)
        return TGVPrimalDual(x, self.ratio, self.spacing, channels if self.coupled else 1, fixed)

    def __repr__(self) -> str:
        changes = format_changes(self, ratio=2.0, coupled=False, spacing=None)
        return f"TotalGeneralizedVariation({changes})"


_RELAXATION = 1.8


#: Factor of the balance of primal to dual steps if u is free. The primal is strongly convex then,
#: and on photographs and affine pieces small primal steps halved the iterations to a gap of 1e-3.
_SHORT = 0.2


#: Fraction of the total variation of x below which an energy counts as 0: the gap of an affine
#: picture is never small relative to its own energy.
_FLOOR = 1e-3


class TGVAnswer(NamedTuple):
    """Result of the inner minimization.

    Attributes:
        u: minimizer, shaped as x.
        value: primal objective, ``(batch,)``.
        gap: relative duality gap, ``(batch,)``.
    """

    u: Tensor
    value: Tensor
    gap: Tensor


class TGVPrimalDual(ItemwiseIteration):
    """Over-relaxed primal-dual method (Chambolle & Pock 2011; Condat 2013) for TGV.

    It minimizes ``1/2 |u - x|^2 + sum |D u - w| + ratio sum |E w|`` over u and w, or over w alone
    with u fixed to x. The dual variables are p, ``|p| <= 1``, and q, ``|q| <= ratio``, with
    ``p = E^T q`` at the optimum. Every block has the step of Pock & Chambolle (ICCV 2011), the
    inverse of its absolute row or column sum, times the item's balance of primal to dual steps.
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
        # Diagonal steps (Pock and Chambolle 2011, lemma 2 with alpha = 1) of the operator
        # (u, w) -> (D u - w, E w). A difference has the entries a and -a, a the slope; a mixed
        # entry of E counts as sqrt(2) times the mean of two differences, for the Frobenius norm.
        half = math.sqrt(0.5)
        # Columns: u is in 2 differences per axis; w is in p and in the rows of E of its axis.
        self.tau_u = 1 / sum(2 * a for a in slopes)
        self.tau_w = 1 / (1 + max(2 * a + 2 * half * (sum(slopes) - a) for a in slopes))
        # Rows: a row of p has one difference and one entry of w; rows of q are pure or mixed.
        self.sigma_p = 1 / (1 + 2 * max(slopes))
        self.sigma_q = 1 / max(
            [2 * a for a in slopes] + [2 * half * (slopes[i] + slopes[j]) for i, j in self.E.pairs]
        )
        # u starts at x, and w, p and q at 0: w and p are shaped as D x, q as E w.
        self.u, self.w = x.clone(), self.D(torch.zeros_like(x))
        self.p, self.q = torch.zeros_like(self.w), x.new_zeros(x.shape[0], *self.E.range_shape)
        # One balance per item: primal steps times it, dual steps over it, so that their product and
        # with it the convergence stay.
        real = x.real.dtype if x.is_complex() else x.dtype
        self.floor = _FLOOR * self._total(self.D(x), self.jumps)
        self.balance = torch.full(
            (x.shape[0],), 1.0 if fixed else _SHORT, dtype=real, device=x.device
        )

    def solve(self, tolerance: float, max_iterations: int) -> TGVAnswer:
        """Minimize until every item has reached the tolerance."""
        answer = TGVAnswer(
            torch.empty_like(self.x), torch.zeros_like(self.balance), torch.zeros_like(self.balance)
        )
        self.run(answer, tolerance, max_iterations)
        return answer

    def _step(self, k: int) -> None:
        balance = expand(self.balance, self.x)
        u, w = self._primal(balance)
        du, dw = u - self.u, w - self.w
        # The dual ascends along the operator at the extrapolated point 2 u_new - u.
        g = self.D(u + du).sub_(w + dw).mul_(self.sigma_p / balance).add_(self.p)
        h = self.E(w + dw).mul_(self.sigma_q / balance).add_(self.q)
        p, q = self._project(g, h)
        # Over-relaxation (Condat 2013): z + 1.8 (z_new - z), which converges for factors below 2.
        self.u.add_(du, alpha=_RELAXATION)
        self.w.add_(dw, alpha=_RELAXATION)
        self.p.add_(p.sub_(self.p), alpha=_RELAXATION)
        self.q.add_(q.sub_(self.q), alpha=_RELAXATION)
        # k / 10 is a power of 2.
        if k % 10 == 0 and (k // 10) & (k // 10 - 1) == 0:
            self._rebalance()

    def _primal(self, balance: Tensor) -> tuple[Tensor, Tensor]:
        # w descends along -p + E^T q; the quadratic 1/2 |u - x|^2 of u has the prox
        # (v + tau x) / (1 + tau) at v = u - tau D^T p.
        w = self.w - (self.tau_w * balance) * (self.E.adjoint(self.q) - self.p)
        if self.fixed:
            return self.x, w
        tau = self.tau_u * balance
        return (self.u + tau * (self.x - self.D.adjoint(self.p))) / (1 + tau), w

    def _project(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Project p and q onto their balls; overwrites both."""
        unit = torch.ones_like(self.balance)
        return self.jumps.prox_conjugate(p, unit, unit), self.bends.prox_conjugate(
            q, unit, self.ratio * unit
        )

    def _measure(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the primal point, its objective, and its relative gap.

        For dual variables with ``p = E^T q`` the gap is
        ``sum (|r| - <r, p>) + sum (ratio |E w| - <E w, q>) + 1/2 |u - x + D^T p|^2``, with
        ``r = D u - w``. Every part is nonnegative, so no large terms cancel.

        If u is free, the dual variables are ``(s E^T q, s q)``, where s makes them feasible, and
        the gap is a bound. If u is fixed, this bound is a hundred times the error. Then the
        variables are used directly, and ``<w - w*, E^T q - p>``, by which the gap may be too
        small, is counted as ``sum |w| |E^T q - p|``.
        """
        p, q = self._project(self.p.clone(), self.q.clone())
        r, e, back = self.D(self.u) - self.w, self.E(self.w), self.E.adjoint(q)
        value = self._total(r, self.jumps) + self.ratio * self._total(e, self.bends)
        if self.fixed:
            # The variables need not satisfy p = E^T q here.
            missing = sum_items(self.w.abs() * (back - p).abs())
            gap = value - inner(r, p) - inner(e, q) + missing
        else:
            # s = 1 / max(1, max |E^T q|), so that |s E^T q| <= 1 at every place.
            s = expand(1 / self._norm(back, self.jumps).flatten(1).amax(1).clamp_min(1), back)
            # The dual point is (s E^T q, s q), and 1/2 |u - x + s D^T E^T q|^2 is the rest of the gap.
            gap = value - inner(r, back * s) - inner(e, q * s)
            left = self.u - self.x + self.D.adjoint(back * s)
            value = value + 0.5 * item_norm(self.u - self.x).square()
            gap = gap + 0.5 * item_norm(left).square()
        gap = gap.clamp_min(0)
        size = value.maximum(self.floor).clamp_min(torch.finfo(gap.dtype).tiny)
        return self.u, value, torch.where(gap > 0, gap / size, gap)

    def _rebalance(self) -> None:
        """Move the balance towards the ratio of the primal to the dual variables.

        Their sizes are measured in the metric of their steps (Chambolle & Pock 2011, theorem 1).
        The balance changes finitely often up to any iteration and ever more rarely, and the step
        stays within its bound.
        """
        # The aim is |(u - x, w)|_{1/tau} / |(p, q)|_{1/sigma}, smaller if u is free. The new balance
        # is the geometric mean of the aim and the old one.
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
        return group_norm(*groups.group(x))

    def _total(self, x: Tensor, groups: GroupL1) -> Tensor:
        return sum_items(self._norm(x, groups))

    def _keep(self, index: Tensor) -> None:
        for name in ("x", "u", "w", "p", "q", "balance", "floor"):
            setattr(self, name, getattr(self, name).index_select(0, index))


class _SlopesLeft(LinearOperator):
    """Operator ``(x, w) -> D x - w``."""

    def __init__(self, shape: Sequence[int], spacing: Sequence[float] | None) -> None:
        self.differences = FiniteDifference(shape, spacing=spacing)
        self.range_shape = cast(tuple[int, ...], self.differences.range_shape)
        self.domain_shape = (shape[0] + self.range_shape[0], *shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        channels = self.differences.domain_shape[0]
        return self.differences._forward(x[:, :channels]) - x[:, channels:]

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([self.differences._adjoint(y), -y], 1)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return ``sqrt(|D|^2 + 1)``."""
        # (D, -1) (D, -1)^T = D D^T + 1.
        return (self.differences.norm(dtype=dtype, device=device).square() + 1).sqrt()


class _Bends(LinearOperator):
    """Operator ``(x, w) -> E w``."""

    def __init__(self, shape: Sequence[int], spacing: Sequence[float] | None) -> None:
        self.bends = SymmetrisedGradient(shape, spacing)
        self.channels = shape[0]
        self.domain_shape = (shape[0] + self.bends.domain_shape[0], *shape[1:])
        self.range_shape = self.bends.range_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.bends._forward(x[:, self.channels :])

    def _adjoint(self, y: Tensor) -> Tensor:
        # E does not see x.
        w = self.bends._adjoint(y)
        return torch.cat([w.new_zeros(w.shape[0], self.channels, *w.shape[2:]), w], 1)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.bends.norm(dtype=dtype, device=device)
