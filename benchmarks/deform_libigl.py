"""`it.deform` compared with libigl's default on 14 meshes: energy, time and stretch of whole calls.

    python benchmarks/deform_libigl.py [--repeats 3] [--iterations 300] [--threads 1]

The meshes are the eight of libigl's tutorial, and six that are made of obtuse and sliver triangles,
with boundaries, holes, several parts, loose vertices and triangles without area. The tenth of the
vertices at one end of the longest axis is held, and the tenth at the other end rests, is moved by 1
or 10 % of the diagonal, or is turned by 60 degrees about this axis. libigl runs its default energy
for surfaces, spokes and rims, for a number of iterations; ours runs to its default tolerance. Both
start from the mesh at rest with the handles moved, and take turns. libigl gets the meshes without
loose vertices and without triangles without area, with which it returns NaN. Printed are the energy
of `priors.ARAP` of spokes and rims on libigl's mesh, the seconds of processor time (medians), and
the largest stretch of an edge relative to libigl's.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
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

CASES = ("moved by 1 %", "moved by 10 %", "turned by 60")


def ends(mesh: Mesh, case: str = "turned by 60") -> tuple[Tensor, Tensor]:
    """Return the handles and their positions."""
    size = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    axis = int(size.argmax())
    share = (mesh.vertices[:, axis] - mesh.vertices[:, axis].min()) / size[axis]
    low, high = ((part).nonzero()[:, 0] for part in (share < 0.1, share > 0.9))
    index = torch.cat([low, high])
    goal = mesh.vertices[index].clone()
    if case == "turned by 60":
        turn = torch.zeros(3, dtype=torch.float64)
        turn[axis] = torch.pi / 3
        centre = goal[len(low) :].mean(0)
        goal[len(low) :] = (goal[len(low) :] - centre) @ rotation(turn).T + centre
    elif case != "at rest":
        percent = 1 if case == "moved by 1 %" else 10
        goal[len(low) :] += percent / 100 * float(size.norm()) / 3**0.5
    return index, goal


def grid(rows: np.ndarray, columns: np.ndarray, is_tube: bool = False) -> Mesh:
    """Return a sheet with bumps, or a tube, with vertices at shares of the length and the width."""
    s, a = np.meshgrid(rows, columns, indexing="ij")
    if is_tube:
        points = np.stack([4 * s, np.cos(2 * np.pi * a), np.sin(2 * np.pi * a)], -1)
    else:
        points = np.stack([4 * s, 2 * a, 0.3 * np.sin(5 * s) * np.cos(4 * a)], -1)
    n, m = s.shape
    i, j = np.divmod(np.arange((n - 1) * m), m)
    if not is_tube:
        i, j = i[j < m - 1], j[j < m - 1]
    p, q = i * m + j, i * m + (j + 1) % m
    faces = np.concatenate([np.stack([p, q, p + m], 1), np.stack([q, q + m, p + m], 1)])
    return Mesh(torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(faces))


def made() -> dict[str, Mesh]:
    draw = np.random.default_rng(0)

    def uneven(count: int) -> np.ndarray:
        steps = np.exp(draw.uniform(-4, 0, count - 1))
        return np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])

    sheet = grid(np.linspace(0, 1, 41), np.linspace(0, 1, 21))
    shear = torch.tensor([[1.0, 0, 0], [1.5, 1, 0], [0, 0, 1]], dtype=torch.float64)
    sheared = sheet.with_vertices(sheet.vertices @ shear)
    tube = grid(np.linspace(0, 1, 25), np.linspace(0, 1, 97)[:-1], True)
    x, y, z = tube.vertices.unbind(1)
    turned = torch.stack([x, x.cos() * y - x.sin() * z, x.sin() * y + x.cos() * z], 1)
    needles = grid(np.linspace(0, 1, 161), np.linspace(0, 1, 9)[:-1], True)
    # Two tubes, with triangles of three vertices on a line, and of a vertex that is named twice.
    n = len(needles.vertices)
    flat = torch.tensor([[320, 328, 336], [400, 400, 401], [n + 640, n + 648, n + 656]])
    shift = torch.tensor([0.3, 2.2, 0.5], dtype=torch.float64)
    distance = (sheared.vertices[sheared.faces].mean(1) - sheared.vertices.mean(0)).norm(dim=1)
    return {
        "sheared sheet": sheared,
        "twisted tube": tube.with_vertices(turned),
        "sheet of slivers": grid(uneven(50), uneven(40)),
        "tube of needles": needles,
        "sheet, hole, loose vertices": Mesh(sheared.vertices, sheared.faces[distance > 0.5]),
        "two tubes, flat triangles": Mesh(
            torch.cat([needles.vertices, needles.vertices + shift]),
            torch.cat([needles.faces, needles.faces + n, flat]),
        ),
    }


def proper(mesh: Mesh) -> tuple[Mesh, Tensor]:
    """Return a mesh without loose vertices and flat triangles, and its vertices' numbers."""
    corners = mesh.vertices[mesh.faces]
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    has_area = torch.linalg.cross(u, v).norm(dim=1) > 1e-10 * (u.norm(dim=1) + v.norm(dim=1)) ** 2
    kept, faces = mesh.faces[has_area].unique(return_inverse=True)
    return Mesh(mesh.vertices[kept], faces), kept


def compare(
    name: str, mesh: Mesh, case: str, repeats: int, iterations: int
) -> dict[str, bool | float]:
    index, goal = ends(mesh, case)
    clean, kept = proper(mesh)
    place = torch.full((len(mesh.vertices),), -1)
    place[kept] = torch.arange(len(kept))
    used = place[index] >= 0
    seconds: dict[str, list[float]] = {"libigl": [], "ours": []}
    for _ in range(repeats):
        began = time.process_time()
        theirs = of_libigl(clean, place[index][used], goal[used], iterations)
        middle = time.process_time()
        solution = deformation(mesh, (index, goal))
        seconds["libigl"].append(middle - began)
        seconds["ours"].append(time.process_time() - middle)
    ours = (mesh.vertices + solution.x[0])[kept]
    graph = NeighbourGraph.of_mesh(clean.vertices, clean.faces, "spokes-and-rims")
    prior = it.priors.ARAP(graph=graph).bind(clean.vertices[None])
    energies = [float(prior.energy((x - clean.vertices)[None])) for x in (theirs, ours)]
    i, j = graph.edges
    length = (clean.vertices[i] - clean.vertices[j]).norm(dim=1)
    stretch = [float(((x[i] - x[j]).norm(dim=1) / length).max()) for x in (theirs, ours)]
    less, longer = energies[1] / energies[0] - 1, stretch[1] / stretch[0]
    ratio = median(seconds["ours"]) / median(seconds["libigl"])
    bars = {
        "energy at most its": less <= 0,
        "energy at most 1e-5 above its": less <= 1e-5,
        "time at most its": ratio <= 1,
        "stretch at most 1.2 of its": longer <= 1.2,
    }
    reached = (solution.history["objective"][:, 0] <= energies[0]).nonzero()
    first = f"after {int(reached[0])} iterations" if len(reached) else "never"
    print(
        f"{name:27} {case:13}: libigl {median(seconds['libigl']):.2f} s; ours {solution.status[0]} "
        f"after {int(solution.iterations[0])} iterations, {median(seconds['ours']):.2f} s, ratio "
        f"{ratio:.2f}, energy {less:+.1e} of its (reached {first}), stretch "
        f"{longer:.2f} of its {stretch[0]:.2f}",
        *(f"[FALLS SHORT: {bar}]" for bar, holds in bars.items() if not holds),
        flush=True,
    )
    return {**bars, "ratio": ratio}


def at_rest(name: str, mesh: Mesh) -> bool:
    handles, began = ends(mesh, "at rest"), time.process_time()
    moved = it.deform(mesh, handles).vertices
    seconds = time.process_time() - began
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    distance = float((moved - mesh.vertices).norm(dim=1).max()) / size
    holds = distance <= 1e-6 and seconds <= 1
    print(
        f"{name:27} at rest, {len(mesh.vertices)} vertices: moved by {distance:.0e} of the diagonal "
        f"in {seconds:.2f} s",
        verdict(holds, "1e-6, 1 s"),
        flush=True,
    )
    return holds


def main(repeats: int = 3, iterations: int = 300, threads: int = 1) -> None:
    """Run the benchmark.

    Args:
        iterations: number of iterations of libigl
    """
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    folder = data_folder() / "libigl_meshes"
    meshes = {path.stem: read_mesh(path) for path in sorted(folder.glob("*.o[bf][jf]"))} | made()
    at_rests: list[bool] = []
    rows: dict[str, list[dict[str, bool | float]]] = {case: [] for case in CASES}
    for name, mesh in meshes.items():
        mesh = mesh.with_vertices(mesh.vertices.double())
        deformation(mesh, ends(mesh), max_iterations=2)
        at_rests.append(at_rest(name, mesh))
        for case, table in rows.items():
            table.append(compare(name, mesh, case, repeats, iterations))
    print(f"at rest: holds on {sum(at_rests)} of {len(meshes)} meshes")
    for case, table in rows.items():
        print(f"{case}, of {len(meshes)} meshes:", end=" ")
        print(
            *(f"{bar} on {sum(row[bar] for row in table)};" for bar in table[0] if bar != "ratio"),
            end=" ",
        )
        ratios = [row["ratio"] for row in table]
        print(
            f"ratio of the times {min(ratios):.2f} to {max(ratios):.2f}, median {median(ratios):.2f}"
        )


if __name__ == "__main__":
    run_script(main)
