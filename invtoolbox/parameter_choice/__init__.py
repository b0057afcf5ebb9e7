"""Rules for the weight of the prior."""

from __future__ import annotations

from invtoolbox.errors import InputError, require_name
from invtoolbox.objective.gaps import measured
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.parameter_choice.base import RuleState, WeightCurve, WeightRule
from invtoolbox.parameter_choice.count_splitting import CountSplitting, are_counts
from invtoolbox.parameter_choice.curve_rules import GridSearch, LCurve, QuasiOptimality
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple, expected_discrepancy
from invtoolbox.parameter_choice.evidence import EvidenceBound
from invtoolbox.parameter_choice.gcv_walk import GCVWalk
from invtoolbox.parameter_choice.held_out import LEAST_MEASUREMENTS, accepts, has_views
from invtoolbox.parameter_choice.noise import correct_level, estimate_noise_std, has_noise_windows
from invtoolbox.parameter_choice.robust_validation import RobustValidation, accepts_robust
from invtoolbox.parameter_choice.score_rules import GCV, SURE, CompensatedDiscrepancy, ScoreSearch
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.parameter_choice.validation import Validation
from invtoolbox.parameter_choice.white_residual import WhiteResidual
from invtoolbox.problem import Problem

__all__ = [
    "GCV",
    "SURE",
    "CompensatedDiscrepancy",
    "CountSplitting",
    "DiscrepancyPrinciple",
    "EvidenceBound",
    "GCVWalk",
    "GridSearch",
    "LCurve",
    "QuasiOptimality",
    "RobustValidation",
    "RuleState",
    "ScoreSearch",
    "Trials",
    "Validation",
    "WeightCurve",
    "WeightRule",
    "WeightSearch",
    "WhiteResidual",
    "automatic",
    "estimate_noise_std",
    "rule_name",
    "rule_named",
]

_RULES: dict[str, type[WeightRule | WeightSearch]] = {
    "validation": Validation,
    "robust-validation": RobustValidation,
    "count-splitting": CountSplitting,
    "discrepancy": DiscrepancyPrinciple,
    "compensated-discrepancy": CompensatedDiscrepancy,
    "gcv": GCV,
    "gcv-walk": GCVWalk,
    "sure": SURE,
    "evidence": EvidenceBound,
    "l-curve": LCurve,
    "quasi-optimality": QuasiOptimality,
}


def automatic(objective: Objective) -> tuple[WeightRule | WeightSearch, str]:
    """Return the default rule, and the first words of its reason.

    It is `Validation` for least squares, or counts of transmitted photons, with a linear operator,
    and priors that are convex functions of the image; of a picture that is only noisy, whose pixels
    predict each other as well at any small weight, it is `SURE`, and of k-space, whose neighbours
    do not predict each other, `GCVWalk`, unless all priors are squares. For the robust misfits `L1`,
    `Huber` and `Student` it is `RobustValidation`, and for counts of emitted photons
    `CountSplitting`. For others it is the discrepancy principle if the noise level is
    known or can be estimated, else the L-curve. It is so for a blurred picture, or k-space, and a
    prior that is made from it: without the held-out pixels the prior is another one, and the weight
    of photographs was 5 times too small.
    """
    problem, words = objective.problem, "no weight was given: "
    suits_graphs = _is_noisy_picture(problem) or has_views(problem)
    is_robust = accepts_robust(objective)
    if (
        (accepts(objective) or is_robust)
        and problem.is_linear
        and objective.layout is None
        and problem.y0[0].numel() >= LEAST_MEASUREMENTS
        and all(
            "energy" in prior.offers
            and prior.is_convex
            and (prior.is_constraint or not prior.is_made_from_data or suits_graphs)
            for prior in objective.explicit_priors
        )
        and not (is_robust and _has_unlike_neighbours(problem))
    ):
        if is_robust:
            return RobustValidation(), words
        if _knows_its_noise(problem) or _has_unlike_neighbours(problem):
            # Under squares alone the score of orthonormal samples is the same for every weight.
            if all("quadratic" in prior.offers for prior in objective.explicit_priors):
                return DiscrepancyPrinciple(), words
            return GCVWalk(), words
        if not _is_noisy_picture(problem):
            return Validation(), words
        # A prior with auxiliary variables is slow: five solves instead of sixteen.
        slow = any("joint" in prior.offers for prior in objective.explicit_priors)
        level, correction = correct_level(problem, is_reliable=False)
        words = f"{correction}: " if correction else words
        if slow:
            return CompensatedDiscrepancy(noise_std=level), words
        return SURE(points=5, sections=3, noise_std=level), words
    if (
        are_counts(problem)
        and objective.layout is None
        and all("energy" in prior.offers for prior in objective.explicit_priors)
    ):
        return CountSplitting(), words
    try:
        expected_discrepancy(objective)
    except InputError as unknown:
        return LCurve(), f"no weight was given, and no noise level can be had ({unknown}): "
    return DiscrepancyPrinciple(), words


def has_white_noise(objective: Objective) -> bool:
    """Return whether a right image leaves a white residual on a grid, and a wrong one may not.

    Texture that a denoised picture loses is not white either, and gaps are no grid.
    """
    problem = objective.problem
    return (
        accepts(objective)
        and problem.y0.ndim > 3
        and problem.y0[0].numel() >= LEAST_MEASUREMENTS
        and not _knows_its_noise(problem)
        and not isinstance(problem.operator, Identity)
        and measured(problem) is None
    )


def _is_noisy_picture(problem: Problem) -> bool:
    """Return whether every pixel of a picture is measured by itself."""
    is_picture = isinstance(problem.operator, Identity) and has_noise_windows(problem.y0)
    return is_picture and measured(problem) is None


def _has_unlike_neighbours(problem: Problem) -> bool:
    """Return whether measurements are complex numbers of which neighbours do not predict each other.

    So are those of a Fourier transform that a user wrote.
    """
    A = problem.operator
    return problem.y0.is_complex() and not isinstance(A, (Identity, Blur, Blur3D))


def _knows_its_noise(problem: Problem) -> bool:
    """Return whether the kind of measurements has its own estimate of the noise, as k-space has."""
    weights = getattr(problem.data_term, "weights", None)
    return problem.operator.estimate_noise_std(problem.y0, weights) is not None


def rule_name(rule: WeightRule | WeightSearch) -> str:
    """Return the name of a rule.

    >>> rule_name(GCV())
    'gcv'
    """
    return next(name for name, kind in _RULES.items() if kind is type(rule))


def rule_named(name: str) -> WeightRule | WeightSearch:
    """Return the rule of a name, with its default settings.

    >>> rule_named("gcv").probes
    1
    """
    try:
        number = float(name)
    except ValueError:
        return _RULES[require_name("rule for the weight", name, _RULES)]()
    raise InputError(f"regularization is the text {name!r}; give the number {number:g}")
