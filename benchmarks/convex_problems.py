"""Statuses of every solver on 300 random convex problems, against minima found by cvxpy.

    python benchmarks/convex_problems.py [--half odd] [--groups 60] [--again]

60 groups of 5 problems. A group draws a size (36 to 81 pixels), one of seven operators, one of five
data terms, one of fourteen sums of priors, a scale of the measurements (1e-4 to 1e4) and float32 or
float64; its problems, which are the items of one batch, draw a truth (one in six is constant, one is
zero), noise of 0 to 20 %, and a weight within 6.5 decades around the one at which the picture
vanishes. The data term of the last 20 groups is `Poisson` with a background of 0, 1 or 10 counts, and
their measurements are counts of 3 to 300 in the brightest places, and the counts of zero are many.
cvxpy (Clarabel, gap 1e-10) finds the minimum, of the matrix without singular values below the
rounding of the type of the numbers (relative to the largest, times the larger side, as LAPACK counts
the rank): in float32 they are noise. Objectives are evaluated in float64, and
their excess is relative to the minimum, or to 1e-6 of the misfit at 0 (of the counts, for `Poisson`) if that is larger. The rule:
``converged`` implies a finite objective and certificate and an excess of at most 1e-3, and an excess within the square of the tolerance is
called converged. Every solver runs with its own tolerance, at most 2,000 iterations and at
most 10 seconds per group. What was changed
to meet the rule was chosen on groups of even number; the odd half is reported by itself, and groups
from 60 on, which took part in nothing, with ``--first 60 --groups 120``. Solvers
that state another objective take no part: SIRT, OS-SART, OSEM, `HalfQuadratic`, and `KrylovMM` of a
prior with a kink. Runs are kept in a JSON file, from which a later call continues.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cvxpy
import numpy as np
import torch
from common import Kept, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it

#: Every solver of one image of a convex problem; four of them with fewer iterations than usual.
SOLVERS: tuple[Any, ...] = (
    it.solvers.ADMM(),
    it.solvers.PDHG(),
    it.solvers.CondatVu(max_iterations=1000),
    it.solvers.StochasticPDHG(subset_size=2, max_iterations=200),
    it.solvers.FISTA(max_iterations=300),
    it.solvers.ProximalGradient(max_iterations=100),
    it.solvers.DouglasRachford(),
    it.solvers.NonlinearADMM(),
    it.solvers.PALM(),
    it.solvers.Reweighted(),
    it.solvers.KrylovMM(),
    it.solvers.ConjugateGradient(),
    it.solvers.LBFGS(),
    it.solvers.GradientDescent(),
    it.solvers.GaussNewton(),
    it.solvers.LevenbergMarquardt(),
    it.solvers.LSMR(),
    it.solvers.CGLS(),
)
OPERATORS = ("identity", "blur", "periodic blur", "inpainting", "beams", "matrix", "downsampling")
TERMS = ("squares", "squares", "squares", "noise_std", "weighted", "huber", "l1")
PRIORS = (
    "tv",
    "tv",
    "anisotropic tv",
    "huber tv",
    "l1",
    "wavelet",
    "tikhonov",
    "gradient",
    "nonnegative",
    "box",
    "tv nonnegative",
    "l1 box",
    "tv tikhonov",
    "none",
)
#: Number of groups, and the first group of counts; groups of larger number begin again.
GROUPS, FIRST_COUNTS = 60, 40
#: Largest excess of a converged answer, and number of problems of a group.
LARGEST, ITEMS = 1e-3, 5
#: Time limit of a run, after which its status is ``limit``.
SECONDS = 10


@dataclass(frozen=True, eq=False)
class Group:
    """Convex problems ``D(A x, y) + weight R(x)`` in units in which y is of order 1.

    Attributes:
        about: the problems in words.
        items: what differs, in words, one per problem.
        operator: operator A, in float64.
        matrix: its matrix.
        y: measurements in float64, in units of ``scale``, ``(problems, ...)``.
        term: kind of the data term; the background follows "poisson".
        prior: names of the summands of R.
        weight: weights of R in these units, ``(problems,)``.
        scale: factor of the measurements that the solvers get.
        dtype: type of the numbers that the solvers get.
        weights: weights of the measurements, for the data term "weighted".
    """

    about: str
    items: tuple[str, ...]
    operator: Any
    matrix: np.ndarray
    y: Tensor
    term: str
    prior: str
    weight: Tensor
    scale: float
    dtype: torch.dtype
    weights: Tensor

    @property
    def is_counts(self) -> bool:
        return self.term.startswith("poisson")

    @property
    def top(self) -> float:
        """Upper limit of the box."""
        return 0.8 * float(self.y.amax()) if self.is_counts else 0.8

    @property
    def background(self) -> float:
        return float(self.term.split()[1]) if self.is_counts else 0.0

    def data_term(self, scale: float) -> Any:
        """Return the data term of measurements in units of ``1 / scale``."""
        if self.term == "huber":
            return it.data_terms.Huber(delta=0.05 * scale)
        if self.term == "l1":
            return it.data_terms.L1()
        if self.is_counts:
            return it.data_terms.Poisson(scale * self.background)
        std = 0.1 * scale if self.term == "noise_std" else None
        return it.data_terms.LeastSquares(std, self.weights if self.term == "weighted" else None)

    def summands(self, scale: float) -> list[Any]:
        """Return the priors of an image in units of ``1 / scale``, with their relative weights.

        A prior that is a square has another weight than a norm, so that both stay in proportion.
        """
        P = it.priors
        makers: dict[str, Callable[[], Any]] = {
            "tv": P.TotalVariation,
            "anisotropic tv": lambda: P.TotalVariation(isotropic=False),
            "huber tv": lambda: P.HuberTV(0.05 * scale),
            "l1": P.L1,
            "wavelet": lambda: P.WaveletL1("haar", 1),
            "tikhonov": P.Tikhonov,
            "gradient": lambda: P.Tikhonov("gradient"),
            "nonnegative": P.NonNegative,
            "box": lambda: P.Box(0.0, self.top * scale),
            "tv nonnegative": lambda: P.TotalVariation() + P.NonNegative(),
            "l1 box": lambda: P.L1() + P.Box(0.0, self.top * scale),
            "tv tikhonov": lambda: P.TotalVariation() + (1 / scale) * P.Tikhonov(),
        }
        return [makers[self.prior]()] if self.prior in makers else []

    def weight_at(self, scale: float) -> Tensor:
        """Return the weights of the measurements times ``scale``, with the same minimizer."""
        # D has the degree 2 in y, or 1 (L1), or 0 (a stated noise level grows with y); R has 2 or 1.
        of_data = 1 if self.is_counts else {"l1": 1, "noise_std": 0}.get(self.term, 2)
        of_prior = 2 if self.prior in ("tikhonov", "gradient") else 1
        return self.weight * scale ** (of_data - of_prior)

    def value(self, x: Tensor, scale: float) -> Tensor:
        """Return the objectives in float64, infinite outside of the constraints."""
        x = x.double()
        total: Tensor = self.data_term(scale).value(self.operator(x), scale * self.y)
        for prior in self.summands(scale):
            for term in prior.as_sum().terms:
                if not term.prior.is_constraint:
                    total = total + self.weight_at(scale) * term.weight * term.prior.energy(x)
        low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
        outside = (low < -1e-7 * scale) & (self.prior in _POSITIVE)
        outside = outside | (high > self.top * scale * (1 + 1e-6)) & ("box" in self.prior)
        return total.masked_fill(outside, math.inf)

    def minimizers(self) -> Tensor:
        """Return the minimizers by cvxpy, in the units of the group."""
        return torch.cat([self._minimizer(k) for k in range(len(self.y))])

    def determined(self) -> np.ndarray:
        """Return the matrix without singular values that the type of the numbers hides.

        They are those below its rounding times the largest one, as for the rank of a matrix in
        LAPACK. Of a problem in float32 they are noise, and no solver in float32 can use them.
        """
        left, values, right = np.linalg.svd(self.matrix, full_matrices=False)
        hidden = values < torch.finfo(self.dtype).eps * max(self.matrix.shape) * values[0]
        if not hidden.any():
            return self.matrix
        return np.asarray((left * np.where(hidden, 0.0, values)) @ right)

    def _minimizer(self, item: int) -> Tensor:
        shape = (1, *self.operator.domain_shape)
        u = cvxpy.Variable(self.matrix.shape[1])
        prediction, y = self.determined() @ u, self.y[item].flatten().numpy()
        residual, mean = prediction - y, prediction + self.background
        objective = {
            "huber": lambda: 0.5 * cvxpy.sum(cvxpy.huber(residual, 0.05)),
            "l1": lambda: cvxpy.norm1(residual),
            "noise_std": lambda: 0.5 * cvxpy.sum_squares(residual / 0.1),
            "weighted": lambda: (
                0.5
                * cvxpy.sum_squares(cvxpy.multiply(self.weights.flatten().sqrt().numpy(), residual))
            ),
            "poisson": lambda: (
                cvxpy.sum(cvxpy.kl_div(y[y > 0], mean[y > 0])) + cvxpy.sum(mean[y == 0])
            ),
        }.get(self.term.split()[0], lambda: 0.5 * cvxpy.sum_squares(residual))()
        D = _matrix_of(it.operators.FiniteDifference(shape[1:]), shape)
        down, right = D[: D.shape[0] // 2] @ u, D[D.shape[0] // 2 :] @ u
        parts: dict[str, Callable[[], Any]] = {
            "tv": lambda: cvxpy.sum(cvxpy.norm(cvxpy.vstack([down, right]), 2, axis=0)),
            "anisotropic tv": lambda: cvxpy.norm1(down) + cvxpy.norm1(right),
            "huber tv": lambda: _huber_tv(down, right),
            "l1": lambda: cvxpy.norm1(u),
            "tikhonov": lambda: 0.5 * cvxpy.sum_squares(u),
            "gradient": lambda: 0.5 * cvxpy.sum_squares(D @ u),
            "wavelet": lambda: cvxpy.norm1(_details(shape) @ u),
        }
        names = [self.prior] if self.prior in parts else self.prior.split()
        for name in names:
            if name in parts:
                objective = objective + float(self.weight[item]) * parts[name]()
        limits = [u >= 0] if self.prior in _POSITIVE else []
        if "box" in self.prior:
            limits.append(u <= self.top)
        if self.is_counts:
            limits.append(mean >= 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an inaccurate minimum is found by comparison
            cvxpy.Problem(cvxpy.Minimize(objective), limits).solve(
                solver="CLARABEL",
                tol_gap_rel=1e-10,
                tol_gap_abs=1e-14,
                tol_feas=1e-10,
                max_iter=500,
            )
        x = torch.from_numpy(u.value).view(shape)
        if self.is_counts:  # a mean of 0 may come out negative by the accuracy of cvxpy
            x = x + float((-self.operator(x) - self.background).clamp_min(0).amax())
        low = 0.0 if self.prior in _POSITIVE else -math.inf
        return x.clamp(low, self.top if "box" in self.prior else math.inf)


_POSITIVE = ("nonnegative", "box", "tv nonnegative", "l1 box")


def _matrix_of(A: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrix of a linear operator."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape[1:])
    return A.to(torch.float64)(basis).flatten(1).T.contiguous().numpy()


def _huber_tv(down: Any, right: Any) -> Any:
    """Return Huber's function of the norms of the gradients, ``min_z |z|^2 / (2 t) + |g - z|``."""
    z = cvxpy.Variable((2, down.shape[0]))
    rest = cvxpy.vstack([down, right]) - z
    return cvxpy.sum_squares(z) / 0.1 + cvxpy.sum(cvxpy.norm(rest, 2, axis=0))


def _details(shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrix of the wavelet coefficients that are penalized."""
    prior = it.priors.WaveletL1("haar", 1)
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape[1:])
    coefficients, details = prior.transform(basis)
    return (coefficients * details).flatten(1).T.contiguous().numpy()


def draw(number: int) -> Group:
    """Return the problems of a number."""
    generator = np.random.default_rng([number, 31])
    rows, columns = (int(n) for n in generator.integers(6, 10, 2))
    kind, term, prior = (
        names[generator.integers(len(names))] for names in (OPERATORS, TERMS, PRIORS)
    )
    if number % GROUPS >= FIRST_COUNTS:
        term = f"poisson {(0, 1, 10)[(number // 2) % 3]}"
    if kind == "downsampling" or prior == "wavelet":
        rows, columns = 2 * (rows // 2), 2 * (columns // 2)
    A = _operator(kind, (rows, columns), generator)
    counts = term.startswith("poisson")
    if counts and kind == "matrix":
        A = it.operators.Matrix(A.matrix.abs(), domain_shape=(1, rows, columns)).to(torch.float64)
    shape = (1, *A.domain_shape)
    scale = 10 ** generator.uniform(-4, 4)
    dtype = (torch.float64, torch.float32)[generator.integers(2)]
    items, measured, exponents = [], [], []
    for _ in range(ITEMS):
        content, truth = _truth((rows, columns), generator)
        clean = A(torch.from_numpy(np.abs(truth) if counts else truth).view(shape))
        size = float(clean.abs().max()) or 1.0
        noise = 0.0 if generator.uniform() < 0.2 else 10 ** generator.uniform(-3, -0.7)
        draws = torch.from_numpy(generator.standard_normal(clean.shape))
        if counts:
            mean = (clean / size).clamp_min(0) * 10 ** generator.uniform(0.5, 2.5)
            mean = mean + float(term.split()[1])
            measured.append(torch.from_numpy(generator.poisson(mean)) if noise else mean)
        else:
            measured.append((clean + noise * size * draws) / size)
        exponents.append(generator.uniform(-5, 1.5))
        items.append(f"{content}, noise {noise:.1g}, weight 1e{exponents[-1]:.1f}")
    group = Group(
        f"{rows}x{columns}, {kind}, {term}, {prior}, scale {scale:.1g}, {str(dtype)[6:]}",
        tuple(items),
        operator=A,
        matrix=_matrix_of(A, shape),
        y=torch.cat(measured).double(),
        term=term,
        prior=prior,
        weight=torch.ones(ITEMS, dtype=torch.float64),
        scale=scale,
        dtype=dtype,
        weights=torch.from_numpy(generator.uniform(0.1, 2.0, (1, *measured[0].shape[1:]))),
    )
    # A prior that is a square is compared with the curvature of the misfit, a norm with its pull.
    at = torch.zeros_like(A(torch.zeros(ITEMS, *shape[1:], dtype=torch.float64)))
    if counts:  # the gradient at 0 is infinite without a background
        at = at + group.y.flatten(1).mean(1).clamp_min(0.1).view(-1, *[1] * (at.ndim - 1))
    pull = A.adjoint(group.data_term(1.0).grad(at, group.y)).abs().flatten(1).amax(1)
    unit = torch.where(pull > 0, pull, 1.0)
    if prior in ("tikhonov", "gradient"):
        curvature = np.linalg.norm(group.matrix, 2) ** 2 * (100 if term == "noise_std" else 1)
        unit = torch.full_like(unit, float(curvature))
    return replace(group, weight=unit * 10 ** torch.tensor(exponents, dtype=torch.float64))


def _truth(shape: tuple[int, int], generator: np.random.Generator) -> tuple[str, np.ndarray]:
    kinds = ("rectangles", "rectangles", "noise", "smooth", "constant", "zero")
    kind, truth = kinds[generator.integers(6)], np.zeros(shape)
    if kind == "rectangles":
        for _ in range(3):
            top, left = (int(generator.integers(0, n - 1)) for n in shape)
            truth[top : top + 4, left : left + 4] += generator.uniform(-0.3, 1.0)
    elif kind == "noise":
        truth = generator.standard_normal(shape)
    elif kind == "smooth":
        waves = np.sin(np.arange(shape[0]) / 2), np.cos(np.arange(shape[1]) / 3)
        truth = np.outer(*waves) + 0.5
    elif kind == "constant":
        truth[:] = generator.uniform(-1, 1)
    return kind, truth


def _operator(kind: str, shape: tuple[int, int], generator: np.random.Generator) -> Any:
    O, n = it.operators, math.prod(shape)
    if kind == "identity":
        A: Any = O.Identity((1, *shape))
    elif kind.endswith("blur"):
        kernel = torch.from_numpy(generator.uniform(0, 1, (3, 3)))
        boundary = "periodic" if kind.startswith("periodic") else "reflect"
        A = O.Blur(kernel / kernel.sum(), shape, boundary)
    elif kind == "inpainting":
        A = O.Inpainting(torch.from_numpy(generator.uniform(0, 1, shape) > 0.4).double(), shape)
    elif kind == "beams":
        A = O.ParallelBeam(shape, torch.linspace(0, torch.pi, 7)[:-1], 12)
    elif kind == "matrix":
        A = O.Matrix(
            torch.from_numpy(
                generator.standard_normal((int(generator.integers(n // 2, 2 * n)), n))
            ),
            domain_shape=(1, *shape),
        )
    else:
        A = O.Downsampling(shape, 2)
    return A.to(torch.float64)


def run(group: Group, solver: Any, least: Tensor) -> list[list[Any]]:
    """Return status, steps, excess and certificate of every problem; [] if they are refused."""
    scale, dtype = group.scale, group.dtype
    data_term = group.data_term(scale).to(dtype=dtype)
    priors = group.summands(scale)
    weight = group.weight_at(scale).to(dtype)
    settings: dict[str, Any] = {"progress": False, "check": False, "time_limit": SECONDS}
    try:  # scaled counts below their background are refused, too
        problem = it.Problem((scale * group.y).to(dtype), group.operator.to(dtype), data_term)
        solution = it.solve(problem, priors[0] if priors else None, solver, weight, **settings)
    except it.InputError:
        return []
    if any("another objective" in note or "Moreau" in note for note in solution.notes):
        return []
    zero = group.value(torch.zeros_like(solution.x), scale)
    if group.is_counts:
        zero = scale * (1 + group.y.flatten(1).sum(1))
    floor = torch.maximum(least, 1e-6 * zero).clamp_min(1e-300)
    x = solution.x.double()
    if group.is_counts:  # float32 keeps to the domain up to its rounding
        prediction = group.operator(x).flatten(1)
        rounding = 16 * torch.finfo(dtype).eps * prediction.amax(1)
        below = (-prediction - scale * group.background).amax(1)
        shift = torch.where(below < rounding, below.clamp_min(0), 0)
        x = x + shift.view(-1, 1, 1, 1)
    excess = ((group.value(x, scale) - least) / floor).tolist()
    rows = solution.history["certificate"]
    counts = solution.iterations.tolist()
    last = [float(rows[n - 1, k]) if n else 0.0 for k, n in enumerate(counts)]
    return [list(row) for row in zip(solution.status, counts, excess, last)]


def judge(status: str, excess: float, certificate: float, tolerance: float) -> str:
    """Return what is wrong with a status: "too high", "exact", or nothing."""
    if status == "converged":
        is_finite = math.isfinite(excess) and math.isfinite(certificate)
        return "" if is_finite and excess <= LARGEST else "too high"
    return "exact" if excess < tolerance**2 else ""


def main(
    half: Literal["even", "odd", "both"] = "both",
    groups: int = 60,
    again: bool = False,
    first: int = 0,
) -> None:
    """Run the benchmark.

    Args:
        half: groups to run
        groups: number of groups of both halves
        again: discard the runs that are kept
        first: first group, an even number
    """
    torch.set_num_threads(1)
    print(f"{machine()}; numpy seeds [group, 31]")
    kept = Kept(Path(__file__).parent / "results" / "convex_problems.json", again)
    for name, parity in (("even", 0), ("odd", 1)):
        if half not in (name, "both"):
            continue
        faults = {"too high": 0, "exact": 0, "": 0}
        statuses: Counter[str] = Counter()
        for number in range(first + parity, groups, 2):
            group = draw(number)
            minimum: list[Tensor] = []

            def least(group: Group = group, minimum: list[Tensor] = minimum) -> Tensor:
                if not minimum:
                    minimum.append(group.value(group.scale * group.minimizers(), group.scale))
                return minimum[0]

            for solver in SOLVERS:
                key = f"{number:2d} {type(solver).__name__:18} {group.about}"
                for k, row in enumerate(kept.result(key, lambda: run(group, solver, least()))):  # noqa: B023
                    status, count, excess, certificate = row
                    fault = judge(status, excess, certificate, solver.tolerance)
                    faults[fault], statuses[status] = faults[fault] + 1, statuses[status] + 1
                    if fault:
                        print(
                            f"{key}, {group.items[k]}: {status} after {count}, excess {excess:.1e}, "
                            f"certificate {certificate:.1e}: {fault}"
                        )
        counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
        print(
            f"groups of {name} number from {first} to {groups - 1}: {sum(faults.values())} runs, {counts}"
        )
        for fault, words in (
            ("too high", "converged and more than 1e-3 above"),
            ("exact", "within the square of the tolerance and not converged"),
        ):
            print(f"  {words}: {faults[fault]} {verdict(faults[fault] == 0, 'none')}")


if __name__ == "__main__":
    run_script(main)
