"""Total variation, with a proximal operator whose duality gap is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.sparsity import L1, GroupL1, group_norm
from invtoolbox.priors.explicit.total_variation_dual import TotalVariationDual

if TYPE_CHECKING:
    from invtoolbox.problem import Problem

# A CPU is fastest while all buffers of the iteration fit in its cache, so a large batch is cut into pieces.
_CACHE_ELEMENTS = 1 << 17


class TotalVariation(ExplicitPrior):
    r"""``R(x) = sum_pixels |D x|``, D the forward differences along every spatial axis: signals, images, volumes.

    Isotropic: ``|.|`` is the Euclidean norm of the differences of a pixel (Rudin, Osher & Fatemi 1992);
    anisotropic: the sum of their moduli.

    The prox minimises ``|u - x|^2 / (2 step) + R(u)`` through its dual, ``min |x - step D^T p|^2`` over
    ``|p| <= 1``, by the accelerated projected gradient method of Beck & Teboulle (IEEE TIP 18, 2009). It
    converges for every step, and an item stops once its duality gap is at most ``tolerance`` times its primal
    objective, so the distance to the exact answer is at most ``sqrt(2 gap)``. Nothing is kept between calls.

    With ``lower`` or ``upper`` the energy is infinite where ``x`` leaves ``[lower, upper]``, and the prox is that of both
    together: the primal point of the dual method is clamped (section 4 of the same paper).

    Args:
        isotropic: see above.
        periodic: differences wrap around; by default they are 0 at the border (Neumann).
        coupled: the differences of all channels of a pixel share one norm (vectorial TV, Bresson & Chan
            2008); by default every channel has its own. Complex values count as their modulus in both.
        tolerance: the relative duality gap of the prox; not below what the precision of ``x`` can show.
        max_iterations: where the prox stops even if the gap is larger; `prox_with_gap` tells.
        lower, upper: bounds on ``x``, for real images; ``lower=0`` for what cannot be negative.
        spacing: the distance of two neighbours along every spatial axis, so that differences are slopes; for volumes whose slices
            are farther apart than their pixels, say. 1 by default.

    >>> x = torch.tensor([[[0., 0., 4., 4.]]])
    >>> TotalVariation().energy(x)
    tensor([4.])
    >>> TotalVariation().prox(x, 0.5)  # both plateaus move by step / length
    tensor([[[0.2500, 0.2500, 3.7500, 3.7500]]])
    """

    is_convex = True
    has_exact_prox = False

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
        if not tolerance > 0 or max_iterations < 1:
            raise InputError(
                "TotalVariation needs a positive tolerance and at least one iteration, "
                f"got {tolerance} and {max_iterations}"
            )
        self.isotropic, self.periodic, self.coupled = isotropic, periodic, coupled
        self.tolerance, self.max_iterations = tolerance, max_iterations
        if lower is not None and upper is not None and not lower < upper:
            raise InputError(f"TotalVariation needs lower < upper, got {lower} and {upper}")
        self.lower, self.upper = lower, upper
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)
        if self.spacing is not None and not all(h > 0 and math.isfinite(h) for h in self.spacing):
            raise InputError(f"the spacing of TotalVariation is positive and finite, got {spacing}")
        self.shape: tuple[int, ...] | None = None

    @property
    def _bounded(self) -> bool:
        return self.lower is not None or self.upper is not None

    @property
    def offers(self) -> frozenset[str]:
        # With bounds the energy is no function of the differences alone.
        return super().offers - {"split"} if self._bounded else super().offers

    def energy(self, x: Tensor) -> Tensor:
        variation = self._variation(x)
        if not self._bounded:
            return variation
        inside = (x.clamp(self.lower, self.upper) == x).flatten(1).all(1)
        return torch.where(inside, variation, torch.full_like(variation, float("inf")))

    def _variation(self, x: Tensor) -> Tensor:
        differences: Tensor = FiniteDifference(x.shape[1:], self.periodic, self.spacing)(x)
        by_axis = differences.unflatten(1, (x.shape[1], x.ndim - 2))
        if self.isotropic:
            grouped, axis = (by_axis.flatten(1, 2), 1) if self.coupled else (by_axis, 2)
        elif self.coupled:
            grouped, axis = by_axis, 1
        else:
            return self._loss(differences.abs()).flatten(1).sum(1)
        return self._loss(group_norm(grouped, axis)).flatten(1).sum(1)

    def _loss(self, norm: Tensor) -> Tensor:
        """Of the norm of the differences."""
        return norm

    def _smoothing(self, like: Tensor) -> Tensor | None:
        """The norm below which the loss is a parabola, ``(batch,)``."""
        return None

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return self.prox_with_gap(x, step)[0]

    def prox_with_gap(self, x: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """The prox and the relative duality gap that it reached, ``(batch,)``."""
        result = torch.empty_like(x)
        reached = torch.zeros(
            x.shape[0], dtype=x.real.dtype if x.is_complex() else x.dtype, device=x.device
        )
        steps = expand(step, reached).expand_as(reached)
        per_call = x.shape[0] if x.is_cuda else max(1, _CACHE_ELEMENTS // max(1, x[0].numel()))
        tolerance = max(self.tolerance, 4 * torch.finfo(reached.dtype).eps)
        smoothing = self._smoothing(reached)
        slopes = self._slopes(x.ndim - 2)
        with torch.no_grad():
            for k in range(0, x.shape[0], per_call):
                part = slice(k, k + per_call)
                image, scale = self._components(x[part]), steps[part]
                # With u and x in units of the step, the dual ball has radius 1 for every item.
                unit = expand(torch.where(scale > 0, scale, torch.ones_like(scale)), image)
                bounds = [
                    None
                    if b is None
                    else (b / unit).expand(image.shape[0], *[1] * (image.ndim - 1))
                    for b in (self.lower, self.upper)
                ]
                curve = None if smoothing is None else expand(smoothing[part], image) / unit
                dual = TotalVariationDual(
                    image / unit, self.isotropic, self.periodic, slopes, bounds[0], bounds[1], curve
                )
                u, gap = dual.solve(tolerance, self.max_iterations)
                u = torch.where(expand(scale, image) > 0, u.mul_(unit), image)
                if self._bounded:  # the change of unit may leave them by a rounding
                    u = u.clamp_(self.lower, self.upper)
                result[part] = self._image(u, x)
                reached[part] = torch.where(scale > 0, gap, torch.zeros_like(gap))
        return result, reached

    def _components(self, x: Tensor) -> Tensor:
        """``(batch, groups, members, *space)``: the members of a group share a norm."""
        x = x.unsqueeze(1) if self.coupled else x.unsqueeze(2)
        return torch.view_as_real(x).movedim(-1, 3).flatten(2, 3) if x.is_complex() else x

    def _image(self, u: Tensor, like: Tensor) -> Tensor:
        if like.is_complex():
            u = torch.view_as_complex(u.unflatten(2, (-1, 2)).movedim(3, -1).contiguous())
        return u.flatten(1, 2)

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        if self._bounded:
            raise InputError(
                f"{self!r} does not split; add it.priors.Box(lower, upper) instead of bounds"
            )
        if self.shape is None:
            raise InputError(
                f"{type(self).__name__} splits once it knows the shape of the image; "
                "it.solve binds it, or call prior.bind(image_shape)"
            )
        return self._split(self.shape)

    def _split(self, shape: tuple[int, ...]) -> tuple[LinearOperator, ExplicitPrior]:
        channels, dimensions = shape[0], len(shape) - 1
        differences = FiniteDifference(shape, self.periodic, self.spacing)
        groups = None
        if self.isotropic:
            groups = GroupL1(dimensions * channels if self.coupled else dimensions)
        elif self.coupled and channels > 1:
            groups = GroupL1(channels, interleaved=True)
        return differences, self._norm(groups)

    def _norm(self, groups: GroupL1 | None) -> ExplicitPrior:
        """The prior of the differences."""
        return L1() if groups is None else groups

    def _slopes(self, dimensions: int) -> tuple[float, ...]:
        """``1 / spacing``."""
        if self.spacing is not None and len(self.spacing) != dimensions:
            raise InputError(
                f"{self!r} has a spacing for {len(self.spacing)} axes, and the image has {dimensions}"
            )
        return (
            tuple(1 / h for h in self.spacing) if self.spacing is not None else (1.0,) * dimensions
        )

    def bind(self, shape: tuple[int, ...]) -> Self:
        """A copy for images of shape ``(channel, *space)``, which `split` needs."""
        other = copy.copy(self)
        other.shape = tuple(shape)
        return other

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(problem.image_shape)

    def __repr__(self) -> str:
        return f"TotalVariation({', '.join(self._changed())})"

    def _changed(self) -> list[str]:
        """The settings that are not the default ones."""
        return [
            f"{name}={value}"
            for name, value, default in (
                ("isotropic", self.isotropic, True),
                ("periodic", self.periodic, False),
                ("coupled", self.coupled, False),
                ("lower", self.lower, None),
                ("upper", self.upper, None),
                ("spacing", self.spacing, None),
            )
            if value != default
        ]
