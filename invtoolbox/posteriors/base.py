"""A posterior: a distribution over images, defined by its draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator, Tensor

from invtoolbox.core.environment import optional_package
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.posteriors.diagnostics import Diagnosis, Functional

#: Number of values that are drawn at once: 16 MB in float32. Memory never exceeds a few times this,
#: in addition to the answer.
_AT_ONCE = 1 << 22


class Posterior(ABC):
    """A distribution of images, `Solution.posterior`: mean, std, samples, intervals, coverage.

    A subclass sets ``number`` and writes `draw`. The rest is streamed over draws of the seed 0, a
    few at a time, so that memory does not grow with their number. A subclass that knows a mean or a
    standard deviation in closed form overrides it.

    Attributes:
        number: number of samples behind `mean`, `std` and `interval`. The Monte-Carlo error of the
            mean is ``std / sqrt(number)``, the error of the standard deviation
            ``1 / sqrt(2 number)`` of it.

    >>> class Uniform(Posterior):
    ...     number = 4000
    ...
    ...     def draw(self, count, generator):
    ...         return torch.stack([torch.rand(1, 1, 3, generator=generator) for _ in range(count)])
    >>> posterior = Uniform()
    >>> posterior.sample(5).shape, posterior.mean.shape
    (torch.Size([5, 1, 1, 3]), torch.Size([1, 1, 3]))
    >>> bool((posterior.std - 12**-0.5).abs().max() < 0.02)
    True
    >>> low, high = posterior.interval(0.8, shape="quantile")
    >>> bool((low - 0.1).abs().max() < 0.03 and (high - 0.9).abs().max() < 0.03)
    True
    >>> posterior.coverage(torch.full((1, 1, 3), 0.5))
    tensor([1.])
    """

    number: int

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> Tensor:
        """Return ``count`` samples, ``(count, batch, channel, *space)``.

        Random numbers are taken from the generator sample after sample, so that draws of 2 and 3
        are the draw of 5. They are the same for every item of the batch.
        """

    @property
    def device(self) -> torch.device:
        """The device of the generator."""
        return torch.device("cpu")

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return the first n samples of the seed's sequence, ``(n, batch, channel, *space)``."""
        if n < 1 or n != int(n):
            raise InputError(f"sample takes a whole number of at least 1, got {n}")
        return torch.cat(list(self._chunks(int(n), seed)))

    @property
    def mean(self) -> Tensor:
        """The mean of every pixel, ``(batch, channel, *space)``; it has the least squared error."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """The standard deviation of every pixel, like `mean`."""
        return self._moments[1]

    def interval(
        self, level: float = 0.95, shape: Literal["normal", "quantile"] = "normal"
    ) -> tuple[Tensor, Tensor]:
        """Return bounds ``(low, high)`` that contain each pixel with probability ``level``.

        Args:
            level: probability between 0 and 1.
            shape: ``"normal"`` takes ``mean -+ z std``, for which a hundred samples are enough.
                ``"quantile"`` takes the quantiles of the samples, for distributions that are skewed
                or have several modes. These need more samples: of n samples, no more than ``1 / n``
                of the probability lies beyond the outermost. They are found for one block of pixels
                at a time, from the same samples drawn anew.
        """
        check_range("interval", "(0, 1)", level=level)
        check_choice("interval", ("normal", "quantile"), shape=shape)
        if shape == "quantile":
            return self._quantiles(level)
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.std
        return self.mean - half, self.mean + half

    def coverage(
        self, x: Tensor, level: float = 0.95, shape: Literal["normal", "quantile"] = "normal"
    ) -> Tensor:
        """Return the share of the pixels of ``x`` that lie within their interval, ``(batch,)``.

        It is ``level`` if the posterior is right.
        """
        return share_within(x, *self.interval(level, shape))

    def chain_draws(self, n: int | None = None) -> Tensor:
        """Return draws of every chain in their order, ``(chains, n, batch, channel, *space)``.

        Args:
            n: number of independent draws, by default `number`; a chain returns the states that it
                kept.
        """
        return self.sample(self.number if n is None else n)[None]

    def diagnose(self, functionals: Mapping[str, Functional] | None = None) -> Diagnosis:
        """Return the Monte-Carlo errors of the mean, of every pixel and of functionals.

        These draws are independent, so that their number is the effective sample size. Chains have
        split R-hat and autocorrelation times too. ``print`` shows a summary.

        Args:
            functionals: functions of images ``(batch, channel, *space)`` that return one number per
                item, by their names, for example ``{"mean": lambda x: x.flatten(1).mean(1)}``.

        Raises:
            InputError: if a functional does not return one number per item.

        >>> posterior = MeanFieldPosterior(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), number=400)
        >>> diagnosis = posterior.diagnose({"total": lambda x: x.flatten(1).sum(1)})
        >>> diagnosis.error
        tensor([[[0.0500, 0.0500, 0.0500]]])
        >>> 0.07 < float(diagnosis.functionals["total"].error) < 0.1  # 3^0.5 / 20
        True
        """
        from invtoolbox.posteriors.diagnostics import Diagnosis, diagnose_traces

        std = self.std
        number = torch.full_like(std, self.number)
        traces = {}
        if functionals:
            chains = [chunk[None] for chunk in self._chunks(max(4, self.number), 0)]
            traces = diagnose_traces(torch.cat(chains, 1), functionals)
        return Diagnosis(
            draws=self.number,
            chains=1,
            independent=True,
            effective_number=number,
            autocorrelation_time=torch.ones_like(std),
            error=std / self.number**0.5,
            std=std,
            rhat=torch.full_like(std, torch.nan),
            functionals=traces,
        )

    def to_arviz(self, n: int | None = None, name: str = "x") -> Any:
        """Return draws as ArviZ's data, whose group ``posterior`` has the axes chain and draw.

        Args:
            n: number of independent draws, by default `number`; a chain has its kept states, up to
                ``blocks`` of the sampler.
            name: name of the variable, ``(chain, draw, batch, channel, *space)``.

        Raises:
            MissingDependency: if the package arviz-base is not installed.
        """
        arviz = optional_package(
            "arviz_base", "to_arviz creates the data of ArviZ, which is not installed;", "interop"
        )
        draws = self.chain_draws(n).cpu().numpy()
        return arviz.from_dict({"posterior": {name: draws}})

    def _chunks(self, n: int, seed: int) -> Iterator[Tensor]:
        """Return the first n samples in parts that fit the memory."""
        generator = torch.Generator(self.device).manual_seed(seed % (1 << 62))
        with torch.no_grad():
            first = self.draw(1, generator)
            yield first
            at_once = max(1, _AT_ONCE // max(1, first.numel()))
            for k in range(1, n, at_once):
                yield self.draw(min(at_once, n - k), generator)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in one pass, without a sum of squares that cancels.

        Chan, Golub and LeVeque 1983.
        """
        number, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for chunk in self._chunks(self.number, 0):
            count, centre = len(chunk), chunk.mean(0)
            spread = (chunk - centre).square_().sum(0)
            if not number:
                number, mean, squares = count, centre, spread
                continue
            total, away = number + count, centre - mean
            mean = mean + away * (count / total)
            squares = squares + spread + away.square() * (number * count / total)
            number = total
        return mean, (squares / max(1, number - 1)).sqrt_()

    def _quantiles(self, level: float) -> tuple[Tensor, Tensor]:
        """Return the quantiles of the samples, per pixel.

        Blocks of pixels are so large that all samples of one block are held at once.
        """
        first = self.sample(1)[0]
        block = max(1, 4 * _AT_ONCE // self.number)
        shares = torch.tensor(
            [0.5 - level / 2, 0.5 + level / 2], dtype=first.dtype, device=first.device
        )
        bounds = [
            torch.quantile(
                torch.cat(
                    [chunk.flatten(1)[:, k : k + block] for chunk in self._chunks(self.number, 0)]
                ),
                shares,
                dim=0,
            )
            for k in range(0, first.numel(), block)
        ]
        low, high = torch.cat(bounds, 1).unflatten(1, first.shape)
        return low, high


def share_within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the share of the pixels of ``x`` that lie between the bounds, ``(batch,)``."""
    if x.shape[1:] != low.shape[1:] or x.shape[0] not in (1, low.shape[0]):
        raise InputError(f"the posterior is one of images {tuple(low.shape)}, got {tuple(x.shape)}")
    x = x.to(low)
    return ((x >= low) & (x <= high)).flatten(1).to(low.dtype).mean(1)


class MomentPosterior(Posterior):
    """A posterior with known mean and standard deviation, ``(batch, channel, *space)`` each.

    A subclass writes `draw`.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self._mean, self._std = mean, std

    @property
    def device(self) -> torch.device:
        return self._mean.device

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def std(self) -> Tensor:
        return self._std


class MeanFieldPosterior(MomentPosterior):
    """A posterior of independent normal pixels, from mean and standard deviation alone.

    It also serves for a posterior from elsewhere, such as an ensemble or a network that predicts
    both; `calibrate_posteriors` needs no more.

    Args:
        mean, std: mean and standard deviation of every pixel, ``(batch, channel, *space)``.
        number: number of samples behind an interval of the shape ``"quantile"``; mean and standard
            deviation need none.

    Raises:
        InputError: if the two have different shapes, or a standard deviation is negative.

    >>> posterior = MeanFieldPosterior(torch.zeros(2, 1, 3), torch.ones(2, 1, 3))
    >>> posterior.sample(4).shape, round(float(posterior.interval(0.95)[1].max()), 2)
    (torch.Size([4, 2, 1, 3]), 1.96)
    """

    def __init__(self, mean: Tensor, std: Tensor, number: int = 1000) -> None:
        if mean.shape != std.shape or bool((std < 0).any()):
            raise InputError(
                "a posterior takes a mean and a standard deviation of one shape, the latter not "
                f"negative; got shapes {tuple(mean.shape)} and {tuple(std.shape)}"
            )
        super().__init__(mean, std)
        self.number = number

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Return samples from the same random numbers for every item."""
        draws = [
            torch.randn(
                1,
                *self.mean.shape[1:],
                generator=generator,
                dtype=self.mean.dtype,
                device=self.device,
            )
            for _ in range(count)
        ]
        return self.mean + self.std * torch.stack(draws)


class MappedPosterior(Posterior):
    """Posterior whose images are changed: some values are blanked, left out or averaged.

    Args:
        posterior: posterior of the whole batch.
        change: linear function of images.
        by_value: whether every value depends on one value; the standard deviation is then changed
            in the same way, and else computed from draws.
    """

    def __init__(
        self, posterior: Posterior, change: Callable[[Tensor], Tensor], by_value: bool = True
    ) -> None:
        self.posterior, self.change, self.number = posterior, change, posterior.number
        self.by_value = by_value

    @property
    def device(self) -> torch.device:
        return self.posterior.device

    def draw(self, count: int, generator: Generator) -> Tensor:
        return torch.stack([self.change(x) for x in self.posterior.draw(count, generator)])

    @property
    def mean(self) -> Tensor:
        return self.change(self.posterior.mean)

    @property
    def std(self) -> Tensor:
        return self.change(self.posterior.std) if self.by_value else self._moments[1]
