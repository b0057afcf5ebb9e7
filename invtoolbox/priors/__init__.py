"""Priors: what is known about the image before it is measured."""

from invtoolbox.catalogue.presets import load_prior as load
from invtoolbox.networks.convex_convolution import ConvexConvolution, ConvexPatches
from invtoolbox.networks.convex_energy import ConvexEnergy
from invtoolbox.networks.convex_network import ConvexDense, ConvexNetwork
from invtoolbox.networks.cosine_hyperprior import CosineHyperprior
from invtoolbox.networks.deep_variation import DeepVariationNetwork
from invtoolbox.networks.denoisers import Bottleneck, DnCNN, load_dncnn
from invtoolbox.networks.hyperprior import MeanScaleHyperprior
from invtoolbox.networks.pixel_network import PixelNetwork
from invtoolbox.priors.adaptive import AdaptivePrior
from invtoolbox.priors.automatic import Auto
from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Prior, PriorSum
from invtoolbox.priors.composed import LearnedWeight, ThroughOperator
from invtoolbox.priors.images.cauchy_schwarz import CauchySchwarz
from invtoolbox.priors.images.constraints import Box, NonNegative, Simplex
from invtoolbox.priors.images.gaussian_mixture import (
    ConditionalMixture,
    ConditionalPrior,
    Gaussian,
    GaussianMixture,
)
from invtoolbox.priors.images.graph_laplacian import GraphLaplacian
from invtoolbox.priors.images.nuclear_norm import NuclearNorm
from invtoolbox.priors.images.prior_image import Misfit, PriorImage
from invtoolbox.priors.images.smoothed_norm import HuberNorm, SmoothedNorm
from invtoolbox.priors.images.sparsity import L1, GroupL1, GroupSparsity, WaveletL1
from invtoolbox.priors.images.stationary_wavelet import StationaryWaveletL1
from invtoolbox.priors.images.tangent_bound import TangentBound
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.priors.images.total_generalized_variation import TotalGeneralizedVariation
from invtoolbox.priors.images.total_variation import HuberTV, TotalVariation
from invtoolbox.priors.images.tubal_nuclear_norm import TubalNuclearNorm
from invtoolbox.priors.images.two_level import TwoLevel
from invtoolbox.priors.implicit.affine_flow import AffineFlow
from invtoolbox.priors.implicit.affine_map import AffineMap
from invtoolbox.priors.implicit.bones import Bones
from invtoolbox.priors.implicit.compressive_autoencoder import CompressiveAutoencoder
from invtoolbox.priors.implicit.coordinate_network import CoordinateNetwork
from invtoolbox.priors.implicit.deformation import (
    ControlNodes,
    Deformation,
    NetworkMotion,
    PointMotion,
)
from invtoolbox.priors.implicit.flow_spline import CameraFlow, FlowSpline
from invtoolbox.priors.implicit.gaussian_pair import GaussianPair
from invtoolbox.priors.implicit.gaussian_strategies import DefaultStrategy, MCMCStrategy
from invtoolbox.priors.implicit.gaussians import Gaussians
from invtoolbox.priors.implicit.latent_networks import (
    AutoencoderNetwork,
    GaussianLatents,
    GradientOrigin,
    GradientOriginNetwork,
    VariationalAutoencoder,
)
from invtoolbox.priors.implicit.moving_image import MovingImage
from invtoolbox.priors.implicit.point_flow import FreeFlow, NeuralSceneFlow
from invtoolbox.priors.implicit.probability_flow import ProbabilityFlow
from invtoolbox.priors.implicit.rigid_motion import RigidClusters, RigidMotion
from invtoolbox.priors.implicit.rigid_track import RigidTrack
from invtoolbox.priors.implicit.sine_network import SineNetwork
from invtoolbox.priors.implicit.space_time_flow import SpaceTimeFlow, SpaceTimeVoxels
from invtoolbox.priors.implicit.tubal_factors import TubalFactors
from invtoolbox.priors.implicit.tuned_generator import TunedGenerator
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.priors.implicit.voxel_grid import VoxelGrid
from invtoolbox.priors.learned.denoiser import Denoiser
from invtoolbox.priors.learned.fields_of_experts import FieldsOfExperts
from invtoolbox.priors.learned.learned_proximal import LearnedProximal
from invtoolbox.priors.learned.pixel_density import PixelDensity
from invtoolbox.priors.learned.score_distillation import (
    DenoiserScore,
    DiffusersScore,
    GaussianScore,
    Score,
    ScoreDistillation,
    linear_schedule,
)
from invtoolbox.priors.learned.tiled import Tiled
from invtoolbox.priors.learned.total_deep_variation import TotalDeepVariation
from invtoolbox.priors.motion.consistency import ClusterConsistency, SpatialConsistency
from invtoolbox.priors.motion.displacement import Bending, Diffusion, LinearElastic
from invtoolbox.priors.motion.grid_arap import GridARAP
from invtoolbox.priors.motion.local_rigidity import (
    AsIsometricAsPossible,
    LocalRigidity,
    LocalRotation,
)
from invtoolbox.priors.motion.node_arap import NodeARAP
from invtoolbox.priors.motion.rigidity import ARAP, Isometry
from invtoolbox.priors.motion.speed import AccelerationLimit, AlongField, SpeedLimit, StaticWorld
from invtoolbox.priors.motion.sum_of_norms import SumOfNorms
from invtoolbox.priors.scenes.views import (
    DepthConsistency,
    DepthSmoothness,
    Disagreement,
    NormalConsistency,
    OcclusionPenalty,
    RaySpread,
)
from invtoolbox.priors.scenes.voxels import DensityCorrelation, VoxelSparsity, VoxelVariation

__all__ = [
    "ARAP",
    "L1",
    "AccelerationLimit",
    "AdaptivePrior",
    "AffineFlow",
    "AffineMap",
    "AlongField",
    "AsIsometricAsPossible",
    "Auto",
    "AutoencoderNetwork",
    "Bending",
    "Bones",
    "Bottleneck",
    "Box",
    "CameraFlow",
    "CauchySchwarz",
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
    "Diffusion",
    "Disagreement",
    "DnCNN",
    "ExplicitPrior",
    "FieldsOfExperts",
    "FlowSpline",
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
    "GridARAP",
    "GroupL1",
    "GroupSparsity",
    "HuberNorm",
    "HuberTV",
    "ImplicitPrior",
    "Isometry",
    "LearnedProximal",
    "LearnedWeight",
    "LinearElastic",
    "LocalRigidity",
    "LocalRotation",
    "MCMCStrategy",
    "MeanScaleHyperprior",
    "Misfit",
    "MovingImage",
    "NetworkMotion",
    "NeuralSceneFlow",
    "NodeARAP",
    "NonNegative",
    "NormalConsistency",
    "NuclearNorm",
    "OcclusionPenalty",
    "PixelDensity",
    "PixelNetwork",
    "PointMotion",
    "Prior",
    "PriorImage",
    "PriorSum",
    "ProbabilityFlow",
    "RaySpread",
    "RigidClusters",
    "RigidMotion",
    "RigidTrack",
    "Score",
    "ScoreDistillation",
    "Simplex",
    "SineNetwork",
    "SmoothedNorm",
    "SpaceTimeFlow",
    "SpaceTimeVoxels",
    "SpatialConsistency",
    "SpeedLimit",
    "StaticWorld",
    "StationaryWaveletL1",
    "SumOfNorms",
    "TangentBound",
    "ThroughOperator",
    "Tikhonov",
    "Tiled",
    "TotalDeepVariation",
    "TotalGeneralizedVariation",
    "TotalVariation",
    "TubalFactors",
    "TubalNuclearNorm",
    "TunedGenerator",
    "TwoLevel",
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
