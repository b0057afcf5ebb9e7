"""Data terms: misfits between a prediction and the measurements."""

from invtoolbox.data_terms.base import DataTerm, Stack
from invtoolbox.data_terms.bilateral import Bilateral
from invtoolbox.data_terms.chamfer import Chamfer, RolloutChamfer
from invtoolbox.data_terms.contrast import Contrast
from invtoolbox.data_terms.cross_entropy import CrossEntropy
from invtoolbox.data_terms.least_squares import Exact, LeastSquares
from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.data_terms.rendered_views import (
    DepthRanking,
    PearsonDepth,
    Photometric,
    ScaleShiftInvariant,
)
from invtoolbox.data_terms.robust import L1, Huber, Student
from invtoolbox.data_terms.similarity import MutualInformation, NormalizedCrossCorrelation
from invtoolbox.data_terms.sinkhorn import Sinkhorn
from invtoolbox.data_terms.sobolev import Sobolev
from invtoolbox.data_terms.wasserstein import Wasserstein
from invtoolbox.data_terms.windowed import Windowed

__all__ = [
    "L1",
    "Bilateral",
    "Chamfer",
    "Contrast",
    "CrossEntropy",
    "DataTerm",
    "DepthRanking",
    "Exact",
    "Huber",
    "LeastSquares",
    "MutualInformation",
    "NormalizedCrossCorrelation",
    "PearsonDepth",
    "Photometric",
    "PlaneToPlane",
    "Poisson",
    "PoissonTransmission",
    "RolloutChamfer",
    "ScaleShiftInvariant",
    "Sinkhorn",
    "Sobolev",
    "Stack",
    "Student",
    "Wasserstein",
    "Windowed",
]
