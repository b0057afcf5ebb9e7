"""Metrics of a registration: its Jacobian determinant, folding, and the overlap of segmentations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items
from invtoolbox.errors import InputError


def jacobian_determinant(displacement: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Compute the Jacobian determinant of ``p + u(p)`` by central differences, ``(batch, *space)``.

    It is the local change of volume: 1 if volumes are kept, below 0 where the image folds over.

    Args:
        displacement: the field u, ``(batch, 2 or 3, *space)``; component k is along axis k.
        spacing: distance of neighbours along every axis; 1 by default.

    >>> u = torch.zeros(1, 2, 3, 3)
    >>> u[:, 0] = 0.5 * torch.arange(3.0).view(3, 1)  # stretched by half along the rows
    >>> float(jacobian_determinant(u).mean())
    1.5
    """
    dimensions = displacement.ndim - 2
    if dimensions not in (2, 3) or displacement.shape[1] != dimensions:
        raise InputError(
            "a displacement is (batch, 2, rows, columns) or (batch, 3, slices, rows, columns), got "
            f"{tuple(displacement.shape)}"
        )
    lengths = [float(h) for h in ((1.0,) * dimensions if spacing is None else spacing)]
    if len(lengths) != dimensions:
        raise InputError(f"spacing has {len(lengths)} lengths, and the image {dimensions} axes")
    rows = []
    for k in range(dimensions):
        slopes = [
            torch.gradient(displacement[:, k], spacing=h, dim=j + 1)[0]
            if displacement.shape[j + 2] > 1
            else torch.zeros_like(displacement[:, k])
            for j, h in enumerate(lengths)
        ]
        slopes[k] = slopes[k] + 1
        rows.append(slopes)
    if dimensions == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def folding(displacement: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Compute the share of pixels whose Jacobian determinant is not positive, ``(batch,)``.

    Args:
        displacement: the field, ``(batch, 2 or 3, *space)``.
        spacing: distance of neighbours along every axis; 1 by default.

    >>> folding(torch.zeros(2, 2, 4, 4))
    tensor([0., 0.])
    """
    folded = jacobian_determinant(displacement, spacing) <= 0
    return mean_items(folded.to(displacement.dtype))


def jacobian_statistics(jacobian: Tensor) -> dict[str, float]:
    """Compute the extremes of a Jacobian determinant and the spread of its logarithm.

    Args:
        jacobian: determinant, ``(*space)``. The logarithm is of the pixels that do not fold.

    Returns:
        "least jacobian", "largest jacobian", and "log-jacobian deviation", the standard deviation.

    >>> jacobian_statistics(torch.tensor([0.5, 1.0, 2.0]))["log-jacobian deviation"]
    0.5659...
    """
    positive = jacobian[jacobian > 0].double()
    return {
        "least jacobian": float(jacobian.min()),
        "largest jacobian": float(jacobian.max()),
        "log-jacobian deviation": float(positive.log().std(correction=0)),
    }


def target_registration_error(
    transform: Callable[[Tensor], Tensor], moving: Tensor, fixed: Tensor
) -> Tensor:
    """Compute the distance ``|T(p) - q|`` of landmarks after a registration, ``(N,)``.

    Landmarks must not have taken part in the registration.

    Args:
        transform: map from points of the fixed image to points of the moving one.
        moving: landmarks q in the moving image, ``(N, d)``.
        fixed: the same landmarks p in the fixed image, ``(N, d)``.

    >>> target_registration_error(lambda p: p + 1, torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([1.4142])
    """
    if moving.ndim != 2 or moving.shape != fixed.shape:
        raise InputError(
            f"landmarks are two arrays (N, d) of the same points, got {tuple(moving.shape)} and "
            f"{tuple(fixed.shape)}"
        )
    return (transform(fixed) - moving).norm(dim=-1)


def dice(segmentation: Tensor, reference: Tensor, label: int = 1) -> Tensor:
    """Compute the Dice coefficient ``2 |A and B| / (|A| + |B|)`` of a label, ``(batch,)``.

    It is NaN if neither image holds the label. Regions overlap well long before their points match,
    so it does not tell one displacement of the inside from another.

    Args:
        segmentation: labels or booleans, ``(batch, channel, *space)``.
        reference: labels or booleans of the same shape.
        label: the label that counts.

    >>> dice(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 0]]]))
    tensor([0.5000])
    """
    a, b = _regions(segmentation, reference, label)
    both, sizes = (a & b).sum(1), a.sum(1) + b.sum(1)
    return 2 * both / sizes


def hausdorff(
    segmentation: Tensor,
    reference: Tensor,
    spacing: Sequence[float] | None = None,
    label: int = 1,
    percentile: float = 100.0,
) -> Tensor:
    """Compute the Hausdorff distance of the borders of a label, ``(batch,)``.

    It is the largest distance of a border pixel of either region to the border of the other one, in
    the unit of the spacing; NaN if a region is empty.

    Args:
        segmentation: labels or booleans, ``(batch, channel, *space)``.
        reference: labels or booleans of the same shape.
        spacing: distance of neighbours along every axis; 1 by default.
        label: the label that counts.
        percentile: percentile of the distances in place of the largest; 95 is usual.

    >>> a, b = torch.zeros(1, 1, 5, 9).bool(), torch.zeros(1, 1, 5, 9).bool()
    >>> a[..., 1:4, 1:4], b[..., 1:4, 3:6] = True, True
    >>> hausdorff(a, b)
    tensor([2.])
    """
    from scipy import ndimage

    _regions(segmentation, reference, label)
    largest = []
    for pair in zip(segmentation, reference):
        masks = [(labels == label).any(0).cpu().numpy() for labels in pair]
        if not all(mask.any() for mask in masks):
            largest.append(float("nan"))
            continue
        borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        to_border = [ndimage.distance_transform_edt(~b, sampling=spacing) for b in borders]
        distances = np.concatenate([to_border[1][borders[0]], to_border[0][borders[1]]])
        largest.append(float(np.percentile(distances, percentile)))
    return torch.tensor(largest, device=segmentation.device)


def _regions(segmentation: Tensor, reference: Tensor, label: int) -> tuple[Tensor, Tensor]:
    if segmentation.shape != reference.shape:
        raise InputError(
            f"segmentations differ in shape: {tuple(segmentation.shape)} and "
            f"{tuple(reference.shape)}"
        )
    return (segmentation == label).flatten(1), (reference == label).flatten(1)
