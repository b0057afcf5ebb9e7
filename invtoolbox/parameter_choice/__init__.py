"""Rules for the weight of the prior."""

from __future__ import annotations

from invtoolbox.parameter_choice.base import RuleState, WeightRule

__all__ = ["RuleState", "WeightRule", "rule_named"]


def rule_named(name: str) -> WeightRule:
    """The rule of a name, with its default settings."""
    from invtoolbox.errors import unknown_name
    from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple

    rules = {"discrepancy": DiscrepancyPrinciple}
    if name not in rules:
        raise unknown_name("rule for the weight", name, rules)
    return rules[name]()
