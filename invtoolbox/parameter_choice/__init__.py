"""Rules for the weight of the prior."""

from __future__ import annotations

from invtoolbox.errors import unknown_name
from invtoolbox.parameter_choice.base import RuleState, WeightRule
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple
from invtoolbox.parameter_choice.noise import estimate_noise_std

__all__ = ["DiscrepancyPrinciple", "RuleState", "WeightRule", "estimate_noise_std", "rule_named"]


def rule_named(name: str) -> WeightRule:
    """The rule of a name, with its default settings."""
    rules = {"discrepancy": DiscrepancyPrinciple}
    if name not in rules:
        raise unknown_name("rule for the weight", name, rules)
    return rules[name]()
