"""Training of what is learned: the weights of a network are the unknown of a problem, and `invtoolbox.solve` owns the loop."""

from invtoolbox.training.losses import L1, L2, Loss, ProximalMatching
from invtoolbox.training.pairs import Crops, NoisyPairs, Pairs, RecorruptedPairs
from invtoolbox.training.rate_distortion import PixelLikelihood, RateDistortion
from invtoolbox.training.recipe import run_recipe
from invtoolbox.training.stages import Stage, Trained, proximal_matching_stages, train

__all__ = [
    "L1",
    "L2",
    "Crops",
    "Loss",
    "NoisyPairs",
    "Pairs",
    "PixelLikelihood",
    "ProximalMatching",
    "RateDistortion",
    "RecorruptedPairs",
    "Stage",
    "Trained",
    "proximal_matching_stages",
    "run_recipe",
    "train",
]
