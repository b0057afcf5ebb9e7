"""A bent and twisted bar, reconstructed from 5 % of its points under each prior of rigidity.

    python benchmarks/bent_bar.py [--draws 3] [--priors "ARAP, 10 neighbours"] [--threads 1]
    [--again]

A bar of 1,000 points, 4 by 0.5 by 0.5, on a lattice or at random, is twisted by 90 degrees along
its length and bent by 90 degrees. 50 points are observed in the bent state, with white noise of
0.01 in every coordinate, whose length is 0.016 on average. Printed is the mean distance from the
truth of the points that were not observed, for every prior at its best weight. The weight was
searched for on another draw of points and noise. All priors start from the linear answer (`ARAP`
with the rotations at rest). The settings of ARAP are the defaults, with 10 neighbours.

Every finished solve is kept in ``results/bent_bar.json``, and a later call continues from there;
with ``--again`` it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from common import Kept, best_exponent, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import (
    ARAP,
    AsIsometricAsPossible,
    ExplicitPrior,
    Isometry,
    LocalRigidity,
)

LENGTH, WIDTH, COUNT, SEEN, NOISE = 4.0, 0.5, 1000, 50, 0.01
SEARCH_DRAW = 100
LAYOUTS = ("lattice", "random 1", "random 2")
PRIORS: dict[str, Callable[[], ExplicitPrior]] = {
    "ARAP, 6 neighbours": lambda: ARAP(6, symmetric=True),
    "ARAP, 10 neighbours": lambda: ARAP(10, symmetric=True),
    "ARAP, 20 neighbours": lambda: ARAP(20, symmetric=True),
    "isometry, l2, 5 neighbours": lambda: Isometry(5),
    "isometry, l2, 20 neighbours": lambda: Isometry(20),
    "isometry, l1, 5 neighbours": lambda: Isometry(5, norm="l1", smoothing=0.01),
    "isometry, l1, 20 neighbours": lambda: Isometry(20, norm="l1", smoothing=0.01),
    "local rigidity, 20 neighbours": lambda: LocalRigidity(20),
    "AIAP, 5 neighbours": lambda: AsIsometricAsPossible(5),
}


@dataclass(frozen=True)
class Bar:
    """The bar at rest and bent."""

    rest: Tensor
    bent: Tensor

    @classmethod
    def of(cls, layout: str) -> Bar:
        if layout == "lattice":
            steps = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (40, 5, 5)]
            unit = torch.cartesian_prod(*steps)
        else:
            unit = torch.rand(
                COUNT,
                3,
                generator=torch.Generator().manual_seed(int(layout.split()[1])),
                dtype=torch.float64,
            )
        rest = unit * torch.tensor([LENGTH, WIDTH, WIDTH]) - torch.tensor(
            [0.0, WIDTH / 2, WIDTH / 2]
        )
        angle = torch.pi / 2 * unit[:, 0]  # angle of the twist and of the bend
        y = angle.cos() * rest[:, 1] - angle.sin() * rest[:, 2]
        z = angle.sin() * rest[:, 1] + angle.cos() * rest[:, 2]
        radius = LENGTH / (torch.pi / 2)
        return cls(
            rest,
            torch.stack([(radius - z) * angle.sin(), y, radius - (radius - z) * angle.cos()], 1),
        )

    def problem(self, draw: int) -> it.Problem:
        generator = torch.Generator().manual_seed(draw)
        index = torch.randperm(COUNT, generator=generator)[:SEEN]
        operator = it.operators.ObservedPoints(self.rest[None], index)
        seen = self.bent[index] + NOISE * torch.randn(
            SEEN, 3, generator=generator, dtype=torch.float64
        )
        return it.Problem(
            operator.displacements(seen[None]), operator, it.data_terms.LeastSquares(NOISE)
        )

    def error(self, problem: it.Problem, x: Tensor) -> float:
        unseen = torch.ones(COUNT, dtype=torch.bool)
        unseen[problem.operator.index[0]] = False
        return float((self.rest + x[0] - self.bent).norm(dim=1)[unseen].mean())

    def solved(self, problem: it.Problem, prior: ExplicitPrior, weight: float) -> float:
        start = it.solve(
            problem,
            ARAP(10),
            it.solvers.LocalGlobal(memory=0),
            regularization=1e4,
            max_iterations=1,
            tolerance=0.0,
            progress=False,
        ).x
        solver = (
            it.solvers.LocalGlobal() if "majorizer" in prior.offers else it.solvers.LBFGS(memory=20)
        )
        return self.error(
            problem,
            it.solve(
                problem,
                prior,
                solver,
                regularization=weight,
                initial=start,
                max_iterations=500,
                tolerance=1e-6,
                progress=False,
            ).x,
        )


def main(
    draws: int = 3, priors: str = ";".join(PRIORS), threads: int = 1, again: bool = False
) -> None:
    torch.set_num_threads(threads)
    print(machine())
    kept = Kept(Path(__file__).parent / "results" / "bent_bar.json", again)
    table: dict[str, list[float]] = {}
    bars = {layout: Bar.of(layout) for layout in LAYOUTS}
    rows = []
    for name in ("none", *priors.split(";")):
        table[name], weights = [], []
        for layout, bar in bars.items():

            def error(
                exponent: float, draw: int, name: str = name, bar: Bar = bar, layout: str = layout
            ) -> float:
                return float(
                    kept.result(
                        f"{layout}; {name}; 1e{exponent:g}; draw {draw}",
                        lambda: round(
                            bar.solved(bar.problem(draw), PRIORS[name](), 10.0**exponent), 5
                        ),
                    )
                )

            if name == "none":
                problems = [bar.problem(draw) for draw in range(draws)]
                errors = [bar.error(p, p.operator.pseudo_inverse(p.y)) for p in problems]
            else:
                weights.append(best_exponent(lambda e, error=error: error(e, SEARCH_DRAW), 5.0))
                errors = [error(weights[-1], draw) for draw in range(draws)]
            table[name].append(sum(errors) / len(errors))
        rows.append(
            f"{name:38}"
            + "".join(f"{v:10.4f}" for v in table[name])
            + f"   {', '.join(f'10^{w:g}' for w in weights)}"
        )
    moved = [float((bar.bent - bar.rest).norm(dim=1).mean()) for bar in bars.values()]
    print(
        f"mean displacement {', '.join(f'{m:.3f}' for m in moved)}; error of the unseen points, "
        f"mean of {draws} draws; weights"
    )
    print(f"{'':38}" + "".join(f"{layout:>10}" for layout in LAYOUTS))
    print("\n".join(rows))
    for k, layout in enumerate(LAYOUTS):
        if {
            "ARAP, 10 neighbours",
            "isometry, l2, 5 neighbours",
            "isometry, l2, 20 neighbours",
        } <= set(table):
            arap, none = table["ARAP, 10 neighbours"][k], table["none"][k]
            few, many = (
                table["isometry, l2, 5 neighbours"][k],
                table["isometry, l2, 20 neighbours"][k],
            )
            print(
                f"{layout:10} ARAP {arap:.4f} {verdict(arap <= 0.014, '0.014')}; none "
                f"{none / arap:.0f} times worse {verdict(none >= 20 * arap, '20')}; isometry, 20 "
                f"over 5 neighbours {many / few:.2f} {verdict(many < 0.25 * few, '0.25')}"
            )


if __name__ == "__main__":
    run_script(main)
