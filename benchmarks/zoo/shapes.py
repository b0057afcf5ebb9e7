"""Items of meshes with handles, of pairs of pictures, and of normal maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import invtoolbox as it
from zoo.items import (
    DEFAULT,
    Answer,
    Item,
    Job,
    draws,
    listen,
    log_uniform,
    noise_level,
    tensor,
)
from zoo.pictures import KINDS, Array, picture, random_rotation

ONLY = (DEFAULT,)

# -- meshes and clouds with handles ----------------------------------------------------------------


def _surface(draw: np.random.Generator, kind: str) -> tuple[Array, Array]:
    """Return vertices and triangles of a tube, a ball, a sheet, or a solid bar's surface."""
    around, along = int(draw.integers(6, 25)), int(draw.integers(8, 41))
    length = draw.uniform(2, 6)
    a, s = np.meshgrid(2 * math.pi * np.arange(around) / around, np.linspace(0, 1, along))
    if kind == "sheet":
        a = np.meshgrid(np.linspace(-1, 1, around), np.linspace(0, 1, along))[0]
        bump = 0.2 * np.sin(3 * a + draw.uniform(0, 6)) * np.cos(5 * s + draw.uniform(0, 6))
        points = np.stack([length * s, a, bump], -1)
    else:
        radius = np.sin(math.pi * (0.08 + 0.84 * s)) if kind == "ball" else 0.5 + 0 * s
        if kind == "bar":  # a square section
            radius = 0.5 / np.maximum(abs(np.cos(a)), abs(np.sin(a)))
        points = np.stack([length * s, radius * np.cos(a), radius * np.sin(a)], -1)
    faces = []
    last = around - 1 if kind == "sheet" else around
    for i in range(along - 1):
        for j in range(last):
            p, q = i * around + j, i * around + (j + 1) % around
            faces += [(p, q, p + around), (q, q + around, p + around)]
    return points.reshape(-1, 3), np.array(faces)


def _moved(draw: np.random.Generator, points: Array) -> tuple[str, Array]:
    """Return a motion in words, and the points after it."""
    kind = ("rigid", "bend", "twist", "bend and turn", "still")[draw.integers(5)]
    length = np.ptp(points[:, 0])
    turn, step = random_rotation(draw, 3), draw.uniform(-1, 1, 3) * length
    if kind == "still":
        return kind, points.copy()
    if kind == "rigid":
        return kind, points @ turn.T + step
    x, y, z = points.T
    angle = draw.uniform(0.2, 2.2)
    if kind == "twist":
        t = angle * x / length
        return f"twist {angle:.2g}", np.stack(
            [x, np.cos(t) * y - np.sin(t) * z, np.sin(t) * y + np.cos(t) * z], -1
        )
    # The middle line keeps its length on an arc of this angle.
    t, radius = angle * x / length, length / angle
    bent = np.stack([(radius - z) * np.sin(t), y, radius - (radius - z) * np.cos(t)], -1)
    return f"{kind} {angle:.2g}", bent if kind == "bend" else bent @ turn.T + step


def deformation(index: int) -> Item:
    """Both ends of a shape, and some more points, are handles of a known motion."""
    draw = draws("deform", index)
    kind = ("tube", "ball", "sheet", "bar")[(index // 2) % 4]
    points, faces = _surface(draw, kind)
    edges = np.linalg.norm(points[faces[:, 0]] - points[faces[:, 1]], axis=1)
    words, goal = _moved(draw, points)
    x = points[:, 0] / np.ptp(points[:, 0])
    share = draw.uniform(0.03, 0.2)
    is_handle = (x <= share) | (x >= 1 - share)
    is_handle[draw.integers(len(points), size=int(draw.integers(0, 6)))] = True
    unit, is_cloud = log_uniform(draw, 1e-3, 1e3), draw.uniform() < 0.25
    place, rest, truth = draw.uniform(-5, 5, 3), unit * points, unit * goal
    rest, truth = rest + unit * place, truth + unit * place
    numbers = np.flatnonzero(is_handle)
    # Positions that somebody picked, off by up to a tenth of an edge.
    level = draw.uniform(0, 0.1) if draw.uniform() < 0.25 else 0.0
    aims = truth[numbers] + level * unit * edges.mean() * draw.standard_normal((len(numbers), 3))
    simple = rest.copy()
    simple[numbers] = aims

    def compute(_: str) -> Answer:
        vertices = torch.from_numpy(rest)
        shape: Any = vertices if is_cloud else (vertices, torch.from_numpy(faces))
        handles = (torch.from_numpy(numbers), torch.from_numpy(aims))
        found, marks = listen(lambda: it.deform(shape, handles))
        return Answer(found if is_cloud else found[0], "", (), marks)

    return Item(
        f"{'cloud of a ' if is_cloud else ''}{kind}, {len(points)} points, unit {unit:.2g}, "
        f"{words}, {len(numbers)} handles off {level:.2g} edges",
        torch.from_numpy(truth),
        torch.from_numpy(simple),
        compute,
        0.1 * unit * float(edges.mean()),
        torch.from_numpy(~is_handle),
        is_vector=True,
    )


# -- pairs of pictures -----------------------------------------------------------------------------


def _field(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return a displacement ``(2, rows, columns)`` in pixels that does not fold."""
    if draw.uniform() < 0.12:
        return np.zeros((2, *shape))
    v, u = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    field = np.zeros((2, *shape))
    for _ in range(draw.integers(1, 5)):
        row, column = (draw.uniform(0, n) for n in shape)
        width = draw.uniform(0.15, 0.4) * min(shape)
        bump = np.exp(-((v - row) ** 2 + (u - column) ** 2) / (2 * width**2))
        field += draw.uniform(-1, 1, 2)[:, None, None] * bump
    field *= log_uniform(draw, 0.3, 6.0) / np.abs(field).max()
    steepest = max(
        float(abs(np.gradient(part, axis=axis)).max()) for part in field for axis in (0, 1)
    )
    field *= min(1.0, 0.4 / steepest)
    if draw.uniform() < 0.4:
        field += draw.uniform(-2, 2, 2)[:, None, None]
    if draw.uniform() < 0.3:  # turned about the middle
        angle = draw.uniform(-0.08, 0.08)
        p, q = v - (shape[0] - 1) / 2, u - (shape[1] - 1) / 2
        field += np.stack([-angle * q, angle * p])
    return field


def registration(index: int) -> Item:
    """``fixed(p) = moving(p + u(p))``, both sampled from one smooth picture."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    draw = draws("register", index)
    kind = KINDS[(index // 2) % 4]
    shape = tuple(int(n) for n in draw.integers(32, 65, 2))
    fine, margin = 3, 12
    size = (fine * (shape[0] + 2 * margin), fine * (shape[1] + 2 * margin))
    entire = gaussian_filter(picture(draw, kind, size, index % 2)[0], draw.uniform(1.5, 4.0))
    field = _field(draw, shape)  # type: ignore[arg-type]
    grid = np.stack(np.meshgrid(*(np.arange(float(n)) for n in shape), indexing="ij"))

    def at(places: Array) -> Array:
        return map_coordinates(entire, fine * (places + margin), order=3, mode="nearest")

    moving, fixed = at(grid), at(grid + field)
    span = np.ptp(moving)
    level, unit = noise_level(draw, 1e-3, 0.05), log_uniform(draw, 1e-3, 1e3)
    gain, loss = 1.0, "least-squares"
    if draw.uniform() < 0.2:
        gain, loss = draw.uniform(0.5, 1.5), "ncc"
        fixed = gain * fixed + draw.uniform(-0.3, 0.3) * span
    moving = unit * (moving + level * span * draw.standard_normal(shape))
    fixed = unit * (fixed + level * span * draw.standard_normal(shape))
    spacing = np.full(2, log_uniform(draw, 0.01, 30.0))
    if draw.uniform() < 0.3:
        spacing[0] *= draw.uniform(0.6, 1.8)
    last = np.array(shape)[:, None, None] - 1.0
    is_seen = ((grid + field >= 0) & (grid + field <= last)).all(0).ravel()
    truth = _vectors(spacing[:, None, None] * field)

    def compute(_: str) -> Answer:
        found, sentences = listen(
            lambda: it.register(
                tensor(moving), tensor(fixed), spacing=tuple(spacing.tolist()), loss=loss
            )
        )
        x = _vectors(found.displacement[0].double().numpy())
        return Answer(x, found.status[0], found.notes, (*sentences, *found.notes))

    longest = float(np.linalg.norm(field, axis=0).max())
    return Item(
        f"{kind} {shape[0]}x{shape[1]}, unit {unit:.2g}, spacing {spacing[0]:.2g}, motion to "
        f"{longest:.2g} pixels, noise {100 * level:.2g} %, {loss}, gain {gain:.2g}",
        truth,
        torch.zeros_like(truth),
        compute,
        0.1 * float(spacing.mean()),
        torch.from_numpy(is_seen),
        is_vector=True,
    )


def _vectors(field: Array) -> Tensor:
    return torch.from_numpy(np.moveaxis(field, 0, -1).reshape(-1, len(field)).copy())


# -- normal maps -----------------------------------------------------------------------------------


def _heights(draw: np.random.Generator, shape: tuple[int, int]) -> tuple[str, Array, Array, Array]:
    """Return a surface in words, its depth in pixels, and its slopes across and down."""
    v, u = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    side = min(shape)
    kind = ("bumps", "waves", "plane", "dome", "fold")[draw.integers(5)]
    a, b = draw.uniform(-0.4, 0.4, 2)
    z, across, down = a * u + b * v, np.full(shape, a), np.full(shape, b)
    if kind == "bumps":
        for _ in range(draw.integers(1, 6)):
            (p, q), w = draw.uniform(-0.4, 0.4, 2) * side, draw.uniform(0.08, 0.25) * side
            bump = draw.uniform(-0.8, 0.8) * w * np.exp(-((u - p) ** 2 + (v - q) ** 2) / (2 * w**2))
            z, across, down = z + bump, across - (u - p) / w**2 * bump, down - (v - q) / w**2 * bump
    elif kind == "waves":
        angle, k = draw.uniform(0, math.pi), 2 * math.pi / draw.uniform(10, 40)
        height, c, s = draw.uniform(0.1, 0.8) / k, math.cos(angle), math.sin(angle)
        phase = k * (c * u + s * v)
        z = z + height * np.sin(phase)
        across, down = (
            across + height * k * c * np.cos(phase),
            down + height * k * s * np.cos(phase),
        )
    elif kind == "dome":
        radius = draw.uniform(0.55, 1.5) * math.hypot(*shape)
        root = np.sqrt(radius**2 - u**2 - v**2)
        z, across, down = -root, u / root, v / root
    elif kind == "fold":
        # The part in front rises from the plane: a cliff whose jump grows from 0 along its edge.
        slope, edge = draw.uniform(0.05, 0.35), draw.uniform(-0.2, 0.2) * side
        is_front = u > edge
        rise = slope * (v - v.min())
        z = np.where(is_front, z - rise, z)
        down = np.where(is_front, down - slope, down)
        return f"fold to {slope * shape[0]:.2g} pixels", z, across, down
    return kind, z, across, down


def _normals_of(depth: Array, across: Array, down: Array, K: Array | None) -> Array:
    """Return unit normals, x to the right, y up, z towards the camera, of a depth and its slopes."""
    if K is None:
        n = np.stack([across, -down, np.ones_like(depth)], -1)
    else:
        ray, f = _rays(depth.shape, K), K[0, 0]
        right = across[..., None] * ray + depth[..., None] * np.array([1 / f, 0, 0])
        below = down[..., None] * ray + depth[..., None] * np.array([0, 1 / f, 0])
        n = np.cross(right, below) * np.array([-1, 1, 1])
    return n / np.linalg.norm(n, axis=-1, keepdims=True)


def _rays(shape: tuple[int, ...], K: Array) -> Array:
    v, u = np.meshgrid(*(np.arange(float(n)) for n in shape), indexing="ij")
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return np.stack([x, y, np.ones_like(x)], -1)


def least_squares_surface(normals: Array, mask: Array, K: Array | None) -> Array:
    """Return the depth, or its logarithm, whose differences fit the means of two pixels' slopes."""
    from scipy.sparse import coo_matrix, eye
    from scipy.sparse.linalg import spsolve

    n = normals * np.array([1, -1, -1])  # x right, y down, z forward
    below_zero = n[..., 2] if K is None else (n * _rays(mask.shape, K)).sum(-1)
    below_zero = np.minimum(below_zero, -0.05)  # the surface faces the camera
    f = 1.0 if K is None else K[0, 0]
    across, down = -n[..., 0] / (f * below_zero), -n[..., 1] / (f * below_zero)
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    rows = []
    for slopes, one, other in (
        (across, np.s_[:, :-1], np.s_[:, 1:]),
        (down, np.s_[:-1], np.s_[1:]),
    ):
        both = mask[one] & mask[other]
        middle = (slopes[one] + slopes[other])[both] / 2
        rows.append((number[one][both], number[other][both], middle))
    start, end, slope = (np.concatenate(parts) for parts in zip(*rows))
    k = np.arange(len(slope))
    D = coo_matrix(
        (np.repeat([-1.0, 1.0], len(k)), (np.tile(k, 2), np.concatenate([start, end]))),
        shape=(len(k), int(mask.sum())),
    ).tocsr()
    z = np.full(mask.shape, np.nan)
    z[mask] = spsolve((D.T @ D + 1e-9 * eye(D.shape[1])).tocsc(), D.T @ slope)
    return z


def normal_map(index: int) -> Item:
    """A surface with or without a fold, of an orthographic or a perspective camera."""
    draw = draws("normals", index)
    shape = tuple(int(n) for n in draw.integers(28, 65, 2))
    words, z, across, down = _heights(draw, shape)  # type: ignore[arg-type]
    K, size, middle = None, log_uniform(draw, 0.01, 100.0), 1.0
    if index % 4 >= 2:
        f = draw.uniform(1.0, 3.0) * max(shape)
        K = np.array([[f, 0, (shape[1] - 1) / 2], [0, f, (shape[0] - 1) / 2], [0, 0, 1]])
        # A pixel is of length middle / f in the middle of the depths.
        middle = log_uniform(draw, 0.1, 1000)
        scale = middle / f
        depth, across, down = middle + scale * (z - np.median(z)), scale * across, scale * down
        normals = _normals_of(depth, across, down, K)
    else:
        depth, normals = size * z, _normals_of(z, across, down, None)
    level = noise_level(draw, 1e-3, 0.1)
    noisy = normals + level * draw.standard_normal(normals.shape)
    noisy[..., 2] = np.maximum(noisy[..., 2], 0.02)
    noisy /= np.linalg.norm(noisy, axis=-1, keepdims=True)
    mask = np.ones(shape, dtype=bool)
    if draw.uniform() < 0.5:
        v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        mask = (u / draw.uniform(0.7, 1.0)) ** 2 + (v / draw.uniform(0.7, 1.0)) ** 2 <= 1

    def aligned(x: Array) -> Tensor:
        # Normals leave the offset of an orthographic depth open, and the scale of another one.
        if K is None:
            x = x + (depth - x)[mask].mean()
        else:
            x = x * (depth * x)[mask].sum() / (x * x)[mask].sum()
        return torch.from_numpy(np.where(mask, x, 0.0))[None, None]

    start = least_squares_surface(noisy, mask, K)
    simple = aligned(size * start if K is None else np.exp(start - np.nanmedian(start)))

    def compute(_: str) -> Answer:
        camera: Any = size if K is None else torch.from_numpy(K)
        more = {} if K is None else {"median_depth": float(np.median(depth[mask]))}
        found, sentences = listen(
            lambda: it.surface_from_normals(tensor(noisy), torch.from_numpy(mask), camera, **more)
        )
        usual = {note for solution in found.solutions for note in solution.notes}
        marks = tuple(note for note in found.notes if note not in usual)
        status = found.solutions[0].status[0]
        return Answer(
            aligned(found.depth[0, 0].double().numpy()), status, found.notes, sentences + marks
        )

    truth = torch.from_numpy(np.where(mask, depth, 0.0))[None, None]
    return Item(
        f"{words}, {shape[0]}x{shape[1]}, {'orthographic' if K is None else 'perspective'}, noise "
        f"{100 * level:.2g} %, {100 * mask.mean():.0f} % inside",
        truth,
        simple,
        compute,
        1e-3 * float(np.ptp(depth[mask])),
        torch.from_numpy(mask)[None, None],
    )


JOBS = {
    "deform": Job(deformation, 32, ONLY, "the rest, with handles moved"),
    "register": Job(registration, 32, ONLY, "no motion"),
    "normals": Job(normal_map, 32, ONLY, "least-squares surface"),
}
