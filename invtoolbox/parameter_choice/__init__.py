"""Rules for the weight of the prior."""

from invtoolbox.parameter_choice.base import WeightRule

__all__ = ["WeightRule"]
