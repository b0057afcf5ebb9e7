"""Training of networks: the weights are the unknown of a problem that `invtoolbox.solve` solves."""

from invtoolbox.core.environment import keep_freed_memory
from invtoolbox.training.directions import (
    NormalEquations,
    ResidualLeft,
    RitzVectors,
    train_direction,
)
from invtoolbox.training.losses import (
    L1,
    L2,
    JacobianNuclearNorm,
    Loss,
    PixelLikelihood,
    ProximalMatching,
    RateDistortion,
    SkipLoss,
)
from invtoolbox.training.pairs import (
    Crops,
    LevelPairs,
    MeasuredPairs,
    NoisyPairs,
    Pairs,
    RecorruptedPairs,
)
from invtoolbox.training.recipe import run_recipe
from invtoolbox.training.stages import Stage, Trained, proximal_matching_stages, train

__all__ = [
    "L1",
    "L2",
    "Crops",
    "JacobianNuclearNorm",
    "LevelPairs",
    "Loss",
    "MeasuredPairs",
    "NoisyPairs",
    "NormalEquations",
    "Pairs",
    "PixelLikelihood",
    "ProximalMatching",
    "RateDistortion",
    "RecorruptedPairs",
    "ResidualLeft",
    "RitzVectors",
    "SkipLoss",
    "Stage",
    "Trained",
    "keep_freed_memory",
    "proximal_matching_stages",
    "run_recipe",
    "train",
    "train_direction",
]
