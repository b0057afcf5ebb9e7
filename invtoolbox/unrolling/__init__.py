"""Solvers as networks: some of their steps, their fixed point, or answers for every weight."""

from invtoolbox.unrolling.conditioned import Conditioned
from invtoolbox.unrolling.equilibrium import Equilibrium, FixedPoint, Unrolled, equilibrium, unroll

__all__ = ["Conditioned", "Equilibrium", "FixedPoint", "Unrolled", "equilibrium", "unroll"]
