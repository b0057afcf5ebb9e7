"""Flat and dark field, and the logarithm: from counts to line integrals, with nothing left undefined and nothing hidden."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class LineIntegrals:
    """Line integrals of the attenuation, and which of them were measured.

    Attributes:
        y: ``-log(transmission)``, without unit, finite everywhere, shaped like the counts.
        usable: True where there was a transmission to take the logarithm of; elsewhere ``y`` is filled in.
        starved: how many rays of each item arrived with no count above the dark field, ``(batch,)``.
        dead: how many of each item hit a detector cell whose flat field is not above its dark field, ``(batch,)``.
    """

    y: Tensor
    usable: Tensor
    starved: Tensor
    dead: Tensor

    @property
    def weights(self) -> Tensor:
        """1 where usable, else 0, for ``LeastSquares(weights=...)``: what is filled in pleases the eye and FBP, and counts for nothing."""
        return self.usable.to(self.y.dtype)


def transmission(counts: Tensor, flat: Tensor | float, dark: Tensor | float = 0.0) -> Tensor:
    """``(counts - dark) / (flat - dark)``, without unit, and 0 where the flat field is not above the dark field.

    Args:
        counts: detector counts ``(batch, channel, view, *detector)``.
        flat: counts of the open beam, in the same unit, broadcast against them: the mean over frames ``(frames, cell)`` is
            ``frames.mean(0)``, and ``frames.mean(0)[:, None, None]`` where detector rows are the batch.
        dark: counts without beam, likewise.

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
    """``-log((counts - dark) / (flat - dark))``, without unit, where that exists, and a report of where it does not.

    Two kinds of rays have no logarithm. What hits a dead cell (flat field not above dark field) is interpolated along the
    detector from the usable neighbours of its view; a starved ray (no count above the dark field) takes the largest
    line integral of its item, which it exceeds if anything. Both have weight 0.

    Args:
        counts, flat, dark: as in `transmission`.
        floor: transmissions up to this count as starved, because nothing can be learnt from them.
        largest_unusable: more than this share of unusable rays in an item is an error, not a fault of single rays.

    Raises:
        InputError: counts that are not finite, or too many unusable rays.

    >>> result = line_integrals(torch.tensor([[[[50.0, 0.0, 25.0]]]]), flat=100.0, largest_unusable=0.5)
    >>> result.y.round(decimals=3), result.starved, result.weights
    (tensor([[[[0.6930, 1.3860, 1.3860]]]]), tensor([1]), tensor([[[[1., 0., 1.]]]]))
    """
    finite = torch.isfinite(counts)
    if not bool(finite.all()):
        place = tuple((~finite).nonzero()[0].tolist())
        raise InputError(
            f"{int((~finite).sum())} of {counts.numel()} counts are NaN or infinite, the first at index {place}; repair them"
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
            f"{float(share[k]):.1%} of the rays of item {k} are unusable ({int(starved[k])} starved, {int(dead[k])} on "
            "dead cells); check that flat and dark field belong to the data and are not swapped, or raise largest_unusable"
        )
    y = -torch.where(usable, passed, 1).log()
    most = torch.where(usable, y, -torch.inf).flatten(1).amax(1)
    most = torch.where(most.isfinite(), most, 0).view(-1, *[1] * (y.ndim - 1))
    y = torch.where(alive, torch.where(usable, y, most), interpolated(y, usable))
    return LineIntegrals(y, usable, starved, dead)


def photon_weights(
    counts: Tensor, dark: Tensor | float = 0.0, electronic_noise: float = 0.0
) -> Tensor:
    """Weights of line integrals by their variance, without unit, with mean 1 in every item: ``counts^2 / (counts + noise^2)``.

    The variance of ``-log(I)`` is ``1 / I`` for I photons, and ``(I + s^2) / I^2`` with electronic noise of s photons (Thibault et
    al., SPIE 6065, 2006). Multiply by `LineIntegrals.weights` where rays are unusable.

    Args:
        counts: photons ``(batch, channel, view, *detector)``; detector counts over the gain.
        dark: what is seen without beam.
        electronic_noise: standard deviation in photons.

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
    """Line integrals minus those of the air beside the object, view by view: takes out drifts of the beam.

    Args:
        sinogram: ``(batch, channel, view, cell)``, without unit.
        left, right: how many cells at either end see nothing but air; between their two means the correction is linear in the
            cell. 0 on one side takes the other alone.

    >>> correct_air(torch.tensor([[[[0.25, 1.25, 0.25]]]]), left=1, right=1)
    tensor([[[[0., 1., 0.]]]])
    """
    cells = sinogram.shape[-1]
    if min(left, right) < 0 or left + right < 1 or left + right > cells:
        raise InputError(
            f"correct_air takes the air cells at either end, at least one in all of {cells}, got {left} and {right}"
        )
    ends = [
        sinogram[..., part].mean(-1, keepdim=True)
        for part in (slice(0, left), slice(cells - right, cells))
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


def interpolated(values: Tensor, known: Tensor) -> Tensor:
    """``values`` where known, elsewhere linear between the nearest known ones along the last axis; constant beyond, 0 without any.

    >>> interpolated(torch.tensor([[9.0, 1.0, 0.0, 0.0, 4.0]]), torch.tensor([[False, True, False, False, True]]))
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
            f"the flat or dark field has shape {tuple(above.shape)}, which does not broadcast against counts of "
            f"{tuple(counts.shape)}; average its frames first, frames.mean(0)"
        ) from None
