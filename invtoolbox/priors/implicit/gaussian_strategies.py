"""Strategies by which `priors.Gaussians` splits, copies, moves and removes its Gaussians.

Rows of opacity 0 fill up the scenes of a batch that have fewer Gaussians than others. A row that
dies stays until the next adaptation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.rotations import rotation_matrices
from invtoolbox.priors.adaptive import Intermediate, Transfer

#: Share of the last step of the adaptation at which a number that grows evenly is reached.
FULL = 0.6
#: Logit that stands for an opacity of 0: finite, and far below the logit of any rendered Gaussian.
DEAD = -20.0
#: Largest number of Gaussians that share one in the sum of `shared_opacity`; beyond, it cancels.
_LARGEST_SHARE = 51


@dataclass(frozen=True)
class Strategy(ABC):
    """Base class of strategies; parameters are the leaves of `priors.Gaussians`, ``(B, N, ...)``.

    Args:
        start, stop: first and last step of the adaptation, both exclusive.
        every: number of steps between two adaptations.
        least_opacity: opacity below which a Gaussian has no use.
        most: largest number of Gaussians of a scene.
    """

    start: int = 500
    stop: int = 15_000
    every: int = 100
    least_opacity: float = 0.005
    most: int = 1_000_000

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "every", "most")
        check_range(self, "(0, 1)", "least_opacity")

    def adapts(self, iteration: int, scheduled: int | None = None) -> bool:
        """Whether to adapt after an iteration; ``scheduled`` is the step of a schedule by budget."""
        step = iteration if scheduled is None else scheduled
        return self.start < step < self.stop and iteration % self.every == 0

    def statistics(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def gather(
        self, statistics: dict[str, Tensor], info: dict[str, Intermediate]
    ) -> dict[str, Tensor]:
        return statistics

    @abstractmethod
    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
        extent: float,
    ) -> tuple[dict[str, Tensor], Transfer]:
        """See `AdaptivePrior.adapt`; ``extent`` is the size of the scene."""


@dataclass(frozen=True)
class DefaultStrategy(Strategy):
    """Adaptive density control of Kerbl et al. (2023, section 5), with the defaults of gsplat.

    A Gaussian whose position in the pictures has a large gradient, on average over the views that
    see it, is too small for what it represents. A small one is copied, a large one is replaced by
    two smaller ones drawn from it. Transparent Gaussians vanish. At intervals all are made nearly
    transparent, so that those without an influence on the pictures stay so.

    Args:
        start, stop, every, least_opacity, most: see `Strategy`.
        least_pull: mean norm of the gradient in the position, in units of half a picture, above
            which a Gaussian grows; for a misfit that is a mean over the pixels of a picture.
        small: largest size of a Gaussian that is copied instead of split, as a share of the scene's
            size.
        large: size above which Gaussians vanish once opacities have been reset, as a share of the
            scene's size.
        reset_every: number of steps between two resets of the opacities.
        absolute: whether the gradient is the sum over the pixels of absolute values (Ye et al.,
            "AbsGS", 2024), so that large Gaussians over fine detail, whose pixels pull in opposite
            directions, are split too. It needs ``GaussianRenderer(absgrad=True)``; the norms are
            larger, and the paper's ``least_pull`` is 4e-4.
    """

    least_pull: float = 2e-4
    small: float = 0.01
    large: float = 0.1
    reset_every: int = 3000
    absolute: bool = False

    def statistics(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        like = parameters["logit_opacities"]
        return {"pull": torch.zeros_like(like), "views": torch.zeros_like(like)}

    def gather(
        self, statistics: dict[str, Tensor], info: dict[str, Intermediate]
    ) -> dict[str, Tensor]:
        if "splats" not in info or info["splats"].gradient is None:
            raise InputError(
                "DefaultStrategy needs an operator that says where Gaussians are pulled: "
                "operators.GaussianRenderer with backend='own'; take MCMCStrategy for others"
            )
        if self.absolute and "absgrad" not in info:
            raise InputError(
                "DefaultStrategy(absolute=True) needs absolute gradients; create the operator with "
                "GaussianRenderer(absgrad=True)"
            )
        slope = info["absgrad" if self.absolute else "splats"].gradient
        size = info["size"].value
        assert slope is not None
        pull = (slope[..., :2] * (size.to(slope) / 2)).norm(dim=-1).sum(1)
        box = info["boxes"].value
        return {
            "pull": statistics["pull"] + pull,
            "views": statistics["views"] + (box[..., 0] < box[..., 1]).sum(1),
        }

    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
        extent: float,
    ) -> tuple[dict[str, Tensor], Transfer]:
        opacity = parameters["logit_opacities"].sigmoid()
        size = parameters["log_scales"].exp().amax(-1)
        keep = opacity >= self.least_opacity
        if iteration > self.reset_every:
            keep &= size <= self.large * extent
        pull = statistics["pull"] / statistics["views"].clamp_min(1)
        grow = keep & (pull > self.least_pull)
        grow = _best(grow, pull, self.most - keep.sum(1))
        copy, split = grow & (size <= self.small * extent), grow & (size > self.small * extent)
        rows = _list_rows(keep & ~split, copy, split, split)
        new, transfer = _pick(parameters, rows.source, rows.fresh)
        noise = _normal(2 * size.shape[1], generator, size).view(-1, 2, 3)
        shift = torch.where(
            rows.mask_index[..., None] < 2,
            0.0,
            noise[rows.source.clamp_min(0), (rows.mask_index - 2).clamp_min(0)],
        )
        turned = (
            rotation_matrices(new["quats"]) @ (new["log_scales"].exp() * shift)[..., None]
        ).squeeze(-1)
        new["means"] = new["means"] + turned
        new["log_scales"] = torch.where(
            (rows.mask_index >= 2)[..., None],
            new["log_scales"] - torch.tensor(1.6).log(),
            new["log_scales"],
        )
        return self._reset(new, transfer) if iteration % self.reset_every == 0 else (new, transfer)

    def _reset(
        self, parameters: dict[str, Tensor], transfer: Transfer
    ) -> tuple[dict[str, Tensor], Transfer]:
        most = torch.logit(torch.tensor(2 * self.least_opacity, dtype=torch.float64)).item()

        def and_forget(name: str, tensor: Tensor) -> Tensor:
            carried = transfer(name, tensor)
            return torch.zeros_like(carried) if name == "logit_opacities" else carried

        return {
            **parameters,
            "logit_opacities": parameters["logit_opacities"].clamp_max(most),
        }, and_forget


@dataclass(frozen=True)
class MCMCStrategy(Strategy):
    """Gaussians as samples of a Markov chain (Kheradmand et al., NeurIPS 2024).

    Source: "3D Gaussian splatting as Markov chain Monte Carlo". Dead Gaussians move to living ones,
    drawn by opacity, and share their contribution, so that the picture hardly changes (equations 9
    and 10). The number grows by a share at a time up to ``most``. Noise along their covariances
    explores; it is stronger for more transparent Gaussians. `priors.Gaussians` adds the means of
    opacities and scales to the objective.

    Args:
        start, stop, every, least_opacity, most: see `Strategy`.
        growth: relative growth of the number of Gaussians per adaptation.
        first: number of Gaussians from which the number grows at most evenly, in its logarithm, so
            that ``most`` is reached at `FULL` of the last step; None for no such bound.
        noise: strength of the noise, in steps of the means.
        opacity_weight, scale_weight: weights of the means of opacities and scales, per view.
    """

    stop: int = 25_000
    growth: float = 0.05
    first: int | None = None
    noise: float = 5e5
    opacity_weight: float = 0.01
    scale_weight: float = 0.01

    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
        extent: float,
    ) -> tuple[dict[str, Tensor], Transfer]:
        logits = parameters["logit_opacities"]
        opacity = logits.sigmoid()
        filled = logits > DEAD + 1  # rows that are no mere filling
        alive = opacity > self.least_opacity
        count = filled.sum(1)
        grown = self._grow(count, iteration)
        # The number grows with the number before, so the one from all rows bounds that of every
        # item, and a GPU need not wait for it.
        rows = int(self._grow(torch.tensor(logits.shape[1]), iteration))
        # Rows in the order in which they came: filling behind, so that new ones take its place.
        order = (~filled).long().sort(dim=1, stable=True).indices[:, :rows]
        source = torch.full((len(count), rows), -1, dtype=torch.long, device=logits.device)
        source[:, : order.shape[1]] = order
        place = torch.arange(rows, device=logits.device)
        source = torch.where(place < count[:, None], source, -1)
        living = (source >= 0) & alive.gather(1, source.clamp_min(0))
        homeless = (place < grown[:, None]) & ~living
        # Every row draws, by the same numbers in all items, so that an item's draws do not depend
        # on the number of others that need one.
        weight = torch.where(alive, opacity, 0.0).double().cumsum(1)
        draw = _uniform(rows, generator, logits)
        home = torch.searchsorted(weight, draw * weight[:, -1:], right=True).clamp_max(
            opacity.shape[1] - 1
        )
        homeless &= weight[:, -1:] > 0
        source = torch.where(homeless, home, source)
        shares = torch.ones_like(opacity).scatter_add(1, home, homeless.to(opacity))
        new, transfer = _pick(
            parameters, source, homeless | (shares.gather(1, source.clamp_min(0)) > 1)
        )
        together = torch.where(source >= 0, shares.gather(1, source.clamp_min(0)), 1.0)
        shared, factor = shared_opacity(new["logit_opacities"].sigmoid(), together.long())
        shared = shared.clamp(self.least_opacity, 1 - 1e-6)
        divided = together > 1
        new["logit_opacities"] = torch.where(divided, torch.logit(shared), new["logit_opacities"])
        new["log_scales"] = torch.where(
            divided[..., None], new["log_scales"] + factor.log()[..., None], new["log_scales"]
        )
        return new, transfer

    def _grow(self, count: Tensor, iteration: int) -> Tensor:
        """Return the numbers of Gaussians after an adaptation, for the numbers before it."""
        target = (count * (1 + self.growth)).long()
        if self.first is not None:
            done = min(1.0, (iteration - self.start) / (FULL * self.stop - self.start))
            target = target.clamp_max(round(self.first * (self.most / self.first) ** done))
        return target.clamp_max(self.most).maximum(count)

    def perturb(self, parameters: dict[str, Tensor], rate: float, generator: Generator) -> Tensor:
        """The means with noise; ``rate`` is the length of their steps."""
        opacity = parameters["logit_opacities"].sigmoid()
        noise = _normal(opacity.shape[1], generator, opacity)
        # Of an opacity of 0.2, the strength is 4e-9 of the whole.
        moves = (opacity < 0.2) & (parameters["logit_opacities"] > DEAD + 1)
        strength = self.noise * rate * torch.sigmoid(100 * (0.005 - opacity))
        quats, log_scales = parameters["quats"], parameters["log_scales"]
        if opacity.is_cuda:  # computing the step of all is faster than waiting for their number
            step = _along_axes(quats, log_scales, strength[..., None] * noise)
            return parameters["means"] + torch.where(moves[..., None], step, 0.0)
        item, row = moves.nonzero(as_tuple=True)
        step = _along_axes(
            quats[item, row], log_scales[item, row], strength[item, row, None] * noise[row]
        )
        return parameters["means"].index_put((item, row), step, accumulate=True)


def _along_axes(quats: Tensor, log_scales: Tensor, vectors: Tensor) -> Tensor:
    """Multiply vectors by the covariances ``R S^2 R^T`` of Gaussians."""
    real, axis = normalize(quats, dim=-1).split([1, 3], -1)

    def turn(v: Tensor, sign: int) -> Tensor:
        # Rodrigues' formula for a unit quaternion: v + 2 w (q x v) + 2 q x (q x v).
        across = 2 * torch.linalg.cross(axis, v)
        return v + sign * real * across + torch.linalg.cross(axis, across)

    return turn((2 * log_scales).exp() * turn(vectors, -1), 1)


def shared_opacity(opacity: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the opacity and the scale factor of ``count`` Gaussians that replace one.

    .. math:: o' = 1 - (1 - o)^{1/n}, \qquad
              s' / s = o \Big/ \sum_{i=1}^n \sum_{k=0}^{i-1}
              \binom{i-1}{k} \frac{(-1)^k o'^{k+1}}{\sqrt{k+1}}

    >>> shared_opacity(torch.tensor([0.75]), torch.tensor([2]))
    (tensor([0.5000]), tensor([0.9111]))
    """
    count = count.clamp(1, _LARGEST_SHARE)
    o = opacity.double()
    shared = 1 - (1 - o) ** (1 / count)
    # Terms beyond n are 0. A GPU adds them, because its host would wait for the largest n.
    largest = int(count.max()) if count.numel() and not o.is_cuda else _LARGEST_SHARE
    total = torch.zeros_like(o)
    # sum over i from k + 1 to n of C(i - 1, k) = C(n, k + 1), at first C(n, 1) = n.
    choices = count.double()
    for k in range(largest):
        total += (-1) ** k * choices * shared ** (k + 1) / (k + 1) ** 0.5
        # C(n, k + 2) = C(n, k + 1) (n - k - 1) / (k + 2), integers below 2^53: exact in float64.
        choices = choices * (count - (k + 1)) / (k + 2)
    factor = torch.where(total > 0, o / total.clamp_min(1e-30), torch.ones_like(o))
    return shared.to(opacity), factor.clamp(0.05, 1.0).to(opacity)


@dataclass(frozen=True)
class _Rows:
    """New rows, ``(B, N)``.

    Attributes:
        source: row from which each comes, -1 for filling.
        mask_index: index of the mask to which it belongs.
        fresh: whether its averages start anew.
    """

    source: Tensor
    mask_index: Tensor
    fresh: Tensor


def _list_rows(*masks: Tensor) -> _Rows:
    """List the rows of the masks, one mask after the other, filled up to the longest item."""
    joined = torch.cat(masks, 1)
    rows = int(joined.sum(1).max()) if joined.numel() else 0
    order = (~joined).long().sort(dim=1, stable=True).indices[:, : max(rows, 1)]
    in_mask = joined.gather(1, order)
    count = masks[0].shape[1]
    source = torch.where(in_mask, order % count, -1)
    mask_index = torch.where(in_mask, torch.div(order, count, rounding_mode="floor"), 0)
    return _Rows(source, mask_index, mask_index > 0)


def _pick(
    parameters: dict[str, Tensor], source: Tensor, fresh: Tensor
) -> tuple[dict[str, Tensor], Transfer]:
    """Return the leaves of the rows ``source`` and their transfer; rows of source -1 are filling.

    The transfer moves averages along; they are 0 for fresh rows.
    """
    new = {name: _gather(leaf, source) for name, leaf in parameters.items()}
    empty = source < 0
    new["logit_opacities"] = torch.where(empty, DEAD, new["logit_opacities"])
    keep = ~(empty | fresh)

    def transfer(name: str, tensor: Tensor) -> Tensor:
        carried = _gather(tensor, source)
        return carried * keep.view(*keep.shape, *[1] * (carried.ndim - 2))

    return new, transfer


def _gather(leaf: Tensor, source: Tensor) -> Tensor:
    index = source.clamp_min(0).view(*source.shape, *[1] * (leaf.ndim - 2))
    return leaf.gather(1, index.expand(*source.shape, *leaf.shape[2:]))


def _best(mask: Tensor, score: Tensor, room: Tensor) -> Tensor:
    """Return the rows of the mask with the highest scores, up to ``room`` of each item."""
    rank = (
        torch.where(mask, score, -1.0).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    )
    return mask & (rank < room.clamp_min(0)[:, None])


# Draws for more rows begin with the draws for fewer, so that an item's draws do not depend on the
# batch. torch draws normal numbers in blocks of sixteen.
def _normal(rows: int, generator: Generator, like: Tensor) -> Tensor:
    padded = (rows + 255) // 256 * 256
    return torch.randn(padded, 3, generator=generator, device=generator.device)[:rows].to(like)


def _uniform(rows: int, generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(rows, generator=generator, device=generator.device, dtype=torch.float64).to(
        like.device
    )
