"""Two-class segmentation: Otsu's threshold, and the agreement of two segmentations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.region import check_pair, region


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


def _binary(x: Tensor, name: str) -> Tensor:
    if x.dtype == torch.bool:
        return x
    if x.is_complex() or not bool(((x == 0) | (x == 1)).all()):
        raise InputError(
            f"the {name} holds other values than 0 and 1; threshold it first, for example with "
            "otsu_segmentation"
        )
    return x == 1
