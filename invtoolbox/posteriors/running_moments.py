"""Running moments of a chain: mean, standard deviation and their errors, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from invtoolbox.core.pytrees import select_items
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.posteriors.base import MomentPosterior
from invtoolbox.posteriors.diagnostics import (
    Diagnosis,
    Functional,
    Trace,
    diagnose_traces,
    join_traces,
    trace_of,
)

#: Least number of kept states of a chain that show whether it has mixed.
_FEWEST = 4


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

    def is_constant(self) -> Tensor:
        """Return whether all states of an item are equal, ``(batch,)`` booleans."""
        return (self._variance() == 0).flatten(1).all(1)

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


@dataclass
class Moments:
    """States and scalar functionals that are kept of several chains.

    Attributes:
        chain: states ``(batch, chains, channel, *space)``.
        scalars: the first of `SCALARS` of the states, ``(batch, chains, number)``; NaN if unknown.
    """

    chain: Chain
    scalars: Chain


#: Names of the scalar functionals of a chain; only `Gibbs` draws the last two.
SCALARS = ("potential", "mean of the pixels", "noise level", "weight of the prior")


class ChainPosterior(MomentPosterior):
    """Mean and standard deviation over all states of chains, and samples out of the kept states.

    Attributes:
        number: number of samples that were kept, evenly along the chains; `sample` returns them in
            an order that the seed decides, and repeats itself beyond this number.
        effective_number: number of independent samples with the same error of the mean,
            ``(batch,)``.
        std_error: the Monte-Carlo standard error of `std`, like it.
        bias: sentence about the bias of the chain; empty if none is known.
    """

    bias: str = ""

    def __init__(self, moments: Moments) -> None:
        # Items may have stopped after different numbers of states.
        device = moments.chain.centre.device
        self._items = [
            select_items(moments, torch.tensor([k], device=device))
            for k in range(len(moments.chain.centre))
        ]
        chains = [item.chain for item in self._items]
        C = self.chains = chains[0].centre.shape[1]
        means = torch.cat([chain.mean() for chain in chains])
        # The total variance is the variance within the chains and between them.
        variance = torch.cat([chain.std() for chain in chains]).square().mean(1)
        if C > 1:
            variance = variance + means.var(1, correction=0)
        super().__init__(means.mean(1), variance.sqrt())
        self.effective_number = sum_items(variance) / sum_items(self._mean_error.square())
        errors = torch.cat([chain.std_error() for chain in chains])
        self.std_error = errors.square().mean(1).sqrt() / C**0.5
        full = [max(1, chain.full()[0]) for chain in chains]
        number = min(full)
        self.number = number * C
        places = [torch.arange(1, number + 1) * count // number - 1 for count in full]
        # (chains, number, batch, channel, *space)
        self._states = torch.stack(
            [chain.kept[0, place.to(device)] for chain, place in zip(chains, places)], 2
        ).transpose(0, 1)

    @cached_property
    def _mean_error(self) -> Tensor:
        """The Monte-Carlo standard error of every pixel, from blocks and from chains."""
        errors = torch.cat([item.chain.mean_error() for item in self._items])
        error = errors.square().mean(1).sqrt() / self.chains**0.5
        if self.chains == 1:
            return error
        # Chains that disagree have a larger error than their blocks show.
        means = torch.cat([item.chain.mean() for item in self._items])
        return torch.maximum(error, means.std(1) / self.chains**0.5)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Return random kept states, with repetition."""
        which = [
            int(torch.randint(self.number, (1,), generator=generator, device=generator.device))
            for _ in range(count)
        ]
        return self._states.flatten(0, 1)[which]

    def _chunks(self, n: int, seed: int) -> Iterator[Tensor]:
        order = torch.randperm(
            self.number, generator=torch.Generator().manual_seed(seed % (1 << 62))
        )
        which = order.repeat(-(-n // self.number))[:n].to(self.device)
        yield self._states.flatten(0, 1)[which]

    def chain_draws(self, n: int | None = None) -> Tensor:
        return self._states

    def finding(self) -> str:
        """Return a sentence about items whose chains have not mixed, or an empty string."""
        count = self._states.shape[1]
        if count < _FEWEST:
            return (
                f"states after the burn_in: {count}, too few to show whether the chain has mixed; give "
                "a larger max_iterations"
            )
        return self.diagnose().finding()

    def diagnose(self, functionals: Mapping[str, Functional] | None = None) -> Diagnosis:
        """Return errors of the mean, effective sample sizes and split R-hat.

        Values of pixels come from sums over all states after the burn-in. `SCALARS` are followed
        along the chains. Other functionals are computed from the kept states, ``blocks`` of the
        sampler per chain, and have the error of as many draws.

        Args:
            functionals: functions of images ``(batch, channel, *space)`` that return one number per
                item, by their names.

        Raises:
            InputError: if the chain has fewer than four blocks of states, or a functional does not
                return one number per item.
        """
        if self._states.shape[1] < _FEWEST:
            raise InputError(
                f"a chain of {self._states.shape[1]} states after its burn_in is too short to be "
                f"diagnosed, which takes at least {_FEWEST}; give a larger max_iterations"
            )
        rhats = [_split_rhats_of_sums(item.chain) for item in self._items]
        rhat, spread_rhat = (torch.cat(values) for values in zip(*rhats))
        error = self._mean_error
        tiny = torch.finfo(error.dtype).tiny
        number = (self.std / error.clamp_min(tiny)).square()
        length = min(int(item.chain.number[0]) for item in self._items)
        traces = diagnose_traces(self._states, functionals or {})
        return Diagnosis(
            draws=length,
            chains=self.chains,
            independent=False,
            effective_number=number,
            autocorrelation_time=length * self.chains / number.clamp_min(tiny),
            error=error,
            std=self.std,
            rhat=rhat,
            functionals=_follow_scalars(self._items) | traces,
            spread_rhat=spread_rhat,
        )


def _follow_scalars(items: list[Moments]) -> dict[str, Trace]:
    """Return the traces of `SCALARS`, as far as they are defined, item by item."""
    # (chains, places, 2)
    rows = [
        item.scalars.kept[0, : max(1, item.scalars.full()[0])].transpose(0, 1) for item in items
    ]
    if min(row.shape[1] for row in rows) < 4:
        return {}
    return {
        name: join_traces([trace_of(row[..., k : k + 1]) for row in rows])
        for k, name in enumerate(SCALARS[: rows[0].shape[-1]])
        if all(bool(row[..., k].isfinite().all()) for row in rows)
    }


def _split_rhats_of_sums(chain: Chain) -> tuple[Tensor, Tensor]:
    """Return the split R-hats of every pixel of one item and of its square, from sums of blocks.

    Their shape is ``(1, channel, *space)``. The first is `diagnostics.split_rhat` of all states of
    full blocks. The second is the R-hat of the squares about the mean, with the variance 2 v^2 that the
    squares of normal values of variance v have, because sums hold no fourth powers (the folded
    R-hat of Vehtari et al. 2021, with squares in place of absolute values).
    """
    full, length = chain.full()
    half = full // 2
    n = half * length
    # The sums of both halves of every chain, (2, chains, channel, *space); a middle block is left.
    halves = (slice(0, half), slice(full - half, full))
    sums = torch.stack([chain.sums[0, places].sum(0) for places in halves])
    squares = torch.stack([chain.squares[0, places].sum(0) for places in halves])
    means = sums / n
    within = ((squares / n - means.square()).clamp_min(0) * (n / (n - 1))).mean((0, 1))
    absolute = means + chain.centre[0]
    between = absolute.flatten(0, 1).var(0)
    # The mean square of a half about the common mean: its variance, and its squared distance.
    away = absolute - absolute.mean((0, 1))
    spread = ((squares / n - means.square()).clamp_min(0) + away.square()).flatten(0, 1)
    share = spread.var(0) / (2 * spread.mean(0).square())
    rhats = ((n - 1) / n + ratio for ratio in (between / within, share))
    first, second = (ratio.sqrt().unsqueeze(0) for ratio in rhats)
    return first, second
