"""Kinds of scans that no rule was chosen on; `--fresh` draws their items."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import invtoolbox as it
from zoo.images import solved
from zoo.items import (
    DEFAULT,
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
from zoo.pictures import Array, area_means, body
from zoo.scans import Scan, circle, geometry, measured, whole_or_circle

PRIORS = ("tv", DEFAULT)


def _as_measured(clean: Array) -> Array:
    return clean


def _item(
    scan: Scan,
    draw: np.random.Generator,
    index: int,
    words: str,
    disturb: Callable[[Array], Array] = _as_measured,
    fault: str = "",
) -> Item:
    """Return the item of a scan of a body inside of the circle, whose integrals are disturbed."""
    unit = log_uniform(draw, 1e-3, 1e3)
    kind, values, clean = measured(scan, draw, index, unit, circle(scan))
    seen = disturb(clean)
    level = noise_level(draw)
    std = level * float(abs(seen).max())
    y = tensor(seen + std * draw.standard_normal(seen.shape))[None, None]
    stated = stated_level(draw, std)
    A, warned = listen(scan.operator)
    truth = tensor(values)[None, None]
    beam = "fan" if scan.is_fan else "parallel"
    return Item(
        f"{kind} {'x'.join(map(str, scan.shape))}, unit {unit:.2g}, {beam}, {words}, "
        f"{len(scan.angles)} views, {scan.cells} cells, noise {100 * level:.2g} %",
        truth,
        A.pseudo_inverse(y),
        solved(y, A, stated),
        sixty_decibels(truth),
        y=y,
        A=A,
        noise_std=std,
        warned=warned,
        fault=fault,
    )


def _drawn(job: str, index: int, views: int | None = None) -> tuple[np.random.Generator, Scan]:
    """Return the random numbers of an item, and a scan over half a turn or a turn."""
    draw = draws(job, index)
    is_fan = bool(draw.uniform() < 0.5)
    number = int(draw.integers(50, 181)) if views is None else views
    return draw, geometry(draw, number, None, is_fan, whole_or_circle(draw))


def uneven_angles(index: int) -> Item:
    """Views at uneven angles, which are known."""
    draw, scan = _drawn("ct uneven angles", index)
    step = float(abs(scan.angles[1] - scan.angles[0]))
    spread = draw.uniform(0.3, 3.0)
    scan.angles = scan.angles + spread * step * draw.uniform(-0.5, 0.5, len(scan.angles))
    return _item(scan, draw, index, f"angles off by {spread:.2g} steps")


def wrong_center(index: int) -> Item:
    """An axis of rotation that is stated 0.7 to 3 cells beside its place."""
    draw, scan = _drawn("ct wrong center", index)
    cells = draw.uniform(0.7, 3.0) * (-1, 1)[draw.integers(2)]
    scan.true_shift = scan.shift + cells * scan.spacing
    return _item(scan, draw, index, f"axis off by {cells:.2g} cells", fault="center")


def beam_hardening(index: int) -> Item:
    """Two energies, of which the body absorbs the lower one more, so thick parts look thin."""
    draw, scan = _drawn("ct beam hardening", index)
    thickness, ratio, share = draw.uniform(1, 5), draw.uniform(1.5, 4), draw.uniform(0.2, 0.8)

    def harden(clean: Array) -> Array:
        # y = -log(w e^{-p} + (1 - w) e^{-r p}) / (w + (1 - w) r), whose slope at p = 0 is 1.
        p = clean * thickness / clean.max()
        light = share * np.exp(-p) + (1 - share) * np.exp(-ratio * p)
        unit = clean.max() / thickness
        return np.asarray(-unit * np.log(light) / (share + (1 - share) * ratio))

    words = f"absorption {thickness:.2g}, energies {ratio:.2g}"
    return _item(scan, draw, index, words, harden, "beam hardening")


def rings(index: int) -> Item:
    """Cells whose gains differ by 0.3 to 5 %, a tenth of them by more."""
    draw, scan = _drawn("ct rings", index)
    spread = log_uniform(draw, 0.003, 0.05)
    gains = spread * draw.standard_normal(scan.cells)
    gains *= np.where(draw.uniform(size=scan.cells) < 0.1, 3, 1)
    thickness = draw.uniform(1, 5)

    def disturb(clean: Array) -> Array:
        # Gains of the intensity are added to its logarithm.
        return np.asarray(clean + gains * clean.max() / thickness)

    return _item(scan, draw, index, f"gains differ by {100 * spread:.2g} %", disturb, "gains")


def oblong(index: int) -> Item:
    """A long image of pixels that are not square, seen by parallel rays."""
    draw = draws("ct oblong pixels", index)
    shape = (int(draw.integers(20, 41)), int(draw.integers(60, 121)))
    shape = shape if draw.uniform() < 0.5 else shape[::-1]
    width = log_uniform(draw, 0.01, 30.0)
    sizes = np.array([width * log_uniform(draw, 0.4, 2.5), width])
    extent = sizes * np.array(shape)
    spacing = float(sizes.min()) * draw.uniform(0.8, 1.4)
    cells = math.ceil(float(np.hypot(*extent)) / spacing) + 1
    views = int(draw.integers(50, 181))
    angles = draw.uniform(0, math.pi) + math.pi * np.arange(views) / views
    scan = Scan(shape, width, angles, cells, spacing)
    unit = log_uniform(draw, 1e-3, 1e3)
    reach = 0.46 * extent[::-1]
    blobs = [
        replace(blob, value=unit * blob.value)
        for blob in body(draw, reach, 1.2 * float(sizes.max()), (index // 2) % 2 == 1)
    ]
    truth = tensor(area_means(blobs, shape, sizes, True, 8))[None, None]
    clean = scan.integrals(blobs, 1)
    level = noise_level(draw)
    std = level * float(abs(clean).max())
    y = tensor(clean + std * draw.standard_normal(clean.shape))[None, None]
    stated = stated_level(draw, std)
    A, warned = listen(
        lambda: it.operators.ParallelBeam(
            shape,
            torch.from_numpy(angles),
            cells,
            pixel_size=tuple(float(size) for size in sizes),
            detector_spacing=spacing,
        )
    )
    return Item(
        f"{shape[0]}x{shape[1]}, pixels of {sizes[0] / sizes[1]:.2g} to 1, {views} views, "
        f"{cells} cells, noise {100 * level:.2g} %",
        truth,
        A.pseudo_inverse(y),
        solved(y, A, stated),
        sixty_decibels(truth),
        y=y,
        A=A,
        noise_std=std,
        warned=warned,
    )


_SIMPLE, _COUNT = "filtered back-projection", 22
JOBS = {
    "ct uneven angles": Job(uneven_angles, _COUNT, PRIORS, _SIMPLE, is_new=True),
    "ct wrong center": Job(wrong_center, _COUNT, PRIORS, _SIMPLE, is_new=True),
    "ct beam hardening": Job(beam_hardening, _COUNT, PRIORS, _SIMPLE, is_new=True),
    "ct rings": Job(rings, _COUNT, PRIORS, _SIMPLE, is_new=True),
    "ct oblong pixels": Job(oblong, _COUNT, PRIORS, _SIMPLE, is_new=True),
}
