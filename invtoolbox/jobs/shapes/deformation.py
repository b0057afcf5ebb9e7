"""Deform a mesh or a point cloud by the motion of some points; `it.deform`.

The other points follow as rigidly as possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.data_terms import Exact, LeastSquares
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry.meshes import Body
from invtoolbox.geometry.neighbour_graph import MeshWeights, NeighbourGraph
from invtoolbox.operators import ObservedPoints
from invtoolbox.priors import ARAP, Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers import LocalGlobal, Solver

#: Handles as a mapping from the number of a point to its position, or as all numbers and all
#: positions.
Handles = Mapping[int, Sequence[float]] | tuple[Any, Any]
Shape = TypeVar("Shape")


@naming_arguments
def deform(
    shape: Shape,
    handles: Handles,
    *,
    weights: MeshWeights = "spokes-and-rims",
    neighbours: int = 10,
    prior: Prior | None = None,
    noise_std: float | None = None,
    solver: Solver | None = None,
    max_iterations: int | None = None,
    tolerance: float = 1e-5,
    progress: bool = False,
) -> Shape:
    r"""Move the handles of a shape, and everything else as rigidly as possible.

    `solvers.LocalGlobal` inside of `it.solve` minimizes `priors.ARAP` over the points that are not
    handles. Handles are at the given positions to the last digit. `deformation` returns the
    `Solution` itself, with its history.

    Args:
        shape: a `geometry.meshes.Mesh`, ``(vertices, faces)``, points ``(N, 3)`` or
            ``(batch, N, 3)``, or an object of trimesh, Open3D or PyTorch3D. It is not changed; the
            result has the same type. The arithmetic is in float64.
        handles: ``{number: position}``, or ``(numbers (m,), positions (m, 3) or (batch, m, 3))``. A
            handle whose position does not change holds the shape there.
        weights: weights of the edges of a mesh, see `NeighbourGraph.of_mesh`. ``"spokes-and-rims"``
            is the energy that libigl has by default for surfaces; as with ``"clamped"``, the shape
            at rest has the least energy. ``"cotangent"`` is the energy of the paper, under which
            meshes with obtuse triangles crumple.
        neighbours: number of neighbours of each point of a shape without faces; the graph is
            symmetric, with Gaussian weights.
        prior: prior of the displacements, in place of ARAP.
        noise_std: standard deviation of the positions, in the unit of the shape. Handles then
            follow the positions as well as the rigidity allows, in the balance with the weight of
            the prior, and not to the last digit.
        solver: as in `it.solve`.
        max_iterations: as in `it.solve`.
        tolerance: as in `it.solve`. The default leaves most shapes nearer to the minimum than 300
            iterations of libigl do.
        progress: as in `it.solve`.

    Raises:
        InputError: a handle is no point of the shape, a part has no handle, positions are not
            finite, or the shape is of an unknown type.

    >>> import invtoolbox as it
    >>> bar = torch.cartesian_prod(torch.arange(8.0), torch.arange(2.0), torch.arange(2.0))
    >>> ends = torch.tensor([0, 1, 2, 3, 28, 29, 30, 31])
    >>> goal = bar[ends].clone()
    >>> goal[4:, 2] += 2.0  # lift one end
    >>> lifted = it.deform(bar, (ends, goal))
    >>> lifted.shape, bool(torch.equal(lifted[ends], goal))
    (torch.Size([32, 3]), True)
    """
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
    body = Body.of(shape)
    index, positions = _handles(handles, body)
    points = body.points.double() + solution.x
    if noise_std is None:  # exact handles return the given position, not rest plus displacement
        points = points.index_copy(1, index, positions.expand(len(points), *positions.shape[1:]))
    return cast(Shape, body.rebuild(points.to(body.points.dtype)))


def deformation(
    shape: Any,
    handles: Handles,
    *,
    weights: MeshWeights = "spokes-and-rims",
    neighbours: int = 10,
    prior: Prior | None = None,
    noise_std: float | None = None,
    solver: Solver | None = None,
    max_iterations: int | None = None,
    tolerance: float = 1e-5,
    progress: bool = False,
) -> Solution:
    """Return the `Solution` of `deform`.

    Its ``x`` is the displacements, float64 ``(batch, N, 3)``. The arguments and the errors are
    those of `deform`.
    """
    if isinstance(shape, Mapping):
        raise InputError("deform takes the shape first and the handles second, got handles first")
    body = Body.of(shape)
    points = body.points.double()
    if not bool(points.isfinite().all()):
        raise InputError(
            f"{int((~points.isfinite()).any(-1).sum())} points of the shape are NaN or infinite; "
            "leave them out"
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
    return solve(
        problem,
        prior,
        LocalGlobal() if solver is None else solver,
        regularization=1.0,
        max_iterations=max_iterations,
        tolerance=tolerance,
        progress=progress,
    )


def _graph(
    points: Tensor, faces: Tensor | None, weights: MeshWeights, neighbours: int
) -> NeighbourGraph:
    if faces is not None:
        return NeighbourGraph.of_mesh(points, faces, weights)
    return NeighbourGraph.of_points(points, neighbours, weights="gaussian", symmetric=True)


def _handles(handles: Handles, body: Body) -> tuple[Tensor, Tensor]:
    """Check handles, and return their numbers ``(m,)`` and positions ``(1 or batch, m, 3)``."""
    batch, count, device = *body.points.shape[:2], body.points.device
    if isinstance(handles, Mapping):
        index = torch.tensor(list(handles), device=device)
        positions = torch.stack(
            [as_tensor(p, dtype=torch.float64, device=device) for p in handles.values()]
            or [torch.zeros(3)]
        )
    elif isinstance(handles, (tuple, list)) and len(handles) == 2:
        index, positions = (as_tensor(array, device=device) for array in handles)
    else:
        raise InputError(
            "handles are {number: position}, or the numbers and the positions, (numbers, positions), "
            f"got {type(handles).__name__}"
        )
    positions = positions.double()
    positions = positions[None] if positions.ndim == 2 else positions
    if index.ndim != 1 or not index.numel() or index.is_floating_point():
        raise InputError(
            "the numbers of handles are whole numbers (m,), at least one, got "
            f"{tuple(index.shape)} of {index.dtype}"
        )
    if (
        positions.ndim != 3
        or tuple(positions.shape[1:]) != (len(index), 3)
        or positions.shape[0] not in (1, batch)
    ):
        raise InputError(
            f"{len(index)} handles of {batch} shape(s) take positions ({len(index)}, 3) or "
            f"({batch}, {len(index)}, 3), got {tuple(positions.shape)}"
        )
    wrong = ((index < 0) | (index >= count)).nonzero()
    if len(wrong):
        raise InputError(
            f"handle {int(wrong[0])} is point {int(index[wrong[0]])}, and the shape has the points "
            f"0..{count - 1}"
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
    """Refuse parts without a handle; an isolated point may have none and does not move."""
    label = graph.components()
    size = torch.bincount(label)
    has_handle = torch.zeros_like(size, dtype=torch.bool)
    has_handle[label[index]] = True
    is_loose = (size > 1) & ~has_handle
    if bool(is_loose.any()):
        component = int(is_loose.nonzero()[0])
        rest = "give it a handle, or leave it out"
        if int(size.max()) == 3:  # no two triangles share a vertex
            rest = "merge vertices at one place, as trimesh's merge_vertices does"
        raise InputError(
            f"the shape has {int((size > 1).sum())} parts that are not connected, and "
            f"{int(is_loose.sum())} of them have no handle: one of {int(size[component])} points, "
            f"with point {int((label == component).nonzero()[0])}; {rest}"
        )
