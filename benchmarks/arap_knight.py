"""As-rigid-as-possible deformation of libigl's knight with one foot turned, compared with libigl.

    python benchmarks/arap_knight.py [--repeats 7] [--threads 1] [--quick]

Handle group 1 of the three is turned by 45 degrees about y, once about an axis through its own
centre and once about an axis through the origin. The energy is libigl's default for surfaces, spokes
and rims, and both start from the mesh at rest with the handles moved. libigl runs 500 iterations, and 5000 iterations to determine its limit. Ours runs the same plain steps, and
the same steps with memory, to a tolerance. Printed: the largest distance of a vertex (the knight is
0.9 tall) and the seconds of processor time of whole calls, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from common import alternating, data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.models.meshes import read_dmat, read_mesh
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.shapes.deformation import deformation


def of_libigl(mesh: Mesh, index: Tensor, goal: Tensor, iterations: int) -> Tensor:
    import igl

    data = igl.ARAPData()
    data.max_iter = iterations
    igl.arap_precomputation(
        mesh.vertices.numpy(), mesh.faces.numpy(), 3, index.numpy().astype(np.int32), data
    )
    start = mesh.vertices.clone()
    start[index] = goal
    return torch.from_numpy(igl.arap_solve(goal.numpy(), data, start.numpy()))


def main(repeats: int = 7, threads: int = 1, quick: bool = False) -> None:
    """Run the benchmark.

    Args:
        quick: one repeat, to see that it works
    """
    torch.set_num_threads(threads)
    print(machine())
    folder = data_folder() / "libigl_meshes"
    mesh, group = (
        read_mesh(folder / "decimated-knight.off"),
        read_dmat(folder / "decimated-knight-selection.dmat")[:, 0],
    )
    index = (group >= 0).nonzero()[:, 0]
    turned = group[index] == 1
    R = rotation(torch.tensor([0.0, torch.pi / 4, 0.0], dtype=torch.float64))
    plain = it.solvers.LocalGlobal(memory=0)
    for about in ("its centre", "the origin"):
        goal = mesh.vertices[index].clone()
        centre = goal[turned].mean(0) if about == "its centre" else goal.new_zeros(3)
        goal[turned] = (goal[turned] - centre) @ R.T + centre
        there = of_libigl(mesh, index, goal, 5000)

        def away(points: Tensor, target: Tensor) -> float:
            return float((points - target).abs().max())

        same = deformation(mesh, (index, goal), solver=plain, max_iterations=500, tolerance=0.0)
        fast = deformation(mesh, (index, goal), tolerance=1e-6)
        values = torch.cat([s.history["objective"][:, 0].diff() for s in (same, fast)])
        at_500 = of_libigl(mesh, index, goal, 500)
        calls: dict[str, Callable[[], object]] = {
            "libigl, 500 iterations": lambda goal=goal: of_libigl(mesh, index, goal, 500),
            "ours, to a tolerance of 1e-6": lambda goal=goal: it.deform(
                mesh, (index, goal), tolerance=1e-6
            ),
            "ours, 500 plain iterations": lambda goal=goal: it.deform(
                mesh, (index, goal), solver=plain, max_iterations=500, tolerance=0.0
            ),
        }
        repeats = 1 if quick else repeats
        seconds = alternating(calls, repeats, time.process_time)
        print(f"\nturned about {about}")
        print(f"  libigl after 500 iterations is {away(at_500, there):.1e} from where it goes")
        print(
            f"  500 plain iterations of each are {away(mesh.vertices + same.x[0], at_500):.1e} "
            "apart",
            verdict(away(mesh.vertices + same.x[0], at_500) <= 1e-4, "1e-4"),
        )
        print(
            f"  ours after {int(fast.iterations[0])} iterations is "
            f"{away(mesh.vertices + fast.x[0], there):.1e} from where libigl goes",
            verdict(away(mesh.vertices + fast.x[0], there) <= 1e-4, "1e-4"),
        )
        print(
            f"  the energy rises by {float(values.max()):.1e} at most",
            verdict(float(values.max()) <= 1e-15, "never, but for rounding"),
        )
        for name, value in seconds.items():
            print(f"  {name:32} {1e3 * value:7.0f} ms")
        ratio = seconds["ours, to a tolerance of 1e-6"] / seconds["libigl, 500 iterations"]
        print(f"  ratio {ratio:.2f}", verdict(ratio <= 1, "not slower than libigl's 500"))


if __name__ == "__main__":
    run_script(main)
