"""Rules for the weight of the prior."""

from __future__ import annotations

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import RuleState, WeightCurve, WeightRule, WeightSearch
from invtoolbox.parameter_choice.curve_rules import GridSearch, LCurve, QuasiOptimality
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple, expected_discrepancy
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.parameter_choice.score_rules import GCV, SURE, CompensatedDiscrepancy, ScoreSearch
from invtoolbox.parameter_choice.trials import Trials

__all__ = [
    "GCV",
    "SURE",
    "CompensatedDiscrepancy",
    "DiscrepancyPrinciple",
    "GridSearch",
    "LCurve",
    "QuasiOptimality",
    "RuleState",
    "ScoreSearch",
    "Trials",
    "WeightCurve",
    "WeightRule",
    "WeightSearch",
    "automatic",
    "estimate_noise_std",
    "rule_named",
]

_RULES: dict[str, type[WeightRule | WeightSearch]] = {
    "discrepancy": DiscrepancyPrinciple,
    "compensated-discrepancy": CompensatedDiscrepancy,
    "gcv": GCV,
    "sure": SURE,
    "l-curve": LCurve,
    "quasi-optimality": QuasiOptimality,
}


def automatic(objective: Objective) -> tuple[WeightRule | WeightSearch, str]:
    """The rule where the user says nothing, and the first words of why: the discrepancy principle, if it can know the noise."""
    try:
        expected_discrepancy(objective)
    except InputError as unknown:
        return LCurve(), f"no weight was given, and no noise level can be had ({unknown}): "
    return DiscrepancyPrinciple(), "no weight was given: "


def rule_named(name: str) -> WeightRule | WeightSearch:
    """The rule of a name, with its default settings.

    >>> rule_named("gcv").probes
    1
    """
    if name not in _RULES:
        raise unknown_name("rule for the weight", name, _RULES)
    return _RULES[name]()
