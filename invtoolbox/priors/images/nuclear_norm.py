"""The nuclear norm, for channels or frames that are combinations of a few pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import blank_items, map_items
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand, inner
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.sparsity import shrinkage
from invtoolbox.priors.settings import format_changes


class NuclearNorm(ExplicitPrior):
    """Nuclear norm ``R(x) = sum of the singular values``, which favors low rank.

    The rows of the matrix are the channels of the image. They may be the frames of a dynamic
    series, so that this is the Casorati matrix of Liang (ISBI 2007), the bands of a spectral image,
    or contrasts. With ``patch`` the energy is the sum over the patches of an even tiling, each with
    its own matrix: locally low rank (Trzasko & Manduca, ISMRM 2011), which allows a different few
    pictures at every place.

    The prox is soft thresholding of the singular values (Cai, Candes & Shen, SIAM J. Optim. 20,
    2010), exact for every tiling: missing pixels of a patch at the border are filled with zeros,
    which changes no singular value. The matrices are decomposed by a QR decomposition of the long
    side and a singular value decomposition of the small triangle, so the cost is linear in the
    number of pixels.

    Args:
        axis: axis of the image that gives the rows: 1, the channel, or an axis of space, counted
            with the batch as axis 0 and the channel as axis 1. All other axes form the columns.
        patch: edge of the patches in pixels, a number or one value for every spatial axis that is
            not ``axis``; the whole image by default.
        offset: start of the tiling in pixels, a number or one value per axis; tilings with
            different offsets in a sum blur the seams.

    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).view(1, 2, 2)
    >>> NuclearNorm().energy(x)
    tensor([4.])
    >>> NuclearNorm().prox(x, 2.0).abs().round(decimals=4)
    tensor([[[1., 0.],
             [0., 0.]]])
    """

    is_convex = True

    def __init__(
        self,
        axis: int = 1,
        patch: int | Sequence[int] | None = None,
        offset: int | Sequence[int] = 0,
    ) -> None:
        check_range(self, "[1, inf)", axis=axis)
        sizes = () if patch is None else (patch,) if isinstance(patch, int) else tuple(patch)
        starts = (offset,) if isinstance(offset, int) else tuple(offset)
        check_range(self, "[1, inf)", patch=min(sizes, default=None))
        check_range(self, "[0, inf)", offset=min(starts, default=None))
        self.axis, self.patch, self.offset = (
            axis,
            patch if patch is None or isinstance(patch, int) else sizes,
            offset,
        )

    def energy(self, x: Tensor) -> Tensor:
        fixed = x.detach()
        # The sum over the patches of the sums of their singular values.
        finite, wrong = _replace_infinite(fixed)
        sums = map_items(
            lambda item: sum_items(torch.linalg.svdvals(self._reduce(self._matrices(item)[0]))),
            finite,
        )
        total = blank_items(wrong, sums)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return total
        # Automatic differentiation of a QR decomposition fails at matrices of lower rank, and the
        # solutions are such matrices. So the derivative <dx, U V^H> is attached by hand.
        return total + inner(x - fixed, self.gradient(fixed))

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the subgradient of least norm, ``U V^H`` of every matrix.

        Singular values that are 0 to rounding are left out.
        """

        def inverse(singular_values: Tensor, _: Tensor) -> Tensor:
            precision = torch.finfo(singular_values.dtype)
            # f(S) = 1 / S turns U f(S) S V^H into U V^H.
            least = 32 * precision.eps * singular_values.amax(-1, keepdim=True)
            return torch.where(
                singular_values > least,
                1 / singular_values.clamp_min(precision.tiny),
                torch.zeros_like(singular_values),
            )

        return self._filter(x, inverse, torch.zeros(1))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        steps = torch.as_tensor(step, dtype=x.real.dtype, device=x.device).reshape(-1)
        # Cai, Candes and Shen 2010, theorem 2.1: U max(S - step, 0) V^H.
        return self._filter(x, lambda S, t: shrinkage(S, expand(t, S)), steps)

    def _filter(
        self, x: Tensor, factor: Callable[[Tensor, Tensor], Tensor], setting: Tensor
    ) -> Tensor:
        """Return ``U f(S) S V^H`` of every matrix ``M = U S V^H``.

        It is computed from the side of the small matrix: ``U f U^H M`` or ``M V f V^H``. f is a
        function of S and of the setting, ``(1 or batch,)``.
        """

        def apply(x: Tensor, setting: Tensor) -> Tensor:
            matrices, shape = self._matrices(x)
            U, S, Vh = torch.linalg.svd(self._reduce(matrices), full_matrices=False)
            # One f per column of U, or of V.
            f = factor(S, setting).unsqueeze(-2)
            if matrices.shape[-2] > matrices.shape[-1]:
                return self._image(matrices @ ((Vh.mH * f) @ Vh), shape)
            return self._image((U * f) @ (U.mH @ matrices), shape)

        finite, wrong = _replace_infinite(x)
        return blank_items(wrong, map_items(apply, finite, setting))

    @staticmethod
    def _reduce(matrices: Tensor) -> Tensor:
        """Return a square matrix with the singular values of the given one.

        The singular vectors of its short side are kept too.
        """
        rows, columns = matrices.shape[-2:]
        # Wide: M^H = Q R, so M = R^H Q^H has the singular values and left vectors of R^H. Tall:
        # M = Q R has the singular values and right vectors of R.
        if columns > rows:
            return torch.linalg.qr(matrices.mH, mode="r").R.mH
        return torch.linalg.qr(matrices, mode="r").R if rows > columns else matrices

    def _matrices(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the matrices ``(batch, patches, rows, columns)`` and the shape of the image.

        The shape has the rows first: ``(batch, rows, channel or 1, *space)``.
        """
        if self.axis >= x.ndim:
            raise InputError(
                f"axis {self.axis} of NuclearNorm is no axis of an image of shape {tuple(x.shape)}"
            )
        # Rows first. If the rows are the channels, an axis of one channel takes their place.
        image = x.unsqueeze(2) if self.axis == 1 else x.movedim(self.axis, 1)
        shape = tuple(image.shape)
        if self.patch is None:
            return image.flatten(2).unsqueeze(1), shape
        sizes, starts = self._tiling(len(shape) - 3)
        for k, (size, start) in enumerate(zip(sizes, starts)):
            before = -start % size  # zeros, so that a patch begins at the offset
            image = _pad(image, k + 3, before, -(before + shape[k + 3]) % size)
        for k, size in reversed(list(enumerate(sizes))):
            image = image.unflatten(k + 3, (-1, size))
        # (batch, rows, channel, blocks and pixels of every axis in turn) becomes (batch, blocks,
        # rows, columns), the columns with the channel and the pixels of a patch.
        blocks, inside = range(3, 3 + 2 * len(sizes), 2), range(4, 4 + 2 * len(sizes), 2)
        image = image.permute(0, *blocks, 1, 2, *inside)
        return image.flatten(len(sizes) + 2).flatten(1, len(sizes)), shape

    def _image(self, matrices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Invert `_matrices`."""
        if self.patch is None:
            image = matrices.view(shape)
        else:
            sizes, starts = self._tiling(len(shape) - 3)
            # Zeros before the first patch, and number of patches, along every axis.
            befores = [-start % size for size, start in zip(sizes, starts)]
            counts = [
                math.ceil((before + n) / size) for before, n, size in zip(befores, shape[3:], sizes)
            ]
            image = matrices.view(shape[0], *counts, shape[1], shape[2], *sizes)
            d = len(sizes)
            image = image.permute(
                0, d + 1, d + 2, *[axis for k in range(d) for axis in (k + 1, d + 3 + k)]
            )
            for k in range(d):
                image = image.flatten(k + 3, k + 4).narrow(k + 3, befores[k], shape[k + 3])
        return (
            image.squeeze(2).contiguous()
            if self.axis == 1
            else image.movedim(1, self.axis).contiguous()
        )

    def _tiling(self, dimensions: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the size and the start of the patches along every axis."""
        tiling: list[tuple[int, ...]] = []
        for name, pixels in (("patch", self.patch), ("offset", self.offset)):
            by_axis = (pixels,) * dimensions if isinstance(pixels, int) else tuple(pixels or ())
            if len(by_axis) != dimensions:
                raise InputError(
                    f"{name} of NuclearNorm has {len(by_axis)} numbers, and the image has "
                    f"{dimensions} axes for its columns"
                )
            tiling.append(by_axis)
        return tiling[0], tiling[1]

    def __repr__(self) -> str:
        return f"NuclearNorm({format_changes(self, axis=1, patch=None, offset=0)})"


def _replace_infinite(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with 0 in place of items that are not finite, and a mask of them, ``(batch,)``.

    LAPACK refuses them, and the other items of a batch with them.
    """
    wrong = ~x.isfinite().flatten(1).all(1)
    return x.masked_fill(wrong.view(-1, *[1] * (x.ndim - 1)), 0), wrong


def _pad(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Add zeros at both ends of an axis."""
    if not before and not after:
        return x
    shape = x.shape
    first, last = (x.new_zeros(*shape[:axis], n, *shape[axis + 1 :]) for n in (before, after))
    return torch.cat([first, x, last], axis)
