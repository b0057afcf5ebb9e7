"""Misfits of images of different brightness or modality: correlation and mutual information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.base import DataTerm, Problem
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand

#: Share of the variance of an image below which a window counts as constant.
_FLAT = 1e-3
#: Least mean weight of a window whose pixels count.
_LEAST_SHARE = 1e-6


class NormalizedCrossCorrelation(DataTerm):
    r"""One minus the normalized cross-correlation, summed over pixels: ``D(p, y) = sum (1 - rho)``.

    ``rho`` is the correlation coefficient of prediction and measurements, so that brightness and
    contrast do not matter. Over the whole image, D is half the squared distance of the two images
    after both are scaled to mean 0 and variance 1. In a window around every pixel, brightness and
    contrast may also vary over the image, as through the coils of a scanner.

    `gauss_newton` is the inverse variance of the windows, which bounds the Hessian near the
    solution.

    Args:
        window: edge of the windows in pixels, an odd number; the whole image if None.
        weights: nonnegative weights of the pixels, ``(batch or 1, 1, *space)``: 0 for pixels that
            do not count.

    >>> y = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    >>> term = NormalizedCrossCorrelation()
    >>> term.value(5 * y + 1, y).abs() < 1e-2, term.value(-y, y).round()
    (tensor([True]), tensor([8.]))
    """

    is_convex = False
    item_fields: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(self, window: int | None = None, weights: Tensor | None = None) -> None:
        if window is not None and (window < 3 or window % 2 == 0):
            raise InputError(f"window is an odd number of at least 3 pixels, got {window}")
        check_range(self, "[0, inf)", weights=weights)
        self.window, self.weights = window, weights

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        a, first = self._centre(prediction)
        b, second = self._centre(y)
        covariance = self._mean(prediction * y) - a * b
        rho = covariance / (first * second).sqrt()
        share = 1 - rho if self.weights is None else self.weights.to(rho) * (1 - rho)
        return sum_items(share.expand_as(prediction))

    def gauss_newton(self, prediction: Tensor, y: Tensor) -> Callable[[Any], Any]:
        with torch.no_grad():
            inverse = self._mean((1 / self._centre(prediction)[1]).expand_as(prediction))
            if self.weights is not None:
                inverse = self.weights.to(inverse) * inverse
        return lambda v: v * inverse

    def check(self, y: Any) -> None:
        _check_contrast(y, type(self).__name__)

    def __repr__(self) -> str:
        return f"NormalizedCrossCorrelation({'' if self.window is None else self.window})"

    def _centre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and the variances of windows, raised by a share of the whole one's."""
        mean = self._mean(x)
        variance = (self._mean(x.square()) - mean.square()).clamp_min(0)
        of_image = variance.mean(tuple(range(2, x.ndim)), keepdim=True)
        if self.window is not None:
            of_image = x.var(tuple(range(2, x.ndim)), correction=0, keepdim=True)
        return mean, variance + _FLAT * of_image + torch.finfo(x.dtype).tiny

    def _mean(self, x: Tensor) -> Tensor:
        """Return the (weighted) means of windows, sum w x / sum w."""
        if self.weights is None:
            return self._sum(x)
        weights = self.weights.to(x)
        return self._sum(weights * x) / self._sum(weights).clamp_min(_LEAST_SHARE)

    def _sum(self, x: Tensor) -> Tensor:
        axes = range(2, x.ndim)
        if self.window is None:
            return x.mean(tuple(axes), keepdim=True)
        pool = cast(Callable[..., Tensor], avg_pool2d if x.ndim == 4 else avg_pool3d)
        for axis in axes:  # a box within the image is the product of its edges
            edges = [self.window if k == axis else 1 for k in axes]
            x = pool(x, edges, 1, [n // 2 for n in edges], count_include_pad=False)
        return x


class MutualInformation(DataTerm):
    r"""Information that the prediction lacks about the measurements, ``D = n (H(y) - I(p; y))``.

    n is the number of pixels, H the entropy and I the mutual information in nats, of a histogram of
    both intensities. D is 0 if the prediction determines the measurements, by any function: two
    modalities, or inverted contrast. The prediction is spread over four bins by cubic B-splines, so
    that D has a derivative, and the measurements fall into one bin each (Mattes et al. 2003).

    `gauss_newton` is the inverse variance of the prediction among pixels of equal measurement, as
    for a misfit with Gaussian noise.

    Args:
        bins: number of bins of either image.
        weights: nonnegative weights of the pixels, ``(batch or 1, 1, *space)``: 0 for pixels that
            do not count; n is their sum.

    >>> y = torch.rand(1, 1, 32, 32)
    >>> term = MutualInformation()
    >>> bool(term.value(1 - y, y) < term.value(torch.rand(1, 1, 32, 32), y))
    True
    """

    is_convex = False
    item_fields: ClassVar[tuple[str, ...]] = ("low", "high", "weights")

    def __init__(self, bins: int = 32, weights: Tensor | None = None) -> None:
        check_range(self, "[4, inf)", bins=bins)
        check_range(self, "[0, inf)", weights=weights)
        self.bins, self.weights = int(bins), weights
        #: Range of the predictions per item, of the prediction at zero; known once prepared.
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def prepare(self, problem: Problem, solve: Any) -> Self:
        # The image that is moved, if the operator names it: at 0 it may lie out of sight.
        moving = problem.operator.parameters().get("moving")
        with torch.no_grad():
            start = (problem.operator(problem.zeros()) if moving is None else moving).flatten(1)
        return self._replace(low=start.amin(1), high=start.amax(1))

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        joint = self._histogram(prediction, y)
        pixels = y[0].numel() if self.weights is None else self._weigh(prediction).sum(1)
        # sum_ij h_ij log(h_i / h_ij) = H(y | p) for rows i of the prediction.
        total = joint.sum(2, keepdim=True).expand_as(joint)
        used = joint > 0
        ratio = torch.where(used, total, 1.0) / torch.where(used, joint, 1.0)
        return pixels * sum_items(joint * ratio.log())

    def gauss_newton(self, prediction: Tensor, y: Tensor) -> Callable[[Any], Any]:
        with torch.no_grad():
            place, _ = self._bins(y, y.flatten(1).amin(1), y.flatten(1).amax(1))
            index = place.round().long().flatten(1)
            p = prediction.flatten(1)
            zeros = p.new_zeros(len(p), self.bins)
            count = zeros.scatter_add(1, index, torch.ones_like(p)).clamp_min(1)
            mean = zeros.scatter_add(1, index, p) / count
            spread = (p - mean.gather(1, index)).square().mean(1)
            least = (p.amax(1) - p.amin(1)).square() / self.bins**2 / 12
            inverse = expand(1 / (spread + least).clamp_min(torch.finfo(p.dtype).tiny), prediction)
            if self.weights is not None:
                inverse = self.weights.to(inverse) * inverse
        return lambda v: v * inverse

    def check(self, y: Any) -> None:
        _check_contrast(y, type(self).__name__)

    def __repr__(self) -> str:
        return f"MutualInformation({self.bins})"

    def _histogram(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Return the joint histogram, ``(batch, bins of the prediction, bins of y)``."""
        p, b = prediction.flatten(1), self.bins
        low = p.amin(1) if self.low is None else self.low.to(p)
        high = p.amax(1) if self.high is None else self.high.to(p)
        columns, _ = self._bins(y, y.flatten(1).amin(1), y.flatten(1).amax(1))
        # Two bins at either end are left for the splines of the extreme intensities.
        place, _ = self._bins(p, low, high, 3)
        place = place + 1
        below = place.detach().floor()
        t = place - below
        # The uniform cubic B-spline at the distances 1 + t, t, 1 - t and 2 - t.
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        column = columns.round().long().flatten(1)
        joint = p.new_zeros(len(p), b * b)
        for step, weight in zip((-1, 0, 1, 2), weights):
            row = (below.long() + step).clamp(0, b - 1)
            if self.weights is not None:
                weight = weight * self._weigh(prediction)
            joint = joint.scatter_add(1, (row * b + column).expand_as(weight), weight)
        if self.weights is None:
            return joint.view(len(p), b, b) / p.shape[1]
        return (joint / joint.sum(1, keepdim=True).clamp_min(_LEAST_SHARE)).view(len(p), b, b)

    def _weigh(self, prediction: Tensor) -> Tensor:
        """Return the weight of every value, ``(batch, values)``."""
        assert self.weights is not None
        return self.weights.to(prediction).expand_as(prediction).flatten(1)

    def _bins(self, x: Tensor, low: Tensor, high: Tensor, spare: int = 0) -> tuple[Tensor, Tensor]:
        """Return intensities in units of bins, from 0, and the width of a bin."""
        width = (high - low).clamp_min(torch.finfo(x.dtype).tiny) / (self.bins - 1 - spare)
        scaled = (x - expand(low, x)) / expand(width, x)
        return scaled.clamp(0, self.bins - 1 - spare), width


def _check_contrast(y: Any, name: str) -> None:
    flat = y.detach().flatten(1)
    same = (flat == flat[:, :1]).all(1)
    if bool(same.any()):
        item = f" of item {int(same.nonzero()[0])}" if len(flat) > 1 else ""
        raise InputError(
            f"the image{item} is constant, so {name} has nothing to compare it by; leave it out"
        )
