"""Sparsity priors with a closed-form prox.

`L1` is the l1 norm of values, `GroupL1` of groups of channels, `GroupSparsity` of groups of values
that a label map defines (regions, superpixels, materials, frames of a series), and `WaveletL1` of
the coefficients of an orthogonal wavelet transform.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from invtoolbox.core.arithmetic import multiply
from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.operators.wavelet import OrthogonalWavelet
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.constraints import Box, NonNegative
from invtoolbox.priors.settings import check_real


class L1(ExplicitPrior):
    """The l1 norm ``R(x) = sum_i |x_i|``; complex values count by their modulus.

    The prox is soft thresholding, ``sign(x) max(|x| - step, 0)`` (Donoho 1995).

    Args:
        lower, upper: bounds on ``x``, as `Box` takes them; the energy is infinite outside. In one
            dimension the minimizer under bounds is the free minimizer, moved into the bounds. So
            the prox of both together is soft thresholding followed by clamping.

    >>> L1().prox(torch.tensor([[[3.0, -0.5]]]), 1.0)
    tensor([[[2., 0.]]])
    >>> L1(lower=0.0).prox(torch.tensor([[[3.0, -2.0]]]), 1.0)
    tensor([[[2., 0.]]])
    """

    is_convex = True
    fits_slabs = True
    item_fields: ClassVar[tuple[str, ...]] = ("bounds",)

    def __init__(
        self, lower: float | Tensor | None = None, upper: float | Tensor | None = None
    ) -> None:
        self.bounds = None if lower is None and upper is None else Box(lower, upper)

    def energy(self, x: Tensor) -> Tensor:
        total = sum_items(x.abs())
        return total if self.bounds is None else total + self.bounds.energy(x)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        step = expand(step, x)
        if self.bounds is not None:
            check_real(x)
        if x.is_complex():
            # x max(1 - step / |x|, 0), which keeps the phase.
            return x * shrinkage(x.abs(), step)
        # x minus its projection onto [-step, step] takes two passes and is exactly 0 inside.
        if self.bounds is None:
            return x - x.maximum(-step).minimum(step)
        return self.bounds.prox(x - x.maximum(-step).minimum(step), step)

    def prox_conjugate(self, v: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        """Project onto ``|v_i| <= weight``, if there are no bounds."""
        if self.bounds is not None:
            return super().prox_conjugate(v, step, weight)
        # The conjugate of weight |.|_1 is the indicator of this set, so the step does not matter.
        radius = expand(weight, v)
        if v.is_complex():
            return multiply(v, _within(v.abs(), radius.real))
        # max(min(v, weight), -weight), in the memory of v if no graph is recorded.
        if torch.is_grad_enabled():
            return v.minimum(radius).maximum(-radius)
        return torch.minimum(v, radius, out=v).maximum(-radius)

    def __repr__(self) -> str:
        return "L1()" if self.bounds is None else f"L1{repr(self.bounds).removeprefix('Box')}"


class GroupL1(ExplicitPrior):
    """The l2,1 norm ``R(x) = sum_groups |x_group|_2`` over groups of the channels of a pixel.

    The prox is block soft thresholding, ``x_group max(1 - step / |x_group|, 0)``; with
    ``nonnegative`` it is applied to ``max(x, 0)``. `GroupSparsity` takes arbitrary groups.

    Args:
        size: number of channels in a group; ``None`` puts all channels of a pixel into one group.
        interleaved: layout of the groups. By default they are ``size`` adjacent channels (channel
            ``g * size + k``, the layout of `FiniteDifference`); if True, member k of group g is
            channel ``k * groups + g``.
        nonnegative: whether the energy is infinite if a value is negative.

    >>> GroupL1(2).energy(torch.tensor([3.0, 4.0]).view(1, 2, 1))
    tensor([5.])
    >>> GroupL1(2).prox(torch.tensor([3.0, 4.0]).view(1, 2, 1), 2.5).flatten()
    tensor([1.5000, 2.0000])
    """

    is_convex = True

    def __init__(
        self, size: int | None = None, interleaved: bool = False, nonnegative: bool = False
    ) -> None:
        check_range(self, "[1, inf)", size=size)
        self.size, self.interleaved, self.nonnegative = size, interleaved, nonnegative

    def group(self, x: Tensor) -> tuple[Tensor, int]:
        """Return a view with one axis for groups and one for members, and the members' axis."""
        size = self.size or x.shape[1]
        if x.shape[1] % size:
            raise InputError(
                f"groups of {size} channels do not fit an image of {x.shape[1]} channels"
            )
        # (batch, member, group, *space) or (batch, group, member, *space).
        groups = x.shape[1] // size
        if self.interleaved:
            return x.unflatten(1, (size, groups)), 1
        return x.unflatten(1, (groups, size)), 2

    def energy(self, x: Tensor) -> Tensor:
        total = sum_items(group_norm(*self.group(x)))
        return total + NonNegative().energy(x) if self.nonnegative else total

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        if self.nonnegative:
            x = NonNegative().prox(x, step)
        # x_g max(1 - step / |x_g|, 0).
        grouped, axis = self.group(x)
        factor = shrinkage(group_norm(grouped, axis), expand(step, grouped))
        return (grouped * factor).flatten(1, 2)

    def prox_conjugate(self, v: Tensor, step: Tensor, weight: Tensor) -> Tensor:
        """Project onto ``|v_group| <= weight``, if any sign is allowed."""
        if self.nonnegative:
            return super().prox_conjugate(v, step, weight)
        # v_g min(1, weight / |v_g|).
        grouped, axis = self.group(v)
        radius = expand(weight, grouped)
        factor = _within(group_norm(grouped, axis), radius.real if radius.is_complex() else radius)
        return multiply(grouped, factor).flatten(1, 2)

    def __repr__(self) -> str:
        settings = [] if self.size is None else [f"{self.size}"]
        flags = "interleaved", "nonnegative"
        settings += [f"{name}=True" for name in flags if getattr(self, name)]
        return f"GroupL1({', '.join(settings)})"


class GroupSparsity(ExplicitPrior):
    """Norm ``R(x) = sum_g w_g |x_g|_2``, which sets whole groups of values to 0.

    The groups do not overlap (Yuan & Lin, JRSS B 68, 2006). For overlapping groups compose
    `GroupL1` with the operator that copies values. `GroupL1` serves groups of the channels of every
    pixel. Complex values count by their modulus.

    The prox is block soft thresholding, ``x_g max(1 - step w_g / |x_g|, 0)``.

    Args:
        labels: whole numbers, the group of every value, of the shape ``(*space)``, where all
            channels of a pixel belong to its group, or ``(channel, *space)``. A value with a
            negative label is in no group and free.
        group_weights: one weight per group, ``(groups,)``; ``"size"`` is the square root of the
            number of their values, so that large groups are not preferred; 1 by default.

    >>> prior = GroupSparsity(torch.tensor([0, 0, 1, -1]))
    >>> x = torch.tensor([[[3.0, 4.0, 0.5, 7.0]]])
    >>> prior.energy(x)
    tensor([5.5000])
    >>> prior.prox(x, 1.0)
    tensor([[[2.4000, 3.2000, 0.0000, 7.0000]]])
    """

    is_convex = True

    def __init__(
        self, labels: Tensor, group_weights: Tensor | Literal["size"] | None = None
    ) -> None:
        if (
            not isinstance(labels, Tensor)
            or labels.is_floating_point()
            or labels.is_complex()
            or not labels.numel()
        ):
            raise InputError(
                "the labels of GroupSparsity are a tensor of whole numbers, "
                f"got {getattr(labels, 'dtype', type(labels))}"
            )
        # Groups are numbered from 0; if every label is negative there is none.
        self.labels = labels.long()
        self.groups = max(0, int(self.labels.max()) + 1)
        if isinstance(group_weights, str):
            if group_weights != "size":
                raise InputError(
                    "group_weights of GroupSparsity is a tensor, 'size' or None, "
                    f"got {group_weights!r}"
                )
            # sqrt(|g|), the weights of Yuan and Lin 2006.
            sizes = torch.bincount(self.labels[self.labels >= 0].flatten(), minlength=self.groups)
            self.group_weights: Tensor | None = sizes.double().sqrt()
        else:
            self.group_weights = (
                None
                if group_weights is None
                else torch.as_tensor(group_weights, dtype=torch.float64)
            )
        chosen = self.group_weights
        if chosen is not None and (chosen.shape != (self.groups,) or not bool((chosen >= 0).all())):
            raise InputError(
                f"GroupSparsity needs one nonnegative weight for each of {self.groups} groups, "
                f"got {tuple(chosen.shape)}"
            )

    def energy(self, x: Tensor) -> Tensor:
        norms = self._norms(x)
        return (norms if self.group_weights is None else norms * self.group_weights.to(norms)).sum(
            1
        )

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        # x_g max(1 - step w_g / |x_g|, 0).
        norms = self._norms(x)
        threshold = expand(step, norms) * (
            1.0 if self.group_weights is None else self.group_weights.to(norms)
        )
        by_group = shrinkage(norms, threshold)
        # Values in no group take their factor from a last column of ones.
        factor = torch.cat([by_group, torch.ones_like(by_group[:, :1])], 1).index_select(
            1, self._columns(x)
        )
        return (x.flatten(1) * factor).view_as(x)

    def _norms(self, x: Tensor) -> Tensor:
        """Return ``|x_g|``, ``(batch, groups)``; its derivative at 0 is 0."""
        squares = (x.real.square() + x.imag.square() if x.is_complex() else x.square()).flatten(1)
        # The last column adds the values in no group and is dropped.
        total = squares.new_zeros(x.shape[0], self.groups + 1).index_add(
            1, self._columns(x), squares
        )
        return total[:, :-1].clamp_min(torch.finfo(total.dtype).tiny).sqrt()

    def _columns(self, x: Tensor) -> Tensor:
        """Return the group of every value of an item; values in no group get the last column."""
        labels = self.labels.to(x.device)
        if tuple(labels.shape) not in (tuple(x.shape[1:]), tuple(x.shape[2:])):
            raise InputError(
                f"the labels of GroupSparsity have the shape {tuple(labels.shape)}, expected the "
                f"shape of the image, {tuple(x.shape[1:])} or {tuple(x.shape[2:])}"
            )
        # Labels of shape (*space) are repeated for every channel.
        return torch.where(labels < 0, self.groups, labels).expand(x.shape[1:]).flatten()

    def __repr__(self) -> str:
        weighted = ", weighted" if self.group_weights is not None else ""
        return f"GroupSparsity({self.groups} groups{weighted})"


class WaveletL1(ExplicitPrior):
    """Sum of the moduli of the wavelet details of x; the coarse approximation is free.

    ``R(x) = sum of |wavelet coefficients|``, of the details only. The transform ``W`` is
    `invtoolbox.operators.wavelet.OrthogonalWavelet`: the periodized, separable discrete wavelet
    transform along every spatial axis (Mallat 1989). It is exactly orthogonal at every size, so the
    prox is ``W^T soft(W x, step)``. Complex coefficients count by their modulus. The transform has
    blocks, which answers show; `StationaryWaveletL1`, by its name ``"wavelet"``, has none.

    Args:
        wavelet: name of an orthogonal wavelet in PyWavelets: ``"haar"``, ``"db4"``, ``"sym8"``,
            ``"coif2"``, ...
        levels: number of times that the approximation is split.
        coupled: whether the coefficients of all channels at one place share a norm (group
            sparsity): for channels whose edges lie at the same places, such as colors, contrasts or
            echoes.

    >>> prior = WaveletL1("haar", levels=1)
    >>> x = torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])
    >>> prior.energy(x)
    tensor([1.4142])
    >>> prior.prox(x, 10.0)
    tensor([[[2.0000, 2.0000, 5.0000, 5.0000]]])
    """

    is_convex = True

    def __init__(self, wavelet: str = "db4", levels: int = 3, coupled: bool = False) -> None:
        self.basis, self.coupled = OrthogonalWavelet(wavelet, levels), coupled

    def energy(self, x: Tensor) -> Tensor:
        # The sum over the details of |W x|, or of its norm over the channels.
        coefficients, details = self.transform(x)
        size = group_norm(coefficients, 1) if self.coupled else coefficients.abs()
        return sum_items(size * details)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        # W^T soft(W x, step), exact because W is orthogonal; the approximation stays.
        coefficients, details = self.transform(x)
        norm = GroupL1() if self.coupled else L1()
        return self.inverse(torch.where(details, norm.prox(coefficients, step), coefficients))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients ``W x`` and the mask of those that are details.

        The coefficients are shaped like ``x``, with the approximation in the first corner.
        """
        return self.basis.transform(x), self.basis.details(tuple(x.shape[2:]), x.device)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Return ``W^T c``, the inverse of the transform."""
        return self.basis.inverse(coefficients)

    def __repr__(self) -> str:
        coupled = ", coupled=True" if self.coupled else ""
        return f"WaveletL1({self.basis.wavelet!r}, levels={self.basis.levels}{coupled})"


def group_norm(x: Tensor, axis: int) -> Tensor:
    """Return the Euclidean norm along an axis, which stays with length 1; its derivative at 0 is 0.

    Squares are added slice by slice: PyTorch's own norm along a short axis in the middle is a
    hundred times slower.
    """
    members = [m for s in x.split(1, axis) for m in ((s.real, s.imag) if x.is_complex() else (s,))]
    total: Tensor = members[0] * members[0]
    if torch.is_grad_enabled() and x.requires_grad:
        for member in members[1:]:
            total = total + member * member
        # The root has no derivative at 0; the clamp gives it the derivative 0.
        return total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
    for member in members[1:]:
        total.addcmul_(member, member)
    return total.sqrt_()


def shrinkage(norm: Tensor, step: Tensor) -> Tensor:
    """Return ``max(1 - step / norm, 0)``, and 0 where the norm is 0."""
    # max(norm - step, 0) / norm, with a denominator that is never 0.
    size = norm.clamp_min(torch.finfo(norm.dtype).tiny)
    if torch.is_grad_enabled():
        return (norm - step).clamp_min(0) / size
    return (norm - step).clamp_min_(0).div_(size)


def _within(norm: Tensor, radius: Tensor) -> Tensor:
    """Return ``min(1, radius / norm)``; overwrites ``norm``."""
    # A norm of 0 gives a huge ratio, which is cut at 1.
    if torch.is_grad_enabled():
        return (radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1)
    return torch.div(radius, norm.clamp_min_(torch.finfo(norm.dtype).tiny), out=norm).clamp_max_(1)
