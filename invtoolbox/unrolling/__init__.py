"""Solvers as networks: a number of their steps, or their fixed point, with learned parameters."""

from invtoolbox.unrolling.equilibrium import Equilibrium, FixedPoint, equilibrium
from invtoolbox.unrolling.unrolled import Unrolled, unroll

__all__ = ["Equilibrium", "FixedPoint", "Unrolled", "equilibrium", "unroll"]
