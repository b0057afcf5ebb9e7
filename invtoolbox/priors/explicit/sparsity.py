"""Sparsity: the l1 norm, of values and of groups of channels. Simple priors with a closed-form prox."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.buffers import multiplied
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.constraints import Box, NonNegative, check_real


class L1(ExplicitPrior):
    r"""``R(x) = sum_i |x_i|``; complex values by their modulus.

    Prox: soft thresholding, ``sign(x) max(|x| - step, 0)`` (Donoho 1995).

    Args:
        lower, upper: bounds on ``x``, as `Box` takes them; the energy is infinite outside. In one dimension the minimiser under
            bounds is the one without, moved into them, so the prox of both together is soft thresholding and then clamping.

    >>> L1().prox(torch.tensor([[[3.0, -0.5]]]), 1.0)
    tensor([[[2., 0.]]])
    >>> L1(lower=0.0).prox(torch.tensor([[[3.0, -2.0]]]), 1.0)
    tensor([[[2., 0.]]])
    """

    is_convex = True
    item_fields: ClassVar[tuple[str, ...]] = ("bounds",)

    def __init__(
        self, lower: float | Tensor | None = None, upper: float | Tensor | None = None
    ) -> None:
        self.bounds = None if lower is None and upper is None else Box(lower, upper)

    def energy(self, x: Tensor) -> Tensor:
        total = x.abs().flatten(1).sum(1)
        return total if self.bounds is None else total + self.bounds.energy(x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        step = expand(step, x)
        if self.bounds is not None:
            check_real(x)
        if x.is_complex():
            return x * _shrinkage(x.abs(), step)
        # x minus its projection onto [-step, step]: two passes, and exactly 0 inside.
        if self.bounds is None:
            return x - x.maximum(-step).minimum(step)
        return self.bounds.prox(x - x.maximum(-step).minimum(step), step)

    def prox_conjugate(self, v: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        """The projection onto ``|v_i| <= weight``, where there are no bounds."""
        if self.bounds is not None:
            return super().prox_conjugate(v, step, weight)
        radius = expand(weight, v)
        if v.is_complex():
            return multiplied(v, _within(v.abs(), radius.real))
        if torch.is_grad_enabled():
            return v.minimum(radius).maximum(-radius)
        return torch.minimum(v, radius, out=v).maximum(-radius)

    def __repr__(self) -> str:
        return "L1()" if self.bounds is None else f"L1{repr(self.bounds).removeprefix('Box')}"


class GroupL1(ExplicitPrior):
    r"""``R(x) = sum_groups |x_group|_2``, where the channels of a pixel fall into groups: the l2,1 norm.

    Args:
        size: channels in a group; ``None`` puts all channels of a pixel into one group.
        interleaved: groups are ``size`` neighbouring channels by default (channel ``g * size + k``, the
            layout of `FiniteDifference`); where True, member k of group g is channel ``k * groups + g``.
        nonnegative: values may not be negative; the energy is infinite where one is.

    Prox: block soft thresholding, ``x_group max(1 - step / |x_group|, 0)``; with ``nonnegative``, of ``max(x, 0)``.
    `GroupSparsity` takes any other groups.

    >>> GroupL1(2).energy(torch.tensor([3.0, 4.0]).view(1, 2, 1))
    tensor([5.])
    >>> GroupL1(2).prox(torch.tensor([3.0, 4.0]).view(1, 2, 1), 2.5).flatten()
    tensor([1.5000, 2.0000])
    """

    is_convex = True

    def __init__(
        self, size: int | None = None, interleaved: bool = False, nonnegative: bool = False
    ) -> None:
        if size is not None and size < 1:
            raise InputError(f"the size of a group is a positive number of channels, got {size}")
        self.size, self.interleaved, self.nonnegative = size, interleaved, nonnegative

    def _grouped(self, x: Tensor) -> tuple[Tensor, int]:
        """A view with one axis for the groups and one for their members, and which axis the members have."""
        size = self.size or x.shape[1]
        if x.shape[1] % size:
            raise InputError(
                f"groups of {size} channels do not fit an image of {x.shape[1]} channels"
            )
        groups = x.shape[1] // size
        if self.interleaved:
            return x.unflatten(1, (size, groups)), 1
        return x.unflatten(1, (groups, size)), 2

    def energy(self, x: Tensor) -> Tensor:
        total = group_norm(*self._grouped(x)).flatten(1).sum(1)
        return total + NonNegative().energy(x) if self.nonnegative else total

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        if self.nonnegative:
            x = NonNegative().prox(x, step)
        grouped, axis = self._grouped(x)
        factor = _shrinkage(group_norm(grouped, axis), expand(step, grouped))
        return (grouped * factor).flatten(1, 2)

    def prox_conjugate(self, v: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        """The projection onto ``|v_group| <= weight``, where any sign is allowed."""
        if self.nonnegative:
            return super().prox_conjugate(v, step, weight)
        grouped, axis = self._grouped(v)
        radius = expand(weight, grouped)
        factor = _within(group_norm(grouped, axis), radius.real if radius.is_complex() else radius)
        return multiplied(grouped, factor).flatten(1, 2)

    def __repr__(self) -> str:
        shown = [] if self.size is None else [f"{self.size}"]
        shown += [f"{name}=True" for name in ("interleaved", "nonnegative") if getattr(self, name)]
        return f"GroupL1({', '.join(shown)})"


def group_norm(x: Tensor, axis: int) -> Tensor:
    """The Euclidean norm along an axis, which stays with length 1; its derivative at 0 is 0.

    Squares are added slice by slice: the library's own norm along a short axis in the middle is a hundred
    times slower.
    """
    parts = [p for s in x.split(1, axis) for p in ((s.real, s.imag) if x.is_complex() else (s,))]
    total: Tensor = parts[0] * parts[0]
    if torch.is_grad_enabled() and x.requires_grad:
        for part in parts[1:]:
            total = total + part * part
        return total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
    for part in parts[1:]:
        total.addcmul_(part, part)
    return total.sqrt_()


def _shrinkage(norm: Tensor, step: Tensor) -> Tensor:
    """``max(1 - step / norm, 0)``, and 0 where the norm is 0."""
    size = norm.clamp_min(torch.finfo(norm.dtype).tiny)
    if torch.is_grad_enabled():
        return (norm - step).clamp_min(0) / size
    return (norm - step).clamp_min_(0).div_(size)


def _within(norm: Tensor, radius: Tensor) -> Tensor:
    """``min(1, radius / norm)``; overwrites ``norm``."""
    if torch.is_grad_enabled():
        return (radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1)
    return torch.div(radius, norm.clamp_min_(torch.finfo(norm.dtype).tiny), out=norm).clamp_max_(1)
