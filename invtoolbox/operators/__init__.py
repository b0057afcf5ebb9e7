"""Forward operators and their algebra."""

from invtoolbox.operators import noise, trajectories
from invtoolbox.operators.algebra import stack
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.operators.blur import Blur
from invtoolbox.operators.blur_3d import Blur3D, measured_psf
from invtoolbox.operators.coil_maps import estimate_coil_maps
from invtoolbox.operators.compressed_sensing import GaussianSensing, HadamardSensing
from invtoolbox.operators.cone_beam import ConeBeam
from invtoolbox.operators.conversion import from_astra, to_astra
from invtoolbox.operators.conversion_cil import from_cil, to_cil
from invtoolbox.operators.conversion_odl import from_odl, to_odl
from invtoolbox.operators.conversion_tigre import from_tigre, to_tigre
from invtoolbox.operators.downsampling import Downsampling
from invtoolbox.operators.euler_rollout import EulerRollout
from invtoolbox.operators.fan_beam import FanBeam
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.fourier import Fourier
from invtoolbox.operators.gaussian_ranges import GaussianRanges
from invtoolbox.operators.gaussian_renderer import GaussianRenderer
from invtoolbox.operators.graph_laplacian import PixelGraphLaplacian
from invtoolbox.operators.identity import Identity
from invtoolbox.operators.inpainting import Inpainting
from invtoolbox.operators.matrix import Matrix
from invtoolbox.operators.mri import CartesianMRI, outer_noise_std
from invtoolbox.operators.no_measurement import NoMeasurement
from invtoolbox.operators.non_uniform_fourier import NonUniformFourier, radial_trajectory
from invtoolbox.operators.observed_points import ObservedPoints
from invtoolbox.operators.on_both import OnBoth
from invtoolbox.operators.over_time import OverTime
from invtoolbox.operators.parallel_beam import ParallelBeam
from invtoolbox.operators.parallel_beam_3d import ParallelBeam3D
from invtoolbox.operators.phase_retrieval import PhaseRetrieval, aligned, spectral_initialization
from invtoolbox.operators.point_warp import PointWarp, PointWarpBothWays
from invtoolbox.operators.sampling import Sampling
from invtoolbox.operators.space_varying_blur import SpaceVaryingBlur, grid_weights
from invtoolbox.operators.unmixing import Unmixing
from invtoolbox.operators.vector_scan import VectorScan
from invtoolbox.operators.voxel_renderer import VoxelRenderer
from invtoolbox.operators.wavelet import Wavelet

__all__ = [
    "Blur",
    "Blur3D",
    "CartesianMRI",
    "ConeBeam",
    "Downsampling",
    "EulerRollout",
    "FanBeam",
    "FiniteDifference",
    "Fourier",
    "GaussianRanges",
    "GaussianRenderer",
    "GaussianSensing",
    "HadamardSensing",
    "Identity",
    "Inpainting",
    "LinearOperator",
    "Matrix",
    "NoMeasurement",
    "NonUniformFourier",
    "ObservedPoints",
    "OnBoth",
    "Operator",
    "OverTime",
    "ParallelBeam",
    "ParallelBeam3D",
    "PhaseRetrieval",
    "PixelGraphLaplacian",
    "PointWarp",
    "PointWarpBothWays",
    "Sampling",
    "SpaceVaryingBlur",
    "Unmixing",
    "VectorScan",
    "VoxelRenderer",
    "Wavelet",
    "aligned",
    "estimate_coil_maps",
    "from_astra",
    "from_cil",
    "from_odl",
    "from_tigre",
    "grid_weights",
    "measured_psf",
    "noise",
    "outer_noise_std",
    "radial_trajectory",
    "spectral_initialization",
    "stack",
    "to_astra",
    "to_cil",
    "to_odl",
    "to_tigre",
    "trajectories",
]
