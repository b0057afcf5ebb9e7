"""One plane of a scan as a 2D sinogram, and the conditions that every true sinogram fulfils.

The checks of scans look at one sinogram of a few tens of thousands of values, because sums of
sinograms are sinograms: items and channels are averaged, and so are the rows of a parallel beam. Of
a cone beam, the plane of the source is a fan beam.

Three conditions are used.

1. *Mirror symmetry of the mean view.* Averaged over a full turn, an object is rotationally
   symmetric. Its mean view is therefore its own mirror image about the axis, for parallel, fan and
   cone beams, and also if the detector cuts the object off.
2. *Opposite rays.* A ray of the fan angle ``g`` in the view ``b`` is the ray of ``-g`` in the view
   ``b + pi - 2 g``. The views of two opposite cells are therefore the same sequence, delayed by
   ``pi - 2 g``. This measures the fan angle of every cell.
3. *A coarse reconstruction.* If a few iterations on a coarse grid explain the data badly with the
   geometry that was given, and well with another one, the other one is right.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.operators.tomography.scan_2d import Scan

#: Number of cells, views and pixels per side of the coarse reconstruction, and its iterations.
_CELLS, _VIEWS, _SIDE, _ITERATIONS = 48, 60, 40, 10
#: Largest ratio of the gap between two views to the mean gap in a scan of evenly spread views.
_LARGEST_GAP = 2.5
#: Least arc of a parallel beam that shows its axis, and the largest brightness of the outermost
#: cells next to an object that the detector sees completely, relative to the brightest cell.
_HALF_TURN, _DARK = math.radians(150), 0.04
#: Number of cells of a mean view that is searched for its axis.
_SEARCHED = 128
#: Number of moments of the views.
_ORDERS = 7
#: Largest distance from the axis that a coarse image reaches, relative to the distance of the
#: source.
_REACH = 0.65


@dataclass(frozen=True)
class Axis:
    """Cell that sees the axis of rotation, and the evidence against the cell of the geometry.

    Attributes:
        cell: the cell, a fraction, counted from 0 at the centre of the first cell.
        evidence: ratio of the deviation from symmetry about the cell of the geometry to the
            deviation about the cell that was found; 1 if they agree.
    """

    cell: float
    evidence: float


@dataclass(frozen=True)
class Sinogram:
    """Views of one plane and their geometry.

    Attributes:
        values: line integrals, ``(views, cells)``, float64 on the CPU.
        angles: angles of the views in radians, ``(views,)``.
        spacing: distance between the centres of neighbouring cells.
        shift: offset of the detector's centre, as `FanBeam.detector_shift`.
        source: distances from the source to the axis and to the detector; None for parallel beams.
        curved: whether the detector is an arc around the source.
        sides: lengths of the image along its rows' and its columns' index, the height first.
    """

    values: Tensor
    angles: Tensor
    spacing: float
    shift: float
    source: tuple[float, float] | None
    curved: bool
    sides: tuple[float, float]

    @classmethod
    def of(cls, y: Tensor, operator: Operator) -> Self | None:
        """Return one plane of measurements, or None if the scan has no plane of its own.

        Helices, tilted scans, geometries per item, poses per view and complex values have none.
        """
        if operator.items is not None or y.is_complex():
            return None
        if isinstance(operator, (ParallelBeam, FanBeam)):
            if operator.detector_shift.numel() > 1:
                return None
            source = (
                (operator.source_origin, operator.source_detector)
                if isinstance(operator, FanBeam)
                else None
            )
            sides = [n * size for n, size in zip(operator.image_shape, operator.pixel_size)]
            plane, shift = y.detach().mean((0, 1)), float(operator.detector_shift.detach())
            spacing = operator.detector_spacing
        elif isinstance(operator, (ConeBeam, ParallelBeam3D)):
            if _is_not_planar(operator):
                return None
            source = (
                (float(operator.source_origin), float(operator.source_detector))
                if isinstance(operator, ConeBeam)
                else None
            )
            sides = [n * size for n, size in zip(operator.volume_shape, operator.voxel_size)][1:]
            shift, rise = operator.detector_shift.detach().reshape(2).tolist()
            rows, spacing = operator.detector_shape[0], operator.detector_spacing[1]
            middle = (rows - 1) / 2 - rise / operator.detector_spacing[0]
            if source is None:
                chosen = slice(None)
            elif -0.5 <= middle <= rows - 0.5:
                chosen = slice(max(math.ceil(middle - 1), 0), math.floor(middle + 1) + 1)
            else:
                return None
            plane = y.detach()[:, :, :, chosen].mean((0, 1, 3))
        else:
            return None
        return cls(
            values=plane.cpu().double(),
            angles=operator.angles.detach().cpu().double(),
            spacing=spacing,
            shift=shift,
            source=source,
            curved=getattr(operator, "curved", False),
            sides=(sides[0], sides[1]),
        )

    def change(self, **fields: Any) -> Self:
        """Return a copy with other fields."""
        return dataclasses.replace(self, **fields)

    # -- places ------------------------------------------------------------------------------------

    @property
    def axis(self) -> float:
        """Cell that sees the axis according to the geometry, a fraction."""
        return (self.values.shape[1] - 1) / 2 - self.shift / self.spacing

    def shift_of(self, axis: float) -> float:
        """Return the detector shift with which a cell sees the axis."""
        return ((self.values.shape[1] - 1) / 2 - axis) * self.spacing

    def fan_angles(self, places: Tensor) -> Tensor:
        """Compute the angles of rays from their places on the detector, lengths."""
        if self.source is None:
            return torch.zeros_like(places)
        return places / self.source[1] if self.curved else (places / self.source[1]).atan()

    @property
    def places(self) -> Tensor:
        """Signed distances of the cells from the one that sees the axis, on the detector, ``(cells,)``."""
        cells = torch.arange(self.values.shape[1], dtype=torch.float64)
        return (cells - self.axis) * self.spacing

    @property
    def distances(self) -> Tensor:
        """Signed distances of the rays from the axis, ``(cells,)``."""
        if self.source is None:
            return self.places
        return self.source[0] * self.fan_angles(self.places).sin()

    @property
    def field_of_view(self) -> float:
        """Radius of the disc around the axis that all views see; negative if there is none."""
        return float(torch.minimum(self.distances.max(), -self.distances.min()))

    @property
    def normals(self) -> Tensor:
        """Angles t of the normals ``(cos t, sin t)`` of the rays, ``(views, cells)``."""
        return self.angles[:, None] - self.fan_angles(self.places)

    def rays_outside(self) -> Tensor:
        """Return which rays miss the image by at least half a cell, ``(views, cells)``.

        The shadow of a rectangle on the normal ``(cos t, sin t)`` of a ray reaches
        ``|w cos t| / 2 + |h sin t| / 2`` from the axis.
        """
        normal = self.normals
        height, width = self.sides
        shadow = (width * normal.cos()).abs() / 2 + (height * normal.sin()).abs() / 2
        cell = (
            self.spacing if self.source is None else self.spacing * self.source[0] / self.source[1]
        )
        return self.distances.abs() > shadow + cell / 2

    @property
    def arc(self) -> float:
        """Arc that the views cover, with half a step at either end, at most 2 pi."""
        gaps = self._gaps()
        return float(2 * math.pi - gaps.max() + gaps.sort().values[:-1].median())

    @property
    def is_full_turn(self) -> bool:
        """Whether the views cover a full turn without a large gap."""
        gaps = self._gaps()
        return len(gaps) >= 8 and float(gaps.max()) <= _LARGEST_GAP * 2 * math.pi / len(gaps)

    def _gaps(self) -> Tensor:
        turned = (self.angles % (2 * math.pi)).sort().values
        gaps = torch.cat([turned.diff(), turned[:1] + 2 * math.pi - turned[-1:]])
        return gaps[gaps > 1e-4] if bool((gaps > 1e-4).any()) else gaps

    # -- the conditions ----------------------------------------------------------------------------

    def find_axis(self) -> Axis | None:
        """Find the cell that sees the axis.

        A full turn is judged by the mirror symmetry of its mean view. For half a turn of a parallel
        beam, the centres of mass of the views lie on a sinusoid about the axis; if the detector
        cuts the object off, `center_of_rotation` takes their place. None if the views do not suffice.
        """
        if self.is_full_turn:
            return self._axis_of_symmetry()
        if self.source is None and self.arc >= _HALF_TURN:
            return self._axis_of_masses() if self.is_complete else self._axis_of_opposite_views()
        return None

    @property
    def is_complete(self) -> bool:
        """Whether the detector sees the whole object: the outermost cells are dark."""
        values = self.values.abs()
        outer = max(1, values.shape[1] // 50)
        edges = torch.cat([values[:, :outer], values[:, -outer:]], 1)
        return float(edges.mean(1).max()) <= _DARK * float(values.amax(1).median())

    def _axis_of_symmetry(self) -> Axis | None:
        order = (self.angles % (2 * math.pi)).argsort()
        turned = self.angles[order] % (2 * math.pi)
        before = torch.cat([turned[:1] - turned[-1:] + 2 * math.pi, turned.diff()])
        weights = before + before.roll(-1)
        return _axis_of_mirror(
            (weights[:, None] * self.values[order]).sum(0) / weights.sum(), self.axis
        )

    def _axis_of_masses(self) -> Axis | None:
        views, cells = self.values.shape
        outer = max(1, cells // 50)
        edges = torch.cat([self.values[:, :outer], self.values[:, -outer:]], 1)
        above = self.values - edges.median(1, keepdim=True).values
        mass = above.sum(1)
        if views < 8 or float(mass.std()) > 0.1 * abs(float(mass.mean())):
            return None
        centres = (above * torch.arange(cells, dtype=above.dtype)).sum(1) / mass
        columns = torch.stack([self.angles.cos(), self.angles.sin(), torch.ones(views)], 1)

        def squares(columns: Tensor, centres: Tensor) -> tuple[float, Tensor]:
            coefficients = torch.linalg.lstsq(columns, centres[:, None]).solution
            return float((columns @ coefficients - centres[:, None]).square().sum()), coefficients

        free, coefficients = squares(columns.double(), centres)
        stated, _ = squares(columns[:, :2].double(), centres - self.axis)
        return Axis(float(coefficients[2]), stated / max(free, 1e-4 * views))

    def _axis_of_opposite_views(self) -> Axis | None:
        from invtoolbox.datasets.scans.center_of_rotation import center_of_rotation

        width = max(1, round(self.values.shape[1] / 256))
        count = self.values.shape[1] // width
        step = max(1, len(self.angles) // 120)
        values = self.values[::step, : count * width].unflatten(1, (count, width)).mean(2)
        try:
            centre = center_of_rotation(values.numpy(), self.angles[::step].numpy())
        except InputError:
            return None
        axis = centre * width + (width - 1) / 2
        opposite = [int(self.angles.argmin()), int(self.angles.argmax())]
        first, last = self.values[opposite]
        return Axis(
            axis,
            _difference(first, last, self.axis) / max(_difference(first, last, axis), 1e-12),
        )

    def coherence(self, axis: float, factors: Tensor) -> Tensor | None:
        """Compute how well opposite rays agree, if the fan angles are those of other places.

        The result lies between -1 and 1. None unless evenly spaced views cover a full turn.

        Args:
            axis: cell that sees the axis.
            factors: factors by which the places on the detector are multiplied, one result each. A
                negative factor is a detector whose axis is reversed.
        """
        turn = self.even_turn()
        return None if turn is None else turn.coherence_of_turn(axis, factors)

    def even_turn(self) -> Self | None:
        """Return the views in ascending order if they are one turn, evenly spaced, else None."""
        if not self.is_full_turn:
            return None
        order = (self.angles % (2 * math.pi)).argsort(stable=True)
        turned = self.angles[order] % (2 * math.pi)
        distinct = torch.cat([turned.diff() > 1e-4, torch.ones(1, dtype=torch.bool)])
        values = self.values[order[distinct]]
        if float(self._gaps().max()) > 1.02 * 2 * math.pi / len(values):
            return None
        return self.change(values=values)

    def coherence_of_turn(self, axis: float, factors: Tensor) -> Tensor:
        """Compute the `coherence` if the views are one turn, evenly spaced and ascending.

        Args:
            axis: cell that sees the axis.
            factors: as in `coherence`.
        """
        return self.coherences(axis, factors)[0]

    def coherences(self, axis: float, factors: Tensor) -> Tensor:
        """Compute the `coherence_of_turn` of all places, and of every other one, ``(3, factors)``.

        Args:
            axis: cell that sees the axis.
            factors: as in `coherence`.
        """
        views, cells = self.values.shape
        reach = max(min(axis, cells - 1 - axis), 1.0)
        places = torch.linspace(0.1 * reach, reach, 32, dtype=torch.float64)
        ahead, behind = (
            torch.fft.rfft(_at(self.values, axis + sign * places), dim=0) for sign in (1.0, -1.0)
        )
        orders = torch.arange(1, min(views // 2, 80), dtype=torch.float64)[:, None]
        product = (ahead * behind.conj())[1 : len(orders) + 1] * orders
        sizes = product.abs().sum(0)
        product = product * torch.exp(-1j * math.pi * orders)
        angles = self.fan_angles(factors[:, None] * places * self.spacing)
        agreement = torch.stack(
            [(product * torch.exp(2j * orders * g)).real.sum(0) for g in angles]
        )
        parts = (slice(None), slice(0, None, 2), slice(1, None, 2))
        return torch.stack(
            [agreement[:, k].sum(1) / sizes[k].sum().clamp_min(1e-300) for k in parts]
        )

    def moment_misfit(self, angles: Tensor) -> float:
        """Compute the distance between the moments of parallel views and the moments of an image.

        The k-th moment of a view is a trigonometric polynomial of the angle, of degree k and parity
        k (Helgason 1965, Ludwig 1966). The result is the mean square deviation from the best polynomials,
        in units of the noise of a moment, for Legendre moments of the orders 0 to 6.

        Args:
            angles: angles of the views, which may differ from the angles of the geometry.
        """
        u = self.places / self.places.abs().max()
        legendre, misfit = [torch.ones_like(u), u], 0.0
        for k in range(_ORDERS):
            if k > 1:
                legendre.append(((2 * k - 1) * u * legendre[-1] - (k - 1) * legendre[-2]) / k)
            moments = (self.values @ legendre[k]) * math.sqrt(2 * k + 1)
            waves = [j * angles for j in range(k % 2, k + 1, 2)]
            columns = torch.stack([w for t in waves for w in (t.cos(), t.sin())], 1)
            rest = moments[:, None] - columns @ (torch.linalg.pinv(columns) @ moments[:, None])
            misfit += float(rest.square().sum()) / max(1, len(angles) - k - 1)
        return misfit

    def residual(self) -> float:
        """Compute the residual of a coarse reconstruction, relative to the data.

        The image is as wide as the field of view, whatever the image of the user.
        """
        coarse = self.coarsen(_CELLS, _VIEWS)
        half = 0.5 * self.values.shape[1] * self.spacing + abs(self.shift)
        if self.source is not None:
            wide = float(self.fan_angles(torch.tensor(half)))
            half = self.source[0] * min(math.sin(min(wide, math.pi / 2)), _REACH)
        return _misfit(coarse.operator(_SIDE, half), coarse.values.float()[None, None])

    def coarsen(self, cells: int, views: int) -> Self:
        """Return about ``views`` views, with neighbouring cells joined to at most ``cells`` cells."""
        step = max(1, round(len(self.angles) / views))
        width = max(1, math.ceil(self.values.shape[1] / cells))
        count = self.values.shape[1] // width
        return self.change(
            values=self.values[::step, : count * width].unflatten(1, (count, width)).mean(2),
            angles=self.angles[::step],
            spacing=width * self.spacing,
            shift=self.shift + (count * width - self.values.shape[1]) / 2 * self.spacing,
        )

    def operator(self, side: int, half: float) -> ParallelBeam | FanBeam:
        """Return the operator of a square image.

        Args:
            side: number of pixels of a side.
            half: half the length of a side.
        """
        angles, count = self.angles % (2 * math.pi), self.values.shape[1]
        settings: dict[str, Any] = {
            "pixel_size": 2 * half / side,
            "detector_spacing": self.spacing,
            "detector_shift": self.shift,
        }
        with warnings.catch_warnings():  # the image may be wider than the field of view
            warnings.simplefilter("ignore")
            if self.source is None:
                return ParallelBeam((side, side), angles, count, **settings)
            settings["curved"] = self.curved
            return FanBeam((side, side), angles, count, *self.source, **settings)


def _is_not_planar(operator: ConeBeam | ParallelBeam3D) -> bool:
    """Return whether a scan is no plain circle with one setting for all views."""
    parameters = {name: p for name, p in operator.parameters().items() if name != "angles"}
    return (
        any(len(p) > 1 for p in parameters.values())
        or any(
            bool((p != 0).any())
            for name, p in parameters.items()
            if name in ("tilt", "pitch", "axis_shift", "source_shift", "detector_rotation")
        )
        or len(operator.angles) < 2
    )


def _axis_of_mirror(view: Tensor, stated: float) -> Axis | None:
    """Find the cell, in the middle half, about which a view is its own mirror image."""
    cells = len(view)
    if cells < 16 or float(view.std()) <= 1e-9 * float(view.abs().max()):
        return None
    width = max(1, round(cells / _SEARCHED))
    count = cells // width
    coarse = view[: count * width].unflatten(0, (count, width)).mean(1)
    # Twice the axis is a whole number for all cells and the places halfway between them.
    first = _least(coarse, range(math.ceil(0.5 * count), math.floor(1.5 * count) - 1))
    middle = round(2 * ((first / 2) * width + (width - 1) / 2))
    doubled = _least(view, range(middle - 2 * width, middle + 2 * width + 1))
    left, least, right = (_asymmetry(view, doubled + d) for d in (-1, 0, 1))
    bend = left - 2 * least + right
    axis = doubled / 2 + (0.25 * (left - right) / bend if bend > 0 else 0.0)
    low = math.floor(min(max(2 * stated, 2.0), 2.0 * cells - 5))
    fraction = min(max(2 * stated - low, 0.0), 1.0)
    stated_asymmetry = (1 - fraction) * _asymmetry(view, low) + fraction * _asymmetry(view, low + 1)
    return Axis(axis, stated_asymmetry / max(least, 1e-12))


def _least(view: Tensor, doubled: range) -> int:
    return min(doubled, key=lambda d: _asymmetry(view, d))


def _asymmetry(view: Tensor, doubled: int) -> float:
    """Compute the mean square difference of a view and its mirror image about ``doubled / 2``.

    It is relative to the variance of the part that has a mirror image.
    """
    cells = len(view)
    overlap = view[max(0, doubled - cells + 1) : min(cells - 1, doubled) + 1]
    if len(overlap) < 3:
        return math.inf
    return float((overlap - overlap.flip(0)).square().mean() / overlap.var().clamp_min(1e-300))


def _difference(view: Tensor, opposite: Tensor, axis: float) -> float:
    """Compute the mean square difference of a view and the mirror image of the opposite view."""
    reach = max(math.floor(min(axis, len(view) - 1 - axis)), 1)
    places = torch.arange(-reach, reach + 1, dtype=view.dtype)
    pair = [_at(v[None], axis + sign * places)[0] for v, sign in ((view, 1.0), (opposite, -1.0))]
    return float((pair[0] - pair[1]).square().mean())


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Interpolate the cells of every view at fractional places."""
    low = places.floor().clamp(0, values.shape[1] - 2).long()
    return torch.lerp(values[:, low], values[:, low + 1], places - low)


def _misfit(scan: ParallelBeam | FanBeam, y: Tensor) -> float:
    """Return ``|A x - y| / |y|`` after a few iterations of conjugate gradients from zero."""
    return float(fit_residual(scan, y, _ITERATIONS).norm() / y.norm().clamp_min(1e-30))


def fit_residual(scan: Scan, y: Tensor, iterations: int) -> Tensor:
    """Return ``y - A x`` after iterations of conjugate gradients for least squares from zero.

    Args:
        scan: the operator A.
        y: measurements ``(batch, *A.range_shape)``, fitted together.
        iterations: largest number of iterations.
    """
    residual = y.clone()
    slope = scan._adjoint(residual)
    direction, power = slope, float(slope.square().sum())
    first = power
    for _ in range(iterations):
        if not power > 1e-10 * first:
            break
        image = scan._forward(direction)
        residual = residual - power / float(image.square().sum()) * image
        slope = scan._adjoint(residual)
        direction, power = (
            slope + float(slope.square().sum()) / power * direction,
            float(slope.square().sum()),
        )
    return residual
