"""Solvers: one algorithm a file, each a frozen record of settings; the loop is in `invtoolbox.loop`."""

from invtoolbox.solvers.adam import Adam
from invtoolbox.solvers.admm import ADMM
from invtoolbox.solvers.base import Solver, State
from invtoolbox.solvers.cgls import CGLS
from invtoolbox.solvers.conjugate_gradient import ConjugateGradient
from invtoolbox.solvers.gradient_descent import GradientDescent
from invtoolbox.solvers.krylov_mm import KrylovMM
from invtoolbox.solvers.lbfgs import LBFGS
from invtoolbox.solvers.pdhg import PDHG
from invtoolbox.solvers.proximal_gradient import FISTA, ProximalGradient

__all__ = [
    "ADMM",
    "CGLS",
    "FISTA",
    "LBFGS",
    "PDHG",
    "Adam",
    "ConjugateGradient",
    "GradientDescent",
    "KrylovMM",
    "ProximalGradient",
    "Solver",
    "State",
]
