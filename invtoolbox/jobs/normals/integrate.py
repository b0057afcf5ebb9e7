"""Integrate normal maps to depth maps and meshes; `it.integrate_normals`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.core.short_text import ShortText
from invtoolbox.core.threads import limit_torch_threads
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry.depth_meshes import mesh_of_depth, mesh_of_sides
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.jobs.normals.checks import check_intrinsics, check_normals, to_maps, to_mask
from invtoolbox.jobs.normals.problem import NormalMap
from invtoolbox.solution import Solution
from invtoolbox.solvers import Solver

_SIDES = ("the front normal map", "the back normal map")


@naming_arguments
def integrate_normals(
    normals: Any,
    mask: Any = None,
    intrinsics: Any = None,
    *,
    prior: Any = None,
    prior_weight: float = 1e-3,
    coupling: float = 1e-3,
    k: float | None = None,
    median_depth: float | None = None,
    solver: Solver | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    progress: bool = False,
) -> Any:
    r"""Integrate a normal map to a depth map that keeps depth discontinuities.

    Bilateral normal integration (Cao et al., ECCV 2022): the normals predict the difference of a
    pixel to either neighbour, and at a jump only one of the two has to hold. With two sides, the
    front and the back of an object are found together (d-BiNI; Xiu et al., "ECON", CVPR 2023). A
    coarse depth of both supplies the height of jumps that normals do not see, and the sides meet at
    the silhouette. `surface_from_normals` returns meshes, notes and the `Solution` as well.

    Args:
        normals: unit normals, x to the right, y up, z towards the camera; ``(rows, columns, 3)`` or
            ``(batch, rows, columns, 3)``, a tensor or an array. A pair of such maps is the front
            and the back, both seen by the camera of the front, so that the back has ``z < 0``.
        mask: true inside of the object, ``(rows, columns)`` or ``(batch, rows, columns)``; by
            default where normals are longer than a half.
        intrinsics: matrix ``(3, 3)`` of a pinhole camera, in pixels of the map, with the centre of
            the first pixel at (0, 0). A number is the size of a pixel of an orthographic camera,
            and None stands for 1.
        prior: coarse depth, of the shape of the result; NaN if unknown. For two sides a
            pair.
        prior_weight: weight of the squared distance to the prior, per pixel; in inverse squares of
            the unit of a pixel, or of the logarithm of the depth times the focal length.
        coupling: weight of the squared gap between the sides at the silhouette, in the same unit.
        k: sharpness of discontinuities, see `data_terms.Bilateral`; 0 smooths them. By default 2,
            and 4 for two sides, the values of the two papers.
        median_depth: median of a perspective depth, whose scale normals do not determine; 1 by
            default.
        solver: as in `it.solve`.
        max_iterations: as in `it.solve`.
        tolerance: as in `it.solve`.
        progress: as in `it.solve`.

    Returns:
        Depth along the camera's axis, growing away from the camera, NaN outside of the mask,
        ``(rows, columns)`` or ``(batch, rows, columns)``; an array for an array. For a pair, a pair.
        An orthographic depth is in the unit of the pixel size; without a prior its median is 0. A
        perspective depth without a prior is in the unit of ``median_depth``.

    Raises:
        InputError: for normals that are NaN, without direction or of the wrong handedness, and for
            a mask or intrinsics of another resolution.

    >>> row, column = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    >>> slope = torch.stack([0.6 + 0 * row, 0 * row, 0.8 + 0 * row], -1)
    >>> depth = integrate_normals(slope, intrinsics=0.1)  # pixels of 0.1 mm
    >>> torch.allclose(depth, 0.075 * (column - 4), atol=1e-4)
    True
    """
    surface = surface_from_normals(
        normals,
        mask,
        intrinsics,
        prior=prior,
        prior_weight=prior_weight,
        coupling=coupling,
        k=k,
        median_depth=median_depth,
        solver=solver,
        max_iterations=max_iterations,
        tolerance=tolerance,
        progress=progress,
    )
    pair = isinstance(normals, (tuple, list))
    first = normals[0] if pair else normals
    sides = [side if np.ndim(first) == 4 else side[0] for side in surface.depth.unbind(1)]
    if isinstance(first, Tensor):
        sides = [side.to(first.dtype) for side in sides]
    else:
        sides = [side.cpu().numpy() for side in sides]  # type: ignore[misc]
    return tuple(sides) if pair else sides[0]


@dataclass(frozen=True, eq=False, repr=False)
class Surface(ShortText):
    """Result of integrating normal maps.

    Attributes:
        depth: depth of each side, NaN outside of the mask, ``(batch, sides, rows, columns)``.
        mask: inside of the object, ``(batch, 1, rows, columns)``.
        intrinsics: matrix of the perspective camera, or None.
        pixel_size: size of a pixel of an orthographic camera.
        solutions: `Solution` of each item, on the box around its mask; x is the depth in pixels, or
            its logarithm.
        notes: findings of the checks, one sentence each.
    """

    depth: Tensor
    mask: Tensor
    intrinsics: Tensor | None
    pixel_size: float
    solutions: tuple[Solution, ...]
    notes: tuple[str, ...]

    def meshes(self, stretch: float | None = 20.0) -> list[Mesh]:
        """Return one mesh per item, in the frame of the camera: x right, y down, z forward.

        The two sides of an object are joined at the silhouette to a closed mesh.

        Args:
            stretch: largest length of a triangle of one side in depth, pixels; longer ones are left
                out, because a jump is no surface. None keeps them.
        """
        camera, items = (self.intrinsics, self.pixel_size), zip(self.depth, self.mask[:, 0])
        if self.depth.shape[1] == 2:
            return [mesh_of_sides(depth, mask, *camera) for depth, mask in items]
        return [mesh_of_depth(depth[0], mask, *camera, stretch) for depth, mask in items]


@naming_arguments
def surface_from_normals(
    normals: Any,
    mask: Any = None,
    intrinsics: Any = None,
    *,
    prior: Any = None,
    prior_weight: float = 1e-3,
    coupling: float = 1e-3,
    k: float | None = None,
    median_depth: float | None = None,
    solver: Solver | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    progress: bool = False,
) -> Surface:
    """Return the `Surface` of `integrate_normals`, whose arguments and errors it has."""
    maps, inside, notes = _read(normals, mask)
    rows, columns = inside.shape[2:]
    sharpness = (2.0 if maps.shape[1] == 1 else 4.0) if k is None else k
    camera, size = check_intrinsics(intrinsics, rows, columns)
    if median_depth is not None and (camera is None or not 0 < median_depth < float("inf")):
        raise InputError(
            "median_depth is a positive number, for a perspective camera only, because an "
            f"orthographic depth has a scale; got {median_depth}"
        )
    coarse = None if prior is None else _coarse(prior, maps, inside, camera is not None, size)
    z = maps.new_zeros(len(maps), maps.shape[1], rows, columns)
    solutions = []
    for item in range(len(maps)):
        # Item by item on its own box: the work depends on the size of the object only, and the
        # answer does not depend on the batch.
        entry = slice(item, item + 1)
        guess = None if coarse is None else coarse[entry]
        entire = NormalMap(maps[entry], inside[entry], camera, guess, prior_weight, coupling)
        cropped, (rows_of_box, columns_of_box) = entire.crop()
        # Conjugate gradients run in one thread. For the short operations in between, threads that
        # wait for each other cost more than they save: ten times as much on a busy machine.
        with limit_torch_threads(1):
            solution = cropped.integrate(sharpness, solver, max_iterations, tolerance, progress)
        z[entry, :, rows_of_box, columns_of_box] = solution.x
        solutions.append(solution)
        notes.extend(solution.notes)
    if coarse is None:
        _center(z, inside, notes, camera is None, together=coupling > 0)
    if camera is None:
        depth = z * size
    else:  # z is the logarithm of the depth
        depth = z.exp() * (1.0 if median_depth is None else median_depth)
    if depth.shape[1] == 2:
        depth = _separate(depth, inside, notes)
    depth = torch.where(inside, depth, torch.nan)
    return Surface(depth, inside, camera, size, tuple(solutions), tuple(dict.fromkeys(notes)))


def _read(normals: Any, mask: Any) -> tuple[Tensor, Tensor, list[str]]:
    """Return checked normals ``(batch, sides, 3, rows, columns)``, the mask, and notes."""
    is_pair = isinstance(normals, (tuple, list))
    if is_pair and len(normals) != 2:
        raise InputError(f"two sides take a front and a back normal map, got {len(normals)} maps")
    names = _SIDES if is_pair else ("the normal map",)
    sides = [to_maps(side, name) for side, name in zip(normals if is_pair else [normals], names)]
    if sides[0].shape != sides[-1].shape:
        raise InputError(
            f"the front and the back normal map differ in shape: {tuple(sides[0].shape)} and "
            f"{tuple(sides[1].shape)}"
        )
    inside = to_mask(mask, sides[0])
    units, notes = [], []
    for side, name, sign in zip(sides, names, (1.0, -1.0)):
        unit, notes_of_side = check_normals(side, inside, sign, name)
        units.append(unit)
        notes.extend(notes_of_side)
    return torch.stack(units, 1), inside, notes


def _coarse(prior: Any, maps: Tensor, inside: Tensor, perspective: bool, size: float) -> Tensor:
    """Return the prior in the unit of the unknown, ``(batch, sides, rows, columns)``."""
    sides = prior if isinstance(prior, (tuple, list)) else (prior,)
    if len(sides) != maps.shape[1]:
        raise InputError(f"{maps.shape[1]} normal map(s) take as many priors, got {len(sides)}")
    depths = []
    for side in sides:
        depth = as_tensor(side).to(maps)
        depth = depth if depth.ndim == 3 else depth[None]
        if depth.shape[1:] != maps.shape[3:] or len(depth) not in (1, len(maps)):
            raise InputError(
                f"the prior has the shape {tuple(depth.shape)}, and the normal map has "
                f"{maps.shape[3]} rows and {maps.shape[4]} columns"
            )
        depths.append(depth.expand(len(maps), -1, -1))
    depth = torch.stack(depths, 1)
    if not bool((depth.isfinite() & inside).flatten(1).any(1).all()):
        raise InputError("the prior is NaN everywhere inside of the mask")
    if not perspective:
        return depth / size
    if bool((depth <= 0).any()):
        raise InputError("the prior of a perspective camera must be positive, its depth")
    return depth.log()


def _center(
    z: Tensor, inside: Tensor, notes: list[str], orthographic: bool, together: bool
) -> None:
    """Subtract, in place, the median of every connected piece, which normals do not determine.

    Two sides that are coupled move together.
    """
    from scipy.ndimage import label

    for item, (depths, mask) in enumerate(zip(z, inside[:, 0])):
        labels, count = label(mask.cpu().numpy())
        labels = torch.from_numpy(labels).to(z.device)
        for number in range(1, count + 1):
            piece = labels == number
            for sides in [depths] if together else depths.split(1):
                sides[:, piece] -= sides[:, piece].median()
        if count > 1:
            freedom = "offset, chosen so that its median is 0" if orthographic else "scale"
            name = f" of item {item}" if len(z) > 1 else ""
            notes.append(
                f"the mask{name} is in {count} pieces that are not connected, so each has its own "
                f"{freedom}; a prior would relate them"
            )


def _separate(depth: Tensor, inside: Tensor, notes: list[str]) -> Tensor:
    """Move pixels at which the front lies behind the back to the middle of the two."""
    front, back = depth.unbind(1)
    crossed = (front > back) & inside[:, 0]
    if bool(crossed.any()):
        notes.append(
            f"the front came out behind the back at {int(crossed.sum())} of {int(inside.sum())} "
            "pixels, which were moved to the middle of both"
        )
    middle = 0.5 * (front + back)
    return torch.stack([torch.where(crossed, middle, front), torch.where(crossed, middle, back)], 1)
