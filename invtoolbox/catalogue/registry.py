"""Names: what can be written as a word in the API, in a scene file and on the command line.

Own classes are listed here; plug-ins register theirs under the entry points ``invtoolbox.priors``, ``.operators``,
``.solvers`` and ``.readers``. Trained priors and presets come from the catalogue.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.priors.base import Prior
from invtoolbox.solvers.base import Solver

#: Short names beside the class names.
_OWN: dict[str, dict[str, str]] = {
    "priors": {
        "simplex": "invtoolbox.priors:Simplex",
        "tikhonov": "invtoolbox.priors:Tikhonov",
        "tv": "invtoolbox.priors:TotalVariation",
        "huber-tv": "invtoolbox.priors:HuberTV",
        "tgv": "invtoolbox.priors:TotalGeneralizedVariation",
        "wavelet": "invtoolbox.priors:WaveletL1",
        "l1": "invtoolbox.priors:L1",
        "group-l1": "invtoolbox.priors:GroupL1",
        "group-sparsity": "invtoolbox.priors:GroupSparsity",
        "nuclear-norm": "invtoolbox.priors:NuclearNorm",
        "prior-image": "invtoolbox.priors:PriorImage",
        "nonnegative": "invtoolbox.priors:NonNegative",
        "box": "invtoolbox.priors:Box",
        "graph-laplacian": "invtoolbox.priors:GraphLaplacian",
        "gaussian": "invtoolbox.priors:Gaussian",
        "gaussian-mixture": "invtoolbox.priors:GaussianMixture",
        "gradient-origin": "invtoolbox.priors:GradientOrigin",
        "variational-autoencoder": "invtoolbox.priors:VariationalAutoencoder",
        "denoiser": "invtoolbox.priors:Denoiser",
        "learned-proximal": "invtoolbox.priors:LearnedProximal",
        "compressive-autoencoder": "invtoolbox.priors:CompressiveAutoencoder",
        "coordinate-network": "invtoolbox.priors:CoordinateNetwork",
        "arap": "invtoolbox.priors:ARAP",
        "isometry": "invtoolbox.priors:Isometry",
        "as-isometric-as-possible": "invtoolbox.priors:AsIsometricAsPossible",
        "local-rigidity": "invtoolbox.priors:LocalRigidity",
        "local-rotation": "invtoolbox.priors:LocalRotation",
        "node-arap": "invtoolbox.priors:NodeARAP",
        "rigidity-coefficients": "invtoolbox.priors:RigidityCoefficients",
        "cluster-consistency": "invtoolbox.priors:ClusterConsistency",
        "spatial-consistency": "invtoolbox.priors:SpatialConsistency",
        "static-world": "invtoolbox.priors:StaticWorld",
        "speed-limit": "invtoolbox.priors:SpeedLimit",
        "acceleration-limit": "invtoolbox.priors:AccelerationLimit",
        "space-time-flow": "invtoolbox.priors:SpaceTimeFlow",
        "space-time-voxels": "invtoolbox.priors:SpaceTimeVoxels",
        "rigid-clusters": "invtoolbox.priors:RigidClusters",
        "voxel-flow": "invtoolbox.priors:VoxelFlow",
        "neural-scene-flow": "invtoolbox.priors:NeuralSceneFlow",
        "gaussians": "invtoolbox.priors:Gaussians",
        "voxel-grid": "invtoolbox.priors:VoxelGrid",
        "voxel-variation": "invtoolbox.priors:VoxelVariation",
        "voxel-sparsity": "invtoolbox.priors:VoxelSparsity",
        "density-correlation": "invtoolbox.priors:DensityCorrelation",
        "depth-consistency": "invtoolbox.priors:DepthConsistency",
        "depth-smoothness": "invtoolbox.priors:DepthSmoothness",
        "disagreement": "invtoolbox.priors:Disagreement",
        "normal-consistency": "invtoolbox.priors:NormalConsistency",
        "occlusion-penalty": "invtoolbox.priors:OcclusionPenalty",
        "score-distillation": "invtoolbox.priors:ScoreDistillation",
        "free-flow": "invtoolbox.priors:FreeFlow",
    },
    "operators": {
        "identity": "invtoolbox.operators:Identity",
        "parallel-beam": "invtoolbox.operators:ParallelBeam",
        "fan-beam": "invtoolbox.operators:FanBeam",
        "cone-beam": "invtoolbox.operators:ConeBeam",
        "parallel-beam-3d": "invtoolbox.operators:ParallelBeam3D",
        "blur": "invtoolbox.operators:Blur",
        "inpainting": "invtoolbox.operators:Inpainting",
        "downsampling": "invtoolbox.operators:Downsampling",
        "finite-difference": "invtoolbox.operators:FiniteDifference",
        "fourier": "invtoolbox.operators:Fourier",
        "non-uniform-fourier": "invtoolbox.operators:NonUniformFourier",
        "cartesian-mri": "invtoolbox.operators:CartesianMRI",
        "wavelet": "invtoolbox.operators:Wavelet",
        "observed-points": "invtoolbox.operators:ObservedPoints",
        "sampling": "invtoolbox.operators:Sampling",
        "gaussian-sensing": "invtoolbox.operators:GaussianSensing",
        "hadamard-sensing": "invtoolbox.operators:HadamardSensing",
        "phase-retrieval": "invtoolbox.operators:PhaseRetrieval",
        "space-varying-blur": "invtoolbox.operators:SpaceVaryingBlur",
        "blur-3d": "invtoolbox.operators:Blur3D",
        "gaussian-ranges": "invtoolbox.operators:GaussianRanges",
        "gaussian-renderer": "invtoolbox.operators:GaussianRenderer",
        "voxel-renderer": "invtoolbox.operators:VoxelRenderer",
        "unmixing": "invtoolbox.operators:Unmixing",
    },
    "data_terms": {
        "least-squares": "invtoolbox.data_terms:LeastSquares",
        "sobolev": "invtoolbox.data_terms:Sobolev",
        "exact": "invtoolbox.data_terms:Exact",
        "poisson": "invtoolbox.data_terms:Poisson",
        "huber": "invtoolbox.data_terms:Huber",
        "l1": "invtoolbox.data_terms:L1",
        "student": "invtoolbox.data_terms:Student",
        "poisson-transmission": "invtoolbox.data_terms:PoissonTransmission",
        "photometric": "invtoolbox.data_terms:Photometric",
        "pearson-depth": "invtoolbox.data_terms:PearsonDepth",
        "scale-shift-invariant": "invtoolbox.data_terms:ScaleShiftInvariant",
        "depth-ranking": "invtoolbox.data_terms:DepthRanking",
        "chamfer": "invtoolbox.data_terms:Chamfer",
        "distance-transform": "invtoolbox.data_terms:DistanceTransform",
    },
    "solvers": {
        "cg": "invtoolbox.solvers:ConjugateGradient",
        "cgls": "invtoolbox.solvers:CGLS",
        "gradient-descent": "invtoolbox.solvers:GradientDescent",
        "gauss-newton": "invtoolbox.solvers:GaussNewton",
        "local-global": "invtoolbox.solvers:LocalGlobal",
        "lbfgs": "invtoolbox.solvers:LBFGS",
        "levenberg-marquardt": "invtoolbox.solvers:LevenbergMarquardt",
        "adam": "invtoolbox.solvers:Adam",
        "proximal-gradient": "invtoolbox.solvers:ProximalGradient",
        "fista": "invtoolbox.solvers:FISTA",
        "admm": "invtoolbox.solvers:ADMM",
        "palm": "invtoolbox.solvers:PALM",
        "pdhg": "invtoolbox.solvers:PDHG",
        "reweighted": "invtoolbox.solvers:Reweighted",
        "krylov-mm": "invtoolbox.solvers:KrylovMM",
        "lsmr": "invtoolbox.solvers:LSMR",
        "sirt": "invtoolbox.solvers:SIRT",
        "os-sart": "invtoolbox.solvers:OSSART",
        "osem": "invtoolbox.solvers:OSEM",
        "stochastic-pdhg": "invtoolbox.solvers:StochasticPDHG",
        "condat-vu": "invtoolbox.solvers:CondatVu",
        "half-quadratic": "invtoolbox.solvers:HalfQuadratic",
        "ula": "invtoolbox.solvers:UnadjustedLangevin",
        "dps": "invtoolbox.solvers:DPS",
        "diffpir": "invtoolbox.solvers:DiffPIR",
        "ddrm": "invtoolbox.solvers:DDRM",
        "prompt-tuning": "invtoolbox.solvers:PromptTuning",
        "douglas-rachford": "invtoolbox.solvers:DouglasRachford",
        "variational-latent": "invtoolbox.solvers:VariationalLatent",
    },
    "readers": {},
}
KINDS = tuple(_OWN)


@cache
def names(kind: str) -> dict[str, Callable[[], Any]]:
    """Every registered name of a kind, each with what loads its class; a plug-in may not take a name of ours."""
    if kind not in _OWN:
        raise unknown_name("kind of part", kind, _OWN)
    found: dict[str, Callable[[], Any]] = {}
    for point in entry_points(group=f"invtoolbox.{kind}"):
        found[point.name] = point.load
    for name, target in _OWN[kind].items():
        found[name] = _loader(target)
    return found


def lookup(kind: str, name: str) -> Any:
    """The class registered under a name, or under its class name.

    >>> lookup("priors", "tv").__name__
    'TotalVariation'
    """
    known = names(kind)
    if name in known:
        return known[name]()
    for target in _OWN[kind].values():
        if target.split(":")[1] == name:
            return _loader(target)()
    raise unknown_name(kind.replace("_", " ").removesuffix("s"), name, known)


def build(kind: str, name: str, settings: dict[str, Any]) -> Any:
    """An instance of a registered class; a setting it does not take is named together with those it does.

    >>> build("priors", "tv", {"isotropic": False})
    TotalVariation(isotropic=False)
    """
    import inspect

    cls = lookup(kind, name)
    taken = [p for p in inspect.signature(cls).parameters if p not in ("self", "args", "kwargs")]
    for key in settings:
        if key not in taken:
            raise InputError(
                f"{name!r} has no setting {key!r}; it has {', '.join(taken) or 'none'}"
            )
    try:
        return cls(**settings)
    except TypeError as error:
        raise InputError(f"{name!r} cannot be built from {settings}: {error}") from error


def prior_named(name: str) -> Prior:
    """A prior by its registered name, or a trained one of the catalogue."""
    from invtoolbox.catalogue.presets import load_prior
    from invtoolbox.catalogue.shelves import has_prior

    prior = load_prior(name) if has_prior(name) else build("priors", name, {})
    if not isinstance(prior, Prior):
        raise InputError(f"the plug-in {name!r} gave a {type(prior).__name__}, not a prior")
    return prior


def solver_named(name: str) -> Solver:
    """A solver by its registered name, or a preset of the catalogue."""
    from invtoolbox.catalogue.presets import load_preset
    from invtoolbox.catalogue.shelves import has_preset

    solver = load_preset(name) if has_preset(name) else build("solvers", name, {})
    if not isinstance(solver, Solver):
        raise InputError(f"the plug-in {name!r} gave a {type(solver).__name__}, not a solver")
    return solver


def _loader(target: str) -> Callable[[], Any]:
    module, attribute = target.split(":")
    return lambda: getattr(importlib.import_module(module), attribute)
