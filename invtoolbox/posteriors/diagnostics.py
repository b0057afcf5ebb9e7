"""Diagnostics of draws: effective sample size, split R-hat, autocorrelation time, standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invtoolbox.errors import InputError

#: Split R-hat up to which chains count as mixed: the halves of chains with 80 independent draws
#: each rarely exceed it (a chi-square of one degree of freedom, divided by 40, at 95 %).
MIXED = 1.05
#: Share of the pixels whose split R-hat must be within `MIXED`.
_SHARE = 0.95
#: Number of draws of a functional whose split R-hat is compared with `MIXED`.
_ENOUGH = 200


def split_rhat(draws: Tensor) -> Tensor:
    r"""Compute the split R-hat of chains: how far halves of chains disagree, 1 if they do not.

    ``R^2 = (n - 1) / n + B / W``, W the mean variance within the halves, of n draws each, and B the
    variance of their means. A value above `MIXED` means that the chains have not mixed.

    Source: A. Vehtari, A. Gelman, D. Simpson, B. Carpenter and P.-C. Burkner, "Rank-normalization,
    folding, and localization: an improved R-hat", Bayesian Analysis 16, 2021, equations 1 to 4.

    Args:
        draws: draws ``(chains, n, ...)`` of every chain in their order, at least 4 each.

    Returns:
        One value per quantity, ``(...)``; NaN if all draws are equal.

    >>> trend = torch.arange(100.0)[None, :, None]  # a chain that still drifts
    >>> split_rhat(trend)
    tensor([2.6196])
    """
    halves = _split(_check_chains(draws))
    n = halves.shape[1]
    within = halves.var(1).mean(0)
    between = halves.mean(1).var(0)
    return ((n - 1) / n + between / within).sqrt()


def effective_sample_size(draws: Tensor) -> Tensor:
    r"""Compute the bulk effective sample size: the number of independent draws with the same error.

    Of C halves of chains with n draws each it is ``C n / tau``, with the autocorrelation time
    ``tau = 1 + 2 sum_t rho_t``. The autocorrelation ``rho_t = 1 - (W - mean_c s_t) / V`` combines
    the autocovariances s_t of the halves with the variance V between and within them. The sum ends
    where sums of pairs of neighbours stop being positive, and these sums are made to decrease
    (Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7, 1992).

    Source: as in `split_rhat`, equations 10 to 13.

    Args:
        draws: draws ``(chains, n, ...)`` of every chain in their order, at least 4 each.

    Returns:
        One value per quantity, ``(...)``. Chains that alternate have more than their number, up to
        its product with its decimal logarithm.

    >>> draws = torch.randn(4, 250, 3, generator=torch.Generator().manual_seed(0))
    >>> bool(((effective_sample_size(draws) - 1000).abs() < 200).all())
    True
    """
    halves = _split(_check_chains(draws).double())
    C, n = halves.shape[:2]
    away = halves - halves.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(away, n=2 * n, dim=1).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=1)[:, :n].mean(0) / n
    within = covariance[0] * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(1).var(0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    # Pairs P_k = rho_2k + rho_(2k + 1), up to the first that is not positive, or the last that n
    # draws determine.
    last = max(0, (n - 1) // 2 - 1)
    even, odd = rho[: 2 * last + 1 : 2], rho[1 : 2 * last + 2 : 2]
    pairs = even + odd
    positive = (pairs > 0).long().cumprod(0).bool()
    positive[last:] = False
    decreasing = torch.where(positive, pairs.cummin(0).values, 0.0)
    # The even half of the first pair that is left out still counts, if it or the pair is positive.
    first = positive.sum(0, keepdim=True).clamp_max(last)
    half, pair = even.gather(0, first)[0], pairs.gather(0, first)[0]
    remainder = torch.where((half > 0) | (pair >= 0), half, 0.0)
    tau = -1 + 2 * decreasing.sum(0) + remainder
    number = torch.tensor(float(C * n), dtype=torch.float64, device=halves.device)
    size = number / torch.maximum(tau, 1 / number.log10())
    # Draws without any spread have no error.
    span = halves.amax((0, 1)) - halves.amin((0, 1))
    return torch.where(span < 1e-15, number, size).to(draws.dtype)


def standard_error(draws: Tensor) -> Tensor:
    """Compute the Monte-Carlo standard error of the mean of all draws, ``(...)``.

    It is the standard deviation of all draws, divided by the root of the effective sample size.

    Args:
        draws: draws ``(chains, n, ...)`` of every chain in their order, at least 4 each.
    """
    return draws.flatten(0, 1).std(0) / effective_sample_size(draws).sqrt()


@dataclass(frozen=True)
class Trace:
    """A functional of the draws.

    Attributes:
        mean: its mean, ``(batch,)``.
        error: Monte-Carlo standard error of the mean, ``(batch,)``.
        effective_number: effective sample size, ``(batch,)``.
        rhat: split R-hat, ``(batch,)``.
        draws: number of draws of all chains from which they were computed.
    """

    mean: Tensor
    error: Tensor
    effective_number: Tensor
    rhat: Tensor
    draws: int


@dataclass(frozen=True)
class Diagnosis:
    """Whether draws are enough and chains have mixed; `Posterior.diagnose` makes one.

    Attributes:
        draws: number of draws per chain behind mean and standard deviation.
        chains: number of chains; independent draws are one chain.
        independent: whether the draws are independent by construction.
        effective_number: effective sample size of every pixel, ``(batch, channel, *space)``.
        autocorrelation_time: draws of all chains per effective draw, like it.
        error: Monte-Carlo standard error of the mean of every pixel, like it.
        std: standard deviation of every pixel, like it.
        rhat: split R-hat of every pixel, like it.
        functionals: the functionals that were followed, by name.
        spread_rhat: split R-hat of the squares about the mean, like it: whether all halves of
            chains vary alike. It detects a start that is forgotten late, which widens one half.
            None for independent draws.
    """

    draws: int
    chains: int
    independent: bool
    effective_number: Tensor
    autocorrelation_time: Tensor
    error: Tensor
    std: Tensor
    rhat: Tensor
    functionals: dict[str, Trace] = field(default_factory=dict)
    spread_rhat: Tensor | None = None

    @property
    def stuck(self) -> Tensor:
        """Whether all states of an item are one image, ``(batch,)`` booleans."""
        return (self.std == 0).flatten(1).all(1)

    @property
    def worst_rhat(self) -> Tensor:
        """The largest R-hat of 95 % of the pixels and of the functionals, ``(batch,)``.

        It is the larger one of `rhat` and `spread_rhat`, and infinite for an item that is `stuck`.
        Functionals of fewer than 200 draws do not count, because their R-hat scatters too much.
        """
        worst = _quantile(self.rhat, _SHARE)
        if self.spread_rhat is not None:
            worst = torch.maximum(worst, _quantile(self.spread_rhat, _SHARE))
        if not self.independent:
            worst = worst.masked_fill(self.stuck, torch.inf)
        for trace in self.functionals.values():
            if trace.draws < _ENOUGH:
                continue
            worst = torch.maximum(worst, torch.nan_to_num(trace.rhat, nan=1.0).to(worst))
        return worst

    @property
    def mixed(self) -> Tensor:
        """Whether the chains of each item have mixed, ``(batch,)`` booleans.

        `worst_rhat` is at most 1.05.
        """
        return self.worst_rhat <= MIXED

    def finding(self) -> str:
        """Return a sentence about items whose chains have not mixed, or an empty string."""
        if self.independent or bool(self.mixed.all()):
            return ""
        if bool(self.stuck.any()):
            return (
                f"the chain is stuck in item {_names(self.stuck)}: all its states are one image; the "
                "step_size is too short for the precision of the image, or bounds leave no room"
            )
        worst = float(self.worst_rhat.max())
        return (
            f"the chain has not mixed in item {_names(~self.mixed)}: split R-hat is "
            f"{worst:.2f}, and at most {MIXED} once it has; mean and deviation are not those of "
            "the posterior yet, so take more iterations or a longer burn_in"
        )

    def __str__(self) -> str:
        kind = "independent draws" if self.independent else f"chains of {self.draws} draws"
        count = f"{self.draws} {kind}" if self.independent else f"{self.chains} {kind}"
        least = _quantile(self.effective_number, 1 - _SHARE)
        share = (self.error / self.std.clamp_min(torch.finfo(self.std.dtype).tiny)).median()
        lines = [
            f"Diagnosis: {count}",
            f"  effective draws: at least {float(least.min()):.0f} in 95 % of the pixels; "
            f"autocorrelation time {float(self.autocorrelation_time.median()):.3g}",
            f"  error of the mean: {float(share):.1%} of the standard deviation in the median",
        ]
        if not self.independent:
            lines.append(f"  split R-hat: {float(self.worst_rhat.max()):.3f}, mixed up to {MIXED}")
        for name, trace in self.functionals.items():
            lines.append(
                f"  {name}: {float(trace.mean[0]):.4g} ± {float(trace.error[0]):.2g}, "
                f"{float(trace.effective_number.min()):.0f} effective draws, split R-hat "
                f"{float(trace.rhat.max()):.3f}"
            )
        if sentence := self.finding():
            lines.append(f"  {sentence}")
        return "\n".join(lines)


#: Functional of images ``(batch, channel, *space)`` with one value per item.
Functional = Callable[[Tensor], Tensor]


def diagnose_traces(states: Tensor, functionals: Mapping[str, Functional]) -> dict[str, Trace]:
    """Return the traces of functionals.

    Args:
        states: images of every chain in their order, ``(chains, n, batch, channel, *space)``.
        functionals: functions of images ``(batch, channel, *space)`` by their names.

    Raises:
        InputError: if a function does not return one number per item.
    """
    return {name: trace_of(values_of(states, f, name)) for name, f in functionals.items()}


def values_of(states: Tensor, functional: Functional, name: str) -> Tensor:
    """Return a functional of every state, ``(chains, n, batch)``.

    Args:
        states: images ``(chains, n, batch, channel, *space)``.
        functional: function of images ``(batch, channel, *space)`` that returns ``(batch,)``.
        name: name of the functional, for the error.

    Raises:
        InputError: if the function does not return one number per item.
    """
    batch = states.shape[2]
    rows = []
    for x in states.flatten(0, 1):
        value = torch.as_tensor(functional(x))
        if value.shape != (batch,):
            raise InputError(
                f"the functional {name!r} must return one number per item, shape ({batch},), got "
                f"{tuple(value.shape)}; for example lambda x: x.flatten(1).mean(1)"
            )
        rows.append(value.to(x))
    return torch.stack(rows).unflatten(0, states.shape[:2])


def trace_of(values: Tensor) -> Trace:
    """Return mean, error, effective sample size and split R-hat of values ``(chains, n, batch)``.

    Args:
        values: values of every chain in their order.
    """
    return Trace(
        values.mean((0, 1)),
        standard_error(values),
        effective_sample_size(values),
        split_rhat(values),
        values.shape[0] * values.shape[1],
    )


def join_traces(traces: Sequence[Trace]) -> Trace:
    """Return the trace of several items.

    Args:
        traces: one trace per item.
    """
    names = ("mean", "error", "effective_number", "rhat")
    joined = {name: torch.cat([getattr(trace, name) for trace in traces]) for name in names}
    return Trace(**joined, draws=min(trace.draws for trace in traces))


def _names(items: Tensor) -> str:
    """Return the numbers of the items for which a boolean holds, eight at most."""
    return ", ".join(map(str, items.nonzero()[:8, 0].tolist()))


def _quantile(values: Tensor, share: float) -> Tensor:
    """Return the least value that a share of the pixels does not exceed, ``(batch,)``."""
    rows = torch.nan_to_num(values, nan=1.0).flatten(1)
    return rows.kthvalue(max(1, math.ceil(share * rows.shape[1])), dim=1).values


def _split(draws: Tensor) -> Tensor:
    """Return the halves of all chains, ``(2 chains, n // 2, ...)``; a middle draw is left out."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]])


def _check_chains(draws: Tensor) -> Tensor:
    if draws.ndim < 2 or draws.shape[1] < 4 or not draws.is_floating_point():
        raise InputError(
            "diagnostics take real draws (chains, n, ...) with at least 4 draws per chain, got "
            f"{tuple(draws.shape)} of {draws.dtype}"
        )
    return draws
