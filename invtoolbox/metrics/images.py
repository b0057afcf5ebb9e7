"""Metrics that compare an image with a reference, and a segmentation with a reference.

The module holds errors per pixel (`psnr`, `rmse`, `mae`, `relative_error`, `correlation`), the
structural similarity index (`ssim`), and two-class segmentation: Otsu's threshold and the
correlation coefficient of Matthews.

Every metric takes ``x`` and ``reference`` of shape ``(batch, channel, *space)`` and returns
``(batch,)``. One reference may serve a whole batch. The errors per pixel accept real and complex
images. Sums run over channels and space, in double precision. A boolean ``mask`` is true at the
pixels that count, and ``border`` is the number of pixels that are left out at both ends of every
axis of space. Gradients flow through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.errors import InputError

_RADIUS = 5
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
#: Number of values of an item that are compared at a time, so that large images need little memory.
_STRIP = 2**20


def psnr(
    x: Tensor,
    reference: Tensor,
    data_range: float | Tensor = 1.0,
    mask: Tensor | None = None,
    border: int = 0,
) -> Tensor:
    """Compute the peak signal-to-noise ratio (PSNR) in dB.

    It is ``10 log10(data_range^2 / mean |x - reference|^2)``, and infinite if the images are equal.

    Args:
        x: images ``(batch, channel, *space)``.
        reference: images that `x` is compared with, of the same shape or with a batch of one.
        data_range: distance between the least and the greatest possible value, a number or one
            value per item. It is never computed from the data: then a brighter reference would
            make the same error look smaller.
        mask: boolean mask of the pixels that count.
        border: number of pixels left out at both ends of every axis of space.

    >>> psnr(torch.full((1, 1, 4, 4), 0.1), torch.zeros(1, 1, 4, 4))
    tensor([20.])
    """
    error = _mean_square(x, reference, mask, border)
    return like(10 * torch.log10(_check_data_range(data_range, x) ** 2 / error), x)


def rmse(x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Compute the root mean square error, ``sqrt(mean |x - reference|^2)``, in the image's unit.

    >>> rmse(torch.full((1, 1, 4, 4), 3.0), torch.ones(1, 1, 4, 4))
    tensor([2.])
    """
    return like(_mean_square(x, reference, mask, border).sqrt(), x)


def mae(x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Compute the mean absolute error, ``mean |x - reference|``, in the unit of the image.

    >>> mae(torch.tensor([[[1.0, -3.0]]]), torch.zeros(1, 1, 2))
    tensor([2.])
    """
    check_pair(x, reference)
    error, mask = region((to_double(x) - to_double(reference)).abs(), mask, border)
    return like(mean(error, mask), x)


def relative_error(
    x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Compute the relative error, ``|x - reference| / |reference|``, in the Euclidean norm.

    The error is infinite if the reference is zero.

    >>> relative_error(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[3.0, 4.0]]]))
    tensor([0.2000])
    """
    check_pair(x, reference)
    size, inside = region(to_double(reference).abs().square().expand(x.shape), mask, border)
    return like((_mean_square(x, reference, mask, border) / mean(size, inside)).sqrt(), x)


def correlation(
    x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Compute Pearson's correlation coefficient of the pixels, in [-1, 1].

    It does not depend on the scale and the offset of the images, and is NaN for a constant image.

    >>> correlation(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[10.0, 20.0, 40.0]]]))
    tensor([1.])
    """
    check_pair(x, reference)
    if x.is_complex() or reference.is_complex():
        raise InputError("the correlation is defined for real images; compare magnitudes or parts")
    a, inside = region(to_double(x), mask, border)
    b, _ = region(to_double(reference).expand(x.shape), mask, border)
    axes = (slice(None), *(None for _ in x.shape[1:]))
    a, b = a - mean(a, inside)[axes], b - mean(b, inside)[axes]
    return like(mean(a * b, inside) / (mean(a * a, inside) * mean(b * b, inside)).sqrt(), x)


def ssim(
    x: Tensor,
    reference: Tensor,
    data_range: float | Tensor = 1.0,
    mask: Tensor | None = None,
    border: int = 0,
) -> Tensor:
    """Compute the mean structural similarity index (SSIM): ``(batch,)``, 1 if the images are equal.

    The index of a pixel is computed from the local means ``m_x`` and ``m_r``, the local variances
    ``v_x`` and ``v_r`` and the local covariance ``c`` of the image and the reference, under a
    Gaussian window of 11 pixels per axis with standard deviation 1.5::

                 (2 m_x m_r + C1) (2 c + C2)
        SSIM = ---------------------------------------,   C1 = (0.01 L)^2,   C2 = (0.03 L)^2
               (m_x^2 + m_r^2 + C1) (v_x + v_r + C2)

    with the data range ``L``. There is no padding: a pixel counts only if its window lies inside
    the image. This leaves out 5 pixels at both ends of every axis, in addition to `border`.
    Variances are population variances. The index is averaged over pixels and channels. It agrees
    with ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``.

    Args:
        x: real images ``(batch, channel, *space)``, at least 11 pixels per axis of space.
        reference: images that `x` is compared with, of the same shape or with a batch of one.
        data_range: distance between the least and the greatest possible value, a number or one
            value per item.
        mask: boolean mask of the pixels whose index counts. The windows of these pixels still
            include values outside the mask.
        border: number of further pixels left out at both ends of every axis of space.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Transactions on Image Processing 13, 2004, equations 13 to 17.

    >>> x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> ssim(x, x)
    tensor([1., 1.])
    """
    check_pair(x, reference)
    if x.is_complex() or reference.is_complex():
        raise InputError("SSIM is defined for real images; compare magnitudes or parts")
    if min(x.shape[2:]) <= 2 * _RADIUS:
        raise InputError(
            f"the image has {tuple(x.shape[2:])} pixels; SSIM needs at least {2 * _RADIUS + 1} "
            "each way"
        )
    span = _check_data_range(data_range, x).reshape(-1, *(1 for _ in x.shape[1:]))
    mask = None if mask is None else region(x, mask, _RADIUS)[1]
    inner, mask = region(crop(x, _RADIUS), mask, border)
    a, b = crop(x, border), crop(reference.expand(x.shape), border)

    def index(start: int, end: int) -> Tensor:
        rows = slice(start, end + 2 * _RADIUS)
        return _similarity(to_double(a[:, :, rows]), to_double(b[:, :, rows]), span)

    return like(_mean_of_strips(index, inner, mask), x)


def _similarity(a: Tensor, b: Tensor, span: Tensor) -> Tensor:
    """Return the structural similarity index of the pixels whose windows lie inside the images."""
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variance_a = _local_mean(a * a) - mean_a**2
    variance_b = _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    return (
        (2 * mean_a * mean_b + c1)
        * (2 * covariance + c2)
        / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    )


def otsu_threshold(x: Tensor) -> Tensor:
    """Compute the threshold per item that best separates two classes of pixels: ``(batch,)``.

    It maximizes the variance between the classes over a histogram of 256 bins from the item's least
    to its greatest value (`skimage.filters.threshold_otsu`). The threshold of a constant item is
    the item's value.

    Source: Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on
    Systems, Man, and Cybernetics 9, 1979.

    >>> otsu_threshold(torch.tensor([[[0.0, 0.1, 0.9, 1.0]]])) < 0.9
    tensor([True])
    """
    from skimage.filters import threshold_otsu

    if x.ndim < 3 or not x.is_floating_point():
        raise InputError(
            f"x has shape {tuple(x.shape)} and {x.dtype}; give floating point (batch, channel, "
            "*space)"
        )
    if not torch.isfinite(x).all():
        raise InputError(
            "x holds NaN or infinite values, for which no threshold is defined; repair them"
        )
    items = x.detach().cpu().numpy().astype(np.float64)
    return torch.tensor([threshold_otsu(item) for item in items], dtype=x.dtype, device=x.device)


def otsu_segmentation(x: Tensor) -> Tensor:
    """Segment each item into two classes: true above its Otsu threshold, of the shape of `x`.

    >>> otsu_segmentation(torch.tensor([[[0.0, 0.0, 0.9, 1.0]]]))
    tensor([[[False, False,  True,  True]]])
    """
    return x > otsu_threshold(x).reshape(-1, *(1 for _ in x.shape[1:]))


def matthews_correlation(
    segmentation: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Compute the correlation coefficient of Matthews of two binary segmentations, in [-1, 1].

    From the numbers of true and false positives and negatives, the coefficient is::

        (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))

    It is 0 if a factor below the root is 0: then one of the two segmentations has a single class.
    It is the score of the Helsinki Tomography Challenge 2022.

    Args:
        segmentation: segmentations ``(batch, channel, *space)``, boolean or numbers 0 and 1.
        reference: true segmentations, boolean or numbers 0 and 1, of the same shape or with a
            batch of one.
        mask: boolean mask of the pixels that count.
        border: number of pixels left out at both ends of every axis of space.

    Returns:
        one coefficient per item, ``(batch,)``, float32.

    Source: Matthews, "Comparison of the predicted and observed secondary structure of T4 phage
    lysozyme", Biochimica et Biophysica Acta 405, 1975.

    >>> truth = torch.tensor([[[True, True, False, False]]])
    >>> matthews_correlation(truth, truth), matthews_correlation(~truth, truth)
    (tensor([1.]), tensor([-1.]))
    """
    check_pair(segmentation, reference)
    a, inside = region(_binary(segmentation, "segmentation"), mask, border)
    b, _ = region(_binary(reference, "reference").expand(segmentation.shape), mask, border)
    counts = torch.ones_like(a) if inside is None else inside

    def count(where: Tensor) -> Tensor:
        return sum_items(where & counts).to(torch.float64)

    tp, tn, fp, fn = count(a & b), count(~a & ~b), count(a & ~b), count(~a & b)
    # One root per factor: the product of the four counts of a volume would overflow.
    below = (tp + fp).sqrt() * (tp + fn).sqrt() * (tn + fp).sqrt() * (tn + fn).sqrt()
    score = torch.where(
        below > 0, (tp * tn - fp * fn) / below.clamp(min=1e-300), torch.zeros_like(below)
    )
    return score.to(torch.float32)


def check_tensors(*named: tuple[str, Any]) -> None:
    """Raise an error unless values, each with its name, are tensors."""
    for name, value in named:
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}; metrics take tensors, so pass "
                f"torch.as_tensor({name.split()[-1]})"
            )


def check_pair(x: Tensor, reference: Tensor) -> None:
    """Raise an error if two tensors cannot be compared; it names the axis in which they differ."""
    check_tensors(("x", x), ("the reference", reference))
    if x.ndim < 3 or not x.numel():
        raise InputError(
            f"x has shape {tuple(x.shape)}; metrics take (batch, channel, *space), not empty"
        )
    if x.ndim != reference.ndim:
        raise InputError(
            f"x has {x.ndim} axes and the reference {reference.ndim}; both must be (batch, "
            "channel, *space)"
        )
    for axis, (a, b) in enumerate(zip(x.shape, reference.shape)):
        if a != b and not (axis == 0 and b == 1):
            raise InputError(
                f"x has shape {tuple(x.shape)} and the reference {tuple(reference.shape)}; they "
                f"differ in axis {axis}"
            )


def region(x: Tensor, mask: Tensor | None, border: int) -> tuple[Tensor, Tensor | None]:
    """Crop `x` and the mask by `border` pixels at both ends of every axis of space.

    The mask is boolean, has the axes of `x` or only its axes of space, and is broadcast to the
    shape of `x`. Every item must keep at least one pixel.
    """
    if border < 0 or any(n <= 2 * border for n in x.shape[2:]):
        raise InputError(
            f"a border of {border} leaves nothing of an image of {tuple(x.shape[2:])}; choose "
            f"it between 0 and {(min(x.shape[2:]) - 1) // 2}"
        )
    if mask is not None:
        if mask.dtype != torch.bool:
            raise InputError(
                f"the mask is {mask.dtype}; give a boolean mask, true at the pixels that count"
            )
        try:
            mask = mask.to(x.device).expand(x.shape)
        except RuntimeError:
            raise InputError(
                f"the mask has shape {tuple(mask.shape)}, which does not broadcast to "
                f"{tuple(x.shape)}"
            ) from None
        mask = crop(mask, border)
        empty = torch.nonzero(~mask.flatten(1).any(1)).flatten().tolist()
        if empty:
            raise InputError(
                f"the mask of item {empty[0]} is empty; leave the item out or widen the mask"
            )
    return crop(x, border), mask


def crop(x: Tensor, border: int) -> Tensor:
    """Remove `border` pixels at both ends of every axis of space, ``(batch, channel, *space)``."""
    inner = slice(border, -border) if border else slice(None)
    return x[(slice(None), slice(None), *(inner for _ in x.shape[2:]))]


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean per item, ``(batch,)``, over the pixels of the mask if one is given."""
    if mask is None:
        return mean_items(values)
    # values * mask would spread NaN values that lie outside the mask.
    inside = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return sum_items(inside) / sum_items(mask)


def to_double(x: Tensor) -> Tensor:
    """Convert to double precision: a sum over a million pixels loses four digits in single."""
    return x.to(torch.complex128) if x.is_complex() else x.to(torch.float64)


def like(value: Tensor, x: Tensor) -> Tensor:
    """Convert a value to the real precision of `x`, or to float32 if `x` holds whole numbers."""
    kind = x.real.dtype if x.is_complex() else x.dtype
    return value.to(kind if kind.is_floating_point else torch.float32)


def _check_data_range(data_range: float | Tensor, x: Tensor) -> Tensor:
    span = torch.as_tensor(data_range, dtype=torch.float64, device=x.device)
    check_range("a metric", "(0, inf]", data_range=span)
    return span


def _mean_square(x: Tensor, reference: Tensor, mask: Tensor | None, border: int) -> Tensor:
    check_pair(x, reference)
    a, mask = region(x, mask, border)
    b = crop(reference, border)

    def square(start: int, end: int) -> Tensor:
        rows = slice(start, end)
        return (to_double(a[:, :, rows]) - to_double(b[:, :, rows])).abs().square()

    return _mean_of_strips(square, a, mask)


def _mean_of_strips(values: Callable[[int, int], Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean per item, ``(batch,)``, of values that are computed strip by strip.

    Intermediate results in double precision then take the memory of one strip.

    Args:
        values: function that returns the values between two rows, the first axis of space.
        x: tensor of the shape of all values.
        mask: mask of the pixels that count, of the shape of all values.
    """
    rows = x.shape[2]
    step = max(1, _STRIP * rows // max(x[0].numel(), 1)) if len(x) else max(rows, 1)
    total = x.new_zeros(len(x), dtype=torch.float64)
    for start in range(0, rows, step):
        strip = values(start, min(start + step, rows))
        if mask is not None:
            # strip * mask would spread NaN values that lie outside the mask.
            strip = torch.where(mask[:, :, start : start + step], strip, 0.0)
        total = total + sum_items(strip)
    return total / (x[0].numel() if mask is None else sum_items(mask))


def _local_mean(x: Tensor) -> Tensor:
    """Return the Gaussian-weighted mean around every pixel whose window lies inside the image.

    The window is separable: per axis of space, the shifted images are added up, which is 10 to 30
    times as fast as a product with windows or a convolution in double precision.
    """
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    first, *others = (weights / weights.sum()).tolist()
    for axis in range(2, x.ndim):
        size = x.shape[axis] - 2 * _RADIUS
        total = first * x.narrow(axis, 0, size)
        for shift, weight in enumerate(others, start=1):
            total.add_(x.narrow(axis, shift, size), alpha=weight)
        x = total
    return x


def _binary(x: Tensor, name: str) -> Tensor:
    if x.dtype == torch.bool:
        return x
    if x.is_complex() or not bool(((x == 0) | (x == 1)).all()):
        raise InputError(
            f"the {name} holds values other than 0 and 1; threshold it first, for example with "
            "otsu_segmentation"
        )
    return x == 1
