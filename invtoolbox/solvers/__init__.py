"""Solvers: one algorithm per file, each a frozen record of settings.

The loop is in `invtoolbox.loop.run`.
"""

from invtoolbox.networks.direction_network import DirectionNetwork
from invtoolbox.solvers.adam import Adam
from invtoolbox.solvers.admm import ADMM
from invtoolbox.solvers.annealed_samplers import DAPS, EDM, AnnealedSampler, PiGDM
from invtoolbox.solvers.base import Solver, State
from invtoolbox.solvers.condat_vu import CondatVu
from invtoolbox.solvers.conjugate_gradient import ConjugateGradient
from invtoolbox.solvers.diffusion import DDRM, DPS, DiffPIR, DiffusionSampler
from invtoolbox.solvers.douglas_rachford import DouglasRachford
from invtoolbox.solvers.gauss_newton import GaussNewton, LevenbergMarquardt
from invtoolbox.solvers.gibbs import Gibbs
from invtoolbox.solvers.gradient_descent import GradientDescent
from invtoolbox.solvers.half_quadratic import HalfQuadratic
from invtoolbox.solvers.inexact_descent import AdaptiveAccuracy, ScheduledAccuracy
from invtoolbox.solvers.krylov_mm import KrylovMM
from invtoolbox.solvers.lbfgs import LBFGS
from invtoolbox.solvers.learned_direction import LearnedDirection
from invtoolbox.solvers.local_global import LocalGlobal
from invtoolbox.solvers.lsmr import CGLS, LSMR
from invtoolbox.solvers.moreau_yosida import MYULA, SKROCK
from invtoolbox.solvers.newton_inversion import invert_flow
from invtoolbox.solvers.nonlinear_admm import NonlinearADMM
from invtoolbox.solvers.ordered_subsets import OSEM, OSSART
from invtoolbox.solvers.palm import PALM
from invtoolbox.solvers.pdhg import PDHG
from invtoolbox.solvers.proximal_gradient import FISTA, ProximalGradient
from invtoolbox.solvers.reweighted import Reweighted
from invtoolbox.solvers.richardson_lucy import RichardsonLucy
from invtoolbox.solvers.sirt import SIRT
from invtoolbox.solvers.stochastic_pdhg import StochasticPDHG
from invtoolbox.solvers.unadjusted_langevin import UnadjustedLangevin
from invtoolbox.solvers.variational_latent import VariationalLatent

__all__ = [
    "ADMM",
    "CGLS",
    "DAPS",
    "DDRM",
    "DPS",
    "EDM",
    "FISTA",
    "LBFGS",
    "LSMR",
    "MYULA",
    "OSEM",
    "OSSART",
    "PALM",
    "PDHG",
    "SIRT",
    "SKROCK",
    "Adam",
    "AdaptiveAccuracy",
    "AnnealedSampler",
    "CondatVu",
    "ConjugateGradient",
    "DiffPIR",
    "DiffusionSampler",
    "DirectionNetwork",
    "DouglasRachford",
    "GaussNewton",
    "Gibbs",
    "GradientDescent",
    "HalfQuadratic",
    "KrylovMM",
    "LearnedDirection",
    "LevenbergMarquardt",
    "LocalGlobal",
    "NonlinearADMM",
    "PiGDM",
    "ProximalGradient",
    "Reweighted",
    "RichardsonLucy",
    "ScheduledAccuracy",
    "Solver",
    "State",
    "StochasticPDHG",
    "UnadjustedLangevin",
    "VariationalLatent",
    "invert_flow",
]
