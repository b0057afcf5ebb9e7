"""Where a metric looks: inside the border, and where the mask is true.

Errors of an image against a reference, pixel by pixel.

All take ``x`` and ``reference`` of shape ``(batch, channel, *space)`` (one reference may serve a whole
batch), real or complex, and return ``(batch,)``. Sums run over channels and space, in double precision. A
boolean ``mask`` says which pixels count (true), and ``border`` leaves out so many at every end of every axis
of space. Gradients flow through.

The structural similarity index (SSIM).

Two-class segmentation: Otsu's threshold, and the agreement of two segmentations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError

_RADIUS = 5
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def psnr(
    x: Tensor,
    reference: Tensor,
    data_range: float | Tensor = 1.0,
    mask: Tensor | None = None,
    border: int = 0,
) -> Tensor:
    """Peak signal-to-noise ratio in dB, ``10 log10(data_range^2 / mean |x - reference|^2)``; infinite if
    equal.

    Args:
        data_range: the distance between the least and the greatest possible value, a number or one an item.
            It is never taken from the data: then a brighter reference would make the same error look smaller.

    >>> psnr(torch.full((1, 1, 4, 4), 0.1), torch.zeros(1, 1, 4, 4))
    tensor([20.])
    """
    span = torch.as_tensor(data_range, dtype=torch.float64, device=x.device)
    if not bool((span > 0).all()):
        raise InputError(
            f"data_range is {data_range}; give the positive distance from the least to the "
            "greatest value"
        )
    return like(10 * torch.log10(span**2 / _mean_square(x, reference, mask, border)), x)


def rmse(x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Root mean square error, ``sqrt(mean |x - reference|^2)``, in the unit of the image.

    >>> rmse(torch.full((1, 1, 4, 4), 3.0), torch.ones(1, 1, 4, 4))
    tensor([2.])
    """
    return like(_mean_square(x, reference, mask, border).sqrt(), x)


def mae(x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Mean absolute error, ``mean |x - reference|``, in the unit of the image.

    >>> mae(torch.tensor([[[1.0, -3.0]]]), torch.zeros(1, 1, 2))
    tensor([2.])
    """
    check_pair(x, reference)
    error, mask = region((to_double(x) - to_double(reference)).abs(), mask, border)
    return like(mean(error, mask), x)


def relative_error(
    x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Relative error, ``|x - reference| / |reference|`` in the Euclidean norm; infinite for a zero reference.

    >>> relative_error(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[3.0, 4.0]]]))
    tensor([0.2000])
    """
    check_pair(x, reference)
    size, inside = region(to_double(reference).abs().square().expand(x.shape), mask, border)
    return like((_mean_square(x, reference, mask, border) / mean(size, inside)).sqrt(), x)


def correlation(
    x: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Pearson's correlation coefficient of the pixels, in [-1, 1]; blind to scale and offset, NaN for a
    constant.

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
    """Mean structural similarity of images (batch, channel, *space): (batch,), 1 if equal.

    At every pixel, with local means ``m``, variances ``v`` and covariance ``c`` under a Gaussian window of 11
    pixels in every direction and sigma 1.5, the index is::

        (2 m_x m_r + C1) (2 c + C2) / ((m_x^2 + m_r^2 + C1) (v_x + v_r + C2)),  C1 = (0.01 L)^2,  C2 = (0.03
        L)^2

    with the data range L. There is no padding: only pixels whose window lies inside the image count, so 5 at
    every end do not (and 5 more than `border`). Variances are those of the population. The index is averaged
    over pixels and channels. This is `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)`.

    Args:
        data_range: the distance between the least and the greatest possible value, a number or one an item.
        mask: true where the index counts; the windows there still see what lies outside the mask.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13, 2004, equations 13 to 17.

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
    span = torch.as_tensor(data_range, dtype=torch.float64, device=x.device)
    if not bool((span > 0).all()):
        raise InputError(
            f"data_range is {data_range}; give the positive distance from the least to the "
            "greatest value"
        )
    span = span.reshape(-1, *(1 for _ in x.shape[1:]))
    a, b = to_double(x), to_double(reference).expand(x.shape)
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variance_a = _local_mean(a * a) - mean_a**2
    variance_b = _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    index = (
        (2 * mean_a * mean_b + c1)
        * (2 * covariance + c2)
        / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    )
    if mask is not None:
        _, mask = region(x, mask, _RADIUS)
    index, mask = region(index, mask, border)
    return like(mean(index, mask), x)


def otsu_threshold(x: Tensor) -> Tensor:
    """The threshold of each item that separates two classes of pixels best: (batch,).

    It maximises the variance between the classes over a histogram of 256 bins from the item's least to its
    greatest value (`skimage.filters.threshold_otsu`). A constant item has its own value as threshold.

    Source: Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems,
    Man, and Cybernetics 9, 1979.

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
    """True where an item is above its Otsu threshold; the shape of `x`.

    >>> otsu_segmentation(torch.tensor([[[0.0, 0.0, 0.9, 1.0]]]))
    tensor([[[False, False,  True,  True]]])
    """
    return x > otsu_threshold(x).reshape(-1, *(1 for _ in x.shape[1:]))


def matthews_correlation(
    segmentation: Tensor, reference: Tensor, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Matthews correlation coefficient of two binary segmentations, (batch, channel, *space): (batch,) in
    [-1, 1].

    With the numbers of true and false positives and negatives::

        (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))

    and 0 where a factor below the root is 0, that is where one of the two has a single class. It is the score
    of the Helsinki Tomography Challenge 2022.

    Args:
        segmentation: boolean, or numbers that are 0 or 1.
        reference: likewise; one may serve a whole batch.

    Source: Matthews, "Comparison of the predicted and observed secondary structure of T4 phage lysozyme",
    Biochimica et Biophysica Acta 405, 1975.

    >>> truth = torch.tensor([[[True, True, False, False]]])
    >>> matthews_correlation(truth, truth), matthews_correlation(~truth, truth)
    (tensor([1.]), tensor([-1.]))
    """
    check_pair(segmentation, reference)
    a, inside = region(_binary(segmentation, "segmentation"), mask, border)
    b, _ = region(_binary(reference, "reference").expand(segmentation.shape), mask, border)
    counts = torch.ones_like(a) if inside is None else inside

    def count(where: Tensor) -> Tensor:
        return (where & counts).flatten(1).sum(1).to(torch.float64)

    tp, tn, fp, fn = count(a & b), count(~a & ~b), count(a & ~b), count(~a & b)
    # The root of each factor by itself: the product of four counts of a volume would overflow.
    below = (tp + fp).sqrt() * (tp + fn).sqrt() * (tn + fp).sqrt() * (tn + fn).sqrt()
    score = torch.where(
        below > 0, (tp * tn - fp * fn) / below.clamp(min=1e-300), torch.zeros_like(below)
    )
    return score.to(torch.float32)


def check_pair(x: Tensor, reference: Tensor) -> None:
    """Refuse two tensors that cannot be compared, saying in which axis they differ."""
    for name, value in (("x", x), ("the reference", reference)):
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}; metrics take tensors, so give torch.as_tensor({name.split()[-1]})"
            )
    if x.ndim < 3:
        raise InputError(f"x has shape {tuple(x.shape)}; metrics take (batch, channel, *space)")
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
    """`x` and the mask without `border` pixels at every end of every axis of space.

    The mask is boolean, has the axes of `x` or of its space alone, and is broadcast to the shape of `x`;
    every item must keep at least one pixel.
    """
    if border < 0 or any(n <= 2 * border for n in x.shape[2:]):
        raise InputError(
            f"a border of {border} leaves nothing of an image of {tuple(x.shape[2:])}; choose "
            f"it between 0 and {(min(x.shape[2:]) - 1) // 2}"
        )
    if mask is not None:
        if mask.dtype != torch.bool:
            raise InputError(
                f"the mask is {mask.dtype}; give a boolean one, true where the image counts"
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
    """`x` (batch, channel, *space) without `border` pixels at both ends of every axis of space."""
    inner = slice(border, -border) if border else slice(None)
    return x[(slice(None), slice(None), *(inner for _ in x.shape[2:]))]


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each item, over the mask where there is one: (batch,)."""
    if mask is None:
        return values.flatten(1).mean(1)
    # Not values * mask: outside the mask there may be NaN.
    inside = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return inside.flatten(1).sum(1) / mask.flatten(1).sum(1)


def to_double(x: Tensor) -> Tensor:
    """The tensor in double precision: sums over a million pixels lose four digits in single."""
    return x.to(torch.complex128) if x.is_complex() else x.to(torch.float64)


def like(value: Tensor, x: Tensor) -> Tensor:
    """The value in the real precision of `x`, or in single where `x` holds whole numbers."""
    kind = x.real.dtype if x.is_complex() else x.dtype
    return value.to(kind if kind.is_floating_point else torch.float32)


def _mean_square(x: Tensor, reference: Tensor, mask: Tensor | None, border: int) -> Tensor:
    check_pair(x, reference)
    error, mask = region((to_double(x) - to_double(reference)).abs().square(), mask, border)
    return mean(error, mask)


def _local_mean(x: Tensor) -> Tensor:
    """The Gaussian mean about every pixel whose window lies inside, one axis of space after the other."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = weights / weights.sum()
    for axis in range(2, x.ndim):
        x = x.unfold(axis, 2 * _RADIUS + 1, 1) @ weights
    return x


def _binary(x: Tensor, name: str) -> Tensor:
    if x.dtype == torch.bool:
        return x
    if x.is_complex() or not bool(((x == 0) | (x == 1)).all()):
        raise InputError(
            f"the {name} holds other values than 0 and 1; threshold it first, for example with "
            "otsu_segmentation"
        )
    return x == 1
