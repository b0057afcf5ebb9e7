"""A horse and a man moved by 20 bones: all vertices seen, 5 % of them, and times without a fit.

    python benchmarks/articulated.py [--shapes horse,crane] [--draws 2] [--threads 1] [--again]

The first frame of a sequence of meshes is the shape at rest. Every fourth frame is unseen; the
others, 18 of the horse and 27 of the man, are given to `priors.Bones` with 20 bones, which learns
weights and poses by L-BFGS from the parts of `geometry.rigid_parts`. Printed are mean distances
between vertices and their true places, in per cent of the diagonal of the box around the first
frame, mean over the frames (finished fits are kept in ``results/articulated.json``):

- all vertices of all given frames, without noise;
- 5 % of the vertices, the same ones at all given frames, with white noise of 1 % of the diagonal in
  every coordinate; error of the other vertices;
- the poses of the unseen frames from the same 5 % of their vertices with noise, with the weights
  of the row before. The reference is `LocalRigidity` over 20 neighbours on the same measurements,
  frame by frame, with the weight of ``benchmarks/deforming_meshes.py``;
- for information, the unseen frames without any measurement, from the poses of the times before and
  after, and by linear interpolation of the true vertices.

No setting was chosen on these sequences. The defaults of `Bones` come from ``--shapes
cat,elephant``: nine poses of a cat (Sumner and Popovic 2004), and libigl's elephant, of which every
24th frame is taken.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import Kept, data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Mesh
from invtoolbox.jobs.shapes.deformation import deformation

RESULTS = Path(__file__).parent / "results"
BONES, SEEN, NOISE = 20, 0.05, 0.01
#: Standard deviation at which the misfit of all vertices counts: that of what bones cannot follow.
MODEL = 0.002
#: Weights of local rigidity in benchmarks/deforming_meshes.py.
RIGIDITY = {"horse": 1e6, "crane": 1e3}
BARS = {"all": 0.5, "sparse": 0.6}


@dataclass(frozen=True)
class Sequence:
    """Meshes in units of the diagonal of the first one.

    Attributes:
        name: name of the sequence.
        mesh: the first mesh, the shape at rest.
        frames: vertices of every mesh, ``(T, N, 3)``.
        fitted: numbers of the given frames.
        unseen: numbers of the other frames.
        is_ordered: whether the frames follow each other in time.
    """

    name: str
    mesh: Mesh
    frames: Tensor
    fitted: list[int]
    unseen: list[int]
    is_ordered: bool = True

    @classmethod
    def read(cls, name: str) -> Sequence:
        folder, ordered = data_folder() / "deforming_meshes", True
        if name == "cat":
            meshes = [
                it.datasets.read_mesh(folder / "cat-poses" / f"{k:04d}.obj") for k in range(1, 10)
            ]
            frames, faces, ordered = (
                torch.stack([m.vertices for m in meshes]),
                meshes[0].faces,
                False,
            )
        elif name == "elephant":
            frames, faces = elephant(data_folder() / "libigl_meshes")
        else:
            file = {"horse": "horse_gallop.npz", "crane": "crane.npz"}[name]
            with np.load(folder / file) as content:
                frames = torch.from_numpy(content["vertices"])
                faces = torch.from_numpy(content["faces"]).long()
        frames = frames.float()
        frames = frames / (frames[0].amax(0) - frames[0].amin(0)).norm()
        unseen = [t for t in range(1, len(frames)) if t % 4 == 2]
        fitted = [t for t in range(len(frames)) if t not in unseen]
        return cls(name, Mesh(frames[0], faces), frames, fitted, unseen, ordered)

    @property
    def judged(self) -> list[int]:
        """Every third unseen frame from the second, on which local rigidity is solved."""
        return self.unseen[1::3]

    def seen(self, draw: int) -> Tensor:
        generator = torch.Generator().manual_seed(draw)
        count = len(self.mesh.vertices)
        return torch.randperm(count, generator=generator)[: round(SEEN * count)]

    def measured(self, frames: list[int], index: Tensor, draw: int) -> Tensor:
        """Return noisy positions ``(1, T, m, 3)``; a frame has the same noise in every call."""
        noisy = []
        for t in frames:
            generator = torch.Generator().manual_seed(1000 * (draw + 1) + t)
            noise = torch.randn(len(index), 3, generator=generator)
            noisy.append(self.frames[t, index] + NOISE * noise)
        return torch.stack(noisy)[None]

    def errors(self, found: Tensor, frames: list[int], index: Tensor | None = None) -> list[float]:
        """Compute the error of every frame in per cent, without the vertices of an index."""
        judged = torch.ones(found.shape[-2], dtype=torch.bool)
        if index is not None:
            judged[index] = False
        off = (found - self.frames[frames]).norm(dim=-1)[:, judged].mean(1)
        return (100 * off).tolist()


def elephant(folder: Path) -> tuple[Tensor, Tensor]:
    """Return every 24th frame ``(T, N, 3)`` of libigl's animation of an elephant, and the faces.

    A frame holds a 3 by 4 matrix per bone; the bones are the second axis.
    """
    mesh = it.datasets.read_mesh(folder / "elephant.obj")
    weights, motion = (binary_dmat(folder / f"elephant-{w}.dmat") for w in ("weights", "anim"))
    motions = motion.T[::24].reshape(-1, 3, weights.shape[1], 4)
    homogeneous = torch.cat([mesh.vertices, torch.ones(len(mesh.vertices), 1)], 1).double()
    return torch.einsum("nb,tibj,nj->tni", weights, motions, homogeneous), mesh.faces


def binary_dmat(path: Path) -> Tensor:
    """Read a matrix of libigl's binary format: a line of zeros, the sizes, float64 by columns."""
    _, sizes, content = path.read_bytes().split(b"\n", 2)
    columns, rows = map(int, sizes.split())
    return torch.from_numpy(np.frombuffer(content, "<f8").reshape(columns, rows).T.copy())


def fit(
    shape: Sequence,
    frames: list[int],
    positions: Tensor,
    index: Tensor,
    noise: float,
    weights: Tensor | str = "learned",
    steps: int = 300,
) -> it.geometry.Moving:
    """Fit bones to positions ``(1, T, m, 3)`` of some vertices."""
    rest = shape.mesh.vertices
    A = it.operators.TrackedPoints(rest[None], len(frames), index)
    problem = it.Problem(A.displacements(positions), A, it.data_terms.LeastSquares(noise))
    ordered = shape.is_ordered and weights == "learned" if isinstance(weights, str) else False
    bones = it.priors.Bones(BONES, len(frames), weights, acceleration=0.1 if ordered else torch.inf)
    return it.solve(
        problem,
        it.priors.Deformation(shape.mesh, bones),
        it.solvers.LBFGS(memory=20),
        max_iterations=steps,
        tolerance=1e-5,
        progress=False,
    ).x


def places(x: it.geometry.Moving) -> Tensor:
    return x.shape[0] + x.displacements[0]


def rigid(shape: Sequence, frame: int, draw: int) -> float:
    """Return the error of local rigidity on a frame."""
    index = shape.seen(draw)
    rest = shape.mesh.vertices.double()
    A = it.operators.ObservedPoints(rest[None], index)
    y = A.displacements(shape.measured([frame], index, draw)[0].double())
    x = it.solve(
        it.Problem(y, A, it.data_terms.LeastSquares(NOISE)),
        it.priors.LocalRigidity(20),
        it.solvers.LBFGS(memory=20),
        regularization=RIGIDITY.get(shape.name, 1e6),
        initial=deformation(rest, (index, rest[index] + y[0]), noise_std=NOISE, max_iterations=1).x,
        max_iterations=400,
        tolerance=1e-6,
        progress=False,
    ).x
    return shape.errors((rest + x[0]).float()[None], [frame], index)[0]


def reference_error(kept: Kept, shape: Sequence, frame: int, draw: int) -> float:
    """Return the error of local rigidity on a frame, computed once."""
    key = f"{shape.name}; local rigidity; frame {frame}; draw {draw}"
    return float(kept.result(key, lambda: {"error": rigid(shape, frame, draw)})["error"])


def measure(shape: Sequence, draw: int) -> dict[str, float]:
    """Return the errors of the bones for one draw of seen vertices and noise."""
    index, began = shape.seen(draw), time.process_time()
    x = fit(shape, shape.fitted, shape.measured(shape.fitted, index, draw), index, NOISE, steps=150)
    # The first frame is the shape at rest, known without noise.
    sparse = shape.errors(places(x), shape.fitted, index)[1:]
    seconds = time.process_time() - began
    known = x.skinning.weights
    y = shape.measured(shape.unseen, index, draw)
    posed = fit(shape, shape.unseen, y, index, NOISE, known, steps=60)
    unseen = shape.errors(places(posed), shape.unseen, index)
    judged = [e for t, e in zip(shape.unseen, unseen) if t in shape.judged]
    between, linear = [], []
    for t in shape.unseen:
        if shape.is_ordered and t + 1 < len(shape.frames):
            at = shape.fitted.index(t - 1) + 0.5
            between += shape.errors(x.at(at), [t])
            middle = 0.5 * (shape.frames[t - 1] + shape.frames[t + 1])
            linear += shape.errors(middle[None], [t])
    return {
        "sparse": float(np.mean(sparse)),
        "unseen": float(np.mean(unseen)),
        "judged": float(np.mean(judged)),
        "between": float(np.mean(between)) if between else float("nan"),
        "linear": float(np.mean(linear)) if linear else float("nan"),
        "seconds": seconds,
    }


def measured(kept: Kept, shape: Sequence, draw: int) -> dict[str, float]:
    """Return the errors of the bones for one draw, computed once."""
    found: dict[str, float] = kept.result(
        f"{shape.name}; bones; draw {draw}", lambda: measure(shape, draw)
    )
    return found


def every(shape: Sequence) -> dict[str, float]:
    """Return the error of all vertices of all given frames."""
    index, began = torch.arange(len(shape.mesh.vertices)), time.process_time()
    x = fit(shape, shape.fitted, shape.frames[shape.fitted][None], index, MODEL)
    error = float(np.mean(shape.errors(places(x), shape.fitted)[1:]))
    return {"all": error, "seconds": time.process_time() - began}


def main(
    shapes: str = "horse,crane",
    draws: int = 2,
    threads: int = 1,
    reference: bool = True,
    again: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        reference: leave local rigidity out
    """
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    kept = Kept(RESULTS / "articulated.json", again)
    for name in shapes.split(","):
        shape = Sequence.read(name)
        motion = np.mean(
            shape.errors(shape.frames[:1].expand_as(shape.frames), range(len(shape.frames)))
        )
        print(
            f"\n{name}: {len(shape.mesh.vertices)} vertices, {len(shape.fitted)} frames, motion "
            f"{motion:.1f} %, {BONES} bones",
            flush=True,
        )
        whole = kept.result(f"{name}; all vertices", lambda shape=shape: every(shape))
        print(
            f"  all vertices              {whole['all']:.3f} %  {whole['seconds']:.0f} s "
            f"{verdict(whole['all'] <= BARS['all'], '0.5 %')}",
            flush=True,
        )
        rows = [measured(kept, shape, draw) for draw in range(draws)]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        each = ", ".join(f"{row['sparse']:.3f}" for row in rows)
        print(
            f"  others from 5 % with noise {mean['sparse']:.3f} % ({each})  {mean['seconds']:.0f} s "
            f"{verdict(mean['sparse'] <= BARS['sparse'], '0.6 %')}",
            flush=True,
        )
        print(f"  unseen times, measured    {mean['unseen']:.3f} %", flush=True)
        print(
            f"  unseen times, not measured {mean['between']:.3f} %; linear {mean['linear']:.3f} %"
        )
        if reference:
            reference = [
                reference_error(kept, shape, t, draw) for draw in range(draws) for t in shape.judged
            ]
            ratio = mean["judged"] / float(np.mean(reference))
            print(
                f"  frames {shape.judged}: local rigidity {np.mean(reference):.3f} %, bones "
                f"{mean['judged']:.3f} %, ratio {ratio:.2f} "
                f"{verdict(ratio <= 1.2, '1.2 times local rigidity')}",
                flush=True,
            )


if __name__ == "__main__":
    run_script(main)
