"""Statuses of every convex solver on 20 small problems, against objectives found by cvxpy.

    python benchmarks/certificates.py [--dtype float32] [--again]

A 12x12 picture with 2 % of noise, behind a blur that reflects and behind parallel beams of eight
views (144 rays): total variation, l1, bounds, and their
sums, with weights from 1e-3 to 1e3. cvxpy (Clarabel, gap 1e-10) computes the least objective. The
rule: ``converged`` implies an objective within 1e-3 relative, and an objective within 1e-6 is not
called unconverged. Every solver runs at its own tolerance and number of iterations, for at most
120 seconds (``stopped``); objectives are evaluated in float64. Runs are kept in a JSON file, from
which a later call continues.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cvxpy
import numpy as np
import torch
from common import Kept, machine, run_script, verdict

import invtoolbox as it

SIZE = 12
SOLVERS = (
    it.solvers.ADMM(),
    it.solvers.PDHG(),
    it.solvers.CondatVu(),
    it.solvers.StochasticPDHG(subset_size=2),
    it.solvers.FISTA(),
    it.solvers.ProximalGradient(),
    it.solvers.DouglasRachford(),
)
KINDS = (
    ("tv", "", 1e-3),
    ("tv", "", 0.1),
    ("tv", "", 10.0),
    ("tv", "", 1e3),
    ("l1", "", 1e-3),
    ("l1", "", 0.1),
    ("l1", "", 10.0),
    ("tv", "nonnegative", 10.0),
    ("l1", "box", 1e-2),
    ("none", "nonnegative", 1.0),
)


@dataclass(frozen=True)
class Task:
    """A problem ``1/2 |A x - y|^2 + weight R(x)``, with a constraint or without."""

    operator: str  # "blur" or "beams"
    kind: str  # "tv", "l1" or "none"
    constraint: str  # "", "nonnegative" or "box"
    weight: float

    @property
    def name(self) -> str:
        return f"{self.operator} {self.kind} {self.weight:g} {self.constraint}".strip()

    def prior(self) -> Any:
        parts: list[Any] = []
        if self.kind != "none":
            parts.append(it.priors.TotalVariation() if self.kind == "tv" else it.priors.L1())
        if self.constraint:
            nonnegative = self.constraint == "nonnegative"
            parts.append(it.priors.NonNegative() if nonnegative else it.priors.Box(0.0, 0.8))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def reference(self, matrix: np.ndarray, y: np.ndarray) -> tuple[float, Any]:
        """Return the least objective, and the objective as a function of an image."""
        x = cvxpy.Variable(SIZE * SIZE)
        objective = 0.5 * cvxpy.sum_squares(matrix @ x - y)
        if self.kind == "tv":
            image = cvxpy.reshape(x, (SIZE, SIZE), order="C")
            down = cvxpy.vstack([image[1:] - image[:-1], np.zeros((1, SIZE))])
            right = cvxpy.hstack([image[:, 1:] - image[:, :-1], np.zeros((SIZE, 1))])
            flat = [cvxpy.reshape(d, (1, SIZE * SIZE), order="C") for d in (down, right)]
            objective += self.weight * cvxpy.sum(cvxpy.norm(cvxpy.vstack(flat), 2, axis=0))
        elif self.kind == "l1":
            objective += self.weight * cvxpy.norm1(x)
        constraints = [x >= 0] if self.constraint else []
        if self.constraint == "box":
            constraints.append(x <= 0.8)
        problem = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
        problem.solve(
            solver="CLARABEL", tol_gap_rel=1e-10, tol_gap_abs=1e-13, tol_feas=1e-10, max_iter=500
        )

        def value(image: torch.Tensor) -> float:
            x.value = image.double().flatten().numpy()
            return float(objective.value)

        return float(problem.value), value


def measure(kind: str, dtype: torch.dtype) -> tuple[it.Problem, np.ndarray]:
    """Return the problem of an operator, and the matrix of the operator."""
    x = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64)
    x[..., 3:8, 4:10] = 1.0
    x[..., 6:10, 1:5] += 0.5
    A: Any = (
        it.operators.Blur(torch.ones(3, 3) / 9, (SIZE, SIZE))
        if kind == "blur"
        else it.operators.ParallelBeam((SIZE, SIZE), torch.linspace(0, torch.pi, 9)[:-1], 18)
    ).to(torch.float64)
    basis = torch.eye(SIZE * SIZE, dtype=torch.float64).view(-1, 1, SIZE, SIZE)
    matrix = A(basis).flatten(1).T.contiguous().numpy()
    y = A.simulate(x, 0.02 * float(A(x).abs().max()), seed=0)
    return it.Problem(y, A).to(dtype=dtype), matrix


def run(problem: it.Problem, task: Task, solver: Any, least: float, value: Any) -> list[Any]:
    """Return status, number of steps, and relative excess of the objective.

    The list is empty if the solver does not take this operator or sum of priors.
    """
    try:
        found = it.solve(problem, task.prior(), solver, task.weight, time_limit=120, progress=False)
    except it.InputError:
        return []
    return [found.status[0], int(found.iterations[0]), value(found.x) / least - 1]


def main(dtype: Literal["float64", "float32"] = "float64", again: bool = False) -> None:
    """Run the benchmark.

    Args:
        again: discard the runs that are kept
    """
    torch.set_num_threads(1)
    print(f"{machine()}, {dtype}")
    folder = Path(__file__).parent / "results"
    kept = Kept(folder / f"certificates-{dtype}.json", again)
    for operator in ("blur", "beams"):
        problem, matrix = measure(operator, getattr(torch, dtype))
        y = problem.y0.double().flatten().numpy()
        for task in (Task(operator, *kind) for kind in KINDS):
            least, value = task.reference(matrix, y)
            for solver in SOLVERS:
                name = f"{type(solver).__name__:16} {task.name}"
                kept.result(name, lambda: run(problem, task, solver, least, value))  # noqa: B023
    false, unsure, total = 0, 0, 0
    for name, row in sorted(kept.known.items()):
        if not row:
            continue
        status, iterations, excess = row
        wrong = status == "converged" and excess > 1e-3
        missed = status != "converged" and abs(excess) < 1e-6
        false, unsure, total = false + wrong, unsure + missed, total + 1
        mark = "  <- too high" if wrong else "  <- exact" if missed else ""
        print(f"{name:42} {status:15} {iterations:5d} steps  excess {excess:9.1e}{mark}")
    print(f"{total} runs")
    print(f"converged and more than 1e-3 above: {false} {verdict(false == 0, 'none')}")
    print(f"within 1e-6 and not converged: {unsure} {verdict(unsure == 0, 'none')}")


if __name__ == "__main__":
    run_script(main)
