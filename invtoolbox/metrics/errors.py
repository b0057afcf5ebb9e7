"""Errors of an image against a reference, pixel by pixel.

All take ``x`` and ``reference`` of shape ``(batch, channel, *space)`` (one reference may serve a whole
batch), real or complex, and return ``(batch,)``. Sums run over channels and space, in double precision. A
boolean ``mask`` says which pixels count (true), and ``border`` leaves out so many at every end of every axis
of space. Gradients flow through.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.region import check_pair, like, mean, region, to_double


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


def _mean_square(x: Tensor, reference: Tensor, mask: Tensor | None, border: int) -> Tensor:
    check_pair(x, reference)
    error, mask = region((to_double(x) - to_double(reference)).abs().square(), mask, border)
    return mean(error, mask)
