"""Solvers as networks: a number of their steps, or their fixed point, with learned parameters."""

from invtoolbox.unrolling.equilibrium import Equilibrium, Settled, equilibrium
from invtoolbox.unrolling.unrolled import Unrolled, unroll

__all__ = ["Equilibrium", "Settled", "Unrolled", "equilibrium", "unroll"]
