"""Rule that maximizes a bound of the evidence, for images with more values than measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import inner
from invtoolbox.parameter_choice.divergence import check_white_noise, number_of
from invtoolbox.parameter_choice.noise import describe_noise, noise_std_of
from invtoolbox.parameter_choice.score_rules import ScoreSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.priors.images.tikhonov import Tikhonov


@dataclass(frozen=True)
class EvidenceBound(ScoreSearch):
    r"""The weight with the largest data-emphasised bound of the evidence, for a ridge penalty.

    The prior ``weight/2 |x|^2`` is a Gaussian density of n values, and the posterior is approximated
    by a Gaussian of one variance for all values. If both are as good as they can be, the bound of
    the evidence (ELBO) has a closed form. Its negative is, up to a constant,

    .. math:: \min_x F(x) + \frac{c}{2} \log\left(1 + \frac{\mathrm{tr}(A^T A / \sigma^2)}
              {n \, \mathrm{weight}}\right),

    F the objective and c = n. If n is much larger than the number m of measurements, c = n counts
    values that no measurement constrains, and the weight comes out far too large. The emphasised
    bound weighs the likelihood by ``n / m``, which gives c = m (Harvey, Petrov and Hughes, arXiv
    2502.01861). It is then no bound any more. The trace is estimated with random signs, which
    takes ``probes`` products with A per step of the search, and a weight costs one solve. On ridge
    regression with n = 10 m, `benchmarks/evidence.py` compares both with the weight that predicts
    other measurements best.

    Args:
        emphasis: whether the likelihood is weighed by ``n / m``.
        noise_std: sigma, ``(batch,)`` or a number; by default the data term's, and if it has none,
            `estimate_noise_std` of the measurements.
        probes: number of random vectors of signs.
        seed: seed of the probes.

    Raises:
        InputError: the prior is not `Tikhonov` of the image itself, the operator is not linear, or
            the data term is not `LeastSquares`.

    >>> import invtoolbox as it
    >>> draw = torch.Generator().manual_seed(0)
    >>> A = it.as_operator(torch.randn(40, 400, generator=draw))
    >>> x = torch.randn(1, 1, 400, generator=draw)
    >>> problem = it.Problem(A.simulate(x, 5.0, seed=0), A, it.data_terms.LeastSquares(5.0))
    >>> found = it.solve(
    ...     problem, it.priors.Tikhonov(), regularization=EvidenceBound(), progress=False
    ... )
    >>> bool(0.3 < found.regularization < 3)  # the values of x have the variance 1
    True
    """

    emphasis: bool = True
    noise_std: float | Tensor | None = None
    probes: int = 16
    seed: int = 0
    name: ClassVar[str] = "evidence"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[1, inf)", "probes")
        self._refuse_separate()

    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        problem = trials.problem
        _check(trials.objective)
        level = noise_std_of(problem, self.noise_std).double()
        unit_std = getattr(problem.data_term, "noise_std", None)
        unit_std = (
            torch.ones_like(level) if unit_std is None else torch.as_tensor(unit_std).to(level)
        )
        # The objective counts the misfit in units of the data term's noise, and the formula in
        # units of the noise.
        unit = (level / unit_std).square().expand(trials.batch)[items]

        def value(objective: Objective, solution: Any) -> Tensor:
            return objective.value(solution.x).double()

        n = math.prod(problem.image_shape)
        count = number_of(problem).double().expand(trials.batch)[items] if self.emphasis else n
        factor = torch.as_tensor(trials.priors.terms[0].weight).double().expand(trials.batch)[items]
        share = self._trace(trials)[items] / (n * factor * log_weight[..., 0].double().exp())
        return trials(log_weight, value, items) / unit + 0.5 * count * share.log1p()

    def _trace(self, trials: Trials) -> Tensor:
        """Return the estimated trace of ``A^T W A``, ``(batch,)``, W the weights of the misfit."""
        problem, total = trials.problem, torch.zeros(trials.batch, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.probes):
            drawn = torch.randint(0, 2, (1, *problem.image_shape), generator=generator)
            b = (2 * drawn - 1).to(problem.y0).expand(trials.batch, *problem.image_shape)
            prediction = problem.operator(b)
            total += inner(prediction, problem.data_term.weighted(prediction)).double().cpu()  # type: ignore[attr-defined]
        return (total / self.probes).to(problem.y0.device)

    def describe(self, objective: Objective) -> str:
        level = describe_noise(objective.problem, self.noise_std)
        kind = "data-emphasised " if self.emphasis else ""
        return f"the {kind}bound of the evidence chooses the weight, with {level}"


def _check(objective: Objective) -> None:
    """Raise an `InputError` unless everything is Gaussian and the prior is one of the image."""
    check_white_noise(objective.problem)
    priors = objective.explicit_priors
    ridge = len(priors) == 1 and isinstance(priors[0], Tikhonov) and priors[0].operator is None
    if not ridge or not objective.problem.is_linear or objective.layout is not None:
        raise InputError(
            "the bound of the evidence is for a linear operator and Tikhonov() alone, got "
            f"{objective.prior!r}; use 'gcv' or 'sure'"
        )
    if objective.problem.y0.is_complex():
        raise InputError("the bound of the evidence is for real measurements; use 'gcv'")
