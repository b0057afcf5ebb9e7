"""Measurements of some pixels: as an image with gaps (`Inpainting`) or as a list (`Sampling`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, to_shape
from invtoolbox.errors import InputError
from invtoolbox.kernels.grids.grid_system import GridSystem
from invtoolbox.operators.base import LinearOperator, count_items, expand


class Inpainting(LinearOperator):
    """Masked image ``A x = mask * x``; measurements keep the image's shape.

    The mask is 1 for known pixels and 0 for pixels to be found. A mask of one channel accepts
    images of any number of channels.

    Args:
        mask: mask that broadcasts against ``image_shape``: ``space`` or ``(channel, *space)``; or
            with a batch axis in front, ``(batch, 1 or channel, *space)``, for a mask that differs
            from item to item. Boolean, or real numbers that weight the pixels.
        image_shape: shape ``(channel, *space)``, or ``space`` if it has two axes and there is one
            channel.

    Raises:
        InputError: if the mask does not fit, is not finite, or has no known pixel.

    >>> A = Inpainting(torch.tensor([[True, False, True]]), (1, 1, 3))
    >>> A(torch.ones(1, 1, 1, 3))
    tensor([[[[1., 0., 1.]]]])
    """

    # A product with a mask is one line; deepinv's Inpainting uses an SVD interface for it and keeps
    # the mask in the dtype in which it was given.

    normal_is_diagonal = True
    has_batch_axis = True

    def __init__(self, mask: Any, image_shape: Sequence[int]) -> None:
        shape = to_shape(self, image_shape=image_shape)
        values = as_tensor(mask)
        if len(shape) == 2:
            shape = (1, *shape)
        self.domain_shape = self.range_shape = shape
        self.mask = _with_batch(values, shape)
        if not bool(self.mask.isfinite().all()):
            raise InputError("the mask of Inpainting has entries that are NaN or infinite")
        empty = (self.mask == 0).flatten(1).all(1)
        if bool(empty.any()):
            which = f" of item {int(empty.nonzero()[0])}" if len(empty) > 1 else ""
            raise InputError(
                f"the mask{which} of Inpainting is zero everywhere, so nothing is measured; "
                "it must be 1 for known pixels"
            )
        self.channelwise = self.mask.shape[1] == 1
        self.items = count_items("masks", self.mask)

    def parameters(self) -> dict[str, Tensor]:
        """``mask``, of shape ``(1 or batch, 1 or channel, *space)``."""
        return {"mask": self.mask}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        if "mask" not in parameters:
            return super()._replace(parameters)
        mask = _with_batch(parameters["mask"], self.domain_shape)
        inpainting = super()._replace({"mask": mask})
        return inpainting._with_items(count_items("masks", mask))

    @property
    def sampled(self) -> Tensor:
        """Mask that is 1 for known pixels, ``(1 or batch, 1 or channel, *space)``."""
        return (self.mask != 0).to(torch.float32)

    def _weights(self, like: Tensor) -> Tensor:
        # A boolean mask is cast to the image's real dtype; a complex image stays complex.
        return self.mask.to(like.real.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        return self._weights(x) * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._weights(y) * y

    def _known_norm(self) -> Tensor:
        return self.mask.double().abs().flatten(1).amax(1)

    def grid_system(self, weights: Tensor) -> GridSystem:
        diagonal = self._weights(weights).square() * weights
        zero = torch.zeros_like(diagonal)
        return GridSystem(diagonal, zero, zero)

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``v / (weight * mask^2 + rho)``."""
        return v / (expand(weight, v) * self._weights(v).square() + expand(rho, v))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute the least-squares image of smallest norm: ``y / mask``, 0 where unknown."""
        self._check_measurements("pseudo-inverse", y)
        mask = self._weights(y)
        return torch.where(mask != 0, y / torch.where(mask != 0, mask, 1), 0)

    def __repr__(self) -> str:
        share = float((self.mask != 0).double().mean())
        return f"Inpainting({self.domain_shape}, {share:.0%} known)"


class Sampling(LinearOperator):
    r"""Values of every channel at a list of pixels, ``(A x)[c, j] = x[c, i_j]``, ``(channel, m)``.

    Measurements hold only the measured pixels ``i_1, ..., i_m``, while those of `Inpainting` have
    the image's shape with zeros.

    Args:
        where: boolean mask of the shape of space (its pixels in C order), or flat indices of the
            pixels, ``(m,)``, in any order; a pixel may be measured several times. With a batch axis
            in front, ``(batch, *space)`` or ``(batch, m)``, every item has its own pixels, the same
            number in each.
        shape: shape ``(channel, *space)``; any number of channels is accepted.

    Raises:
        InputError: if the mask has another shape, if indices lie outside of the image, if no pixel
            is measured, or if items have different numbers of pixels.

    >>> A = Sampling(torch.tensor([2, 0]), (1, 3))
    >>> A(torch.tensor([[[5.0, 6.0, 7.0]]]))
    tensor([[[7., 5.]]])
    """

    channelwise = True

    normal_is_diagonal = True

    def __init__(self, where: Any, shape: Sequence[int]) -> None:
        self.domain_shape = to_shape(self, shape=shape)
        self.index = _indices(as_tensor(where), self.domain_shape[1:])
        self.items = len(self.index) if len(self.index) > 1 else None
        self.range_shape = (self.domain_shape[0], self.index.shape[1])

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        return self._replace({"index": self.index.index_select(0, index)})._with_items(len(index))

    def _spread(self, like: Tensor) -> Tensor:
        return self.index.unsqueeze(1).expand(like.shape[0], like.shape[1], -1)

    def _forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).gather(2, self._spread(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        image = y.new_zeros(*y.shape[:2], math.prod(self.domain_shape[1:]))
        return image.scatter_add(2, self._spread(y), y).unflatten(2, self.domain_shape[1:])

    def counts(self) -> Tensor:
        """Count the measurements of every pixel, ``(1 or batch, 1, *space)``.

        ``A^T A`` is diagonal with these counts.
        """
        ones = torch.ones(
            len(self.index), 1, self.index.shape[1], dtype=torch.float64, device=self.index.device
        )
        return self._adjoint(ones)

    def to_grid(self, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the measurements at their pixels, and a mask of the pixels that are measured.

        Pixels that are measured several times hold the mean.

        Args:
            y: measurements ``(batch, channel, m)``.
            weights: measurements of weight 0 are left out.
        """
        used = torch.ones_like(y.real) if weights is None else (weights > 0).to(y.real).expand_as(y)
        counts = self._adjoint(used)
        return self._adjoint(y * used) / counts.clamp_min(1), (counts > 0).to(torch.float32)

    def _known_norm(self) -> Tensor:
        return self.counts().flatten(1).amax(1).sqrt()

    def normal_diagonal(self) -> Tensor:
        return self.counts()

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``v / (weight * counts + rho)``."""
        real = v.real
        return v / (expand(weight, real) * self.counts().to(real) + expand(rho, real))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute the least-squares image of smallest norm: the mean of a pixel's measurements.

        Pixels without a measurement are 0.
        """
        self._check_measurements("pseudo-inverse", y)
        return self._adjoint(y) / self.counts().clamp_min(1).to(y.real.dtype)

    def __repr__(self) -> str:
        return f"Sampling({self.index.shape[1]} of {math.prod(self.domain_shape[1:])} pixels)"


def _with_batch(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the mask as ``(1 or batch, 1 or channel, *space)``."""
    full = mask.reshape(*[1] * (len(shape) + 1 - mask.ndim), *mask.shape)
    fits = full.ndim == len(shape) + 1 and all(m in (1, n) for m, n in zip(full.shape[1:], shape))
    if not fits:
        raise InputError(
            f"the mask of Inpainting has shape {tuple(mask.shape)}, which does not broadcast "
            f"against (batch, {', '.join(map(str, shape))})"
        )
    return full


def _indices(where: Tensor, space: tuple[int, ...]) -> Tensor:
    """Return the flat indices of the pixels, ``(1 or batch, m)``, after checking them."""
    if where.dtype == torch.bool:
        if tuple(where.shape[-len(space) :]) != space or where.ndim > len(space) + 1:
            raise InputError(
                f"the mask of Sampling has shape {tuple(where.shape)}, expected {space}, or "
                "(batch, *space)"
            )
        rows = where.reshape(-1, math.prod(space))
        counts = {int(n) for n in rows.sum(1)}
        if len(counts) > 1:
            raise InputError(
                f"the masks of Sampling know between {min(counts)} and {max(counts)} pixels per "
                "item, which do not fit one tensor; use Inpainting, whose measurements keep the "
                "image's shape"
            )
        if counts == {0}:
            raise InputError("the mask of Sampling is False everywhere, so nothing is measured")
        return torch.stack([row.nonzero().squeeze(1) for row in rows])
    if (
        where.is_floating_point()
        or where.is_complex()
        or where.ndim not in (1, 2)
        or not where.numel()
    ):
        raise InputError(
            "Sampling takes a boolean mask, or whole-numbered indices of shape (m,) or (batch, "
            f"m), got {where.dtype} of shape {tuple(where.shape)}"
        )
    if bool((where < 0).any()) or bool((where >= math.prod(space)).any()):
        raise InputError(
            f"the indices of Sampling lie in {int(where.min())}..{int(where.max())}, but the image "
            f"has the pixels 0..{math.prod(space) - 1}"
        )
    return where.long().reshape(-1, where.shape[-1])
