"""Sparsity of groups of values that a map names: regions, superpixels, materials, frames of a series."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior


class GroupSparsity(ExplicitPrior):
    r"""``R(x) = sum_g w_g |x_g|_2``: whole groups of values are 0 together (Yuan & Lin, JRSS B 68, 2006).

    The groups do not overlap. (For overlapping ones compose `GroupL1` with the operator that copies values.) Groups of
    channels of every pixel are those of `GroupL1`. Complex values count by their modulus.

    Prox: block soft thresholding, ``x_g max(1 - step w_g / |x_g|, 0)``.

    Args:
        labels: whole numbers, the group of every value, of the shape ``(*space)``, where all channels of a pixel belong to its group,
            or ``(channel, *space)``. What has a negative label is in no group and free.
        group_weights: one a group, ``(groups,)``; ``"size"`` is the square root of the number of their values, so that large groups are
            not preferred; 1 by default.

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
                f"the labels of GroupSparsity are a tensor of whole numbers, got {getattr(labels, 'dtype', type(labels))}"
            )
        self.labels = labels.long()
        self.groups = max(0, int(self.labels.max()) + 1)
        if isinstance(group_weights, str):
            if group_weights != "size":
                raise InputError(
                    f"group_weights of GroupSparsity is a tensor, 'size' or None, got {group_weights!r}"
                )
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
                f"GroupSparsity needs one nonnegative weight for each of {self.groups} groups, got {tuple(chosen.shape)}"
            )

    def energy(self, x: Tensor) -> Tensor:
        norms = self._norms(x)
        return (norms if self.group_weights is None else norms * self.group_weights.to(norms)).sum(
            1
        )

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        norms = self._norms(x)
        threshold = expand(step, norms) * (
            1.0 if self.group_weights is None else self.group_weights.to(norms)
        )
        kept = (norms - threshold).clamp_min(0) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        # What is in no group takes its factor from a last column of ones.
        factor = torch.cat([kept, torch.ones_like(kept[:, :1])], 1).index_select(
            1, self._columns(x)
        )
        return (x.flatten(1) * factor).view_as(x)

    def _norms(self, x: Tensor) -> Tensor:
        """``|x_g|``, ``(batch, groups)``; its derivative at 0 is 0."""
        squares = (x.real.square() + x.imag.square() if x.is_complex() else x.square()).flatten(1)
        total = squares.new_zeros(x.shape[0], self.groups + 1).index_add(
            1, self._columns(x), squares
        )
        return total[:, :-1].clamp_min(torch.finfo(total.dtype).tiny).sqrt()

    def _columns(self, x: Tensor) -> Tensor:
        """The group of every value of an item; the last one for what is in none."""
        labels = self.labels.to(x.device)
        if tuple(labels.shape) not in (tuple(x.shape[1:]), tuple(x.shape[2:])):
            raise InputError(
                f"the labels of GroupSparsity have the shape {tuple(labels.shape)}, expected that of the image, "
                f"{tuple(x.shape[1:])} or {tuple(x.shape[2:])}"
            )
        return torch.where(labels < 0, self.groups, labels).expand(x.shape[1:]).flatten()

    def __repr__(self) -> str:
        return f"GroupSparsity({self.groups} groups{', weighted' if self.group_weights is not None else ''})"
