"""`it.deform` compared with libigl on four meshes: energy and time of whole calls.

    python benchmarks/deform_libigl.py [--repeats 5] [--threads 1]

The tenth of the vertices at one end of the longest axis is held, and the tenth at the other end is
turned by 60 degrees about this axis. libigl runs 300 iterations of its energy of spokes, ours runs
to its default tolerance; both start from the mesh at rest with the handles moved. Printed are the
energy of `priors.ARAP` with the same signed cotangents and the seconds of processor time, medians
of calls in turns.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from arap_knight import of_libigl
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets import read_mesh
from invtoolbox.geometry import NeighbourGraph
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.shapes.deformation import deformation

MESHES = ("decimated-knight", "cow", "bumpy", "cheburashka")


def ends(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Return the handles and their positions."""
    size = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    axis = int(size.argmax())
    share = (mesh.vertices[:, axis] - mesh.vertices[:, axis].min()) / size[axis]
    low, high = ((part).nonzero()[:, 0] for part in (share < 0.1, share > 0.9))
    index = torch.cat([low, high])
    goal = mesh.vertices[index].clone()
    turn = torch.zeros(3, dtype=torch.float64)
    turn[axis] = torch.pi / 3
    centre = goal[len(low) :].mean(0)
    goal[len(low) :] = (goal[len(low) :] - centre) @ rotation(turn).T + centre
    return index, goal


def main(repeats: int = 5, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    for name in MESHES:
        mesh = read_mesh(data_folder() / "libigl_meshes" / f"{name}.off")
        mesh = mesh.with_vertices(mesh.vertices.double())
        index, goal = ends(mesh)
        deformation(mesh, (index, goal), max_iterations=2)
        seconds: dict[str, list[float]] = {"libigl": [], "ours": []}
        for _ in range(repeats):
            began = time.process_time()
            theirs = of_libigl(mesh, index, goal, 300)
            middle = time.process_time()
            solution = deformation(mesh, (index, goal))
            seconds["libigl"].append(middle - began)
            seconds["ours"].append(time.process_time() - middle)
        graph = NeighbourGraph.of_mesh(mesh.vertices, mesh.faces, "cotangent")
        prior = it.priors.ARAP(graph=graph).bind(mesh.vertices[None])
        energies = [float(prior.energy(x)) for x in ((theirs - mesh.vertices)[None], solution.x)]
        less = (energies[1] - energies[0]) / abs(energies[0])
        ratio = median(seconds["ours"]) / median(seconds["libigl"])
        reached = solution.history["objective"][:, 0] <= energies[0]
        first = int(reached.nonzero()[0]) if bool(reached.any()) else None
        print(
            f"{name:17} {len(mesh.vertices):5} vertices: libigl {median(seconds['libigl']):.2f} s; "
            f"ours {solution.status[0]} after {int(solution.iterations[0])} iterations, "
            f"{median(seconds['ours']):.2f} s, ratio {ratio:.2f}, energy {less:+.1e} of its; its "
            f"energy after {first} iterations",
            verdict(less <= 0, "energy at most its"),
            verdict(ratio <= 1, "time at most its"),
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
