r"""Parts of the analytic inversion of cone beams (Feldkamp's method) and of 3D parallel beams.

`ConeBeam` and `ParallelBeam3D` put them together.

Each projection is weighted, filtered along its rows with the ramp filter, and back-projected voxel
by voxel with the weight ``1 / U^2``, where ``U`` is the distance from the source along the central
ray, 1 at the axis. For a flat panel (u and v from the foot of the central ray, ``S`` =
source_origin, ``P`` = source_detector):

.. math:: f(x) = \int w(t, u) \, U^{-2}
          \Big[ h * \frac{P \, (1 + a u / (S P))}{\sqrt{P^2 + u^2 + v^2}} \, y(t, \cdot, v) \Big]
          \big(u(x, t)\big) \, dt

with ``a`` the shift of the axis. Sources: Feldkamp, Davis and Kress 1984, J. Opt. Soc. Am. A 1(6);
Kak and Slaney, "Principles of Computerized Tomographic Imaging", 3.6; for curved panels Turbell,
"Cone-beam reconstruction using filtered backprojection", 2001, ch. 3; for the shift of the axis the
Jacobian of the rays in the plane (Gullberg et al. 1986). The method is exact in the plane of the
circle and approximate outside of it. ``w`` makes every ray count once: 1/2 in a full turn, Parker's
weights in a short scan, and, for a panel that sees more of one side, a smooth step from 0 to 1 over
the part that both sides see (after Wang 2002, Med. Phys. 29(7)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.voxel_backprojection import VoxelViews
from invtoolbox.operators.tomography.filtered_backprojection import (
    Arc,
    filter_projections,
    parker_weights,
)
from invtoolbox.operators.tomography.scan_3d import Scan3D

#: End of the errors of scans that have no analytic inversion.
ADVICE = "use it.solve(problem, solver=it.solvers.CGLS())"


def without_source_shift(p: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters of the same rays without the common shift of the source.

    This is exact for flat panels: a shift of the source changes the distances, the shift of the
    axis and the foot of the central ray.
    """
    shift = p["source_shift"].mean(0, keepdim=True)
    return p | {
        "source_origin": p["source_origin"] - shift[:, 2],
        "source_detector": p["source_detector"] - shift[:, 2],
        "axis_shift": p["axis_shift"] - shift[:, 0],
        "detector_shift": p["detector_shift"] - shift[:, :2],
    }


def cell_centres(count: int, spacing: float, like: Tensor) -> Tensor:
    """Return the centres of a row of cells, (1, count), relative to its middle."""
    cells = torch.arange(count, dtype=like.dtype, device=like.device)
    return ((cells - (count - 1) / 2) * spacing)[None]


def plane_weights(columns: Tensor, rows: Tensor, p: dict[str, Tensor], curved: bool) -> Tensor:
    """Return the cosine of the angle of a ray to the central ray, (V or 1, R, C).

    It includes the shift of the axis.

    Args:
        columns: coordinates u of the columns, (V or 1, C).
        rows: coordinates v of the rows, (V or 1, R).
        p: parameters of these views, by name.
        curved: whether the panel is curved.
    """
    across, along = columns[:, None], rows[:, :, None]
    far = p["source_detector"][:, None, None]
    lean = (p["axis_shift"] / p["source_origin"])[:, None, None]
    # Flat: P (1 + a u / (S P)) / sqrt(P^2 + u^2 + v^2).
    # Curved: (cos(gamma) + a / S sin(gamma)) P / sqrt(P^2 + v^2).
    if curved:
        gamma = across / far
        return (gamma.cos() + lean * gamma.sin()) * far / torch.hypot(far, along)
    return (far + lean * across) / (far.square() + across.square() + along.square()).sqrt()


def redundancy(place: Tensor, arc: Arc, begin: Tensor, edge: float, name: str) -> Tensor:
    """Compute weights of the rays, (V or 1, C).

    The weights of a ray and of the same ray from behind sum to 1.

    Args:
        place: angle of every column from the ray through the axis (for parallel beams the
            distance), (V or 1, C).
        arc: arc of the scan.
        begin: angle since the beginning of the arc, (V,).
        edge: edge of the cylinder inside the volume, in the unit of ``place``.
        name: name of the scan, for error messages.
    """
    cell, low, high = _edges(place)
    both, beyond = min(low, high), abs(high - low)
    if both <= cell / 2:
        raise InputError(
            f"the panel of {name} never sees the axis of rotation, which analytic inversion needs; "
            f"{ADVICE}"
        )
    if not arc.closed:
        if lopsided(place, edge):
            raise InputError(
                f"the panel of {name} sees more of one side than of the other, and less than a "
                f"full turn does not make up for that; {ADVICE}"
            )
        # An arc that is long enough for the object, but not for the whole panel, misses nothing but
        # air.
        enough = (arc.length - math.pi) / 2
        if edge <= enough < float(place.abs().max()):
            place = place.clamp(-enough, enough)
        return parker_weights(begin[:, None], place, arc.length)
    if not lopsided(place, edge):
        return torch.full_like(place, 0.5)
    outwards = place if high > low else -place
    step = min(both, max(2 * beyond, 8 * cell))
    # From 0 on the short side to 1 on the long side, by the square of a sine over the last `step`
    # of the part that both sides see; w(place) + w(-place) = 1.
    rise = ((outwards.abs() - (both - step)) / step).clamp(0, 1)
    return 0.5 + 0.5 * outwards.sign() * (math.pi / 2 * rise).sin().square()


def _edges(place: Tensor) -> tuple[float, float, float]:
    """Return the width of a column, and the distances from the axis to the left and right edge.

    Of several views, the smallest distances are returned.
    """
    cell = float((place[:, -1] - place[:, 0]).abs().max()) / max(place.shape[1] - 1, 1)
    return cell, float(-place[:, 0].max()), float(place[:, -1].min())


def lopsided(place: Tensor, edge: float) -> bool:
    """Return whether one side of the object is seen less than the other side.

    Differences of rounding do not count.
    """
    cell, low, high = _edges(place)
    return abs(high - low) > 1.5 * cell and min(low, high) < edge


def panel_margins(place: Tensor, arc: Arc, edge: float) -> tuple[int, int]:
    """Return the numbers of columns to add to a panel that sees less of one side.

    Filtered projections are not zero outside of the measured columns.
    """
    if not (arc.closed and lopsided(place, edge)):
        return 0, 0
    cell, low, high = _edges(place)
    missing = math.ceil((max(low, high) - min(low, high)) / cell)
    return (0, missing) if low > high else (missing, 0)


def filter_rows(
    y: Tensor, spacing: Tensor, filter: str, cutoff: float, curved: bool = False
) -> Tensor:
    """Filter along the rows, with one spacing, or with one spacing per view."""
    if curved:
        distances, which = spacing.unique(return_inverse=True)
        if len(distances) > 1:
            return torch.stack(
                [
                    filter_projections(line, float(distances[k]), filter, cutoff, True)
                    for line, k in zip(y.unbind(1), which.tolist())
                ],
                1,
            )
        return filter_projections(y, float(distances[0]), filter, cutoff, True)
    # The ramp of a flat panel scales with the spacing.
    return filter_projections(y, 1.0, filter, cutoff) / spacing[:, None, None].to(y)


def voxel_views(
    A: Scan3D, vectors: Tensor, near: Tensor, far: Tensor, margins: tuple[int, int]
) -> VoxelViews:
    """Return the places of the voxels on the panel of every view; the depth is 1 at the axis.

    Args:
        A: the scan.
        vectors: source, detector, u and v of every view.
        near: distance from the source to the axis.
        far: distance from the source to the panel.
        margins: numbers of columns added to the panel on the left and on the right.
    """
    source, detector, u, v = vectors.split(3, -1)
    rows, columns = A.detector_shape
    middle = (columns - 1) / 2 + margins[0]
    voxel = vectors.new_tensor(A.voxel_size[::-1])
    # Solve for the place on the panel: along the rays of a parallel beam, along the central ray of
    # a cone. Columns of a curved panel are angles between the central ray and a vector of its
    # length along u.
    arm = source if A.parallel else detector - source
    wide = arm.norm(dim=1) / u.norm(dim=1) if A.curved else torch.ones_like(arm[:, 0])
    lines = torch.linalg.inv(torch.stack([u * wide[:, None], v, arm], 2))
    start = detector if A.parallel else source
    origin = torch.stack(
        [torch.full_like(wide, middle), wide, torch.full_like(wide, (rows - 1) / 2)], 1
    )
    if not A.parallel:
        lines = lines * (far / near)[:, None, None]
    constants = -(lines * start[:, None]).sum(2, keepdim=True)
    if A.parallel:
        lines[:, 2], constants[:, 2] = 0.0, 1.0
    table = torch.cat([lines * voxel, constants], 2)
    if not A.curved:
        table[:, :2] += table.new_tensor([middle, (rows - 1) / 2])[:, None] * table[:, 2:]
    panel = (rows, columns + sum(margins))
    return VoxelViews(
        torch.cat([table.flatten(1), origin], 1).contiguous(), A.volume_shape, panel, A.curved
    )
