"""Whether a posterior is right: rank statistics and expected coverage on simulated measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.catalogue.presets import prior_named, solver_named
from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import items_together
from invtoolbox.core.reductions import independent_items
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.posteriors.base import Posterior
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.base import Solver

Functional = Callable[[Tensor], Tensor]

#: Largest number of bins of ranks; each expects at least ten repetitions.
_BINS, _LEAST = 20, 10


@dataclass(frozen=True)
class PosteriorCheck:
    """Rank statistics and expected coverage of a posterior; see `check_posterior`.

    Attributes:
        ranks: number of draws below the truth, per functional, ``(repetitions,)``; uniform on 0 to
            ``draws`` if the posterior is right.
        distance_ranks: number of draws that are nearer to a random reference image than the truth,
            ``(repetitions,)``; uniform as well.
        draws: number of draws per repetition.
    """

    ranks: dict[str, Tensor]
    distance_ranks: Tensor
    draws: int

    @property
    def repetitions(self) -> int:
        """Number of simulated measurements."""
        return len(self.distance_ranks)

    @property
    def p_values(self) -> dict[str, float]:
        """Probability of ranks as uneven as these if the posterior is right, per functional.

        It is Pearson's chi-square test on bins of equal numbers of ranks.
        """
        return {name: self._test(ranks) for name, ranks in self.ranks.items()}

    @property
    def p_value(self) -> float:
        """The least of `p_values`, times their number (Bonferroni), at most 1."""
        values = self.p_values.values()
        return min(1.0, len(values) * min(values))

    @property
    def coverage_p_value(self) -> float:
        """The p-value of the expected coverage."""
        return self._test(self.distance_ranks)

    def coverage(self, levels: Tensor) -> Tensor:
        """Return the expected coverage of regions around random references, one value per level.

        It is the share of repetitions whose truth lies in the region of that probability, and
        equals the level if the posterior is right (TARP). Of ``draws`` draws, a level is known to
        ``1 / draws``.

        Args:
            levels: probabilities between 0 and 1, ``(n,)``.
        """
        shares = (self.distance_ranks.double() + 0.5) / (self.draws + 1)
        return (shares[:, None] <= levels.double()).double().mean(0)

    def plot(self) -> Any:
        """Return a matplotlib figure: a histogram of ranks per functional, and the coverage.

        The grey bands hold 95 % of the bars, and 95 % of the points of the curve, if the posterior
        is right.
        """
        from invtoolbox.plotting.charts import posterior_check_figure

        histograms = {name: self._histogram(ranks) for name, ranks in self.ranks.items()}
        levels = torch.linspace(0, 1, 101)
        return posterior_check_figure(
            histograms, self.p_values, levels, self.coverage(levels), self.repetitions
        )

    def _bins(self) -> int:
        most = min(_BINS, self.draws + 1, max(2, self.repetitions // _LEAST))
        return max(k for k in range(1, most + 1) if (self.draws + 1) % k == 0)

    def _histogram(self, ranks: Tensor) -> Tensor:
        bins = self._bins()
        return torch.bincount(ranks * bins // (self.draws + 1), minlength=bins)

    def _test(self, ranks: Tensor) -> float:
        from scipy.special import chdtrc

        counts = self._histogram(ranks).double()
        expected = self.repetitions / len(counts)
        statistic = float((counts - expected).square().sum() / expected)
        return float(chdtrc(len(counts) - 1, statistic))

    def __str__(self) -> str:
        lines = [
            f"Posterior check: {self.repetitions} repetitions, {self.draws} draws each; "
            f"p = {self.p_value:.2g} over {len(self.ranks)} functionals (Bonferroni), "
            f"p = {self.coverage_p_value:.2g} for the expected coverage"
        ]
        middle = self.draws / 2
        for name, ranks in self.ranks.items():
            away = ranks.double() - middle
            # Of uniform ranks, the deviation is sqrt((n^2 - 1) / 12) with n = draws + 1.
            usual = (((self.draws + 1) ** 2 - 1) / 12) ** 0.5
            shift = float(away.mean()) / usual
            spread = float(away.square().mean().sqrt()) / usual
            words = []
            if abs(shift) > 3 / self.repetitions**0.5:
                words.append("the draws are too " + ("low" if shift > 0 else "high"))
            # A sum of squares of uniform numbers has the relative deviation sqrt(4 / 5 / n) / 2.
            if abs(spread - 1) > 1.4 / self.repetitions**0.5:
                words.append("their spread is too " + ("small" if spread > 1 else "large"))
            lines.append(
                f"  {name}: p = {self.p_values[name]:.2g}" + "".join(f"; {w}" for w in words)
            )
        return "\n".join(lines)


@naming_arguments
def check_posterior(
    problem: Problem,
    prior: Prior | str,
    solver: Solver | str | None = None,
    regularization: float = 1.0,
    *,
    draws: int = 99,
    repetitions: int = 200,
    functionals: Mapping[str, Functional] | None = None,
    images: Tensor | None = None,
    seed: int = 0,
) -> PosteriorCheck:
    r"""Check a posterior by simulation: are truths drawn from the prior typical of their posteriors?

    In every repetition a truth is drawn from the prior, measured with noise, and solved for. If the
    posterior is right, the rank of a functional of the truth among those of the draws is uniform
    (simulation-based calibration: Talts, Betancourt, Simpson, Vehtari and Gelman 2018). So is the
    rank of its distance to a reference image that is drawn from the prior too (TARP: Lemos, Coogan,
    Hezaveh and Perreault-Levasseur, ICML 2023). The converse does not hold: a posterior that
    ignores the measurements passes functionals of the image alone, and fails the misfit.

    All repetitions are one batch, with random numbers of their own.

    Args:
        problem: operator, and least squares with ``noise_std``; its measurements only define the
            shape.
        prior: the prior from which truths are drawn, one with a method ``sample`` (`priors.Gaussian`,
            `priors.GaussianMixture`), or any prior if ``images`` is given.
        solver: the sampler, or any solver with a posterior.
        regularization: weight of the prior; 1 is Bayes' rule.
        draws: number of draws per repetition; ``draws + 1`` is best a multiple of 20.
        repetitions: number of repetitions. 500 of them with 9 draws each find a deviation that is a
            fifth too small in 71 % of the cases, and one a third too small in all
            (`benchmarks/posterior_checks.py`).
        functionals: functions of images ``(batch, channel, *space)`` that return one number per
            item, by their names, fixed before the check; by default mean, energy, roughness,
            centre and misfit.
        images: truths, ``(n, channel, *space)``, draws of the prior; they are the repetitions.
        seed: seed of truths, noise, references and draws.

    Returns:
        Ranks, p-values, coverage and a figure.

    Raises:
        InputError: if the noise level is unknown, the prior cannot be drawn from, the solver finds
            no posterior, or a functional does not return one number per item.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.zeros(1, 1, 16),
    ...     it.operators.Identity((1, 16)),
    ...     it.data_terms.LeastSquares(noise_std=0.5),
    ... )
    >>> prior = it.priors.Gaussian(torch.zeros(1, 16), 1.0)
    >>> check = it.check_posterior(problem, prior, "cg", draws=19, repetitions=100)
    >>> check.p_value > 0.01
    True
    """
    check_range("check_posterior", "[1, inf)", draws=draws, repetitions=repetitions)
    noise_std = _noise_std(problem)
    prior = prior_named(prior) if isinstance(prior, str) else prior
    solver = solver_named(solver) if isinstance(solver, str) else solver
    generator = Generator().manual_seed(seed)
    truths, references = _draw_images(prior, images, repetitions, generator)
    if tuple(truths.shape[1:]) != problem.image_shape:
        raise InputError(
            f"the truths must be images {problem.image_shape} of the problem, got "
            f"{tuple(truths.shape[1:])}"
        )
    truths, references = (x.to(problem.zeros()) for x in (truths, references))
    seeds = torch.randint(1 << 40, (len(truths) + 1,), generator=generator).tolist()
    measured = problem.operator.simulate(truths, noise=noise_std, seed=seeds[1:])
    simulated = Problem(measured.to(problem.y), problem.operator, problem.data_term)
    # Repetitions need no bits that are those of one item alone.
    with independent_items(), items_together():
        solution = solve(
            simulated, prior, solver, regularization, seed=seeds[0], progress=False, check=False
        )
        if solution.posterior is None:
            raise InputError(
                f"{solution.solver} finds no posterior under {prior!r}; give a sampler, for example "
                "it.solvers.UnadjustedLangevin()"
            )
        posterior: Posterior = solution.posterior
        samples = posterior.sample(draws, seed=seeds[0] + 1)
    chosen = _default_functionals(simulated) if functionals is None else functionals
    ranks = {
        name: (_values(functional, samples, name) < _values(functional, truths[None], name)).sum(0)
        for name, functional in chosen.items()
    }
    distances = (samples - references).flatten(2).norm(dim=2)
    nearer = distances < (truths - references).flatten(1).norm(dim=1)
    return PosteriorCheck(
        {name: values.cpu() for name, values in ranks.items()}, nearer.sum(0).cpu(), draws
    )


def _noise_std(problem: Problem) -> float:
    """Return the noise level of a problem whose measurements can be simulated."""
    D = problem.data_term
    if not isinstance(D, LeastSquares) or D.noise_std is None or not D.is_unweighted:
        raise InputError(
            "check_posterior simulates Gaussian noise, so it needs LeastSquares(noise_std=...) "
            f"without weights; the data term is {D!r}"
        )
    if D.noise_std.numel() != 1 or problem.operator.items not in (None, 1):
        raise InputError(
            "check_posterior takes one operator and one noise level for all repetitions; select an "
            "item first, problem.select(torch.tensor([k]))"
        )
    return float(D.noise_std)


def _draw_images(
    prior: Prior, images: Tensor | None, repetitions: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return truths and independent references."""
    if images is not None:
        if len(images) < 2:
            raise InputError("check_posterior takes at least two images, draws of the prior")
        return images, images.roll(1, 0)
    sample = getattr(prior, "sample", None)
    if sample is None:
        raise InputError(
            f"{prior!r} has no method sample(n, generator), so truths cannot be drawn from it; give "
            "images=, draws of the prior"
        )
    both = sample(2 * repetitions, generator)
    return both[:repetitions], both[repetitions:]


def _values(functional: Functional, samples: Tensor, name: str) -> Tensor:
    """Return a functional of samples, ``(n, batch)``."""
    rows = [functional(x) for x in samples]
    batch = samples.shape[1]
    for row in rows:
        if not isinstance(row, Tensor) or row.shape != (batch,):
            shape = tuple(row.shape) if isinstance(row, Tensor) else type(row).__name__
            raise InputError(
                f"the functional {name!r} must return one number per item, shape ({batch},), got "
                f"{shape}"
            )
    return torch.stack(rows)


def _default_functionals(problem: Problem) -> dict[str, Functional]:
    """Return the five functionals that are checked if the user names none."""

    def roughness(x: Tensor) -> Tensor:
        return x.diff(dim=-1).square().flatten(1).mean(1)

    def misfit(x: Tensor) -> Tensor:
        return problem.data_term.value(problem.operator(x), problem.y)

    return {
        "mean": lambda x: x.flatten(1).mean(1),
        "energy": lambda x: x.square().flatten(1).mean(1),
        "roughness": roughness,
        "centre": lambda x: x.flatten(1)[:, x[0].numel() // 2],
        "misfit": misfit,
    }
