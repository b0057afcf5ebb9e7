"""Data terms: how misfit between prediction and measurements is measured."""

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.chamfer import Chamfer
from invtoolbox.data_terms.depth import DepthRanking, PearsonDepth, ScaleShiftInvariant
from invtoolbox.data_terms.distance_transform import DistanceTransform
from invtoolbox.data_terms.exact import Exact
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.data_terms.photometric import Photometric
from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.data_terms.robust import L1, Huber, Student
from invtoolbox.data_terms.rollout_chamfer import RolloutChamfer
from invtoolbox.data_terms.sobolev import Sobolev
from invtoolbox.data_terms.stack import Stack

__all__ = [
    "L1",
    "Chamfer",
    "DataTerm",
    "DepthRanking",
    "DistanceTransform",
    "Exact",
    "Huber",
    "LeastSquares",
    "PearsonDepth",
    "Photometric",
    "PlaneToPlane",
    "Poisson",
    "PoissonTransmission",
    "RolloutChamfer",
    "ScaleShiftInvariant",
    "Sobolev",
    "Stack",
    "Student",
]
