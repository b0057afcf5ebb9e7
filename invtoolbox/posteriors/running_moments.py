"""Running moments of a chain: mean, standard deviation and their errors, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from invtoolbox.core.pytrees import select_items
from invtoolbox.core.reductions import sum_items
from invtoolbox.posteriors.base import MomentPosterior


@dataclass
class Chain:
    """Sums over a chain, in blocks of equal length.

    A block is twice as long whenever all of them are full.

    Attributes:
        centre: reference point of the sums, so that a small spread about a large value is not lost,
            ``(batch, ...)``.
        sums, squares: sums of ``x - centre`` and of its square in every block,
            ``(batch, blocks, ...)``.
        kept: the last state of every block, ``(batch, blocks, ...)``.
        number: number of states so far, ``(batch,)``; the same for every item.
    """

    centre: Tensor
    sums: Tensor
    squares: Tensor
    kept: Tensor
    number: Tensor

    @classmethod
    def start(cls, x: Tensor, blocks: int) -> Chain:
        """Return a chain without states; ``blocks`` is even."""
        zeros = x.new_zeros(x.shape[0], blocks, *x.shape[1:])
        return cls(
            x.clone(),
            zeros,
            zeros.clone(),
            zeros.clone(),
            torch.zeros(x.shape[0], dtype=torch.float64, device=x.device),
        )

    def recenter(self, x: Tensor) -> Chain:
        """Return a chain without states about another centre."""
        return Chain(x.clone(), self.sums, self.squares, self.kept, self.number)

    def add(self, x: Tensor, number: int) -> bool:
        """Add the state with this number, counted from 1, in place.

        Returns whether it fills a block.
        """
        blocks = self.sums.shape[1]
        length = block_length(number, blocks)
        if number > 1 and length > block_length(number - 1, blocks):
            for sums in (self.sums, self.squares):
                sums[:, : blocks // 2] = sums[:, 0::2] + sums[:, 1::2]
                sums[:, blocks // 2 :] = 0
            self.kept[:, : blocks // 2] = self.kept[:, 1::2].clone()
        slot = (number - 1) // length
        away = x - self.centre
        self.sums[:, slot] += away
        self.squares[:, slot].addcmul_(away, away)
        self.kept[:, slot] = x
        self.number.fill_(number)
        return number % length == 0

    def full(self) -> tuple[int, int]:
        """Return the number of full blocks, and the number of states in each of them."""
        number = int(self.number[0])
        length = block_length(number, self.sums.shape[1])
        return number // length, length

    def mean(self) -> Tensor:
        """Return the mean of all states, ``(batch, ...)``; the centre before the first one."""
        return self.centre + self.sums.sum(1) / self._count()

    def std(self) -> Tensor:
        """Return the standard deviation of all states, ``(batch, ...)``."""
        return self._variance().sqrt()

    def mean_error(self) -> Tensor:
        """Return the Monte-Carlo standard error of `mean`, ``(batch, ...)``."""
        full, length = self.full()
        return _error_of_mean(self.sums[:, :full] / length)

    def std_error(self) -> Tensor:
        """Return the Monte-Carlo standard error of `std`, ``(batch, ...)``.

        It follows from the spread of the blocks' own second moments. The covariance of neighbours
        is added if it is positive, so that blocks shorter than the memory of the chain do not pass
        for independent ones.
        """
        full, length = self.full()
        mean = (self.sums.sum(1) / self._count()).unsqueeze(1)
        moments = (self.squares[:, :full] - 2 * mean * self.sums[:, :full]) / length
        return _error_of_mean(moments) / (2 * self.std()).clamp_min(torch.finfo(moments.dtype).tiny)

    def relative_error(self) -> Tensor:
        """Return the root mean square of `std_error` over the pixels, relative to `std`.

        Shape ``(batch,)``; infinite without two full blocks.
        """
        if self.full()[0] < 2:
            return torch.full_like(self.number, torch.inf).to(self.sums.dtype)
        spread = sum_items(self._variance())
        return (
            sum_items(self.std_error().square()) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
        ).sqrt()

    def effective_number(self) -> Tensor:
        """Return the number of independent states with the same error of the mean, ``(batch,)``.

        It is the total variance over the squared error of the mean.
        """
        return sum_items(self._variance()) / sum_items(self.mean_error().square())

    def _count(self) -> Tensor:
        return self.number.clamp_min(1).to(self.sums.dtype).view(-1, *[1] * (self.centre.ndim - 1))

    def _variance(self) -> Tensor:
        count = self._count()
        mean = self.sums.sum(1) / count
        return (
            (self.squares.sum(1) / count - mean.square()) * (count / (count - 1).clamp_min(1))
        ).clamp_min_(0)


def block_length(number: int, blocks: int) -> int:
    """Return the least power of two for which ``number`` states fit into the blocks.

    >>> [block_length(n, 4) for n in (1, 4, 5, 8, 9)]
    [1, 1, 2, 2, 4]
    """
    return 1 << (-(-number // blocks) - 1).bit_length()


def _error_of_mean(values: Tensor) -> Tensor:
    """Return the standard error of the mean over axis 1.

    Only neighbouring values may be correlated.
    """
    count = values.shape[1]
    away = values - values.mean(1, keepdim=True)
    variance = away.square().sum(1) / max(1, count - 1)
    shared = (away[:, 1:] * away[:, :-1]).sum(1) / max(1, count - 1)
    return ((variance + 2 * shared.clamp_min(0)) / count).sqrt()


class ChainPosterior(MomentPosterior):
    """Mean and standard deviation over all states of a chain, and samples out of the kept states.

    Attributes:
        number: number of samples that were kept, evenly along the chain; `sample` returns them in
            an order that the seed decides, and repeats itself beyond this number.
        effective_number: number of independent samples with the same error of the mean,
            ``(batch,)``.
        std_error: the Monte-Carlo standard error of `std`, like it.
    """

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.mean(), chain.std())
        # Items may have stopped after different numbers of states.
        items = [
            select_items(chain, torch.tensor([k], device=chain.centre.device))
            for k in range(len(chain.centre))
        ]
        full = [max(1, item.full()[0]) for item in items]
        self.number = min(full)
        self.effective_number = torch.cat([item.effective_number() for item in items])
        self.std_error = torch.cat([item.std_error() for item in items])
        places = [torch.arange(1, self.number + 1) * count // self.number - 1 for count in full]
        self._kept = torch.cat(
            [item.kept[:, place.to(chain.centre.device)] for item, place in zip(items, places)]
        ).transpose(0, 1)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Return random kept states, with repetition."""
        which = [
            int(torch.randint(self.number, (1,), generator=generator, device=generator.device))
            for _ in range(count)
        ]
        return self._kept[which]

    def _chunks(self, n: int, seed: int) -> Iterator[Tensor]:
        order = torch.randperm(
            self.number, generator=torch.Generator().manual_seed(seed % (1 << 62))
        )
        yield self._kept[order.repeat(-(-n // self.number))[:n].to(self.device)]
