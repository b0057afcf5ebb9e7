"""Forward operators and their algebra."""

from invtoolbox.operators import noise
from invtoolbox.operators.acoustic_waves import AcousticWaves
from invtoolbox.operators.algebra import stack
from invtoolbox.operators.augmented import Augmented
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.operators.depth_gaps import DepthGaps
from invtoolbox.operators.elementary import Identity, NoMeasurement
from invtoolbox.operators.event_warp import EventWarp
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.graph_laplacian import PixelGraphLaplacian
from invtoolbox.operators.image_warp import Exponential, ImageWarp, Warp, WarpSequence
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.blur_3d import Blur3D, measured_psf, psf_from_beads
from invtoolbox.operators.imaging.compressed_sensing import GaussianSensing, HadamardSensing
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.microscope import Microscope
from invtoolbox.operators.imaging.phase_retrieval import (
    PhaseRetrieval,
    align_phase,
    spectral_initialization,
)
from invtoolbox.operators.imaging.sampling import Inpainting, Sampling
from invtoolbox.operators.imaging.space_varying_blur import SpaceVaryingBlur, grid_weights
from invtoolbox.operators.imaging.unmixing import Unmixing
from invtoolbox.operators.matrix import Matrix, SparseMatrix
from invtoolbox.operators.mri.cartesian import CartesianMRI, estimate_coil_maps
from invtoolbox.operators.mri.fourier import Fourier, outer_noise_std
from invtoolbox.operators.mri.non_uniform_fourier import NonUniformFourier
from invtoolbox.operators.mri.readouts import (
    cones_trajectory,
    mri_trajectory,
    radial_trajectory,
    spiral_trajectory,
    stack_of_stars,
)
from invtoolbox.operators.normal_integration import NormalIntegration, SideGap
from invtoolbox.operators.placed_image import PlacedImage
from invtoolbox.operators.points import EulerRollout, ObservedPoints, PointWarp, PointWarpBothWays
from invtoolbox.operators.rendering.combined import OnBoth, OverTime
from invtoolbox.operators.rendering.exposure import ExposedRenderer
from invtoolbox.operators.rendering.gaussian_renderer import GaussianRanges, GaussianRenderer
from invtoolbox.operators.rendering.voxel_renderer import VoxelRenderer
from invtoolbox.operators.ridge_splines import RidgeSplines
from invtoolbox.operators.stationary_wavelet import StationaryWavelet
from invtoolbox.operators.strain import ElasticStrain, SecondDifferences
from invtoolbox.operators.tomography import trajectories
from invtoolbox.operators.tomography.cone_beam import ConeBeam, VectorScan
from invtoolbox.operators.tomography.conversion_astra import from_astra, to_astra
from invtoolbox.operators.tomography.conversion_cil import from_cil, to_cil
from invtoolbox.operators.tomography.conversion_odl import from_odl, to_odl
from invtoolbox.operators.tomography.conversion_tigre import from_tigre, to_tigre
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.gated import Gated
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.operators.tracked_points import TrackedPoints
from invtoolbox.operators.travel_times import TravelTimes
from invtoolbox.operators.wavelet import Wavelet

__all__ = [
    "AcousticWaves",
    "Augmented",
    "Blur",
    "Blur3D",
    "CartesianMRI",
    "ConeBeam",
    "DepthGaps",
    "Downsampling",
    "ElasticStrain",
    "EulerRollout",
    "EventWarp",
    "Exponential",
    "ExposedRenderer",
    "FanBeam",
    "FiniteDifference",
    "Fourier",
    "Gated",
    "GaussianRanges",
    "GaussianRenderer",
    "GaussianSensing",
    "HadamardSensing",
    "Identity",
    "ImageWarp",
    "Inpainting",
    "LinearOperator",
    "Matrix",
    "Microscope",
    "NoMeasurement",
    "NonUniformFourier",
    "NormalIntegration",
    "ObservedPoints",
    "OnBoth",
    "Operator",
    "OverTime",
    "ParallelBeam",
    "ParallelBeam3D",
    "PhaseRetrieval",
    "PixelGraphLaplacian",
    "PlacedImage",
    "PointWarp",
    "PointWarpBothWays",
    "RidgeSplines",
    "Sampling",
    "SecondDifferences",
    "SideGap",
    "SpaceVaryingBlur",
    "SparseMatrix",
    "StationaryWavelet",
    "TrackedPoints",
    "TravelTimes",
    "Unmixing",
    "VectorScan",
    "VoxelRenderer",
    "Warp",
    "WarpSequence",
    "Wavelet",
    "align_phase",
    "cones_trajectory",
    "estimate_coil_maps",
    "from_astra",
    "from_cil",
    "from_odl",
    "from_tigre",
    "grid_weights",
    "measured_psf",
    "mri_trajectory",
    "noise",
    "outer_noise_std",
    "psf_from_beads",
    "radial_trajectory",
    "spectral_initialization",
    "spiral_trajectory",
    "stack",
    "stack_of_stars",
    "to_astra",
    "to_cil",
    "to_odl",
    "to_tigre",
    "trajectories",
]
