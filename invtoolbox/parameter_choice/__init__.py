"""Rules for the weight of the prior."""

from __future__ import annotations

from invtoolbox.errors import InputError, match_name, unknown_name
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
    """Return the default rule, and the first words of its reason.

    It is the discrepancy principle if the noise level is known or can be estimated, else the
    L-curve.
    """
    try:
        expected_discrepancy(objective)
    except InputError as unknown:
        return LCurve(), f"no weight was given, and no noise level can be had ({unknown}): "
    return DiscrepancyPrinciple(), "no weight was given: "


def rule_named(name: str) -> WeightRule | WeightSearch:
    """Return the rule of a name, with its default settings.

    >>> rule_named("gcv").probes
    1
    """
    found = match_name(name, _RULES)
    if found is None:
        raise unknown_name("rule for the weight", name, _RULES)
    return _RULES[found]()
