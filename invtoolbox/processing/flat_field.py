"""Correction by flat and dark field, and the logarithm, from counts to line integrals.

Every line integral is defined, and rays without a usable reading are reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class LineIntegrals:
    """Line integrals of the attenuation, and a mask of those that were measured.

    Attributes:
        y: line integrals ``-log(transmission)``, without unit, finite everywhere, of the shape of
            the counts.
        usable: boolean mask of the rays whose transmission has a logarithm; ``y`` of the other rays
            is filled in.
        starved: number of rays per item without a count above the dark field, ``(batch,)``.
        dead: number of rays per item that hit a detector cell whose flat field is not above its
            dark field, ``(batch,)``.
    """

    y: Tensor
    usable: Tensor
    starved: Tensor
    dead: Tensor

    @property
    def weights(self) -> Tensor:
        """Weights for ``LeastSquares(weights=...)``: 1 for usable rays, 0 for the others.

        Values that are filled in improve the appearance and FBP, but they have no weight in a fit.
        """
        return self.usable.to(self.y.dtype)


def transmission(counts: Tensor, flat: Tensor | float, dark: Tensor | float = 0.0) -> Tensor:
    """Compute the transmission ``(counts - dark) / (flat - dark)``, without unit.

    It is 0 in cells whose flat field is not above the dark field.

    Args:
        counts: detector counts ``(batch, channel, view, *detector)``.
        flat: counts of the open beam, in the same unit, broadcast against `counts`. For frames
            ``(frames, cell)`` it is their mean ``frames.mean(0)``, and
            ``frames.mean(0)[:, None, None]`` if detector rows are the batch.
        dark: counts without beam, in the same unit, broadcast against `counts`.

    >>> transmission(torch.tensor([[[[60.0, 35.0]]]]), flat=torch.tensor([110.0, 10.0]), dark=10.0)
    tensor([[[[0.5000, 0.0000]]]])
    """
    above = _beam(counts, flat, dark)
    alive, dark = above > 0, torch.as_tensor(dark, dtype=above.dtype, device=counts.device)
    return torch.where(alive, (counts - dark) / torch.where(alive, above, 1), 0)


def line_integrals(
    counts: Tensor,
    flat: Tensor | float,
    dark: Tensor | float = 0.0,
    floor: float = 0.0,
    largest_unusable: float = 0.1,
) -> LineIntegrals:
    """Compute the line integrals ``-log((counts - dark) / (flat - dark))``, without unit.

    Two kinds of rays have no logarithm. A ray on a dead cell (the flat field is not above the dark
    field) is interpolated along the detector from the usable neighbours of its view. A starved ray
    (no count above the dark field) is set to the largest line integral of its item; its true line
    integral is not smaller. Both have weight 0, and the result reports the number of both.

    Args:
        counts: detector counts ``(batch, channel, view, *detector)``.
        flat: counts of the open beam, as in `transmission`.
        dark: counts without beam, as in `transmission`.
        floor: largest transmission that counts as starved, because it carries no information.
        largest_unusable: largest share of unusable rays in an item; a larger share is an error of
            the data, not a fault of single rays.

    Raises:
        InputError: if counts are not finite, or if an item has too many unusable rays.

    >>> counts = torch.tensor([[[[50.0, 0.0, 25.0]]]])
    >>> result = line_integrals(counts, flat=100.0, largest_unusable=0.5)
    >>> result.y.round(decimals=3), result.starved, result.weights
    (tensor([[[[0.6930, 1.3860, 1.3860]]]]), tensor([1]), tensor([[[[1., 0., 1.]]]]))
    """
    finite = torch.isfinite(counts)
    if not counts.numel():
        raise InputError(f"line_integrals takes at least one count, got {tuple(counts.shape)}")
    if not bool(finite.all()):
        place = tuple((~finite).nonzero()[0].tolist())
        raise InputError(
            f"{int((~finite).sum())} of {counts.numel()} counts are NaN or infinite, the first at "
            f"index {place}; repair them"
        )
    counts = counts if counts.is_floating_point() else counts.to(torch.float32)
    passed = transmission(counts, flat, dark)
    alive = (_beam(counts, flat, dark) > 0).expand_as(counts)
    usable = alive & (passed > floor)
    starved, dead = (alive & ~usable).flatten(1).sum(1), (~alive).flatten(1).sum(1)
    share = (starved + dead) / max(1, counts[0].numel())
    if bool((share > largest_unusable).any()):
        k = int(share.argmax())
        raise InputError(
            f"{float(share[k]):.1%} of the rays of item {k} are unusable ({int(starved[k])} "
            f"starved, {int(dead[k])} on dead cells); check that flat and dark field belong to the "
            "data and are not swapped, or raise largest_unusable"
        )
    y = -torch.where(usable, passed, 1).log()
    most = torch.where(usable, y, -torch.inf).flatten(1).amax(1)
    most = torch.where(most.isfinite(), most, 0).view(-1, *[1] * (y.ndim - 1))
    y = torch.where(alive, torch.where(usable, y, most), interpolate(y, usable))
    return LineIntegrals(y, usable, starved, dead)


def photon_weights(
    counts: Tensor, dark: Tensor | float = 0.0, electronic_noise: float = 0.0
) -> Tensor:
    """Compute weights of line integrals from their variance, without unit, with mean 1 per item.

    The weight is ``counts^2 / (counts + noise^2)`` before the division by its mean, the inverse of
    the variance. The variance of ``-log(I)`` is ``1 / I`` for ``I`` photons, and
    ``(I + s^2) / I^2`` with electronic noise of ``s`` photons (Thibault et al., SPIE 6065, 2006).
    If rays are unusable, multiply by `LineIntegrals.weights`.

    Args:
        counts: number of photons ``(batch, channel, view, *detector)``: detector counts divided by
            the gain.
        dark: number of photons that the detector reports without beam.
        electronic_noise: standard deviation of the electronic noise, in photons.

    >>> photon_weights(torch.tensor([[[[30.0, 10.0, 0.0]]]]))
    tensor([[[[2.2500, 0.7500, 0.0000]]]])
    """
    photons = (counts - dark).clamp_min(0)
    weights = photons.square() / (photons + electronic_noise**2).clamp_min(
        torch.finfo(photons.dtype).tiny
    )
    mean = weights.flatten(1).mean(1).view(-1, *[1] * (weights.ndim - 1))
    return weights / torch.where(mean > 0, mean, 1)


def correct_air(sinogram: Tensor, left: int, right: int) -> Tensor:
    """Subtract the line integrals of the air next to the object in every view.

    This removes drifts of the beam. The correction is linear in the cell between the means of the
    two ends, or constant if only one end is used.

    Args:
        sinogram: line integrals ``(batch, channel, view, cell)``, without unit.
        left: number of cells at the first end that see only air; 0 uses the other end alone.
        right: number of cells at the last end that see only air; 0 uses the other end alone.

    >>> correct_air(torch.tensor([[[[0.25, 1.25, 0.25]]]]), left=1, right=1)
    tensor([[[[0., 1., 0.]]]])
    """
    cells = sinogram.shape[-1]
    if min(left, right) < 0 or left + right < 1 or left + right > cells:
        raise InputError(
            f"correct_air takes the numbers of air cells at both ends, together 1 to {cells}, got "
            f"{left} and {right}"
        )
    ends = [
        sinogram[..., end].mean(-1, keepdim=True)
        for end in (slice(0, left), slice(cells - right, cells))
    ]
    if not left or not right:
        return sinogram - ends[0 if left else 1]
    place = [(left - 1) / 2, cells - 1 - (right - 1) / 2]
    t = (torch.arange(cells, dtype=sinogram.dtype, device=sinogram.device) - place[0]) / (
        place[1] - place[0]
    )
    return sinogram - torch.lerp(
        ends[0].expand_as(sinogram), ends[1].expand_as(sinogram), t.expand_as(sinogram)
    )


def interpolate(values: Tensor, known: Tensor) -> Tensor:
    """Replace unknown values by linear interpolation along the last axis.

    The interpolation uses the nearest known values. It is constant beyond the first and the last
    known value, and 0 if no value is known.

    >>> known = torch.tensor([[False, True, False, False, True]])
    >>> interpolate(torch.tensor([[9.0, 1.0, 0.0, 0.0, 4.0]]), known)
    tensor([[1., 1., 2., 3., 4.]])
    """
    n = values.shape[-1]
    place = torch.arange(n, device=values.device).expand(values.shape)
    left = torch.where(known, place, -1).cummax(-1).values
    right = torch.where(known, place, n).flip(-1).cummin(-1).values.flip(-1)
    left, right = torch.where(left < 0, right, left), torch.where(right >= n, left, right)
    nowhere = left >= n
    left, right = left.clamp(0, n - 1), right.clamp(0, n - 1)
    share = (place - left) / (right - left).clamp_min(1).to(values.dtype)
    filled = values.gather(-1, left) * (1 - share) + values.gather(-1, right) * share
    return torch.where(
        known, values, torch.where(nowhere | ~known.any(-1, keepdim=True), 0, filled)
    )


def _beam(counts: Tensor, flat: Tensor | float, dark: Tensor | float) -> Tensor:
    dtype = counts.dtype if counts.is_floating_point() else torch.float32
    above = torch.as_tensor(flat, dtype=dtype, device=counts.device) - torch.as_tensor(
        dark, dtype=dtype, device=counts.device
    )
    try:
        return above.expand(torch.broadcast_shapes(above.shape, counts.shape)).expand_as(counts)
    except RuntimeError:
        raise InputError(
            f"the flat or dark field has shape {tuple(above.shape)}, which does not broadcast "
            f"against counts of {tuple(counts.shape)}; average its frames first, frames.mean(0)"
        ) from None
