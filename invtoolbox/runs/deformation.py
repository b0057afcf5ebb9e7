"""Move some points of a mesh or a cloud, and let the others follow as rigidly as possible; `it.deform`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from invtoolbox.data_terms import Exact, LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.geometry.meshes import Body
from invtoolbox.geometry.neighbour_graph import MeshWeights, NeighbourGraph
from invtoolbox.operators import ObservedPoints
from invtoolbox.problem import Problem
from invtoolbox.solve import solve

if TYPE_CHECKING:
    from invtoolbox.priors.base import Prior
    from invtoolbox.solution import Solution
    from invtoolbox.solvers.base import Solver

#: A point and where it goes, one by one, or all numbers and all positions.
Handles = Mapping[int, Sequence[float]] | tuple[Any, Any]
Shape = TypeVar("Shape")


def deform(
    shape: Shape,
    handles: Handles,
    *,
    weights: MeshWeights = "cotangent",
    neighbours: int = 10,
    prior: Prior | None = None,
    noise_std: float | None = None,
    solver: Solver | None = None,
    max_iterations: int | None = None,
    tolerance: float = 1e-6,
    progress: bool = False,
) -> Shape:
    r"""The shape with its handles moved, and everything else as rigid as possible.

    It minimises `priors.ARAP` over the points that are not handles, which are where they were told to be to the last digit, with
    `solvers.LocalGlobal` inside of `it.solve`. For the `Solution` itself, with its history, call `deformation`.

    Args:
        shape: a `geometry.meshes.Mesh`, ``(vertices, faces)``, points ``(N, 3)`` or ``(batch, N, 3)``, or an object of trimesh, Open3D or
            PyTorch3D.
            It is not changed; the answer is of its kind. The arithmetic is in float64.
        handles: ``{number: position}``, or ``(numbers (m,), positions (m, 3) or (batch, m, 3))``. A handle may stay where it is: that holds
            the shape there.
        weights: of the edges of a mesh, ``"cotangent"``, ``"clamped"`` or ``"uniform"``. The first are the paper's, and libigl's
            for its energy of spokes; where many triangles are obtuse and the shape crumples, take ``"clamped"``, under which the shape
            at rest is that of least energy (see `NeighbourGraph.of_mesh`).
        neighbours: of each point, where there are no faces; the graph is symmetric, with Gaussian weights.
        prior: another one of the displacements, in place of ARAP.
        noise_std: of the positions, in the unit of the shape; handles are then followed as well as rigidity allows, in its balance with
            the prior's weight, and not to the last digit.
        solver, max_iterations, tolerance, progress: as in `it.solve`.

    Raises:
        InputError: a handle that is not a point of the shape, a part without any handle, positions that are not finite,
            triangles without an area (under cotangents), a shape that is not one.

    >>> import invtoolbox as it
    >>> bar = torch.cartesian_prod(torch.arange(8.0), torch.arange(2.0), torch.arange(2.0))
    >>> ends = torch.tensor([0, 1, 2, 3, 28, 29, 30, 31])
    >>> goal = bar[ends].clone()
    >>> goal[4:, 2] += 2.0  # lift one end
    >>> lifted = it.deform(bar, (ends, goal))
    >>> lifted.shape, bool(torch.equal(lifted[ends], goal))
    (torch.Size([32, 3]), True)
    """
    body = Body.of(shape)
    solution = deformation(
        shape,
        handles,
        weights=weights,
        neighbours=neighbours,
        prior=prior,
        noise_std=noise_std,
        solver=solver,
        max_iterations=max_iterations,
        tolerance=tolerance,
        progress=progress,
    )
    index, positions = _handles(handles, body)
    moved = body.points.double() + solution.x
    if noise_std is None:
        # Return the given position itself, not the rest position plus a displacement.
        moved = moved.index_copy(1, index, positions.expand(len(moved), *positions.shape[1:]))
    return cast(Shape, body.rebuild(moved.to(body.points.dtype)))


def deformation(
    shape: Any,
    handles: Handles,
    *,
    weights: MeshWeights = "cotangent",
    neighbours: int = 10,
    prior: Prior | None = None,
    noise_std: float | None = None,
    solver: Solver | None = None,
    max_iterations: int | None = None,
    tolerance: float = 1e-6,
    progress: bool = False,
) -> Solution:
    """The `Solution` behind `deform`: ``x`` are the displacements ``(batch, N, 3)``, float64."""
    from invtoolbox.priors import ARAP
    from invtoolbox.solvers import LocalGlobal

    body = Body.of(shape)
    points = body.points.double()
    if not bool(points.isfinite().all()):
        raise InputError(
            f"{int((~points.isfinite()).any(-1).sum())} points of the shape are NaN or infinite; leave them out"
        )
    index, positions = _handles(handles, body)
    graphs = [_graph(item, body.faces, weights, neighbours) for item in points]
    for graph in graphs[:1] if body.faces is not None else graphs:
        _check_parts(graph, index)
    operator = ObservedPoints(points, index)
    problem = Problem(
        operator.displacements(positions.expand(len(points), *positions.shape[1:])),
        operator,
        Exact() if noise_std is None else LeastSquares(noise_std),
    )
    if prior is None:
        prior = ARAP(graph=graphs[0]) if len(graphs) == 1 else ARAP(graph=tuple(graphs))
    solution: Solution = solve(
        problem,
        prior,
        LocalGlobal() if solver is None else solver,
        regularization=1.0,
        max_iterations=max_iterations,
        tolerance=tolerance,
        progress=progress,
    )
    return solution


def _graph(
    points: Tensor, faces: Tensor | None, weights: MeshWeights, neighbours: int
) -> NeighbourGraph:
    if faces is not None:
        return NeighbourGraph.of_mesh(points, faces, weights)
    return NeighbourGraph.of_points(points, neighbours, weights="gaussian", symmetric=True)


def _handles(handles: Handles, body: Body) -> tuple[Tensor, Tensor]:
    """Numbers ``(m,)`` and positions ``(1 or batch, m, 3)`` of handles, checked."""
    batch, count, device = *body.points.shape[:2], body.points.device
    if isinstance(handles, Mapping):
        index = torch.tensor(list(handles), device=device)
        positions = torch.stack(
            [torch.as_tensor(p, dtype=torch.float64, device=device) for p in handles.values()]
            or [torch.zeros(3)]
        )
    else:
        index, positions = (torch.as_tensor(part, device=device) for part in handles)
    positions = positions.double()
    positions = positions[None] if positions.ndim == 2 else positions
    if index.ndim != 1 or not index.numel() or index.is_floating_point():
        raise InputError(
            f"the numbers of handles are whole numbers (m,), at least one, got {tuple(index.shape)} of {index.dtype}"
        )
    if (
        positions.ndim != 3
        or tuple(positions.shape[1:]) != (len(index), 3)
        or positions.shape[0] not in (1, batch)
    ):
        raise InputError(
            f"{len(index)} handles of {batch} shape(s) take positions ({len(index)}, 3) or ({batch}, {len(index)}, 3), "
            f"got {tuple(positions.shape)}"
        )
    wrong = ((index < 0) | (index >= count)).nonzero()
    if len(wrong):
        raise InputError(
            f"handle {int(wrong[0])} is point {int(index[wrong[0]])}, and the shape has the points 0..{count - 1}"
        )
    if len(index.unique()) < len(index):
        numbers, times = index.unique(return_counts=True)
        raise InputError(
            f"point {int(numbers[times > 1][0])} is a handle {int(times.max())} times; give it once"
        )
    if not bool(positions.isfinite().all()):
        k = int((~positions.isfinite().all(2)).any(0).nonzero()[0])
        raise InputError(f"the position of handle {k} (point {int(index[k])}) is NaN or infinite")
    return index.long(), positions


def _check_parts(graph: NeighbourGraph, index: Tensor) -> None:
    """Every part has a handle; a point that hangs on nothing stays where it is."""
    label = graph.components()
    size = torch.bincount(label)
    held = torch.zeros_like(size, dtype=torch.bool)
    held[label[index]] = True
    loose = (size > 1) & ~held
    if bool(loose.any()):
        part = int(loose.nonzero()[0])
        raise InputError(
            f"the shape has {int((size > 1).sum())} parts that nothing joins, and {int(loose.sum())} of them have no "
            f"handle: one of {int(size[part])} points, with point {int((label == part).nonzero()[0])}; "
            "give it a handle, or leave it out"
        )
