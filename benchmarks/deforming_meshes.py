"""A horse and a man reconstructed from 5 % of their vertices, under every prior of rigidity.

    python benchmarks/deforming_meshes.py [--shapes horse,crane] [--priors "AIAP, 5 neighbours"]
                                          [--draws 3] [--threads 1] [--again]

The first frame of a sequence of meshes is known. Of the middle frame, number (T - 1) // 2, 5 % of
the vertices are observed at random (the horse gallops in periods, and frame T / 2 equals the first
one). The noise is white, with a standard deviation in every coordinate of 1 % of the diagonal of
the box around the first frame. Printed is the mean distance from the truth of the vertices that
were not observed, in per cent of that diagonal.

Every prior has one weight. It is searched by factors of 10 and then of sqrt(10), on a separate draw
of observed vertices and noise, and judged there on half of the vertices. The printed values come
from other draws, and from the other half. All priors start from the linear answer, one global step
of ARAP without rotations (Laplacian editing). `LocalGlobal` minimizes priors with a majorizer of
springs, L-BFGS the others.

Every finished solve is kept in ``results/deforming_meshes.json``, and a later call continues from
there; with ``--again`` it does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import Kept, best_exponent, data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.priors import (
    ARAP,
    AsIsometricAsPossible,
    ExplicitPrior,
    Isometry,
    LocalRigidity,
)

RESULTS = Path(__file__).parent / "results"
SHAPES = {"horse": "horse_gallop.npz", "crane": "crane.npz"}
SEEN, NOISE = 0.05, 0.01
SEARCH_DRAW = 100


@dataclass(frozen=True)
class Shape:
    """A mesh before and after, in units of its diagonal.

    It also holds the half of the vertices on which the weights are judged.
    """

    name: str
    before: Tensor
    after: Tensor
    faces: Tensor

    @classmethod
    def read(cls, name: str) -> Shape:
        with np.load(data_folder() / "deforming_meshes" / SHAPES[name]) as file:
            frames, faces = (
                torch.from_numpy(file["vertices"]).double(),
                torch.from_numpy(file["faces"]).long(),
            )
        size = (frames[0].amax(0) - frames[0].amin(0)).norm()
        return cls(name, frames[0] / size, frames[(len(frames) - 1) // 2] / size, faces)

    def half(self, second: bool) -> Tensor:
        order = torch.randperm(len(self.before), generator=torch.Generator().manual_seed(7))
        part = order[len(order) // 2 :] if second else order[: len(order) // 2]
        return torch.zeros(len(order), dtype=torch.bool).index_fill(0, part, True)

    def problem(self, draw: int) -> it.Problem:
        generator = torch.Generator().manual_seed(draw)
        index = torch.randperm(len(self.before), generator=generator)[
            : round(SEEN * len(self.before))
        ]
        seen = self.after[index] + NOISE * torch.randn(
            len(index), 3, generator=generator, dtype=torch.float64
        )
        operator = it.operators.ObservedPoints(self.before[None], index)
        return it.Problem(
            operator.displacements(seen[None]), operator, it.data_terms.LeastSquares(NOISE)
        )

    def error(self, problem: it.Problem, x: Tensor, second: bool) -> float:
        """Compute the error of the vertices of a half that were not observed, in per cent."""
        judged = self.half(second)
        judged[problem.operator.index[0]] = False
        return 100 * float((self.before + x[0] - self.after).norm(dim=1)[judged].mean())


PRIORS: dict[str, Callable[[Shape], ExplicitPrior]] = {
    "ARAP, clamped cotangents": lambda shape: ARAP(
        graph=NeighbourGraph.of_mesh(shape.before, shape.faces)
    ),
    "ARAP, signed cotangents": lambda shape: ARAP(
        graph=NeighbourGraph.of_mesh(shape.before, shape.faces, "cotangent")
    ),
    "ARAP, edges of the mesh": lambda shape: ARAP(
        graph=NeighbourGraph.of_mesh(shape.before, shape.faces, "uniform")
    ),
    "ARAP, 20 neighbours": lambda shape: ARAP(20),
    "ARAP, 20 neighbours, Gaussian": lambda shape: ARAP(20, weights="gaussian"),
    "local rigidity, 20 neighbours": lambda shape: LocalRigidity(20),
    "isometry, 20 neighbours": lambda shape: Isometry(20),
    "AIAP, 5 neighbours": lambda shape: AsIsometricAsPossible(5),
}


def solved(
    shape: Shape, problem: it.Problem, prior: ExplicitPrior, weight: float
) -> tuple[Tensor, str]:
    linear = ARAP(graph=NeighbourGraph.of_mesh(shape.before, shape.faces))
    start = it.solve(
        problem,
        linear,
        it.solvers.LocalGlobal(memory=0),
        regularization=1e5,
        max_iterations=1,
        tolerance=0.0,
        progress=False,
    ).x
    solver = (
        it.solvers.LocalGlobal() if "majorizer" in prior.offers else it.solvers.LBFGS(memory=20)
    )
    # Large shapes with a stiff prior need the tolerance; the budget keeps a run within a few
    # minutes.
    solution = it.solve(
        problem,
        prior,
        solver,
        regularization=weight,
        initial=start,
        max_iterations=400,
        tolerance=1e-6,
        progress=False,
    )
    return solution.x, f"{solution.status[0]} after {int(solution.iterations[0])}"


def error(kept: Kept, shape: Shape, name: str, exponent: float, draw: int) -> float:
    """Compute the error in per cent for the weight ``10 ** exponent``."""

    def compute() -> dict[str, float | str]:
        began, problem = time.process_time(), shape.problem(draw)
        x, how = solved(shape, problem, PRIORS[name](shape), 10.0**exponent)
        return {
            "error": round(shape.error(problem, x, draw != SEARCH_DRAW), 4),
            "how": how,
            "seconds": round(time.process_time() - began, 1),
        }

    return float(
        kept.result(f"{shape.name}; {name}; 1e{exponent:g}; draw {draw}", compute)["error"]
    )


def main(
    shapes: str = ",".join(SHAPES),
    priors: str = ";".join(PRIORS),
    draws: int = 3,
    threads: int = 1,
    again: bool = False,
) -> None:
    torch.set_num_threads(threads)
    print(machine())
    kept, rows = Kept(RESULTS / "deforming_meshes.json", again), []
    for name in shapes.split(","):
        shape = Shape.read(name)
        none = [
            shape.error(p := shape.problem(draw), p.operator.pseudo_inverse(p.y), True)
            for draw in range(draws)
        ]
        found = {"none": none}
        weights = {"none": math.nan}
        for prior in priors.split(";"):
            start = 4.0 if "AIAP" in prior or "local" in prior else 6.0
            weights[prior] = best_exponent(
                lambda e, shape=shape, prior=prior: error(kept, shape, prior, e, SEARCH_DRAW), start
            )
            found[prior] = [
                error(kept, shape, prior, weights[prior], draw) for draw in range(draws)
            ]
        rows.append(
            f"\n{name}: {len(shape.before)} vertices, {round(SEEN * len(shape.before))} seen with "
            f"noise of {NOISE:.0%} of the diagonal; error of the others in % of it, mean of "
            f"{draws} draws (least, most), weight"
        )
        mean = {prior: sum(values) / len(values) for prior, values in found.items()}
        for prior in sorted(mean, key=lambda p: mean[p]):
            weight = "" if math.isnan(weights[prior]) else f"  10^{weights[prior]:g}"
            rows.append(
                f"  {prior:38} {mean[prior]:6.3f}  ({min(found[prior]):.3f}, "
                f"{max(found[prior]):.3f}){weight}"
            )
        worst = max((p for p in mean if p != "none"), key=lambda p: mean[p])
        ratio = mean["none"] / mean[worst]
        rows.append(
            f"  none over the worst prior ({worst}): {ratio:.1f} "
            f"{verdict(ratio >= 3, 'none worst by a factor of 3')}"
        )
    print("\n".join(rows))


if __name__ == "__main__":
    run_script(main)
