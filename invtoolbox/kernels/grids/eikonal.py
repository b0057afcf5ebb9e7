"""Travel times of waves on a grid: the eikonal equation, factored, and its derivative.

`solve_eikonal` sweeps for the first arrivals (``eikonal_sweep.cpp``), then solves with differences of
second order in the order of these times (``eikonal_march.cpp``). Every node depends on earlier nodes
alone, so the derivative and its adjoint are one pass over the nodes each
(``eikonal_derivative.cpp``). One task is one shot of one item. All times are in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.native import Kernel, launch, native_kernel

#: Largest number of rounds of 2^axes sweeps; waves that turn often need more rounds.
_ROUNDS = 40
#: Relative change of a time at which the sweeps end.
_TOLERANCE = 1e-7


@dataclass
class SweepArguments:
    """Arguments of ``eikonal_sweep.cpp``."""

    slowness: Tensor  # (items, nodes)
    sources: Tensor  # (shots, axes), in cells
    distance: Tensor  # from the sources, (shots, nodes)
    tau: Tensor  # time over distance, (items, shots, nodes)
    shots: int
    nodes: int
    rounds: int
    tolerance: float
    n0: int
    n1: int
    n2: int
    h0: float
    h1: float
    h2: float


@dataclass
class MarchArguments:
    """Arguments of ``eikonal_march.cpp``."""

    slowness: Tensor  # as in SweepArguments
    sources: Tensor
    distance: Tensor
    tau: Tensor
    times: Tensor  # of the sweeps, (items, shots, nodes)
    order: Tensor  # nodes by their times, (items, shots, nodes) int32
    slope: Tensor  # (items, shots, nodes)
    near: Tensor  # (items, shots, nodes, axes), as far and sides
    far: Tensor
    sides: Tensor  # int32
    shots: int
    nodes: int
    n0: int
    n1: int
    n2: int
    h0: float
    h1: float
    h2: float


@dataclass
class DerivativeArguments:
    """Arguments of ``eikonal_derivative.cpp``."""

    change: Tensor  # (items, shots, nodes), overwritten
    order: Tensor
    near: Tensor
    far: Tensor
    sides: Tensor
    nodes: int
    n0: int
    n1: int
    n2: int


@cache
def eikonal_kernel(name: str, axes: int) -> Kernel:
    """Return the kernel "sweep" or "march" of the eikonal equation.

    Args:
        name: name of the kernel.
        axes: number of axes, 2 or 3.
    """
    arguments = {"sweep": SweepArguments, "march": MarchArguments}[name]
    return native_kernel(f"grids/eikonal_{name}.cpp", {"REAL": "double", "AXES": axes}, arguments)


@cache
def derivative_kernel(axes: int, adjoint: bool) -> Kernel:
    """Return the kernel of the derivative, or of its adjoint.

    Args:
        axes: number of axes, 2 or 3.
        adjoint: whether to go against the order of the times.
    """
    definitions = {"REAL": "double", "AXES": axes, "ADJOINT": adjoint}
    return native_kernel("grids/eikonal_derivative.cpp", definitions, DerivativeArguments)


@dataclass(frozen=True, eq=False)
class Eikonal:
    """Solution of the eikonal equation for some shots, and its derivative.

    Attributes:
        tau: times over the distances from the sources, ``(items, shots, nodes)``.
        order: nodes in the order of their times, of the same shape.
        slope: derivative of tau in the slowness of the same node, of the same shape; it is 0 near
            the sources, where tau is given.
        near: derivatives in the tau of the neighbour, ``(items, shots, nodes, axes)``.
        far: derivatives in the tau of the node behind it, of the same shape.
        sides: direction of the neighbour along every axis, -1, 1 or 0, of the same shape.
        grid: number of nodes along every axis.
    """

    tau: Tensor
    order: Tensor
    slope: Tensor
    near: Tensor
    far: Tensor
    sides: Tensor
    grid: tuple[int, ...]

    def propagate(self, change: Tensor, adjoint: bool = False) -> Tensor:
        """Solve ``dtau = change + W dtau`` for dtau, or the transposed system.

        Args:
            change: changes of tau at the nodes themselves, ``(items, shots, nodes)``.
            adjoint: whether to solve the transposed system.
        """
        result = change.double().clone(memory_format=torch.contiguous_format)
        arguments = DerivativeArguments(
            change=result,
            order=self.order,
            near=self.near,
            far=self.far,
            sides=self.sides,
            nodes=result.shape[-1],
            **_sizes(self.grid),
        )
        kernel = derivative_kernel(len(self.grid), adjoint)
        launch(kernel, result.shape[0] * result.shape[1], arguments, work=20.0 * result.numel())
        return result

    def select(self, index: Tensor) -> Eikonal:
        """Return the solution for some items."""
        tensors = {
            field.name: getattr(self, field.name).index_select(0, index)
            for field in fields(self)
            if field.name != "grid"
        }
        return replace(self, **tensors)


def solve_eikonal(
    slowness: Tensor, sources: Tensor, distance: Tensor, near: Tensor, spacing: Sequence[float]
) -> Eikonal:
    """Solve the eikonal equation ``|grad T| = s``, ``T = 0`` at the source.

    Args:
        slowness: slowness at the nodes, ``(items, *grid)``, s/m, in double precision.
        sources: places of the sources in cells, ``(shots, axes)``.
        distance: distance of the nodes from the sources in metres, ``(shots, nodes)``.
        near: time over distance at most one cell from the sources along every axis, infinite at the
            other nodes, ``(items, shots, nodes)``.
        spacing: side of a cell along every axis, metres.
    """
    items, grid = len(slowness), tuple(slowness.shape[1:])
    shots, axes = sources.shape
    nodes = distance.shape[1]
    sizes, tau = _sizes(grid), near.clone(memory_format=torch.contiguous_format)
    sides: dict[str, Any] = {f"h{a}": float((*spacing, 1.0)[a]) for a in range(3)}
    shared: dict[str, Any] = {
        "slowness": slowness.reshape(items, nodes).contiguous(),
        "sources": sources.contiguous(),
        "distance": distance,
    }
    sweep = SweepArguments(
        **shared,
        tau=tau,
        shots=shots,
        nodes=nodes,
        rounds=_ROUNDS,
        tolerance=_TOLERANCE,
        **sizes,
        **sides,
    )
    work = 100.0 * tau.numel()
    launch(eikonal_kernel("sweep", axes), items * shots, sweep, work)
    times = tau * distance
    # Nodes of one time do not depend on each other; a stable order gives the same bits on every run.
    order = times.argsort(dim=-1, stable=True).int()
    weights = [tau.new_zeros(*tau.shape, axes) for _ in range(2)]
    march = MarchArguments(
        **shared,
        tau=tau,
        times=times,
        order=order,
        slope=torch.zeros_like(tau),
        near=weights[0],
        far=weights[1],
        sides=torch.zeros_like(weights[0], dtype=torch.int32),
        shots=shots,
        nodes=nodes,
        **sizes,
        **sides,
    )
    launch(eikonal_kernel("march", axes), items * shots, march, work)
    return Eikonal(
        tau=tau,
        order=order,
        slope=march.slope,
        near=march.near,
        far=march.far,
        sides=march.sides,
        grid=grid,
    )


def _sizes(grid: Sequence[int]) -> dict[str, Any]:
    return {f"n{a}": int((*grid, 1)[a]) for a in range(3)}
