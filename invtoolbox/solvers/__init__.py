"""Solvers: one algorithm a file, each a frozen record of settings; the loop is in `invtoolbox.loop`."""

from invtoolbox.solvers.adam import Adam
from invtoolbox.solvers.base import Solver, State
from invtoolbox.solvers.cgls import CGLS
from invtoolbox.solvers.conjugate_gradient import ConjugateGradient
from invtoolbox.solvers.gradient_descent import GradientDescent
from invtoolbox.solvers.krylov_mm import KrylovMM
from invtoolbox.solvers.lbfgs import LBFGS

__all__ = ["CGLS", "LBFGS", "Adam", "ConjugateGradient", "GradientDescent", "KrylovMM", "Solver", "State"]
