"""Items of tomography: bodies with exact line integrals and finer pictures, seen by many geometries."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import invtoolbox as it
from zoo.images import Shape, solved
from zoo.items import (
    IMAGES,
    PLANES,
    Item,
    Job,
    draws,
    listen,
    log_uniform,
    noise_level,
    sixty_decibels,
    stated_level,
    tensor,
)
from zoo.pictures import Array, Blob, area_means, block_means, body, picture

#: Number of fine pixels along a pixel of pictures that have no closed form.
FINE = 3


@dataclass
class Scan:
    """Geometry of a flat scan, and the line integrals of a body.

    Attributes:
        shape: rows and columns.
        pixel: length of a pixel.
        angles: angles of the views.
        cells: number of detector cells.
        spacing: distance between cells.
        source: distance from the source to the axis, infinite for parallel rays.
        detector: distance from the source to the detector.
        shift: shift of the detector, as stated.
        true_shift: shift of the detector, in truth.
        is_curved: whether the detector is an arc.
    """

    shape: tuple[int, int]
    pixel: float
    angles: Array
    cells: int
    spacing: float
    source: float = math.inf
    detector: float = math.inf
    shift: float = 0.0
    true_shift: float = 0.0
    is_curved: bool = False

    @property
    def is_fan(self) -> bool:
        return math.isfinite(self.source)

    def operator(self, fine: int = 1, shift: float | None = None) -> Any:
        """Return the operator, on pixels that are ``fine`` times smaller."""
        shape = (self.shape[0] * fine, self.shape[1] * fine)
        more: dict[str, Any] = {
            "pixel_size": self.pixel / fine,
            "detector_spacing": self.spacing,
            "detector_shift": self.shift if shift is None else shift,
        }
        angles = torch.from_numpy(self.angles)
        if not self.is_fan:
            return it.operators.ParallelBeam(shape, angles, self.cells, **more)
        return it.operators.FanBeam(
            shape,
            angles,
            self.cells,
            self.source,
            self.detector,
            curved=self.is_curved,
            **more,
        )

    def rays(self, aside: float = 0.0) -> tuple[Array, Array]:
        """Return points and unit directions of the rays, ``(views, cells, 2)``, as documented.

        Args:
            aside: distance from the middle of a cell, in cells.
        """
        s = (np.arange(self.cells) - (self.cells - 1) / 2 + aside) * self.spacing + self.true_shift
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        if not self.is_fan:
            points = np.stack([s * cos, s * sin], -1)
            directions = np.stack(np.broadcast_arrays(-sin, cos), -1)[:, [0]]
            return points, np.broadcast_to(directions, points.shape)
        along, across = np.ones_like(s), s / self.detector
        if self.is_curved:
            along, across = np.cos(s / self.detector), np.sin(s / self.detector)
        directions = np.stack([across * cos - along * sin, across * sin + along * cos], -1)
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        points = np.stack(np.broadcast_arrays(self.source * sin, -self.source * cos), -1)
        return np.broadcast_to(points, directions.shape), directions

    def integrals(self, blobs: list[Blob], points: int) -> Array:
        """Return the line integrals of blobs, in the mean over a number of points of each cell."""
        asides = (np.arange(points) + 0.5) / points - 0.5
        total = np.zeros((len(self.angles), self.cells))
        for aside in asides:
            start, direction = self.rays(aside)
            total += sum(blob.line_integrals(start, direction) for blob in blobs) / points
        return total


def _turn(draw: np.random.Generator, views: int, arc: float) -> Array:
    """Return evenly spaced angles over an arc from a random start, in one of two directions."""
    start, sign = draw.uniform(0, 2 * math.pi), (-1, 1)[draw.integers(2)]
    return start + sign * arc * np.arange(views) / views


def _is_fan(draw: np.random.Generator) -> bool:
    return bool(draw.uniform() < 0.5)


def geometry(
    draw: np.random.Generator,
    views: int,
    arc: float | None,
    is_fan: bool,
    coverage: float,
    shape: Shape = None,
) -> Scan:
    """Draw a geometry.

    Args:
        draw: random numbers.
        views: number of views.
        arc: angle that the views cover; all of it if None.
        is_fan: whether the rays form a fan.
        coverage: width of the field of view in shorter sides of the picture.
        shape: rows and columns.
    """
    rows, columns = (int(n) for n in draw.integers(32, 65, 2))
    shape = shape or (rows, columns)
    pixel = log_uniform(draw, 0.01, 30.0)
    side = min(shape) * pixel
    if arc is None:
        arc = 2 * math.pi if is_fan or draw.uniform() < 0.3 else math.pi
    spacing, source, detector = pixel * draw.uniform(0.7, 1.3), math.inf, math.inf
    reach = coverage * side / 2  # of the field of view
    if is_fan:
        source = draw.uniform(1.5, 5.0) * math.hypot(*shape) * pixel
        detector = source * draw.uniform(1.0, 2.2)
        spacing *= detector / source
    is_curved = is_fan and draw.uniform() < 0.3
    half = reach if not is_fan else detector * math.tan(math.asin(reach / source))
    if is_curved:
        half = detector * math.asin(reach / source)
    cells = math.ceil(2 * half / spacing) + 1
    angles = _turn(draw, views, arc)
    return Scan(shape, pixel, angles, cells, spacing, source, detector, is_curved=is_curved)


def half_extent(scan: Scan) -> Array:
    """Return half of the picture's lengths along x and y."""
    return scan.pixel * np.array(scan.shape[::-1]) / 2


def measured(
    scan: Scan,
    draw: np.random.Generator,
    index: int,
    unit: float,
    reach: Array,
    covering: float = 1.0,
) -> tuple[str, Array, Array]:
    """Return the kind of a body inside of an ellipse, its truth, and its exact measurements.

    Bodies without a closed form lie on a grid of fine pixels that is ``covering`` times as wide.
    """
    kind = ("ellipses", "bells", "ellipses", "textured", "ellipses", "natural")[(index // 2) % 6]
    if kind in ("ellipses", "bells"):
        blobs = [
            Blob(unit * b.value, b.centre, b.axes, b.turn, b.is_bell)
            for b in body(draw, reach, 1.2 * scan.pixel, kind == "bells")
        ]
        n = 8 if max(scan.shape) <= 64 else 2
        truth = area_means(blobs, scan.shape, np.full(2, scan.pixel), True, n)
        points = 1 if draw.uniform() < 0.5 else 3
        return f"{kind} {points}", truth, scan.integrals(blobs, points)
    margins = [math.ceil((covering - 1) * n / 2) for n in scan.shape]
    rows, columns = (slice(m, m + n) for m, n in zip(margins, scan.shape))
    larger = (scan.shape[0] + 2 * margins[0], scan.shape[1] + 2 * margins[1])
    fine_shape = (FINE * larger[0], FINE * larger[1])
    size = np.full(2, scan.pixel / FINE)
    window = area_means(
        [Blob(1.0, np.zeros(2), 0.95 * reach, np.eye(2))], fine_shape, size, True, 2
    )
    fine = unit * picture(draw, kind, fine_shape, index % 2)[0] * window
    A, _ = listen(lambda: replace(scan, shape=larger).operator(FINE, scan.true_shift))
    clean = A(torch.from_numpy(fine)[None, None]).numpy()[0, 0]
    return kind, block_means(fine, FINE)[rows, columns], clean


def _item(
    scan: Scan,
    draw: np.random.Generator,
    index: int,
    words: str,
    reach: Array | None = None,
    region: Tensor | None = None,
    covering: float = 1.0,
) -> Item:
    """Return the item of a scan, whose body fills most of the picture by default."""
    unit = log_uniform(draw, 1e-3, 1e3)
    is_off = draw.uniform() < 0.2
    scan.true_shift = scan.shift + (draw.uniform(-0.3, 0.3) * scan.spacing if is_off else 0.0)
    inner = 0.96 * half_extent(scan) if reach is None else reach
    kind, values, clean = measured(scan, draw, index, unit, inner, covering)
    level = noise_level(draw)
    std = level * float(abs(clean).max())
    y = tensor(clean + std * draw.standard_normal(clean.shape))[None, None]
    stated = stated_level(draw, std)
    A, warned = listen(scan.operator)
    truth = tensor(values)[None, None]
    said = "" if stated is None else f" (stated {stated / std:.2g} times)"
    beam = ("curved fan" if scan.is_curved else "fan") if scan.is_fan else "parallel"
    size = "x".join(map(str, scan.shape))
    return Item(
        f"{kind} {size}, unit {unit:.2g}, pixel {scan.pixel:.2g}, {beam}, {words}, "
        f"{len(scan.angles)} views, {scan.cells} cells, noise {100 * level:.2g} %{said}"
        + (
            f", axis off {(scan.true_shift - scan.shift) / scan.spacing:.2g} cells"
            if is_off
            else ""
        ),
        truth,
        A.pseudo_inverse(y),
        solved(y, A, stated),
        sixty_decibels(truth),
        region,
        y=y,
        A=A,
        noise_std=std,
        warned=warned,
    )


def whole_or_circle(draw: np.random.Generator) -> float:
    """Draw a coverage: the circle inside of the picture, or the whole picture."""
    return 1.05 if draw.uniform() < 0.5 else 1.5


def parallel(index: int, job: str = "ct parallel", shape: Shape = None) -> Item:
    draw = draws(job, index)
    scan = geometry(draw, int(draw.integers(60, 181)), None, False, whole_or_circle(draw), shape)
    return _item(scan, draw, index, "full", circle(scan))


def fan(index: int) -> Item:
    draw = draws("ct fan", index)
    scan = geometry(draw, int(draw.integers(60, 181)), None, True, whole_or_circle(draw))
    return _item(scan, draw, index, "full turn", circle(scan))


def circle(scan: Scan) -> Array:
    """Return the half axes of a body inside of the circle that fits into the picture."""
    return np.full(2, 0.96 * half_extent(scan).min())


def few_views(index: int) -> Item:
    draw = draws("ct few views", index)
    scan = geometry(draw, int(draw.integers(6, 25)), None, _is_fan(draw), 1.5)
    return _item(scan, draw, index, "few views")


def short_arc(index: int) -> Item:
    """An arc of 30 to 150 degrees, of a fan or of parallel rays."""
    draw = draws("ct short arc", index)
    degrees = draw.uniform(30, 150)
    views = max(12, round(degrees * draw.uniform(0.4, 1.0)))
    scan = geometry(draw, views, math.radians(degrees), _is_fan(draw), 1.5)
    return _item(scan, draw, index, f"arc {degrees:.0f} degrees")


def half_fan(index: int) -> Item:
    """A detector that sees one side of the body, a part of the other, in a full turn."""
    draw = draws("ct half fan", index)
    scan = geometry(draw, int(draw.integers(80, 181)), 2 * math.pi, draw.uniform() < 0.75, 1.05)
    # The detector reaches from the far edge over the axis by a share of the half width.
    over = draw.uniform(0.08, 0.6)
    full = scan.cells
    scan.cells = math.ceil(full * (1 + over) / 2)
    side = (-1, 1)[draw.integers(2)]
    scan.shift = side * (full - scan.cells) / 2 * scan.spacing
    return _item(scan, draw, index, f"half fan, over the axis {over:.2f}", circle(scan))


def truncated(index: int) -> Item:
    """A detector narrower than the body; the field of view counts."""
    draw = draws("ct truncated", index)
    coverage = draw.uniform(0.4, 0.85)
    scan = geometry(draw, int(draw.integers(60, 181)), None, _is_fan(draw), coverage)
    reach = coverage * min(scan.shape) * scan.pixel / 2
    row, column = (
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * scan.pixel for n in scan.shape
    )
    region = (row[:, None] ** 2 + column**2 <= (0.95 * reach) ** 2)[None, None]
    return _item(scan, draw, index, f"field {coverage:.2f}", region=region)


def beyond(index: int) -> Item:
    """A body that reaches beyond the picture, and a detector that sees all of it."""
    draw = draws("ct beyond the grid", index)
    factor = draw.uniform(1.05, 1.5)
    scan = geometry(draw, int(draw.integers(60, 181)), None, _is_fan(draw), 1.6)
    reach = np.full(2, factor * half_extent(scan).min())
    return _item(scan, draw, index, f"body {factor:.2f} of the picture", reach, covering=1.6)


def cone(index: int) -> Item:
    """A volume of ellipsoids, all of it in every view."""
    draw = draws("ct cone", index)
    rows, columns = (int(n) for n in draw.integers(22, 35, 2))
    shape = (int(draw.integers(14, 25)), rows, columns)
    voxel, unit = log_uniform(draw, 0.01, 30.0), log_uniform(draw, 1e-3, 1e3)
    half = voxel * np.array(shape[::-1]) / 2
    radius = 0.95 * half[:2].min()
    reach = np.array([radius, radius, 0.9 * half[2]])
    source = draw.uniform(3.0, 8.0) * np.linalg.norm(half)
    detector = source * draw.uniform(1.0, 2.0)
    spacing = voxel * draw.uniform(0.8, 1.3) * detector / source
    # All of the cylinder around the body, on the side of the source as well.
    wide = detector * math.tan(math.asin(radius / source))
    high = reach[2] * detector / (source - radius)
    panel = (math.ceil(2 * high / spacing) + 1, math.ceil(2 * wide / spacing) + 1)
    angles = _turn(draw, int(draw.integers(36, 91)), 2 * math.pi)
    A, warned = listen(
        lambda: it.operators.ConeBeam(
            shape,
            torch.from_numpy(angles),
            panel,
            source,
            detector,
            voxel_size=voxel,
            detector_spacing=spacing,
        )
    )
    is_smooth = index % 4 >= 2
    blobs = [
        Blob(unit * b.value, b.centre, b.axes, b.turn, b.is_bell)
        for b in body(draw, reach, 2.0 * voxel, is_smooth)
    ]
    truth = tensor(area_means(blobs, shape, np.full(3, voxel), False, 5))[None, None]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    u = (np.arange(panel[1]) - (panel[1] - 1) / 2)[None, None, :] * spacing
    v = (np.arange(panel[0]) - (panel[0] - 1) / 2)[None, :, None] * spacing
    rays = np.stack(np.broadcast_arrays(u * cos - detector * sin, u * sin + detector * cos, v), -1)
    start = np.stack(np.broadcast_arrays(source * sin, -source * cos, 0 * v + 0 * u), -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    clean = np.asarray(sum(blob.line_integrals(start, rays) for blob in blobs))
    level = noise_level(draw)
    std = level * float(abs(clean).max())
    y = tensor(clean + std * draw.standard_normal(clean.shape))[None, None]
    stated = stated_level(draw, std)
    kind = "bells" if is_smooth else "ellipsoids"
    return Item(
        f"{kind} {'x'.join(map(str, shape))}, unit {unit:.2g}, voxel {voxel:.2g}, {len(angles)} "
        f"views of {panel[0]}x{panel[1]}, noise {100 * level:.2g} %",
        truth,
        A.pseudo_inverse(y),
        solved(y, A, stated),
        sixty_decibels(truth),
        y=y,
        A=A,
        noise_std=std,
        warned=warned,
    )


def transmission(index: int) -> Item:
    """Counts behind a body, few or many; the simple answer is FBP of their logarithm."""
    draw = draws("ct counts", index)
    scan = geometry(draw, int(draw.integers(40, 121)), None, _is_fan(draw), whole_or_circle(draw))
    scan.true_shift = scan.shift
    kind, values, clean = measured(scan, draw, index, 1.0, circle(scan))
    # The body weakens the rays by a factor of e to e^4.
    unit = draw.uniform(1, 4) / clean.max()
    photons = log_uniform(draw, 50, 1e5)
    counts = draw.poisson(photons * np.exp(-unit * clean)).astype(float)
    y = tensor(counts)[None, None]
    A, warned = listen(scan.operator)
    truth = tensor(unit * values)[None, None]
    logarithm = tensor(np.log(photons / np.maximum(counts, 1)))[None, None]
    return Item(
        f"{kind} {'x'.join(map(str, scan.shape))}, pixel {scan.pixel:.2g}, {len(scan.angles)} "
        f"views, {photons:.2g} photons, absorption {unit * clean.max():.2g}",
        truth,
        A.pseudo_inverse(logarithm),
        solved(y, A, data_term=it.data_terms.PoissonTransmission(photons)),
        sixty_decibels(truth),
        y=y,
        A=A,
        warned=warned,
    )


_SIMPLE = "filtered back-projection"
JOBS = {
    "ct parallel": Job(parallel, 28, PLANES, _SIMPLE),
    "ct fan": Job(fan, 28, PLANES, _SIMPLE),
    "ct cone": Job(cone, 26, IMAGES, "FDK"),
    "ct few views": Job(few_views, 28, PLANES, _SIMPLE),
    "ct short arc": Job(short_arc, 28, PLANES, _SIMPLE),
    "ct half fan": Job(half_fan, 28, PLANES, _SIMPLE),
    "ct truncated": Job(truncated, 28, PLANES, _SIMPLE),
    "ct beyond the grid": Job(beyond, 28, PLANES, _SIMPLE),
    "ct counts": Job(transmission, 26, PLANES, _SIMPLE),
}
