"""How a rendered picture differs from a photograph: by the modulus, and by structural similarity.

Depths that are known up to a scale and an offset, or in their order alone, as networks that see one picture give them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError

#: Of structural similarity (Wang et al., IEEE TIP 13, 2004): the window's size and deviation in pixels, and its two constants.
_WINDOW, _DEVIATION, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2


class Photometric(DataTerm):
    r"""``sum_v (1 - w) mean |p_v - y_v| + w (1 - mean SSIM(p_v, y_v))`` over the pictures v of ``(batch, channel, picture, row, column)``.

    The means are over the pixels of a picture, so that a weight beside this term does not depend on its size, and misfits of some of the
    pictures add up to that of all. The modulus has no derivative where prediction and measurement agree exactly; 0 is taken there. SSIM has
    a Gaussian window of 11 pixels and zeros beyond the edge, as the papers on splatting have it (Kerbl et al., 2023: w = 0.2).

    Args:
        similarity: w, from 0 to 1. It costs a multiple of the modulus, and makes for sharper pictures of slightly lower PSNR.

    >>> Photometric(similarity=0.0).value(torch.full((1, 3, 2, 4, 4), 0.5), torch.zeros(1, 3, 2, 4, 4))
    tensor([1.])
    """

    is_convex = False
    is_of_residual = False

    def __init__(self, similarity: float = 0.2) -> None:
        if not 0 <= similarity <= 1:
            raise InputError(f"similarity of Photometric lies between 0 and 1, got {similarity}")
        self.similarity = similarity

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        apart = (prediction - y).abs().mean((1, 3, 4)).sum(1)
        if self.similarity == 0:
            return apart
        return (1 - self.similarity) * apart + self.similarity * (
            1 - similarity_map(prediction, y).mean((1, 3, 4))
        ).sum(1)

    def check(self, y: Any) -> None:
        if not isinstance(y, Tensor) or y.ndim != 5:
            raise InputError("Photometric compares pictures (batch, channel, picture, row, column)")

    def __repr__(self) -> str:
        return f"Photometric(similarity={self.similarity:g})"


def similarity_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity at every pixel, of the shape of the pictures ``(..., row, column)``, for values in [0, 1]."""
    height, width = a.shape[-2:]
    planes = torch.stack([a, b, a * a, b * b, a * b]).reshape(5, -1, height, width)
    mean_a, mean_b, square_a, square_b, product = _blurred(planes.flatten(0, 1)).reshape(
        planes.shape
    )
    variance_a, variance_b, covariance = (
        square_a - mean_a**2,
        square_b - mean_b**2,
        product - mean_a * mean_b,
    )
    top = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return (top / ((mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2))).view(a.shape)


def _blurred(planes: Tensor) -> Tensor:
    """Planes ``(n, row, column)`` under the window, by products with banded matrices, which are fast here and have fast derivatives."""
    return _band(planes.shape[1], planes) @ planes @ _band(planes.shape[2], planes).T


def _band(size: int, like: Tensor) -> Tensor:
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offset / _DEVIATION) ** 2)
    weights = weights / weights.sum()
    apart = torch.arange(size)[None] - torch.arange(size)[:, None] + _WINDOW // 2
    inside = (apart >= 0) & (apart < _WINDOW)
    return (weights[apart.clamp(0, _WINDOW - 1)] * inside).to(like)


class _Depth(DataTerm):
    """A misfit that is found by patches and is the mean over those of a picture, summed over pictures.

    Predictions and measurements are ``(batch, 1, picture, row, column)``; a measurement of 0 is none, and takes no part.
    """

    is_convex = False

    def __init__(self, patch: int | None = None, inverse: bool = False) -> None:
        if patch is not None and patch < 2:
            raise InputError(
                f"patches of {type(self).__name__} have sides of 2 pixels at least, got {patch}"
            )
        self.patch, self.inverse = patch, inverse

    @abstractmethod
    def _of_patches(self, p: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """The misfit of every patch, ``(n,)``, from ``(n, pixels)`` each; ``known`` is 1 where a pixel takes part and 0 elsewhere."""

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        known = (y > 0).to(prediction) * (prediction.detach() > 0)
        if self.inverse:
            prediction = known / torch.where(known > 0, prediction, 1.0)
        parts = [
            self._patches(t) for t in (prediction, y.to(prediction).expand_as(prediction), known)
        ]
        batch, pictures, patches, pixels = parts[0].shape
        misfit = self._of_patches(*(t.reshape(-1, pixels) for t in parts))
        return misfit.view(batch, pictures, patches).mean(2).sum(1)

    def _patches(self, t: Tensor) -> Tensor:
        """``(batch, picture, patch, pixel)``; rows and columns that fill no patch make smaller ones."""
        t = t[:, 0]
        if self.patch is None:
            return t.flatten(2)[:, :, None]
        side = self.patch
        rows, columns = t.shape[2:]
        t = functional.pad(t, (0, -columns % side, 0, -rows % side))  # padded pixels are not known
        t = t.unflatten(3, (-1, side)).unflatten(2, (-1, side)).transpose(3, 4)
        return t.flatten(4).flatten(2, 3)

    def check(self, y: Any) -> None:
        if not isinstance(y, Tensor) or y.ndim != 5 or y.shape[1] != 1:
            raise InputError(
                f"{type(self).__name__} compares depths (batch, 1, picture, row, column), 0 where none is known"
            )
        if bool((y < 0).any()):
            raise InputError(
                f"{type(self).__name__} takes depths of 0 (unknown) and above, and some are negative"
            )

    def __repr__(self) -> str:
        shown = ([] if self.patch is None else [f"patch={self.patch}"]) + (
            ["inverse=True"] if self.inverse else []
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class PearsonDepth(_Depth):
    r"""``sum_v mean over patches of 1 - corr(p, y)``: depths known up to a factor and an offset, another one for each patch.

    Predictions and measurements are ``(batch, 1, picture, row, column)``, as renderers with ``outputs=("depth",)`` give them; a
    measurement of 0 is none. Patches in which nothing varies say nothing, and count 0.

    Sources: Xiong et al., "SparseGS", 2023 (with ``patch=128`` and, beside it, whole pictures); Zhu et al., "FSGS", ECCV 2024.

    Args:
        patch: side of the patches in pixels; None for whole pictures.
        inverse: measurements are inverse depths, as networks that see one picture estimate them: they are compared with 1 / p.

    >>> import torch
    >>> near = torch.tensor([[1.0, 2.0], [4.0, 3.0]]).view(1, 1, 1, 2, 2)
    >>> term = PearsonDepth()
    >>> [round(float(term.value(p, near)), 4) + 0.0 for p in (5 * near + 1, 10 - near)]
    [0.0, 2.0]
    """

    def _of_patches(self, p: Tensor, y: Tensor, known: Tensor) -> Tensor:
        count = known.sum(1, keepdim=True).clamp_min(1)
        p, y = (known * (t - (known * t).sum(1, keepdim=True) / count) for t in (p, y))
        squares = p.square().sum(1) * y.square().sum(1)
        # Below rounding a patch is flat, and its correlation is that of the rounding.
        least = (64 * torch.finfo(p.dtype).eps) ** 2
        flat = (p.detach().square().sum(1) <= least) | (y.square().sum(1) <= least)
        return torch.where(flat, 0.0, 1 - (p * y).sum(1) / torch.where(flat, 1.0, squares).sqrt())


class ScaleShiftInvariant(_Depth):
    r"""``sum_v mean over patches of min over s >= 0 and t of mean (s p + t - y)^2 / (2 var y)``.

    The misfit of depths after they were fitted to the measurements: 0 where they agree up to a factor and an offset, 1/2 where they have
    nothing in common. The minimum's derivative in p is that at fixed s and t.

    Source: Ranftl et al., "Towards robust monocular depth estimation", TPAMI 2022 (MiDaS), equation 1, with the squares.

    Args:
        patch, inverse: see `PearsonDepth`.

    >>> import torch
    >>> near = torch.tensor([[1.0, 2.0], [4.0, 3.0]]).view(1, 1, 1, 2, 2)
    >>> term = ScaleShiftInvariant()
    >>> [round(float(term.value(p, near)), 4) + 0.0 for p in (5 * near + 1, 10 - near)]
    [0.0, 0.5]
    """

    def _of_patches(self, p: Tensor, y: Tensor, known: Tensor) -> Tensor:
        count = known.sum(1, keepdim=True).clamp_min(1)
        p, y = (known * (t - (known * t).sum(1, keepdim=True) / count) for t in (p, y))
        least = (64 * torch.finfo(p.dtype).eps) ** 2
        square, variance = p.detach().square().sum(1, keepdim=True), y.square().sum(1)
        scale = torch.where(
            square > least,
            ((p.detach() * y).sum(1, keepdim=True) / square.clamp_min(least)).clamp_min(0),
            0.0,
        )
        flat = variance <= least
        return torch.where(
            flat, 0.0, 0.5 * (scale * p - y).square().sum(1) / torch.where(flat, 1.0, variance)
        )


class DepthRanking(_Depth):
    r"""``sum_v mean over pairs of max(p_i - p_j + margin, 0)``, over pixels i that are nearer than j in the measurement.

    Only the order of depths is trusted. Every pixel is paired with ``pairs`` others of its patch, which a fixed number of pixels apart
    (in the order of rows) makes the same in every call.

    Source: Wang et al., "SparseNeRF", ICCV 2023, equation 5.

    Args:
        margin: by how much the nearer one is to be nearer, in the unit of the prediction.
        pairs: of every pixel.
        tolerance: measurements that differ by less than this share of the larger one have no order.
        patch, inverse: see `PearsonDepth`; of inverse depths the larger is the nearer.

    >>> import torch
    >>> far = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 1, 2, 2)
    >>> term = DepthRanking(margin=0.0, pairs=3)
    >>> term.value(0.1 * far, far), bool(term.value(4 - far, far) > 0.5)
    (tensor([0.]), True)
    """

    def __init__(
        self,
        margin: float = 1e-4,
        pairs: int = 4,
        tolerance: float = 0.0,
        patch: int | None = None,
        inverse: bool = False,
    ) -> None:
        super().__init__(patch, inverse)
        if not (margin >= 0 and pairs >= 1 and tolerance >= 0):
            raise InputError(
                f"DepthRanking takes a margin and a tolerance that are not negative and a pair at least, got {margin}, "
                f"{tolerance} and {pairs}"
            )
        self.margin, self.pairs, self.tolerance = margin, pairs, tolerance

    def _of_patches(self, p: Tensor, y: Tensor, known: Tensor) -> Tensor:
        total, count = p.new_zeros(len(p)), p.new_zeros(len(p))
        pixels = p.shape[1]
        if pixels < 2:
            return total
        for k in range(self.pairs):
            # Shifts that share no factor with each other reach all over a patch.
            apart = 1 + int((0.5 + k) * 0.6180339887 * pixels) % (pixels - 1)
            other, theirs, both = (t.roll(-apart, 1) for t in (p, y, known))
            gap = theirs - y  # positive where the other one is farther
            counts = known * both * (gap.abs() > self.tolerance * torch.maximum(y, theirs))
            total = total + (counts * (gap.sign() * (p - other) + self.margin).clamp_min(0)).sum(1)
            count = count + counts.sum(1)
        return total / count.clamp_min(1)
