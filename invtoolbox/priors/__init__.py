"""Priors: what is known about the image before it is measured."""

from invtoolbox.presets import load_prior as load
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Prior, PriorSum
from invtoolbox.priors.composed import ThroughOperator
from invtoolbox.priors.explicit.along_field import AlongField
from invtoolbox.priors.explicit.arap import ARAP
from invtoolbox.priors.explicit.as_isometric import AsIsometricAsPossible
from invtoolbox.priors.explicit.bottleneck import Bottleneck
from invtoolbox.priors.explicit.cluster_consistency import ClusterConsistency
from invtoolbox.priors.explicit.conditional import ConditionalMixture, ConditionalPrior
from invtoolbox.priors.explicit.constraints import Box, NonNegative
from invtoolbox.priors.explicit.convex_convolution import ConvexConvolution
from invtoolbox.priors.explicit.convex_dense import ConvexDense
from invtoolbox.priors.explicit.convex_energy import ConvexEnergy
from invtoolbox.priors.explicit.convex_network import ConvexNetwork
from invtoolbox.priors.explicit.convex_patches import ConvexPatches
from invtoolbox.priors.explicit.deep_variation_network import DeepVariationNetwork
from invtoolbox.priors.explicit.denoiser import Denoiser
from invtoolbox.priors.explicit.density_correlation import DensityCorrelation
from invtoolbox.priors.explicit.depth_consistency import DepthConsistency
from invtoolbox.priors.explicit.depth_smoothness import DepthSmoothness, OcclusionPenalty
from invtoolbox.priors.explicit.disagreement import Disagreement
from invtoolbox.priors.explicit.dncnn import DnCNN, load_dncnn
from invtoolbox.priors.explicit.gaussian_mixture import Gaussian, GaussianMixture
from invtoolbox.priors.explicit.graph_laplacian import GraphLaplacian
from invtoolbox.priors.explicit.group_sparsity import GroupSparsity
from invtoolbox.priors.explicit.huber_tv import HuberTV
from invtoolbox.priors.explicit.isometry import Isometry
from invtoolbox.priors.explicit.learned_proximal import LearnedProximal
from invtoolbox.priors.explicit.local_rigidity import LocalRigidity, LocalRotation
from invtoolbox.priors.explicit.misfit import Misfit
from invtoolbox.priors.explicit.node_arap import NodeARAP
from invtoolbox.priors.explicit.normal_consistency import NormalConsistency
from invtoolbox.priors.explicit.nuclear_norm import NuclearNorm
from invtoolbox.priors.explicit.prior_image import PriorImage
from invtoolbox.priors.explicit.rigidity_coefficients import RigidityCoefficients
from invtoolbox.priors.explicit.score_distillation import ScoreDistillation
from invtoolbox.priors.explicit.scores import (
    DenoiserScore,
    DiffusersScore,
    GaussianScore,
    Score,
    linear_schedule,
)
from invtoolbox.priors.explicit.simplex import Simplex
from invtoolbox.priors.explicit.smoothed_norm import HuberNorm, SmoothedNorm
from invtoolbox.priors.explicit.sparsity import L1, GroupL1
from invtoolbox.priors.explicit.spatial_consistency import SpatialConsistency
from invtoolbox.priors.explicit.speed_limit import AccelerationLimit, SpeedLimit
from invtoolbox.priors.explicit.static_world import StaticWorld
from invtoolbox.priors.explicit.tikhonov import Tikhonov
from invtoolbox.priors.explicit.total_deep_variation import TotalDeepVariation
from invtoolbox.priors.explicit.total_generalized_variation import TotalGeneralizedVariation
from invtoolbox.priors.explicit.total_variation import TotalVariation
from invtoolbox.priors.explicit.voxel_sparsity import VoxelSparsity
from invtoolbox.priors.explicit.voxel_variation import VoxelVariation
from invtoolbox.priors.explicit.wavelet import WaveletL1
from invtoolbox.priors.implicit.compressive_autoencoder import CompressiveAutoencoder
from invtoolbox.priors.implicit.coordinate_network import CoordinateNetwork
from invtoolbox.priors.implicit.cosine_hyperprior import CosineHyperprior
from invtoolbox.priors.implicit.deformation import Deformation
from invtoolbox.priors.implicit.free_flow import FreeFlow
from invtoolbox.priors.implicit.gaussian_latents import GaussianLatents
from invtoolbox.priors.implicit.gaussian_pair import GaussianPair
from invtoolbox.priors.implicit.gaussian_strategies import DefaultStrategy, MCMCStrategy
from invtoolbox.priors.implicit.gaussians import Gaussians
from invtoolbox.priors.implicit.gradient_origin import GradientOrigin, GradientOriginNetwork
from invtoolbox.priors.implicit.hyperprior import MeanScaleHyperprior
from invtoolbox.priors.implicit.motions import ControlNodes, NetworkMotion, PointMotion
from invtoolbox.priors.implicit.neural_scene_flow import NeuralSceneFlow
from invtoolbox.priors.implicit.rigid_clusters import RigidClusters
from invtoolbox.priors.implicit.rigid_motion import RigidMotion
from invtoolbox.priors.implicit.space_time_flow import SpaceTimeFlow
from invtoolbox.priors.implicit.space_time_voxels import SpaceTimeVoxels
from invtoolbox.priors.implicit.variational_autoencoder import (
    AutoencoderNetwork,
    VariationalAutoencoder,
)
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.priors.implicit.voxel_grid import VoxelGrid

__all__ = [
    "ARAP",
    "L1",
    "AccelerationLimit",
    "AlongField",
    "AsIsometricAsPossible",
    "AutoencoderNetwork",
    "Bottleneck",
    "Box",
    "ClusterConsistency",
    "CompressiveAutoencoder",
    "ConditionalMixture",
    "ConditionalPrior",
    "ControlNodes",
    "ConvexConvolution",
    "ConvexDense",
    "ConvexEnergy",
    "ConvexNetwork",
    "ConvexPatches",
    "CoordinateNetwork",
    "CosineHyperprior",
    "DeepVariationNetwork",
    "DefaultStrategy",
    "Deformation",
    "Denoiser",
    "DenoiserScore",
    "DensityCorrelation",
    "DepthConsistency",
    "DepthSmoothness",
    "DiffusersScore",
    "Disagreement",
    "DnCNN",
    "ExplicitPrior",
    "FreeFlow",
    "Gaussian",
    "GaussianLatents",
    "GaussianMixture",
    "GaussianPair",
    "GaussianScore",
    "Gaussians",
    "GradientOrigin",
    "GradientOriginNetwork",
    "GraphLaplacian",
    "GroupL1",
    "GroupSparsity",
    "HuberNorm",
    "HuberTV",
    "ImplicitPrior",
    "Isometry",
    "LearnedProximal",
    "LocalRigidity",
    "LocalRotation",
    "MCMCStrategy",
    "MeanScaleHyperprior",
    "Misfit",
    "NetworkMotion",
    "NeuralSceneFlow",
    "NodeARAP",
    "NonNegative",
    "NormalConsistency",
    "NuclearNorm",
    "OcclusionPenalty",
    "PointMotion",
    "Prior",
    "PriorImage",
    "PriorSum",
    "RigidClusters",
    "RigidMotion",
    "RigidityCoefficients",
    "Score",
    "ScoreDistillation",
    "Simplex",
    "SmoothedNorm",
    "SpaceTimeFlow",
    "SpaceTimeVoxels",
    "SpatialConsistency",
    "SpeedLimit",
    "StaticWorld",
    "ThroughOperator",
    "Tikhonov",
    "TotalDeepVariation",
    "TotalGeneralizedVariation",
    "TotalVariation",
    "VariationalAutoencoder",
    "VoxelFlow",
    "VoxelGrid",
    "VoxelSparsity",
    "VoxelVariation",
    "WaveletL1",
    "linear_schedule",
    "load",
    "load_dncnn",
]
