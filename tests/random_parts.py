"""Random runs over the operators, data terms, priors, solvers and rules of the toolbox, one setting changed at a time.

A run is a flat dict of inputs, ``"prior.threshold": 0.02``, as in tests/random_runs.py. `draw` chooses
classes until they fit together; `solve` builds all objects anew from copies of the inputs.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.catalogue.registry import lookup, names
from invtoolbox.errors import InputError
from tests.random_runs import Power, Smoother, scaled

Inputs = dict[str, Any]
#: A class with the settings that stay, and the settings that are drawn.
Part = tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]
ITEMS, SIDE = 2, 8
IMAGE, VOLUME = (SIDE, SIDE), (4, 6, 6)
O, P, D, R = it.operators, it.priors, it.data_terms, it.parameter_choice

#: Values of settings that are words.
WORDS = {
    "levels": ("binary", "one-sided", "ternary"),
    "boundary": ("reflect", "periodic"),
    "filter": ("bicubic", "gaussian", "box"),
    "wavelet": ("db2", "haar"),
    "order": ("weights first", "kernels first"),
}


def noise(*shape: int, scale: float = 1.0, shift: float = 0.1) -> Callable[[Any], Tensor]:
    """A tensor between `shift` and ``shift + scale``."""
    return lambda g: shift + scale * torch.rand(shape, generator=g)


def between(low: float, high: float) -> Callable[[Any], float]:
    return lambda g: low + (high - low) * float(torch.rand((), generator=g))


def whole(low: int, high: int) -> Callable[[Any], int]:
    return lambda g: int(torch.randint(low, high, (), generator=g))


def yes_or_no(g: Any) -> bool:
    return bool(torch.rand((), generator=g) < 0.5)


def a_mask(*shape: int) -> Callable[[Any], Tensor]:
    def make(g: Any) -> Tensor:
        mask = (torch.rand(shape, generator=g) > 0.4).float()
        mask.view(-1)[0] = 1.0  # the entry of y that is changed is seen
        return mask

    return make


def word(kind: str) -> Callable[[Any], str]:
    return lambda g: WORDS[kind][int(torch.randint(len(WORDS[kind]), (), generator=g))]


ANGLES = noise(5, scale=3.0)
OPERATORS: dict[str, Part] = {
    "blur": (O.Blur, {"image_shape": IMAGE}, {"kernel": noise(3, 3), "boundary": word("boundary")}),
    "blur-3d": (O.Blur3D, {"volume_shape": VOLUME}, {"kernel": noise(3, 3, 3)}),
    "space-varying-blur": (
        O.SpaceVaryingBlur,
        {"image_shape": IMAGE},
        {"kernels": noise(2, 3, 3), "weights": noise(2, *IMAGE), "boundary": word("boundary")},
    ),
    "downsampling": (
        O.Downsampling,
        {"image_shape": IMAGE, "factor": 2},
        {"filter": word("filter"), "boundary": word("boundary")},
    ),
    "inpainting": (O.Inpainting, {"image_shape": IMAGE}, {"mask": a_mask(*IMAGE)}),
    "identity": (O.Identity, {"shape": (1, *IMAGE)}, {}),
    "finite-difference": (
        O.FiniteDifference,
        {"shape": (1, *IMAGE)},
        {"periodic": yes_or_no, "spacing": lambda g: tuple(noise(2)(g).tolist())},
    ),
    "cartesian-mri": (O.CartesianMRI, {"image_shape": IMAGE}, {"mask": a_mask(*IMAGE)}),
    "gaussian-sensing": (
        O.GaussianSensing,
        {"image_shape": IMAGE, "measurements": 40},
        {"seed": whole(0, 99)},
    ),
    "hadamard-sensing": (
        O.HadamardSensing,
        {"image_shape": IMAGE, "measurements": 40},
        {"seed": whole(0, 99)},
    ),
    "parallel-beam": (
        O.ParallelBeam,
        {"image_shape": IMAGE, "num_detectors": 12},
        {"angles": ANGLES, "pixel_size": between(0.8, 1.2), "detector_shift": between(-0.5, 0.5)},
    ),
    "fan-beam": (
        O.FanBeam,
        {"image_shape": IMAGE, "num_detectors": 14},
        {
            "angles": ANGLES,
            "source_origin": between(30.0, 40.0),
            "source_detector": between(50.0, 60.0),
            "detector_spacing": between(1.3, 1.5),
            "curved": yes_or_no,
        },
    ),
    "cone-beam": (
        O.ConeBeam,
        {"volume_shape": VOLUME, "detector_shape": (6, 9), "voxel_size": 1.0},
        {
            "angles": ANGLES,
            "source_origin": between(30.0, 40.0),
            "source_detector": between(50.0, 60.0),
            "detector_spacing": between(1.3, 1.5),
        },
    ),
    "parallel-beam-3d": (
        O.ParallelBeam3D,
        {"volume_shape": VOLUME, "detector_shape": (6, 9)},
        {"angles": ANGLES, "voxel_size": between(0.8, 1.2)},
    ),
    "wavelet": (O.Wavelet, {"shape": (1, *IMAGE), "levels": 1}, {"wavelet": word("wavelet")}),
    "stationary wavelet": (
        O.StationaryWavelet,
        {"shape": (1, *IMAGE), "levels": 1},
        {"wavelet": word("wavelet")},
    ),
    "matrix": (O.Matrix, {"domain_shape": (1, *IMAGE)}, {"matrix": noise(30, 64, scale=0.2)}),
    "function": (
        lambda gain, squared: it.as_operator(scaled(gain, squared), (1, *IMAGE), (1, *IMAGE)),
        {},
        {"gain": noise(1, *IMAGE), "squared": yes_or_no},
    ),
    "chain": (
        lambda kernel, gain: gain * (O.Blur(kernel, IMAGE) @ O.Blur(kernel, IMAGE, "periodic")),
        {},
        {"kernel": noise(3, 3, scale=0.2), "gain": between(0.5, 2.0)},
    ),
}
STD = {"noise_std": between(0.05, 0.2)}
DATA_TERMS: dict[str, Part] = {
    "least-squares": (D.LeastSquares, {}, STD),
    "weighted": (D.LeastSquares, {}, {"weights": "measured"}),
    "huber": (D.Huber, {}, {**STD, "delta": between(0.5, 2.0)}),
    "l1": (D.L1, {}, STD),
    "student": (D.Student, {}, {**STD, "nu": between(2.0, 5.0)}),
    "sobolev": (
        D.Sobolev,
        {},
        {"order": between(-1.0, -0.2), "length_scale": between(1.0, 2.0), **STD},
    ),
    "poisson": (D.Poisson, {}, {"background": between(0.1, 0.5)}),
    "poisson-transmission": (D.PoissonTransmission, {}, {"I0": between(5.0, 9.0)}),
}


def denoiser(weights: Tensor, shift: Tensor, slope: float, sigma: float) -> Any:
    return P.Denoiser(Smoother(weights, shift, slope), sigma)


PRIORS: dict[str, Part] = {
    "tikhonov": (P.Tikhonov, {}, {"reference": "image"}),
    "gradient": (P.Tikhonov, {"operator": "gradient"}, {}),
    "tv": (P.TotalVariation, {}, {"isotropic": yes_or_no, "periodic": yes_or_no}),
    "tv above": (P.TotalVariation, {}, {"lower": between(-0.1, 0.1)}),
    "huber-tv": (P.HuberTV, {}, {"threshold": between(0.01, 0.1), "isotropic": yes_or_no}),
    "tgv": (P.TotalGeneralizedVariation, {}, {"ratio": between(1.0, 3.0)}),
    "wavelet": (P.WaveletL1, {"levels": 1}, {"wavelet": word("wavelet")}),
    "stationary wavelet": (P.StationaryWaveletL1, {"levels": 1}, {"wavelet": word("wavelet")}),
    "l1": (P.L1, {}, {"lower": between(-1.0, 0.0)}),
    "box": (P.Box, {}, {"lower": between(-1.0, 0.0), "upper": between(0.7, 1.0)}),
    "nonnegative": (P.NonNegative, {}, {}),
    "few levels": (P.CauchySchwarz, {}, {"levels": word("levels")}),
    "simplex": (P.Simplex, {}, {"total": between(0.5, 2.0)}),
    "nuclear-norm": (P.NuclearNorm, {"patch": 2}, {"offset": whole(0, 1)}),
    "tubal-nuclear-norm": (P.TubalNuclearNorm, {}, {"rows": whole(2, 3)}),
    "group-l1": (P.GroupL1, {"size": 2}, {"nonnegative": yes_or_no}),
    "gaussian": (P.Gaussian, {}, {"mean": "image", "covariance": between(0.5, 2.0)}),
    "graph-laplacian": (
        P.GraphLaplacian,
        {"first": "adjoint"},
        {"radius": whole(1, 3), "intensity_scale": between(0.01, 0.1)},
    ),
    "prior-image": (P.PriorImage, {"prior": P.TotalVariation()}, {"reference": "image"}),
    "denoiser": (
        denoiser,
        {},
        {
            "weights": noise(1, 1, 3, 3, scale=0.2, shift=0.0),
            "shift": noise(1, scale=0.1),
            "slope": between(0.05, 0.2),
            "sigma": between(0.05, 0.1),
        },
    ),
    "coordinate-network": (
        P.CoordinateNetwork,
        {"width": 8, "depth": 1},
        {"features": whole(4, 8), "bandwidth": between(4.0, 8.0), "seed": whole(0, 99)},
    ),
    "tubal-factors": (
        P.TubalFactors,
        {},
        {"rank": whole(2, 4), "scale": between(0.1, 0.3), "seed": whole(0, 99)},
    ),
    "two-level": (P.TwoLevel, {}, {"high": between(0.8, 1.2), "low": between(0.0, 0.1)}),
    "user": (Power, {}, {"power": between(1.2, 2.0), "offset": noise(1)}),
    "sum": (
        lambda share, upper: share * P.TotalVariation() + P.Box(0.0, upper),
        {},
        {"share": between(0.5, 2.0), "upper": between(0.8, 1.0)},
    ),
    "none": (lambda: None, {}, {}),
}
RULES: dict[str, Part] = {
    "weight": (lambda weight: weight, {}, {"weight": between(0.1, 1.0)}),
    "weights": (lambda weight: weight, {}, {"weight": noise(ITEMS)}),
    "discrepancy": (R.DiscrepancyPrinciple, {}, {"tau": between(1.0, 1.1)}),
    "gcv": (R.GCV, {"points": 3, "sections": 1, "cycles": 1}, {"seed": whole(0, 99)}),
    "compensated": (R.CompensatedDiscrepancy, {}, {"step": between(0.2, 0.4)}),
}
TABLES = {"operator": OPERATORS, "data term": DATA_TERMS, "prior": PRIORS, "rule": RULES}
#: Budgets of a solver, which may differ.
FREE = ("max_iterations",)
#: Operators that do not see every entry of the measurements.
PARTIAL = ("inpainting", "cartesian-mri")


def draw(number: int) -> Inputs:
    """Draw the inputs of a run whose parts fit together."""
    choice = random.Random(number)
    for attempt in range(200):
        g = torch.Generator().manual_seed(1000 * number + attempt)
        shapes: dict[str, tuple[int, ...]] = {}
        run: Inputs = {"seed": choice.randrange(1000)}
        for kind, table in TABLES.items():
            run[kind] = choice.choice(
                list(table) if kind != "rule" or choice.random() < 0.3 else ["weight", "weights"]
            )
        solvers = [n for n in names("solvers") if lookup("solvers", n).__module__.startswith("inv")]
        run["solver"] = choice.choice([*solvers, *["automatic"] * 9])
        if run["solver"] != "automatic":
            for field in dataclasses.fields(lookup("solvers", run["solver"])):
                value = field.default
                if isinstance(value, (int, float)) and field.name not in FREE:
                    run[f"solver.{field.name}"] = value
        if run["solver"] in ("myula", "sk-rock") and run["prior"] == "tgv":
            continue  # every gradient solves a denoising problem, and a search of the weight takes minutes
        try:
            for kind, table in TABLES.items():
                for name, make in table[run[kind]][2].items():
                    shape = shapes[make] if isinstance(make, str) else ()
                    run[f"{kind}.{name}"] = noise(*shape)(g) if shape else make(g)
                if kind == "operator":
                    A = _build(run, "operator")
                    shapes = {"image": (1, *A.domain_shape), "measured": (ITEMS, *A.range_shape)}
                    run["y"] = noise(*shapes["measured"])(g)
            tried = solve(run, 4)
            # A run that begins at its answer writes no checkpoint.
            if "diverged" not in tried.status and int(tried.iterations.max()) >= 3:
                return run
        except (InputError, NotImplementedError):
            continue
        except RuntimeError:
            # The network takes no volumes, and the user's energy no complex images.
            if run["prior"] not in ("denoiser", "user"):
                raise
    raise AssertionError(f"no run fits in draw {number}")


def changeable(run: Inputs) -> list[str]:
    """Return the names of the inputs that can change."""
    return [name for name in run if name not in (*TABLES, "solver")]


def changed(run: Inputs, name: str, number: int) -> Inputs:
    """Change one input: one entry of a tensor, a number, or a word."""
    value, draws = run[name], random.Random(number)
    if isinstance(value, str):
        words = WORDS[name.rpartition(".")[2]]
        return {**run, name: next(w for w in words if w != value)}
    if isinstance(value, bool):
        return {**run, name: not value}
    if isinstance(value, int):  # by two, because some numbers have to be even
        return {**run, name: value + 2}
    if isinstance(value, float):
        return {**run, name: value * 1.01 + 1e-12}
    if isinstance(value, tuple):
        return {**run, name: (value[0] * 1.01, *value[1:])}
    other = value.clone()
    masked = run["operator"] in PARTIAL and name in ("y", "data term.weights")
    place = 0 if masked else draws.randrange(other.numel())
    entry = other.view(-1)[place]
    other.view(-1)[place] = 1 - entry if name.endswith("mask") else 1.01 * entry + 1e-3
    return {**run, name: other}


class Stopped(Exception):
    """The end of a run in its middle."""


def solve(
    run: Inputs, steps: int, checkpoint: Path | None = None, stop: int | None = None
) -> it.Solution:
    """Solve the problem of the inputs, from objects that no other run has seen.

    With `stop`, the run breaks off at this iteration; a smaller budget would be another run.
    """

    def break_off(progress: Any) -> None:
        if progress.iteration == stop:
            raise Stopped

    run = {k: v.clone() if isinstance(v, Tensor) else v for k, v in run.items()}
    solver = None
    if run["solver"] != "automatic":
        own = {k.partition(".")[2]: v for k, v in run.items() if k.startswith("solver.")}
        solver = lookup("solvers", run["solver"])(**own)
    solution: it.Solution = it.solve(
        it.Problem(run["y"], _build(run, "operator"), _build(run, "data term")),
        _build(run, "prior"),
        solver,
        _build(run, "rule"),
        seed=run["seed"],
        max_iterations=steps,
        checkpoint=None if checkpoint is None else it.Checkpoint(checkpoint, every=0.0),
        callbacks=[break_off],
        progress=False,
    )
    return solution


def _build(run: Inputs, kind: str) -> Any:
    make, fixed, _ = TABLES[kind][run[kind]]
    return make(
        **fixed, **{k.partition(".")[2]: v for k, v in run.items() if k.startswith(f"{kind}.")}
    )
