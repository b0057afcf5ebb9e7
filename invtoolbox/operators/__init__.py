"""Forward operators and their algebra."""

from invtoolbox.operators.algebra import stack
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.operators.blur import Blur
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.identity import Identity

__all__ = ["Blur", "FiniteDifference", "Identity", "LinearOperator", "Operator", "stack"]
