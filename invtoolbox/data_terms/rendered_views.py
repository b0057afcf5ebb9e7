"""Misfits of rendered views: pictures compared with photographs, and depths with estimated depths.

`Photometric` compares pictures by absolute difference and structural similarity. The other terms
compare depths that are known up to a scale and an offset, or in their order alone, as estimated by
networks from a single picture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.kernels.rendering.window_blur import blur_planes

#: Structural similarity (Wang et al., IEEE TIP 13, 2004): window size and standard deviation in
#: pixels, and its two constants.
_WINDOW, _DEVIATION, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2


class Photometric(DataTerm):
    r"""Absolute difference and structural similarity of pictures, summed over the pictures v.

    ``sum_v (1 - w) mean |p_v - y_v| + w (1 - mean SSIM(p_v, y_v))`` for
    ``(batch, channel, picture, row, column)``.

    The means are over the pixels of a picture, so that the weight of a prior does not depend on the
    size of the pictures, and misfits of some of the pictures add up to the misfit of all. The
    absolute value has no derivative if prediction and measurement agree exactly; 0 is used there.
    SSIM has a Gaussian window of 11 pixels and zeros beyond the edge, as in the papers on splatting
    (Kerbl et al., 2023: w = 0.2).

    Args:
        similarity: the share w of structural similarity, from 0 to 1. It costs a multiple of the
            absolute difference, and leads to sharper pictures of slightly lower PSNR.
        weights: weights of the pixels from 0 to 1 that broadcast against y; the means are weighted,
            and a pixel of weight 0 changes neither of them. A picture without weight counts 0.

    >>> grey, black = torch.full((1, 3, 2, 4, 4), 0.5), torch.zeros(1, 3, 2, 4, 4)
    >>> Photometric(similarity=0.0).value(grey, black)
    tensor([1.])
    """

    is_convex = False
    is_of_residual = False
    item_fields: ClassVar[tuple[str, ...]] = ("weights",)
    measurement_fields: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(self, similarity: float = 0.2, weights: Tensor | None = None) -> None:
        check_range(self, "[0, 1]", similarity=similarity, weights=weights)
        self.similarity, self.weights = similarity, weights

    def restrict(self, mask: Tensor) -> Self:
        """Return the term in which the pixels outside a mask have weight 0.

        Args:
            mask: 1 for pixels that count and 0 for others; it broadcasts against y.
        """
        return self._replace(weights=mask if self.weights is None else self.weights * mask)

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        if self.weights is None:
            apart = (prediction - y).abs().mean((1, 3, 4)).sum(1)
            if self.similarity == 0:
                return apart
            unlike = (1 - map_items(similarity_map, prediction, y).mean((1, 3, 4))).sum(1)
        else:
            w = self.weights.to(prediction).expand(-1, prediction.shape[1], *y.shape[2:])
            total = w.sum((1, 3, 4)).clamp_min(1e-6)
            # Both are black where pixels do not count, so that windows across the edge agree there.
            prediction, y = w * prediction, w * y
            apart = ((prediction - y).abs().sum((1, 3, 4)) / total).sum(1)
            if self.similarity == 0:
                return apart
            lack = w * (1 - map_items(similarity_map, prediction, y))
            unlike = (lack.sum((1, 3, 4)) / total).sum(1)
        return (1 - self.similarity) * apart + self.similarity * unlike

    def check(self, y: Any) -> None:
        if not isinstance(y, Tensor) or y.ndim != 5:
            raise InputError("Photometric compares pictures (batch, channel, picture, row, column)")

    def __repr__(self) -> str:
        weighted = "" if self.weights is None else ", weights=..."
        return f"Photometric(similarity={self.similarity:g}{weighted})"


class StoredPhotometric(Photometric):
    """`Photometric` of pictures on disk, which are read in the steps that use them.

    The measurements are the numbers of the pictures, ``(batch of one, 1, pictures)``.

    Args:
        read: function that returns pictures ``(channel, picture, row, column)`` and their weights,
            or None, for a tensor of numbers.
        similarity: see `Photometric`.

    >>> grey, black = torch.full((1, 3, 1, 4, 4), 0.5), torch.zeros(3, 1, 4, 4)
    >>> StoredPhotometric(lambda numbers: (black, None), similarity=0.0).value(
    ...     grey, torch.tensor([[[7.0]]])
    ... )
    tensor([0.5000])
    """

    def __init__(
        self, read: Callable[[Tensor], tuple[Tensor, Tensor | None]], similarity: float = 0.2
    ) -> None:
        super().__init__(similarity)
        self.read = read

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        pictures, weights = self.read(y[0, 0].long().cpu())
        term = Photometric(self.similarity, None if weights is None else weights[None])
        return term.value(prediction, pictures[None].to(prediction))

    def check(self, y: Any) -> None:
        if not isinstance(y, Tensor) or y.ndim != 3 or y.shape[:2] != (1, 1):
            raise InputError("StoredPhotometric takes the numbers of pictures (1, 1, pictures)")

    def check_shape(
        self, y: Any, shape: Any, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        if y.shape[-1] != shape[1]:
            raise InputError(f"{what} are {y.shape[-1]} pictures of {shape[1]} cameras")


def similarity_map(a: Tensor, b: Tensor) -> Tensor:
    """Compute the structural similarity at every pixel, of the shape of the pictures.

    The pictures are ``(..., row, column)`` with values in [0, 1]. The map is differentiable once.
    """
    return _Similarity.apply(a, b)


class _Similarity(Function):
    r"""Structural similarity, and its derivative in either picture.

    With the blur G, the means m = G a and n = G b, and the moments q = G a^2 and r = G ab,

    .. math:: s = \frac{A C}{B D}, \quad A = 2 m n + c_1,\ B = m^2 + n^2 + c_1,\
              C = 2 (r - m n) + c_2,\ D = q - m^2 + G b^2 - n^2 + c_2.

    The blur is symmetric, so the gradient of L in a is
    ``G(L' ds/dm) + 2 a G(L' ds/dq) + b G(L' ds/dr)`` with

    .. math:: s_q = -\frac{s}{D}, \quad s_r = \frac{2 A}{B D}, \quad
              s_m = \frac{2 n C}{B D} - \frac{2 m s}{B} - 2 m s_q - n s_r.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        m, n, squares_a, squares_b, r = blur_pictures(torch.stack([a, b, a * a, b * b, a * b]))
        A, B = 2 * m * n + _C1, m * m + n * n + _C1
        C, D = 2 * (r - m * n) + _C2, squares_a - m * m + squares_b - n * n + _C2
        s = A * C / (B * D)
        ctx.save_for_backward(a, b, m, n, A, B, C, D, s)
        return s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        a, b, m, n, A, B, C, D, s = ctx.saved_tensors
        s_q, s_r = slope * -s / D, slope * 2 * A / (B * D)

        def gradient(a: Tensor, b: Tensor, m: Tensor, n: Tensor) -> Tensor:
            s_m = slope * 2 * (n * C / D - m * s) / B - 2 * m * s_q - n * s_r
            of_m, of_q, of_r = blur_pictures(torch.stack([s_m, s_q, s_r]))
            return of_m + 2 * a * of_q + b * of_r

        return (
            gradient(a, b, m, n) if ctx.needs_input_grad[0] else None,
            gradient(b, a, n, m) if ctx.needs_input_grad[1] else None,
        )


def blur_pictures(pictures: Tensor) -> Tensor:
    """Blur pictures ``(..., row, column)`` by the window of SSIM, with zeros beyond the edge."""
    return blur_planes(pictures.contiguous(), _window(pictures.dtype, pictures.device))


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights of the window along an axis."""
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offset / _DEVIATION) ** 2)
    return (weights / weights.sum()).to(dtype=dtype, device=device)


class _Depth(DataTerm):
    """Misfit of depths per patch, averaged over a picture and summed over pictures.

    Predictions and measurements are ``(batch, 1, picture, row, column)``; a measurement of 0 is
    missing, and is ignored.
    """

    is_convex = False

    def __init__(self, patch: int | None = None, inverse: bool = False) -> None:
        check_range(self, "[2, inf)", patch=patch)
        self.patch, self.inverse = patch, inverse

    @abstractmethod
    def _patch_misfit(self, p: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        """Compute the misfit of every patch, ``(n,)``, from ``(n, pixels)`` each.

        ``valid`` is 1 for pixels that count, and 0 for the others.
        """

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        valid = (y > 0).to(prediction) * (prediction.detach() > 0)
        if self.inverse:
            prediction = valid / torch.where(valid > 0, prediction, 1.0)
        depths = y.to(prediction).expand_as(prediction)
        cut = [self._patches(t) for t in (prediction, depths, valid)]
        batch, pictures, patches, pixels = cut[0].shape
        misfit = self._patch_misfit(*(t.reshape(-1, pixels) for t in cut))
        return misfit.view(batch, pictures, patches).mean(2).sum(1)

    def _patches(self, t: Tensor) -> Tensor:
        """Cut pictures into ``(batch, picture, patch, pixel)``.

        The last rows and columns are padded.
        """
        t = t[:, 0]
        if self.patch is None:
            return t.flatten(2)[:, :, None]
        side = self.patch
        rows, columns = t.shape[2:]
        t = functional.pad(t, (0, -columns % side, 0, -rows % side))  # padded pixels are unknown
        t = t.unflatten(3, (-1, side)).unflatten(2, (-1, side)).transpose(3, 4)
        return t.flatten(4).flatten(2, 3)

    def check(self, y: Any) -> None:
        if not isinstance(y, Tensor) or y.ndim != 5 or y.shape[1] != 1:
            raise InputError(
                f"{type(self).__name__} compares depths (batch, 1, picture, row, column), with 0 "
                "for unknown depths"
            )
        if bool((y < 0).any()):
            raise InputError(
                f"{type(self).__name__} takes depths of 0 (unknown) and above, but some are "
                "negative"
            )

    def __repr__(self) -> str:
        patch = [] if self.patch is None else [f"patch={self.patch}"]
        inverse = ["inverse=True"] if self.inverse else []
        return f"{type(self).__name__}({', '.join(patch + inverse)})"


def _centre(depths: Tensor, valid: Tensor) -> Tensor:
    """Subtract the mean over the valid pixels of every patch; the others become 0."""
    count = valid.sum(1, keepdim=True).clamp_min(1)
    return valid * (depths - (valid * depths).sum(1, keepdim=True) / count)


class PearsonDepth(_Depth):
    r"""Correlation misfit ``sum_v mean over patches of 1 - corr(p, y)`` of depths.

    The depths are known up to a factor and an offset, which differ from patch to patch. Predictions
    and measurements are ``(batch, 1, picture, row, column)``, as rendered with
    ``outputs=("depth",)``; a measurement of 0 is missing. Patches of constant depth hold no
    information, and count 0.

    Sources: Xiong et al., "SparseGS", 2023 (with ``patch=128`` and, in addition, whole pictures);
    Zhu et al., "FSGS", ECCV 2024.

    Args:
        patch: side of the patches in pixels; None for whole pictures.
        inverse: whether measurements are inverse depths, as estimated by networks from a single
            picture; they are compared with 1 / p.

    >>> import torch
    >>> near = torch.tensor([[1.0, 2.0], [4.0, 3.0]]).view(1, 1, 1, 2, 2)
    >>> term = PearsonDepth()
    >>> [round(float(term.value(p, near)), 4) + 0.0 for p in (5 * near + 1, 10 - near)]
    [0.0, 2.0]
    """

    def _patch_misfit(self, p: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        p, y = _centre(p, valid), _centre(y, valid)
        squares = p.square().sum(1) * y.square().sum(1)
        # Below rounding a patch is flat, and its correlation is the correlation of rounding errors.
        least = (64 * torch.finfo(p.dtype).eps) ** 2
        flat = (p.detach().square().sum(1) <= least) | (y.square().sum(1) <= least)
        return torch.where(flat, 0.0, 1 - (p * y).sum(1) / torch.where(flat, 1.0, squares).sqrt())


class ScaleShiftInvariant(_Depth):
    r"""Misfit of depths after the best scale and shift per patch.

    ``sum_v mean over patches of min over s >= 0 and t of mean (s p + t - y)^2 / (2 var y)`` is 0
    for depths that agree up to a factor and an offset, and 1/2 for depths that have nothing in
    common. The minimum's derivative in p is the derivative at fixed s and t.

    Source: Ranftl et al., "Towards robust monocular depth estimation", TPAMI 2022 (MiDaS), equation
    1, with the squares.

    Args:
        patch: side of the patches in pixels; see `PearsonDepth`.
        inverse: whether measurements are inverse depths; see `PearsonDepth`.

    >>> import torch
    >>> near = torch.tensor([[1.0, 2.0], [4.0, 3.0]]).view(1, 1, 1, 2, 2)
    >>> term = ScaleShiftInvariant()
    >>> [round(float(term.value(p, near)), 4) + 0.0 for p in (5 * near + 1, 10 - near)]
    [0.0, 0.5]
    """

    def _patch_misfit(self, p: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        p, y = _centre(p, valid), _centre(y, valid)
        least = (64 * torch.finfo(p.dtype).eps) ** 2
        square, variance = p.detach().square().sum(1, keepdim=True), y.square().sum(1)
        # The best scale without the bound is <p, y> / |p|^2 for p and y of mean 0.
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
    r"""Ranking loss ``sum_v mean over pairs of max(p_i - p_j + margin, 0)`` of depths.

    The pairs are pixels i and j of which i is nearer in the measurement: only the order of depths
    is trusted. Every pixel is paired with ``pairs`` other pixels of its patch, at fixed offsets in
    the order of rows, so that the pairs are the same in every call.

    Source: Wang et al., "SparseNeRF", ICCV 2023, equation 5.

    Args:
        margin: distance by which the nearer pixel has to be nearer, in the unit of the prediction.
        pairs: number of pairs per pixel.
        tolerance: measurements that differ by less than this share of the larger one have no order.
        patch: side of the patches in pixels; see `PearsonDepth`.
        inverse: whether measurements are inverse depths, of which the larger is nearer; see
            `PearsonDepth`.

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
        check_range(self, "[0, inf]", margin=margin, tolerance=tolerance)
        check_range(self, "[1, inf)", pairs=pairs)
        self.margin, self.pairs, self.tolerance = margin, pairs, tolerance

    def _patch_misfit(self, p: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        total, count = p.new_zeros(len(p)), p.new_zeros(len(p))
        pixels = p.shape[1]
        if pixels < 2:
            return total
        for k in range(self.pairs):
            # Offsets by the golden ratio have no common factor, and reach all over a patch.
            apart = 1 + int((0.5 + k) * 0.6180339887 * pixels) % (pixels - 1)
            p_j, y_j, valid_j = (t.roll(-apart, 1) for t in (p, y, valid))
            gap = y_j - y  # positive if the pixel j is farther
            counts = valid * valid_j * (gap.abs() > self.tolerance * torch.maximum(y, y_j))
            total = total + (counts * (gap.sign() * (p - p_j) + self.margin).clamp_min(0)).sum(1)
            count = count + counts.sum(1)
        return total / count.clamp_min(1)
