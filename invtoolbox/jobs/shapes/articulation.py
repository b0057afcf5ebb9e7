"""Find the bones of a shape from its positions at several times; `it.find_bones`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.data_terms import LeastSquares
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry.meshes import Body, Mesh
from invtoolbox.operators import TrackedPoints
from invtoolbox.priors import Bones, Deformation
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import LBFGS, Solver

#: Standard deviation of what bones cannot follow, relative to the diagonal.
_MODEL = 0.002
#: Mean distance from the frames, relative to the diagonal, that no motion of bones leaves.
_FAR = 0.05


@naming_arguments
def find_bones(
    shape: Any,
    frames: Any,
    count: int = 20,
    *,
    index: Tensor | None = None,
    noise_std: float | None = None,
    weights: Tensor | None = None,
    ordered: bool = True,
    solver: Solver | None = None,
    max_iterations: int = 300,
    tolerance: float = 1e-4,
    progress: bool = False,
) -> Solution:
    """Find bones, weights and poses that move a shape through given positions.

    It solves ``priors.Deformation(shape, priors.Bones(count, T))`` for `operators.TrackedPoints`.

    Args:
        shape: shape at rest: a `geometry.Mesh`, ``(vertices, faces)``, points ``(N, 3)``, or an
            object of trimesh, Open3D or PyTorch3D.
        frames: positions at T times: a tensor ``(T, m, 3)``, or a list of shapes like the first
            one, with the vertices in the same order.
        count: number of bones.
        index: numbers of the m points that the positions are those of, or a mask of all points; all
            points by default.
        noise_std: standard deviation of the positions, in their unit; 0.2 % of the diagonal of the
            shape by default, about what bones cannot follow.
        weights: known shares ``(N, bones)`` with which each point follows each bone, such as
            ``x.skinning.weights[0]`` of an earlier result. Only poses are found then, a few points
            are enough, and the count is not used.
        ordered: whether the frames follow each other in time, so that the motion changes little
            from one to the next; False for single poses.
        solver: as in `it.solve`; L-BFGS by default.
        max_iterations: as in `it.solve`.
        tolerance: as in `it.solve`.
        progress: as in `it.solve`.

    Returns:
        the `Solution`. Its ``x`` is a `geometry.Moving` with ``x.at(time)``, also between times,
        ``x.skeleton()`` and ``x.at_pose(pose)``: positions ``(1, N, 3)``.

    Raises:
        InputError: if frames have another number of points than the shape or the index, or if the
            shape cannot carry the bones (see `priors.Bones`).

    >>> import invtoolbox as it
    >>> bar = torch.cartesian_prod(torch.arange(12.0), torch.arange(3.0), torch.arange(3.0))
    >>> up = torch.tensor([0.0, 0.0, 1.0])
    >>> frames = [bar + a * (bar[:, :1] - 6).clamp_min(0) * up for a in (0.1, 0.2)]
    >>> x = it.find_bones(bar, frames, count=2, max_iterations=30).x
    >>> bool((x.at(1)[0] - frames[1]).norm(dim=-1).mean() < 0.1)
    True
    >>> x.skeleton()
    Skeleton(2 bones)
    """
    body, rest, positions, index = _read(shape, frames, index)
    times = len(positions)
    diagonal = float((rest[0].amax(0) - rest[0].amin(0)).norm())
    if noise_std is None:
        noise_std = _MODEL * diagonal
    A = TrackedPoints(rest, times, index)
    skinning: Literal["learned"] | Tensor = "learned"
    if weights is not None:
        skinning, count = weights, weights.shape[-1]
    bones = Bones(count, times, skinning, acceleration=0.1 if ordered else torch.inf)
    start = rest[0] if body.faces is None else Mesh(rest[0], body.faces)
    problem = Problem(A.displacements(positions[None]), A, LeastSquares(noise_std))
    solution = solve(
        problem,
        Deformation(start, bones),
        LBFGS(memory=20) if solver is None else solver,
        max_iterations=max_iterations,
        tolerance=tolerance,
        progress=progress,
    )
    note = _describe_distance(A(solution.x) - problem.y, diagonal, noise_std)
    return solution.note(note) if note else solution


def _read(shape: Any, frames: Any, index: Any) -> tuple[Body, Tensor, Tensor, Tensor | None]:
    """Return a shape, its points ``(1, N, 3)``, the positions ``(T, m, 3)``, and their numbers.

    An `InputError` names what does not fit.
    """
    if isinstance(shape, list):
        raise InputError(
            f"find_bones takes the shape at rest first and the frames second, got a list of "
            f"{len(shape)} shapes first"
        )
    body = Body.of(shape)
    if len(body.points) != 1 or not body.points.numel():
        raise InputError(
            f"find_bones takes one shape at rest, (1, point, 3), got {tuple(body.points.shape)}"
        )
    rest = body.points if body.points.dtype == torch.float64 else body.points.float()
    positions = _positions(frames).to(rest)
    is_lost = ~positions.isfinite().all(-1)
    if bool(is_lost.any()):
        time, point = is_lost.nonzero()[0].tolist()
        raise InputError(
            f"{int(is_lost.sum())} positions of the frames are NaN or infinite, the first is point "
            f"{point} of frame {time}; leave the point out by index="
        )
    if index is not None:
        index = as_tensor(index)
        if index.dtype == torch.bool:  # a mask
            index = index.nonzero().squeeze(1)
    expected = rest.shape[1] if index is None else len(index)
    if positions.shape[1] != expected:
        raise InputError(
            f"the frames have {positions.shape[1]} points, and "
            f"{'the shape' if index is None else 'the index'} has {expected}"
        )
    return body, rest, positions, index


def _describe_distance(gaps: Tensor, diagonal: float, noise_std: float) -> str:
    """Return a note on positions that no motion of bones explains, else nothing.

    Args:
        gaps: predicted less measured positions, ``(..., 3)``.
        diagonal: diagonal of the shape.
        noise_std: standard deviation of the positions.
    """
    off = float(gaps.norm(dim=-1).mean())
    if off <= max(_FAR * diagonal, 5 * noise_std):
        return ""
    return (
        f"the positions are {off:.3g} away from the frames in the mean, {off / diagonal:.0%} of the "
        "diagonal of the shape; check that frames are positions and no displacements, in the unit of "
        "the shape, with the vertices in the same order"
    )


def _positions(frames: Any) -> Tensor:
    """Return positions ``(T, m, 3)`` of a tensor, an array, or a list of shapes."""
    if isinstance(frames, (list, tuple)):
        points = [Body.of(frame).points[0] for frame in frames]
        counts = {len(p) for p in points}
        if len(counts) != 1:
            raise InputError(
                "find_bones takes at least one frame, and frames of the same number of points, got "
                f"{len(points)} frames of {sorted(counts)} points"
            )
        return torch.stack(points)
    return Body.of(frames).points
