"""Stein's unbiased estimate of the risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invtoolbox.objective import Objective
from invtoolbox.parameter_choice.divergence import fits
from invtoolbox.parameter_choice.gcv import check_probes
from invtoolbox.parameter_choice.noise import listed, noise_std_of
from invtoolbox.parameter_choice.score_search import ScoreSearch
from invtoolbox.parameter_choice.trials import Trials


@dataclass(frozen=True)
class SURE(ScoreSearch):
    r"""The weight that minimises ``|A x - y|^2 - m sigma^2 + 2 sigma^2 div``, m measurements with noise sigma (Stein 1981).

    ``div`` is the divergence of ``A x(y)`` in y, by differences along random signs (Monte-Carlo SURE; Ramani, Blu &
    Unser, IEEE TIP 17, 2008; the trace of the influence matrix for quadratic priors). The score estimates, without
    bias for white Gaussian noise, the *predicted* risk ``|A x - A x_true|^2``. It exists for every operator; what A
    does not see (its null space) it does not judge, and where A damps strongly (deblurring) it asks for a little less
    regularisation than the image itself would. Every solution costs ``1 + probes`` solves.

    With `LeastSquares(weights=w)` the noise is taken to have the variance ``sigma^2 / w``.

    Args:
        noise_std: sigma, ``(batch,)`` or a number; by default the data term's, and where that has none,
            `estimate_noise_std` of the measurements.
        probes: random vectors of signs.
        step: of the differences, in units of the noise; of no meaning for quadratic priors.
        seed: of the probes.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A, it.data_terms.LeastSquares(0.1))
    >>> solution = it.solve(problem, it.priors.TotalVariation(), regularization=SURE(sections=0), progress=False)
    >>> bool((solution.x - clean).norm() < 0.5 * (problem.y - clean).norm())
    True
    """

    noise_std: float | Tensor | None = None
    probes: int = 1
    step: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "sure"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probes(self.probes, self.step)

    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        fit = fits(trials, log_weight, items, self.probes, self.step, self.seed)
        variance = noise_std_of(trials.problem, self.noise_std)[items].square()
        return fit.residual / fit.measured - variance + 2 * variance * fit.degrees / fit.measured

    def describe(self, objective: Objective) -> str:
        problem = objective.problem
        if self.noise_std is not None or getattr(problem.data_term, "noise_std", None) is not None:
            return "Stein's unbiased estimate of the predicted risk chooses the weight, with the noise level that was given"
        return (
            "Stein's unbiased estimate of the predicted risk chooses the weight, "
            f"with noise_std = {listed(noise_std_of(problem))} estimated from the data"
        )
