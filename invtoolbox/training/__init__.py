"""Training of networks: the weights are the unknown of a problem that `invtoolbox.solve` solves."""

from invtoolbox.core.environment import keep_freed_memory
from invtoolbox.networks.galerkin import GalerkinTransformer
from invtoolbox.training.directions import (
    NormalEquations,
    ResidualLeft,
    RitzVectors,
    train_direction,
)
from invtoolbox.training.local_field import AtPixels, InpaintingPairs, LocalField
from invtoolbox.training.losses import (
    L1,
    L2,
    BitsPerPixel,
    JacobianNuclearNorm,
    Loss,
    PixelLikelihood,
    ProximalMatching,
    RateDistortion,
    SkipLoss,
)
from invtoolbox.training.pairs import (
    Crops,
    Examples,
    LevelPairs,
    MeasuredPairs,
    NoisyPairs,
    Pairs,
)
from invtoolbox.training.pairs_without_truth import (
    Measurements,
    Noise2InversePairs,
    RecorruptedPairs,
    ThinnedPairs,
)
from invtoolbox.training.prior_parameters import LearnedPrior, PriorParameters, learn_prior
from invtoolbox.training.recipe import run_recipe
from invtoolbox.training.regularizers import WorstDirection
from invtoolbox.training.score_matching import DiffusionPairs, ScoreMatching
from invtoolbox.training.stages import Stage, Trained, proximal_matching_stages, train
from invtoolbox.training.symmetries import Rotations, Shifts, Symmetry, measure_equivariance
from invtoolbox.training.without_truth import (
    ArtifactRemoval,
    EquivariantImaging,
    EveryWeight,
    MeasurementConsistency,
    MeasurementLoss,
    MeasurementSplitting,
    Sure,
)

__all__ = [
    "L1",
    "L2",
    "ArtifactRemoval",
    "AtPixels",
    "BitsPerPixel",
    "Crops",
    "DiffusionPairs",
    "EquivariantImaging",
    "EveryWeight",
    "Examples",
    "GalerkinTransformer",
    "InpaintingPairs",
    "JacobianNuclearNorm",
    "LearnedPrior",
    "LevelPairs",
    "LocalField",
    "Loss",
    "MeasuredPairs",
    "MeasurementConsistency",
    "MeasurementLoss",
    "MeasurementSplitting",
    "Measurements",
    "Noise2InversePairs",
    "NoisyPairs",
    "NormalEquations",
    "Pairs",
    "PixelLikelihood",
    "PriorParameters",
    "ProximalMatching",
    "RateDistortion",
    "RecorruptedPairs",
    "ResidualLeft",
    "RitzVectors",
    "Rotations",
    "ScoreMatching",
    "Shifts",
    "SkipLoss",
    "Stage",
    "Sure",
    "Symmetry",
    "ThinnedPairs",
    "Trained",
    "WorstDirection",
    "keep_freed_memory",
    "learn_prior",
    "measure_equivariance",
    "proximal_matching_stages",
    "run_recipe",
    "train",
    "train_direction",
]
