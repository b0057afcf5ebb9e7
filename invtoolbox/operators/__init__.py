"""Forward operators and their algebra."""

from invtoolbox.operators import noise
from invtoolbox.operators.algebra import stack
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.operators.blur import Blur
from invtoolbox.operators.downsampling import Downsampling
from invtoolbox.operators.fan_beam import FanBeam
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.graph_laplacian import PixelGraphLaplacian
from invtoolbox.operators.identity import Identity
from invtoolbox.operators.inpainting import Inpainting
from invtoolbox.operators.matrix import Matrix
from invtoolbox.operators.parallel_beam import ParallelBeam

__all__ = ["Blur", "Downsampling", "FanBeam", "FiniteDifference", "Identity", "Inpainting", "LinearOperator",
           "Matrix", "Operator", "ParallelBeam", "PixelGraphLaplacian", "noise", "stack"]
