"""Generalised cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.parameter_choice.divergence import fits
from invtoolbox.parameter_choice.score_search import ScoreSearch
from invtoolbox.parameter_choice.trials import Trials


@dataclass(frozen=True)
class GCV(ScoreSearch):
    r"""The weight that minimises ``(|A x - y|^2 / m) / (1 - df / m)^2``, m measurements, df degrees of freedom.

    It asks how well the solution would predict a measurement that was left out (Golub, Heath & Wahba, Technometrics 21,
    1979), and needs no noise level. For quadratic priors df is the trace of the influence matrix ``A H^-1 A^T W``,
    estimated with random signs (Hutchinson 1989); for others it is the divergence of ``A x(y)``, by differences along
    the same signs (Ramani et al., IEEE TIP 21, 2012). Every solution costs ``1 + probes`` solves.

    With `LeastSquares(weights=w)` the score is that of noise with variance ``1 / w``. Noise that is correlated between
    measurements is taken for signal, and the weight comes out too small.

    Args:
        probes: random vectors of signs.
        step: of the differences, in units of the noise; of no meaning for quadratic priors.
        seed: of the probes.

    >>> import torch, invtoolbox as it
    >>> clean = torch.zeros(1, 1, 32, 32)
    >>> clean[..., 8:24, 8:24] = 1
    >>> A = it.operators.Identity((1, 32, 32))
    >>> problem = it.Problem(A.simulate(clean, 0.1, seed=0), A)
    >>> rule = GCV(sections=0)
    >>> solution = it.solve(problem, it.priors.TotalVariation(), regularization=rule, progress=False)
    >>> bool((solution.x - clean).norm() < 0.5 * (problem.y - clean).norm())
    True
    """

    probes: int = 1
    step: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "gcv"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probes(self.probes, self.step)

    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        fit = fits(trials, log_weight, items, self.probes, self.step, self.seed)
        # A trace of m and more is an error of its estimate: such a solution fits everything, and predicts nothing.
        left = (1 - fit.degrees / fit.measured).clamp_min(1e-6)
        return fit.residual / fit.measured / left.square()

    def describe(self, objective: Objective) -> str:
        return "generalised cross-validation chooses the weight, which needs no noise level"


def check_probes(probes: int, step: float) -> None:
    if probes < 1 or not step > 0:
        raise InputError(f"probes must be at least 1 and step positive, got {probes} and {step}")
