"""Places of shots and receivers on a grid: in cells, and as weights of the nodes around them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def places_in_cells(
    places: Tensor,
    name: str,
    grid: Sequence[int],
    spacing: Sequence[float],
    ndims: tuple[int, ...],
) -> Tensor:
    """Return places in cells, exact if they are on the grid; all must lie inside of it.

    Args:
        places: places in metres from the first node, ``(..., axes)``.
        name: what the places are, for errors.
        grid: number of cells along each axis.
        spacing: side of a cell along each axis, metres.
        ndims: accepted numbers of axes of ``places``.

    Raises:
        InputError: places of another shape, or outside of the grid.

    >>> places_in_cells(torch.tensor([[20.0, 15.0]]), "shots", (4, 4), (10.0, 10.0), (2,))
    tensor([[2.0000, 1.5000]])
    """
    axes, places = len(grid), torch.as_tensor(places)
    places = places if places.is_floating_point() else places.float()
    if places.ndim not in ndims or places.shape[-1] != axes or not places.numel():
        raise InputError(
            f"{name} are positions of {axes} coordinates in metres, the depth first, got the "
            f"shape {tuple(places.shape)}"
        )
    extent = torch.tensor([(n - 1) * s for n, s in zip(grid, spacing)])
    # NaN compares false with everything, so such a place is outside.
    outside = ~((places >= -1e-3) & (places <= extent.to(places) + 1e-3)).all(-1)
    if bool(outside.any()):
        first = places[outside][0].tolist()
        raise InputError(
            f"{int(outside.sum())} of the {name} lie outside of the grid, which ends at "
            f"{tuple(extent.tolist())} m; move them (the first is at "
            f"{tuple(round(c, 3) for c in first)} m) or enlarge the grid"
        )
    cells = places / places.new_tensor(spacing)
    # Rounding would make operators interpolate, beyond the border of the grid.
    return torch.where((cells - cells.round()).abs() <= 1e-3, cells.round(), cells)


def repeated_places(places: Tensor) -> Tensor | None:
    """Return the number of the first receiver at the place of every receiver, or None.

    It is None if no two receivers of a shot are at one place.

    Args:
        places: places ``(receivers, axes)`` or ``(shots, receivers, axes)``.

    >>> repeated_places(torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]))
    tensor([0, 1, 0])
    """
    shots = places if places.ndim == 3 else places[None]
    numbers = torch.arange(shots.shape[1], device=places.device)
    firsts = []
    for shot in shots:
        unique, which = shot.unique(dim=0, return_inverse=True)
        last = numbers.new_full((len(unique),), len(numbers))
        firsts.append(last.scatter_reduce(0, which, numbers, "amin")[which])
    first = torch.stack(firsts)
    return None if bool((first == numbers).all()) else first.view(places.shape[:-1])


def corner_weights(cells: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the nodes around places and their weights in multilinear interpolation.

    Args:
        cells: places in cells, ``(..., axes)``.
        grid: number of nodes along each axis.

    Returns:
        Numbers of the nodes in a flat grid, and weights, both ``(..., 2^axes)``.

    >>> nodes, weights = corner_weights(torch.tensor([[0.0, 1.25]]), (2, 3))
    >>> nodes, weights
    (tensor([[1, 2, 4, 5]]), tensor([[0.7500, 0.2500, 0.0000, 0.0000]]))
    """
    last = cells.new_tensor([max(n - 2, 0) for n in grid])
    first = torch.minimum(cells.floor().clamp_min(0), last)
    share = cells - first
    nodes, weights = [], []
    for corner in product((0, 1), repeat=len(grid)):
        number, weight = torch.zeros_like(first[..., 0]), torch.ones_like(first[..., 0])
        for axis, step in enumerate(corner):
            # An axis of one node has no second one; its weight is 0.
            index = (first[..., axis] + step).clamp_max(grid[axis] - 1)
            number = number * grid[axis] + index
            weight = weight * (share[..., axis] if step else 1 - share[..., axis])
        nodes.append(number.long())
        weights.append(weight)
    return torch.stack(nodes, -1), torch.stack(weights, -1)
