"""The structural similarity index (SSIM)."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.region import check_pair, like, mean, region, to_double

_RADIUS = 5
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


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


def _local_mean(x: Tensor) -> Tensor:
    """The Gaussian mean about every pixel whose window lies inside, one axis of space after the other."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = weights / weights.sum()
    for axis in range(2, x.ndim):
        x = x.unfold(axis, 2 * _RADIUS + 1, 1) @ weights
    return x
