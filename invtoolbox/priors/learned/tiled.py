"""A denoiser of large images by overlapping tiles, also of a volume that ranks hold in slabs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.ranks import current_ranks
from invtoolbox.errors import InputError
from invtoolbox.geometry.tiles import cut
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.settings import replace


class Tiled(ExplicitPrior):
    """A denoiser that is applied to overlapping tiles, so that its memory is the memory of a tile.

    Every tile is denoised together with a margin of its neighbours, and its inner part is kept. The
    result equals the result of the whole image, to rounding, if the margin is at least the radius of the
    receptive field, the sum of ``(kernel - 1) / 2`` over the layers of a convolutional network.
    The volume of a run on several ranks (`invtoolbox.distributed`) gets the margin of its slab from
    the neighbouring ranks; every rank needs at least that number of slices.

    Args:
        denoiser: prior with the method ``denoise``, such as `Denoiser`.
        tile: largest number of pixels that a tile determines, per axis of space or one for all.
        margin: width of the margin, per axis of space or one for all.

    Raises:
        InputError: a prior that is no denoiser, a tile without pixels, or a negative margin.

    >>> from invtoolbox.priors import Denoiser
    >>> mean = Denoiser(lambda x: torch.nn.functional.avg_pool1d(x, 3, 1, 1), sigma=0.1)
    >>> x = torch.rand(1, 1, 20)
    >>> torch.equal(Tiled(mean, tile=6, margin=1).denoise(x, 0.1), mean.denoise(x, 0.1))
    True
    """

    is_convex = None
    fits_slabs = True
    item_fields: ClassVar[tuple[str, ...]] = ("denoiser",)

    def __init__(
        self,
        denoiser: ExplicitPrior,
        tile: int | Sequence[int] = 64,
        margin: int | Sequence[int] = 16,
    ) -> None:
        if not isinstance(denoiser, ExplicitPrior) or "denoise" not in denoiser.offers:
            raise InputError(f"Tiled takes a prior with the method denoise, got {denoiser!r}")
        if denoiser.offers & {"energy", "split"}:
            raise InputError(
                f"Tiled takes a denoiser without an energy, and {denoiser!r} has one; use it as it is"
            )
        tiles, margins = ((n,) if isinstance(n, int) else tuple(n) for n in (tile, margin))
        check_range(self, "[1, inf)", tile=min(tiles, default=0))
        check_range(self, "[0, inf)", margin=min(margins, default=-1))
        self.denoiser, self.tile, self.margin = denoiser, tile, margin

    @property
    def sigma(self) -> Any:  # type: ignore[override]
        """Noise level that the denoiser removes at weight and step 1."""
        return self.denoiser.sigma

    @property
    def fixed_level(self) -> bool:  # type: ignore[override]
        """Whether the noise level has no influence."""
        return self.denoiser.fixed_level

    def usual_weight(self, variance: Tensor, denoiser_strength: float) -> tuple[Tensor, str] | None:
        return self.denoiser.usual_weight(variance, denoiser_strength)

    def prepare(self, problem: Problem, solve: Any) -> Tiled:
        return replace(self, denoiser=self.denoiser.prepare(problem, solve))

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        margin = [self.margin] * (x.ndim - 2) if isinstance(self.margin, int) else self.margin
        if len(margin) != x.ndim - 2:
            raise InputError(
                f"the margin of {self!r} has {len(margin)} numbers, and the image {x.ndim - 2} axes; "
                "give one number, or one per axis"
            )
        before, after = _halo(x, margin[0])
        last, reach = x.shape[2], 0 if before is None else margin[0]
        clean = torch.empty_like(x)
        for tile in cut(x.shape[2:], self.tile, margin):
            # Along the slices the margin may reach into the planes of other ranks.
            planes = tile.kept[0]
            low, high = planes.start - margin[0], planes.stop + margin[0]
            pieces = [x[:, :, *tile.seen]]
            if before is not None and low < 0:
                pieces.insert(0, before[:, :, low:, *tile.seen[1:]])
            if after is not None and high > last:
                pieces.append(after[:, :, : high - last, *tile.seen[1:]])
            start = planes.start - max(low, -reach)
            piece = self.denoiser.denoise(torch.cat(pieces, 2), sigma)
            inner = slice(start, start + planes.stop - planes.start)
            clean[:, :, *tile.kept] = piece[:, :, inner, *tile.inner[1:]]
        return clean

    def __repr__(self) -> str:
        return f"Tiled({self.denoiser!r}, tile={self.tile}, margin={self.margin})"


def _halo(x: Tensor, width: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the planes of the neighbouring slabs in front of a slab and behind it, if there are any.

    Args:
        x: slab of this rank, or the whole image if there are no ranks.
        width: number of planes of a neighbour.
    """
    ranks = current_ranks()
    if ranks is None or width == 0:
        return None, None
    thinnest = min(ranks.gather(x.shape[2]))
    if thinnest < width:
        raise InputError(
            f"the margin of {width} slices is wider than the thinnest slab, which has {thinnest}; "
            "use fewer ranks, or a smaller margin"
        )
    before = ranks.shift(x.narrow(2, x.shape[2] - width, width), 1)
    return before, ranks.shift(x.narrow(2, 0, width), -1)
