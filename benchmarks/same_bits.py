"""Random combinations of operator, prior, solver and data term: are bits equal in all conditions?

    python benchmarks/same_bits.py [--count 300] [--seed 2026]

Every combination is a batch of three items with noise of their own. The conditions: every item alone,
and the batch, with one thread and with two. Combinations that
`solve` refuses are drawn again. Five iterations, 11 to 23 pixels or 182 to 192 (sums of more than 32,768
values are divided among threads), float32 or float64; items of odd size begin anywhere in a cache line.
Compared are solutions, and predictions of operators with one thread and with two. A line appears for every
combination whose bits differ. Results: results/same_bits.txt.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import machine, run_script, verdict

import invtoolbox as it
from invtoolbox.catalogue.registry import lookup, names
from invtoolbox.core.threads import VARIABLE

ITEMS, ITERATIONS = 3, 5
#: Share of pictures large enough for sums over several threads.
LARGE = 0.1
#: Operators whose bits depend on the number of threads, and priors whose bits may depend on the batch, as
#: docs/conventions.md states; so do complex tensors.
LISTED_OPERATORS = (
    "matrix",
    "phase retrieval",  # with a matrix
    "unmixing",
    "space-varying blur",
    "blur 3d",
    "downsampling",
)
LISTED_PRIORS = ("denoiser", "lpn", "network")
TERMS = ("squares", "squares", "noise_std", "weights", "huber", "l1", "sobolev", "poisson")
PRIORS: dict[str, Any] = {
    "none": lambda: None,
    "tikhonov": it.priors.Tikhonov,
    "gradient": lambda: it.priors.Tikhonov("gradient"),
    "tv": it.priors.TotalVariation,
    "anisotropic tv": lambda: it.priors.TotalVariation(isotropic=False),
    "huber-tv": it.priors.HuberTV,
    "l1": it.priors.L1,
    "wavelet": it.priors.WaveletL1,
    "nuclear-norm": it.priors.NuclearNorm,
    "nonnegative": it.priors.NonNegative,
    "box": lambda: it.priors.Box(0.0, 1.0),
    "tv nonnegative": lambda: it.priors.TotalVariation() + it.priors.NonNegative(),
    "graph": lambda: it.priors.GraphLaplacian(first="tikhonov"),
    "denoiser": lambda: it.priors.load("denoiser-natural"),
    "lpn": lambda: it.priors.load("lpn-natural"),
    "network": lambda: it.priors.CoordinateNetwork(width=6, depth=1),
}


def operators(draw: np.random.Generator) -> tuple[str, Any]:
    """Draw an operator of images: its name and itself."""
    O, seed, is_large = it.operators, int(draw.integers(1000)), draw.random() < LARGE
    size = int(draw.integers(*((182, 193) if is_large else (11, 24))))
    shape, torch_draw = (size, size), torch.Generator().manual_seed(seed)
    angles = torch.arange(7) * torch.pi / 7

    def rand(*sizes: int) -> torch.Tensor:
        return torch.rand(*sizes, generator=torch_draw)

    orbit = {"source_origin": 3.0 * size, "source_detector": 5.0 * size}
    mask = (rand(*shape) < 0.6).float()
    even = 2 * (size // 2)
    makers: dict[str, Any] = {
        "identity": lambda: O.Identity((1, *shape)),
        "two channels": lambda: O.Identity((2, *shape)),
        "blur": lambda: O.Blur(rand(5, 3) / 7, shape),
        "periodic blur": lambda: O.Blur(rand(3, 3) / 5, shape, boundary="periodic"),
        "space-varying blur": lambda: O.SpaceVaryingBlur(
            rand(2, 3, 3) / 5, torch.stack([mask, 1 - mask]), shape
        ),
        "downsampling": lambda: O.Downsampling((even, even), 2),
        "inpainting": lambda: O.Inpainting(mask, shape),
        "sampling": lambda: O.Sampling(mask > 0, (1, *shape)),
        "matrix": lambda: O.Matrix(rand(41, size * size) / size, domain_shape=(1, *shape)),
        "gaussian sensing": lambda: O.GaussianSensing(
            image_shape=shape, measurements=41, seed=seed
        ),
        "hadamard sensing": lambda: O.HadamardSensing(
            image_shape=shape, measurements=41, seed=seed
        ),
        "unmixing": lambda: O.Unmixing(rand(9, 3), shape),
        "parallel beam": lambda: O.ParallelBeam(shape, angles, size + 7),
        "fan beam": lambda: O.FanBeam(
            shape, 2 * angles, size + 7, pixel_size=1.0, detector_spacing=2.0, **orbit
        ),
        "cone beam": lambda: O.ConeBeam(
            (7, 9, 9), 2 * angles, (11, 13), voxel_size=1.0, detector_spacing=2.0, **orbit
        ),
        "parallel beam 3d": lambda: O.ParallelBeam3D((7, 9, 9), angles, (9, 13)),
        "blur 3d": lambda: O.Blur3D(rand(3, 3, 3) / 14, (7, 9, 9)),
        "cartesian mri": lambda: O.CartesianMRI(
            mask, shape, torch.complex(rand(2, *shape), rand(2, *shape))
        ),
        "fourier": lambda: O.Fourier((1, *shape)),
        "wavelet": lambda: O.Wavelet((1, *shape)),
        "differences": lambda: O.FiniteDifference((1, *shape)),
        "second differences": lambda: O.SecondDifferences((1, *shape)),
        "sparse matrix": lambda: it.as_operator(
            ((rand(41, size * size) < 0.05) * rand(41, size * size)).to_sparse(), (1, *shape)
        ),
        "non-uniform fourier": lambda: O.NonUniformFourier(rand(60, 2) * 2 - 1, shape),
        "phase retrieval": lambda: O.PhaseRetrieval(
            O.Matrix(rand(61, size * size) / size, domain_shape=(1, *shape))
        ),
        "blur of beams": lambda: (
            O.ParallelBeam(shape, angles, size + 7) @ O.Blur(rand(3, 3) / 5, shape)
        ),
        "stack": lambda: O.stack([O.Blur(rand(3, 3) / 5, shape), O.Identity((1, *shape))]),
        "callable": lambda: it.as_operator(lambda v: v + 0.1 * v**3, (1, *shape), (1, *shape)),
    }
    name = str(draw.choice(list(makers)))
    return name, makers[name]()


@dataclass(frozen=True)
class Combination:
    """One problem for a batch of items, and the names of what solves it.

    Attributes:
        names: operator, prior, solver, data term.
        operator: operator of the problem.
        y: measurements of all items, a tensor or a tuple of tensors.
    """

    names: tuple[str, ...]
    operator: Any
    y: Any

    def solve(self, items: slice, threads: int) -> Any:
        """Return the answer for some items, computed with a number of threads."""
        # On a busy machine `solve` would take one thread in place of torch's usual number.
        os.environ[VARIABLE] = str(threads)
        _, prior, solver, misfit = self.names
        is_tuple = isinstance(self.y, tuple)
        y = tuple(v[items] for v in self.y) if is_tuple else self.y[items]
        kind = lookup("solvers", solver)
        settings = {"subset_size": 2} if "subset_size" in kind.__dataclass_fields__ else {}
        return it.solve(
            it.Problem(y, self.operator, term(misfit, self.operator, 0.05)),
            PRIORS[prior](),
            kind(**settings),
            0.1,
            seed=3,
            max_iterations=ITERATIONS,
            progress=False,
        ).x

    def predict(self, x: torch.Tensor, threads: int) -> Any:
        """Return the prediction for all items, computed with a number of threads."""
        torch.set_num_threads(threads)
        return self.operator(x)


def term(name: str, A: Any, level: float) -> Any:
    """Create a data term by its name."""
    D = it.data_terms
    weights = torch.linspace(0.1, 2, int(np.prod(A.range_shape)))
    makers: dict[str, Any] = {
        "squares": D.LeastSquares,
        "noise_std": lambda: D.LeastSquares(noise_std=level),
        "weights": lambda: D.LeastSquares(weights=weights.reshape(A.range_shape)),
        "huber": lambda: D.Huber(delta=level),
        "l1": D.L1,
        "sobolev": lambda: D.Sobolev(-0.5),
        "poisson": lambda: D.Poisson(background=1.0),
    }
    return makers[name]()


def same(first: Any, second: Any) -> bool:
    """Return whether two tensors, or tuples of tensors, have the same bits; NaN equals NaN."""
    if isinstance(first, tuple):
        return all(map(same, first, second))
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference of two tensors relative to the largest value."""
    scale = float(second.abs().nan_to_num().amax()) or 1.0
    return float((first - second).abs().nan_to_num().amax()) / scale


def compare(
    count: int, seed: int, counts: Counter[str], distances: list[float], used: dict[str, set[str]]
) -> None:
    """Draw and compare combinations, and add what was found to counts, distances and names."""
    draw = np.random.default_rng(seed)
    solvers = [
        n for n in names("solvers") if lookup("solvers", n).__module__.startswith("invtoolbox")
    ]
    while counts["combinations"] < count:
        chosen = tuple(str(draw.choice(choices)) for choices in (list(PRIORS), solvers, TERMS))
        dtype = torch.float64 if draw.random() < 0.3 else torch.float32
        operator, A = operators(draw)
        truth = torch.as_tensor(draw.random((ITEMS, *A.domain_shape)))
        about = ", ".join((operator, *chosen, str(dtype).removeprefix("torch.")))
        torch.set_num_threads(1)
        try:
            A = A.to(dtype)
            y = A.simulate(truth.to(dtype), 0.05, seed=0)
            combination = Combination((operator, *chosen), A, y)
            one, two = (combination.predict(truth.to(dtype), threads) for threads in (1, 2))
            whole, both = (combination.solve(slice(None), threads) for threads in (1, 2))
            alone, alone_by_two = (
                [combination.solve(slice(k, k + 1), threads) for k in range(ITEMS)]
                for threads in (1, 2)
            )
        except (it.InputError, TypeError) as refusal:
            counts[f"refused ({type(refusal).__name__})"] += 1
            continue
        except Exception as error:
            counts["other errors"] += 1
            print(f"{about}: {type(error).__name__}: {str(error)[:150]}")
            continue
        if not isinstance(whole, torch.Tensor):
            counts["answers that are no tensor"] += 1
            continue
        counts["combinations"] += 1
        for group, name in zip(used, (operator, *chosen)):
            used[group].add(name)
        by_item, by_threads = same(torch.cat(alone), whole), same(both, whole)
        by_item = by_item and same(torch.cat(alone_by_two), both)
        counts["equal alone and in a batch"] += by_item
        counts["equal alone and in a batch, or listed"] += (
            by_item or chosen[0] in LISTED_PRIORS or whole.is_complex()
        )
        counts["equal with 1 and 2 threads"] += by_threads
        predicted_equal = same(one, two)
        counts["predictions equal with 1 and 2 threads"] += predicted_equal
        counts["predictions equal with 1 and 2 threads, or listed"] += (
            predicted_equal or operator in LISTED_OPERATORS
        )
        by_number = distance(both, whole)
        if not by_threads:
            distances.append(by_number)
        if not (by_item and by_threads and predicted_equal):
            items = [distance(torch.cat(a), b) for a, b in ((alone, whole), (alone_by_two, both))]
            print(
                f"{counts['combinations']}: {about}, {tuple(whole.shape[1:])}: alone and in a batch "
                f"{items[0]:.1e} with 1 thread, {items[1]:.1e} with 2; 1 and 2 threads "
                f"{by_number:.1e}{'' if predicted_equal else ', and another prediction'}",
                flush=True,
            )


def main(count: int = 300, seed: int = 2026) -> None:
    """Print the combinations whose bits differ, and the counts.

    Args:
        count: number of combinations
        seed: seed of the draws
    """
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    distances: list[float] = []
    used: dict[str, set[str]] = {
        "operators": set(),
        "priors": set(),
        "solvers": set(),
        "terms": set(),
    }
    print(
        f"{machine()}; seed {seed}; {count} combinations of {ITEMS} items, {ITERATIONS} iterations"
    )
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C prints the counts so far
        compare(count, seed, counts, distances, used)
    count = counts["combinations"]
    print({name: len(group) for name, group in used.items()})
    print(dict(counts))
    print(
        f"solutions that differ by the number of threads: {len(distances)} of {count}, median distance "
        f"{np.median(distances or [0.0]):.1e}, worst {max(distances, default=0.0):.1e}, relative to the "
        "largest value"
    )
    for name, bar in (
        ("equal alone and in a batch, or listed", "every item as alone, or listed"),
        ("predictions equal with 1 and 2 threads, or listed", "1 and 2 threads, or listed"),
    ):
        print(verdict(counts[name] == count, bar))


if __name__ == "__main__":
    run_script(main)
