"""Meshes under ARAP with signed and with clamped cotangents: shape of least energy, and start.

    python benchmarks/signed_cotangents.py [--threads 1]

First, 5 % of the vertices of a mesh are held exactly at their places at rest, and the others start
with a small error (noise of 0.1 % of the diagonal): a prior of rigidity should move them back.
Printed is the energy, in mean squared edges, and their distance from rest, in % of the diagonal.
Then the horse of ``deforming_meshes.py``, draw 0, from several starts: the objective, and the error
in %.
"""

from __future__ import annotations

from typing import cast

import torch
from common import data_folder, machine, run_script
from deforming_meshes import Shape
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.models.meshes import read_mesh
from invtoolbox.geometry.neighbour_graph import MeshWeights, NeighbourGraph
from invtoolbox.priors import ARAP
from invtoolbox.solvers.base import Solver

WEIGHT = 10**8.5


def back_to_rest(vertices: Tensor, graph: NeighbourGraph) -> tuple[float, float]:
    g, count = torch.Generator().manual_seed(0), len(vertices)
    held = torch.randperm(count, generator=g)[: count // 20]
    A = it.operators.ObservedPoints(vertices[None], held)
    problem = it.Problem(
        torch.zeros(1, len(held), 3, dtype=torch.float64), A, it.data_terms.Exact()
    )
    size = (vertices.amax(0) - vertices.amin(0)).norm()
    start = 1e-3 * size * torch.randn(1, count, 3, generator=g, dtype=torch.float64)
    x = it.solve(
        problem,
        ARAP(graph=graph),
        it.solvers.LocalGlobal(),
        initial=start,
        regularization=1.0,
        max_iterations=300,
        tolerance=1e-8,
        progress=False,
    ).x
    energy = float(ARAP(graph=graph).bind(vertices[None]).energy(x)) / float(
        graph.vectors.square().sum(1).mean()
    )
    return energy, 100 * float(x[0].norm(dim=1).mean() / size)


def from_starts(shape: Shape, graph: NeighbourGraph) -> None:
    problem, prior = shape.problem(0), ARAP(graph=graph)
    truth = (shape.after - shape.before)[None]
    print(
        "  the prior of the truth "
        f"{WEIGHT * float(prior.bind(shape.before[None]).energy(truth)):.1f}"
    )
    fast, plain = it.solvers.LocalGlobal(), it.solvers.LocalGlobal(plain_steps=150)
    linear = it.solve(
        problem,
        prior,
        it.solvers.LocalGlobal(memory=0),
        regularization=1e5,
        max_iterations=1,
        tolerance=0.0,
        progress=False,
    ).x
    starts: dict[str, tuple[Tensor, Solver]] = {
        "the linear answer": (linear, fast),
        "the linear answer, 150 plain steps": (linear, plain),
        "rest": (torch.zeros_like(truth), fast),
        "the truth": (truth, fast),
    }
    for name, (start, solver) in starts.items():
        solution = it.solve(
            problem,
            prior,
            solver,
            regularization=WEIGHT,
            initial=start,
            max_iterations=2000,
            tolerance=1e-8,
            progress=False,
        )
        print(
            f"  from {name:36} {float(solution.history['objective'][-1, 0]):10.2f}  "
            f"{shape.error(problem, solution.x, True):.4f}   {solution.status[0]} after "
            f"{int(solution.iterations[0])}",
            flush=True,
        )


def main(threads: int = 1) -> None:
    torch.set_num_threads(threads)
    print(machine())
    horse, crane = Shape.read("horse"), Shape.read("crane")
    knight = read_mesh(data_folder() / "libigl_meshes" / "decimated-knight.off")
    for name, vertices, faces in (
        ("horse", horse.before, horse.faces),
        ("crane", crane.before, crane.faces),
        ("knight", knight.vertices.double(), knight.faces),
    ):
        for weights in ("cotangent", "clamped"):
            graph = NeighbourGraph.of_mesh(vertices, faces, cast(MeshWeights, weights))
            energy, away = back_to_rest(vertices, graph)
            print(
                f"{name:8}{weights:12}{float((graph.weights < 0).double().mean()):6.1%} negative; "
                f"energy {energy:10.2e}, from rest {away:.2g} %",
                flush=True,
            )
    for weights in ("cotangent", "clamped", "uniform"):
        print(f"the horse, {weights}")
        from_starts(
            horse, NeighbourGraph.of_mesh(horse.before, horse.faces, cast(MeshWeights, weights))
        )


if __name__ == "__main__":
    run_script(main)
