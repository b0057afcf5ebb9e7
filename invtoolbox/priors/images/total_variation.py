"""Total variation and its Huber variant, with a proximal operator that bounds its error.

`TotalVariation` and `HuberTV` are the priors. `TotalVariationDual` minimizes the dual problem of
their proximal operator and computes its duality gap.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.ranks import Ranks, current_ranks
from invtoolbox.core.reductions import norm_items, sum_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Problem, Term
from invtoolbox.priors.images.constraints import Box
from invtoolbox.priors.images.itemwise_iteration import ItemwiseIteration
from invtoolbox.priors.images.smoothed_norm import HuberNorm, huber
from invtoolbox.priors.images.sparsity import L1, GroupL1, group_norm
from invtoolbox.priors.settings import check_spacing, format_changes, format_setting, replace


class TotalVariation(ExplicitPrior):
    """Total variation ``R(x) = sum_pixels |D x|`` of signals, images and volumes.

    D are the forward differences along every spatial axis. Isotropic total variation takes the
    Euclidean norm of the differences of a pixel (Rudin, Osher & Fatemi 1992); anisotropic total
    variation takes the sum of their moduli.

    The prox minimizes ``|u - x|^2 / (2 step) + R(u)`` through its dual, ``min |x - step D^T p|^2``
    over ``|p| <= 1``, by the accelerated projected gradient method of Beck & Teboulle (IEEE TIP 18,
    2009). The method converges for every step. An item stops once its duality gap is at most
    ``tolerance`` times its primal objective, so the distance to the exact answer is at most
    ``sqrt(2 gap)``. No state is kept between calls.

    With ``lower`` or ``upper`` the energy is infinite if ``x`` leaves ``[lower, upper]``, and the
    prox is the prox of the sum: the primal point of the dual method is clamped (section 4 of the
    same paper).

    Args:
        isotropic: whether the differences of a pixel along all axes share one Euclidean norm.
        periodic: whether the differences wrap around; by default they are 0 at the border
            (Neumann).
        coupled: whether the differences of all channels of a pixel share one norm (vectorial TV,
            Bresson & Chan 2008); by default every channel has its own. Complex values count by
            their modulus in both cases.
        tolerance: relative duality gap at which the prox stops; it is limited by the precision of
            ``x``.
        max_iterations: number of iterations after which the prox stops even if the gap is larger;
            `prox_with_gap` returns the gap.
        lower, upper: bounds on ``x``, for real images; ``lower=0`` suits quantities that cannot be
            negative.
        spacing: distance of two neighbors along every spatial axis, 1 by default. Differences are
            divided by it and become slopes, for example for volumes whose slices are farther apart
            than their pixels.

    >>> x = torch.tensor([[[0., 0., 4., 4.]]])
    >>> TotalVariation().energy(x)
    tensor([4.])
    >>> TotalVariation().prox(x, 0.5)  # both plateaus move by step / length
    tensor([[[0.2500, 0.2500, 3.7500, 3.7500]]])
    """

    is_convex = True
    has_exact_prox = False
    fits_slabs = True
    item_fields: ClassVar[tuple[str, ...]] = ("box",)

    def __init__(
        self,
        isotropic: bool = True,
        periodic: bool = False,
        coupled: bool = False,
        tolerance: float = 1e-4,
        max_iterations: int = 2000,
        lower: float | None = None,
        upper: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        check_range(self, "(0, inf]", tolerance=tolerance)
        check_range(self, "[1, inf)", max_iterations=max_iterations)
        self.isotropic, self.periodic, self.coupled = isotropic, periodic, coupled
        self.tolerance, self.max_iterations = tolerance, max_iterations
        if lower is not None and upper is not None and not lower < upper:
            raise InputError(f"TotalVariation needs lower < upper, got {lower} and {upper}")
        self.lower, self.upper = lower, upper
        #: Bounds on ``x``, which `merge_bounds` may narrow; None for none.
        self.box = None if lower is None and upper is None else Box(lower, upper)
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)
        for length in self.spacing or ():
            check_range(self, "(0, inf)", spacing=length)
        self.shape: tuple[int, ...] | None = None

    @property
    def offers(self) -> frozenset[str]:
        # With bounds the energy is no function of the differences alone.
        return super().offers if self.box is None else super().offers - {"split"}

    def energy(self, x: Tensor) -> Tensor:
        variation = self._variation(x)
        if self.box is None:
            return variation
        # Exact comparison: the prox clamps, so its result is inside to the last bit.
        inside = sum_items(self.box.prox(x, 1.0) != x) == 0
        return torch.where(inside, variation, torch.full_like(variation, float("inf")))

    def _variation(self, x: Tensor) -> Tensor:
        ranks, planes = current_ranks(), x.shape[2]
        front = x.narrow(2, 0, 1)
        after = None if ranks is None else ranks.shift(front, -1, wraps=self.periodic)
        if after is not None:  # the slab behind this one continues the differences
            x = torch.cat([x, after], 2)
        differences: Tensor = FiniteDifference(x.shape[1:], self.periodic, self.spacing)(x)
        by_axis = differences.unflatten(1, (x.shape[1], x.ndim - 2)).narrow(3, 0, planes)
        # (batch, channel, axis, *space). The norm runs over the axes (isotropic), over the channels
        # (coupled), over both, or over neither, which leaves the modulus of every difference.
        if self.isotropic:
            grouped, axis = (by_axis.flatten(1, 2), 1) if self.coupled else (by_axis, 2)
        elif self.coupled:
            grouped, axis = by_axis, 1
        else:
            return sum_items(self._loss(differences.abs()))
        return sum_items(self._loss(group_norm(grouped, axis)))

    def _loss(self, norm: Tensor) -> Tensor:
        """Return the loss of the norm of the differences."""
        return norm

    def _smoothing(self, like: Tensor) -> Tensor | None:
        """Return the norm below which the loss is a parabola, ``(batch,)``, or ``None``."""
        return None

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.prox_with_gap(x, step)[0]

    def prox_with_gap(self, x: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the prox and the relative duality gap that it reached, ``(batch,)``."""
        result = torch.empty_like(x)
        reached = torch.zeros(
            x.shape[0], dtype=x.real.dtype if x.is_complex() else x.dtype, device=x.device
        )
        steps = expand(step, reached).expand_as(reached)
        # A gap below a few units of rounding cannot be reached.
        per_call = x.shape[0] if x.is_cuda else max(1, _CACHE_ELEMENTS // max(1, x[0].numel()))
        tolerance = max(self.tolerance, 4 * torch.finfo(reached.dtype).eps)
        smoothing = self._smoothing(reached)
        slopes = self._slopes(x.ndim - 2)
        limits = (None, None) if self.box is None else self.box.bounds(x)
        # prox_{t R}(x) = t prox_R(x / t) for R of degree 1; bounds and threshold are divided by t.
        with torch.no_grad():
            for k in range(0, x.shape[0], per_call):
                items = slice(k, k + per_call)
                image, scale = self._components(x[items]), steps[items]
                # With u and x in units of the step, the dual ball has radius 1 for every item.
                unit = expand(torch.where(scale > 0, scale, torch.ones_like(scale)), image)
                bounds = [
                    None if b is None else self._components(b.expand_as(x)[items]) / unit
                    for b in limits
                ]
                curve = None if smoothing is None else expand(smoothing[items], image) / unit
                dual = TotalVariationDual(
                    image / unit,
                    isotropic=self.isotropic,
                    periodic=self.periodic,
                    slopes=slopes,
                    lower=bounds[0],
                    upper=bounds[1],
                    smoothing=curve,
                )
                u, gap = dual.solve(tolerance, self.max_iterations)
                u = torch.where(expand(scale, image) > 0, u.mul_(unit), image)
                result[items] = self._image(u, x)
                reached[items] = torch.where(scale > 0, gap, torch.zeros_like(gap))
            if self.box is not None:  # the change of unit may violate the bounds by rounding
                result = self.box.prox(result, 1.0)
        return result, reached

    def _components(self, x: Tensor) -> Tensor:
        """Return x as ``(batch, groups, members, *space)``; the members of a group share a norm."""
        # Coupled: one group of all channels. Otherwise: one group per channel. Real and imaginary
        # parts are members of one group, so that its norm is the modulus.
        x = x.unsqueeze(1) if self.coupled else x.unsqueeze(2)
        return torch.view_as_real(x).movedim(-1, 3).flatten(2, 3) if x.is_complex() else x

    def _image(self, u: Tensor, like: Tensor) -> Tensor:
        if like.is_complex():
            u = torch.view_as_complex(u.unflatten(2, (-1, 2)).movedim(3, -1).contiguous())
        return u.flatten(1, 2)

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        if self.box is not None:
            raise InputError(
                f"{self!r} does not split; add it.priors.Box(lower, upper) instead of bounds"
            )
        if self.shape is None:
            raise InputError(
                f"{type(self).__name__} needs the shape of the image to split; "
                "it.solve binds it, or call prior.bind(image_shape)"
            )
        return self._split(self.shape)

    def _split(self, shape: tuple[int, ...]) -> tuple[LinearOperator, ExplicitPrior]:
        channels, dimensions = shape[0], len(shape) - 1
        differences = FiniteDifference(shape, self.periodic, self.spacing)
        groups = None
        # The channels of the differences are ordered as (channel, axis): the axes of a pixel are
        # adjacent, its channels at one axis are interleaved.
        if self.isotropic:
            groups = GroupL1(dimensions * channels if self.coupled else dimensions)
        elif self.coupled and channels > 1:
            groups = GroupL1(channels, interleaved=True)
        return differences, self._norm(groups)

    def _norm(self, groups: GroupL1 | None) -> ExplicitPrior:
        """Return the prior of the differences."""
        return L1() if groups is None else groups

    def _slopes(self, dimensions: int) -> tuple[float, ...]:
        """Return the slopes ``1 / spacing``, one per axis."""
        check_spacing(self, self.spacing, dimensions)
        return (
            tuple(1 / h for h in self.spacing) if self.spacing is not None else (1.0,) * dimensions
        )

    def bind(self, shape: tuple[int, ...]) -> Self:
        """Return a copy for images of shape ``(channel, *space)``, which `split` needs."""
        return replace(self, shape=tuple(shape))

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(problem.image_shape)

    def __repr__(self) -> str:
        return f"TotalVariation({self._format_changes()})"

    def _format_changes(self) -> str:
        return format_changes(
            self,
            isotropic=True,
            periodic=False,
            coupled=False,
            lower=None,
            upper=None,
            spacing=None,
        )


def merge_bounds(prior: PriorSum) -> PriorSum:
    """Return a sum in which total variation keeps the bounds of the boxes that are added to it.

    The sum is the same function, with one proximal operator in place of several. Sums of other
    priors are returned as they are, and so are bounds per pixel, unless they are made from the
    measurements: a coarser grid has others.

    Args:
        prior: prepared priors.

    >>> from invtoolbox.priors import NonNegative
    >>> merged = merge_bounds(0.1 * TotalVariation() + NonNegative()).terms
    >>> merged[0].weight, merged[0].prior.prox(torch.tensor([[[-1.0, 3.0]]]), 0.5), len(merged)
    (0.1, tensor([[[0.0000, 2.5000]]]), 1)
    """
    boxes = [t.prior for t in prior.terms if isinstance(t.prior, Box)]
    variations = [t for t in prior.terms if type(t.prior) is TotalVariation]
    if not boxes or len(variations) != 1 or len(boxes) + 1 != len(prior.terms):
        return prior
    if any(not box.is_made_from_data and box.is_per_pixel for box in boxes):
        return prior
    term = variations[0]
    variation = term.prior
    assert isinstance(variation, TotalVariation)
    if variation.box is not None:
        boxes.append(variation.box)
    bounded = replace(variation, box=functools.reduce(Box.intersect, boxes))
    return PriorSum((Term(term.weight, bounded, term.chosen),), prior.implicit)


class HuberTV(TotalVariation):
    """Huber total variation ``R(x) = sum_pixels h(|D x|)``.

    ``h(s) = s^2 / (2 threshold)`` up to the threshold and ``s - threshold / 2`` beyond. Edges cost
    as much as in total variation. Slopes below the threshold are smoothed instead of turned into
    stairs (Chambolle & Pock, J. Math. Imaging Vis. 40, 2011, section 6.2). The prior is
    differentiable everywhere, so gradient methods can use it. The prox solves the dual, which is
    strongly convex here, and stops by the criterion of `TotalVariation`.

    Args:
        threshold: positive, in the units of the differences (of the slopes, with ``spacing``); a
            number, or one value per item.
        isotropic, periodic, coupled, tolerance, max_iterations, spacing: as for `TotalVariation`.

    >>> x = torch.tensor([[[0.0, 0.1, 0.2, 1.2]]])
    >>> HuberTV(0.2).energy(x)  # 0.1^2 / 0.4, twice, and 1 - 0.1
    tensor([0.9500])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("threshold",)
    is_smooth = True

    def __init__(
        self,
        threshold: float | Tensor = 0.02,
        isotropic: bool = True,
        periodic: bool = False,
        coupled: bool = False,
        tolerance: float = 1e-4,
        max_iterations: int = 2000,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(isotropic, periodic, coupled, tolerance, max_iterations, spacing=spacing)
        self.threshold = torch.as_tensor(threshold, dtype=torch.float64)
        check_range(self, "(0, inf)", "threshold")

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return ``D^T (D x / max(|D x|, threshold))``, in closed form."""
        if x.requires_grad:
            return super().gradient(x, generator)
        # K = D, and F is the Huber norm of the differences.
        K, F = self._split(tuple(x.shape[1:]))
        return K.adjoint(F.gradient(K(x)))

    def _loss(self, norm: Tensor) -> Tensor:
        return huber(norm, expand(self.threshold, norm))

    def _smoothing(self, like: Tensor) -> Tensor:
        return self.threshold.to(like).expand_as(like)

    def _norm(self, groups: GroupL1 | None) -> ExplicitPrior:
        return HuberNorm(self.threshold, groups)

    def __repr__(self) -> str:
        changes = self._format_changes()
        return f"HuberTV({format_setting(self.threshold)}{', ' if changes else ''}{changes})"


# A CPU is fastest while all buffers of the iteration fit in its cache, so a large batch is cut into
# pieces of this many values.
_CACHE_ELEMENTS = 1 << 17


# The momentum of an accelerated gradient method is (k - 1) / (k + MOMENTUM). Any value above 2
# makes the iterates converge (Chambolle & Dossal 2015); 6 reached a small gap in the fewest
# iterations on photographs.
_MOMENTUM = 6.0


class TotalVariationDual(ItemwiseIteration):
    """Accelerated projected gradient method for the dual problem of the prox of total variation.

    It minimizes ``1/2 |x - D^T p|^2 + smoothing/2 |p|^2`` over the unit ball of the dual norm. This
    is the dual of ``min_u 1/2 |u - x|^2 + sum h(|D u|)``, where h is the modulus, or Huber's
    function if there is a threshold. All buffers of the iteration are allocated once, in the
    constructor, because a fresh temporary costs more than its arithmetic.

    Args:
        x: image of shape ``(items, groups, members, *space)``; p has one such tensor per axis of
            space.
        isotropic: whether the differences along all axes share one norm.
        periodic: whether the differences wrap around at the border.
        slopes: factor of the differences, one per axis.
        lower, upper: bounds of u, which broadcast against x.
        smoothing: threshold of Huber's function, ``(items, 1, ...)``, or ``None``.
    """

    first_check = 10

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
        # |D|^2 <= sum over the axes of 4 a^2: each difference has the entries a and -a.
        self.bound = sum(4 * a * a for a in slopes)
        self.ranks = current_ranks()
        # p, the extrapolated q, the gradient step g, and u = x - D^T p. The last two buffers hold
        # norms of groups and differences along one axis.
        self.p, self.q, self.g = ([torch.zeros_like(self.x) for _ in self.axes] for _ in range(3))
        self.u, self.norm, self.difference = (torch.empty_like(self.x) for _ in range(3))
        self.parts: dict[tuple[int, int, int, int], Tensor] = {}

    def solve(self, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor]:
        """Return ``(u, relative gap)`` of every item."""
        u, gap = torch.empty_like(self.x), self.x.new_zeros(len(self.x))
        self.run((u, gap), tolerance, max_iterations)
        return u, gap

    def _measure(self) -> tuple[Tensor, Tensor]:
        self._primal(self.p)
        return self.u, self._relative_gap()

    def _step(self, k: int) -> None:
        """Update ``p = project(q + (D u - smoothing q) / L)`` and ``q = p + beta (p - p_before)``.

        Here ``u = x - D^T q`` and L bounds the curvature.
        """
        self._primal(self.q)
        if self.smoothing is not None:
            self._smooth_step(k)
            return
        # g = q + D u / L with the step 1 / L, L = |D|^2 the Lipschitz constant of the dual.
        for axis, slope, q, g in zip(self.axes, self.slopes, self.q, self.g):
            for inside, difference in self._differences(axis):
                before, after = self._part(q, axis, *inside), self._part(g, axis, *inside)
                torch.add(before, difference, alpha=slope / self.bound, out=after)
        self._project(self.g)
        # q = p_new + beta (p_new - p): p holds the difference until the lists are swapped.
        beta = (k - 1) / (k + _MOMENTUM)
        for p, q, g in zip(self.p, self.q, self.g):
            torch.sub(g, p, out=p)
            torch.add(g, p, alpha=beta, out=q)
        self.p, self.g = self.g, self.p

    def _smooth_step(self, k: int) -> None:
        """Take the step of a strongly convex dual, whose momentum is bounded (Nesterov 2004)."""
        assert self.smoothing is not None
        # L = |D|^2 + mu with the strong convexity mu = smoothing. The momentum of Nesterov's method is
        # (sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)), here with root = sqrt(mu / L).
        total = self.bound + self.smoothing
        root = (self.smoothing / total).sqrt()
        beta = ((1 - root) / (1 + root)).clamp_max((k - 1) / (k + _MOMENTUM))
        for axis, slope, q, g in zip(self.axes, self.slopes, self.q, self.g):
            # g = q + (D u - mu q) / L.
            torch.mul(q, 1 - self.smoothing / total, out=g)
            for inside, difference in self._differences(axis):
                self._part(g, axis, *inside).addcmul_(difference, slope / total)
        self._project(self.g)
        for p, q, g in zip(self.p, self.q, self.g):
            # As in the other step, with one beta per item.
            torch.sub(g, p, out=p)
            torch.addcmul(g, p, beta, out=q)
        self.p, self.g = self.g, self.p

    def _primal(self, p: list[Tensor]) -> None:
        """Set ``u = x - D^T p``, clamped to the bounds."""
        self.u.copy_(self.x)
        # (D^T p)_i = a (p_{i-1} - p_i) along every axis, so u_i gains a p_i and loses a p_{i-1}.
        for axis, slope, dual in zip(self.axes, self.slopes, p):
            n = dual.shape[axis]
            inside = self._part(dual, axis, 0, n - 1)
            self._part(self.u, axis, 0, n - 1).add_(inside, alpha=slope)
            self._part(self.u, axis, 1, n - 1).sub_(inside, alpha=slope)
            # The difference from the last pixel to the one behind it, and that to the first pixel.
            last = self._part(dual, axis, n - 1, 1)
            if self._continues(axis):
                self._part(self.u, axis, n - 1, 1).add_(last, alpha=slope)
            before = self._shift(last, axis, 1)
            if before is not None:
                self._part(self.u, axis, 0, 1).sub_(before, alpha=slope)
        if self.lower is not None:
            torch.maximum(self.u, self.lower, out=self.u)
        if self.upper is not None:
            torch.minimum(self.u, self.upper, out=self.u)

    def _differences(self, axis: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Yield the differences of ``u`` along an axis, without its slope, in pieces.

        Every piece comes with its place along the axis, ``(start, length)``.
        """
        n = self.u.shape[axis]
        # u_{i+1} - u_i in the first n - 1 places, and in the last if a pixel lies behind it, which
        # is u_0 if the image wraps around.
        inside = self._part(self.difference, axis, 0, n - 1)
        ahead, here = self._part(self.u, axis, 1, n - 1), self._part(self.u, axis, 0, n - 1)
        torch.sub(ahead, here, out=inside)
        yield (0, n - 1), inside
        after = self._shift(self._part(self.u, axis, 0, 1), axis, -1)
        if after is not None:
            last = self._part(self.difference, axis, n - 1, 1)
            torch.sub(after, self._part(self.u, axis, n - 1, 1), out=last)
            yield (n - 1, 1), last

    def _ranks_along(self, axis: int) -> Ranks | None:
        """Return the ranks that hold slabs along an axis; they divide the first axis of space."""
        return self.ranks if axis == self.axes[0] else None

    def _continues(self, axis: int) -> bool:
        """Return whether a pixel lies behind the last one along an axis."""
        ranks = self._ranks_along(axis)
        return self.periodic or (ranks is not None and ranks.rank + 1 < ranks.size)

    def _shift(self, planes: Tensor, axis: int, by: int) -> Tensor | None:
        """Return the planes of the neighbour: another rank, or the other end of the image."""
        ranks = self._ranks_along(axis)
        if ranks is not None:
            return ranks.shift(planes, by, wraps=self.periodic)
        return planes if self.periodic else None

    def _part(self, buffer: Tensor, axis: int, start: int, length: int) -> Tensor:
        """Return a part of a buffer; in small images a new view takes longer than the sum."""
        key = id(buffer), axis, start, length
        if key not in self.parts:
            self.parts[key] = buffer.narrow(axis, start, length)
        return self.parts[key]

    def _project(self, g: list[Tensor]) -> None:
        """Project g onto the unit ball of the dual norm of the energy's norm, in place."""
        members = self.x.shape[2]
        if self.isotropic:
            self._square(g)
            # g / max(1, |g|), |g| over the axes and the members of a group.
            factor = self._sum_members(self.norm, members).clamp_min_(1).rsqrt_()
            for along in g:
                along.mul_(factor)
        elif members == 1:
            for along in g:
                along.clamp_(-1, 1)
        else:
            # One ball per axis: anisotropic, but coupled or complex.
            for along in g:
                self._square([along])
                along.mul_(self._sum_members(self.norm, members).clamp_min_(1).rsqrt_())

    def _square(self, by_axis: list[Tensor]) -> None:
        torch.mul(by_axis[0], by_axis[0], out=self.norm)
        for along in by_axis[1:]:
            self.norm.addcmul_(along, along)

    @staticmethod
    def _sum_members(squares: Tensor, members: int) -> Tensor:
        """Add the members of every group, in place of the first member."""
        # Axis 2 holds the members; the sum is a view of the buffer.
        first = squares.narrow(2, 0, 1)
        for k in range(1, members):
            first.add_(squares.narrow(2, k, 1))
        return first

    def _relative_gap(self) -> Tensor:
        """Return the duality gap, relative to the primal objective, ``(items,)``.

        It is ``(h(|D u|) + smoothing/2 |p|^2 - <D u, p>) / (1/2 |u - x|^2 + h(|D u|))``. In this
        form every pixel's part of the gap is nonnegative, and no large terms cancel.
        """
        members = self.x.shape[2]
        # The buffers g are free between steps, so they store the differences.
        for axis, slope, g in zip(self.axes, self.slopes, self.g):
            for inside, difference in self._differences(axis):
                torch.mul(difference, slope, out=self._part(g, axis, *inside))
            if not self._continues(axis):
                g.narrow(axis, g.shape[axis] - 1, 1).zero_()
        # h(|D u|) of every group.
        variation = torch.zeros_like(self.norm.narrow(2, 0, 1))
        for group in [self.g] if self.isotropic else [[g] for g in self.g]:
            self._square(group)
            variation.add_(self._loss(self._sum_members(self.norm, members).sqrt_()))
        # <D u, p> of every group, and what remains of the gap there.
        torch.mul(self.g[0], self.p[0], out=self.norm)
        for g, p in zip(self.g[1:], self.p[1:]):
            self.norm.addcmul_(g, p)
        total = sum_items(variation)
        variation.sub_(self._sum_members(self.norm, members))
        if self.smoothing is not None:
            self._square(self.p)
            variation.addcmul_(self._sum_members(self.norm, members), 0.5 * self.smoothing)
        gap = sum_items(variation).clamp_min(0)
        # The primal objective 1/2 |u - x|^2 + h(|D u|), as the unit of the gap.
        misfit = torch.sub(self.u, self.x, out=self.norm)
        primal = total + 0.5 * norm_items(misfit).square()
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
            [t.index_select(0, index) for t in by_axis] for by_axis in (self.p, self.q, self.g)
        )
        self.parts.clear()
