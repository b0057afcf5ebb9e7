"""Picture of the geometry of a scan: path of the source, panel, and the volume on the panel."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from invtoolbox.errors import InputError
from invtoolbox.plotting.canvas import new_figure

if TYPE_CHECKING:
    from invtoolbox.operators.tomography.scan_2d import Scan2D
    from invtoolbox.operators.tomography.scan_3d import Scan3D

_SOURCE, _PANEL, _RAYS, _VOLUME, _TURN = "#d95f02", "#1b6ca8", "#e6ab02", "#555555", "#7a3e9d"
#: Signs of the corners of a box, and the pairs of corners that differ in one of them: its edges.
_CORNERS = tuple(itertools.product((-1.0, 1.0), repeat=3))
_EDGES = [(i, j) for i, j in itertools.combinations(range(8), 2) if i ^ j in (1, 2, 4)]


def geometry_figure(A: Any, item: int = 0) -> Any:
    """Draw the geometry of a scan as a ``matplotlib.figure.Figure``.

    The figure shows the first view with its source, panel and outermost rays, the path of the
    source (for parallel beams: of the panel), the volume, and the order of the views.
    ``figure.savefig("geometry.png")`` writes it; a notebook shows it.

    Args:
        A: a 2D or 3D scan.
        item: number of the item in the batch, if the geometry differs between items.
    """
    from invtoolbox.operators.tomography.scan_2d import Scan2D
    from invtoolbox.operators.tomography.scan_3d import Scan3D

    if isinstance(A, Scan3D):
        return _figure_3d(A, item)
    if isinstance(A, Scan2D):
        return _figure_2d(A, item)
    raise InputError(f"a geometry is drawn of 2D and 3D scans, got {A}")


# -- 2D --------------------------------------------------------------------------------------------


def _figure_2d(A: Scan2D, item: int) -> Any:
    from matplotlib.patches import Rectangle

    angles, shift = (t.detach().double().cpu().numpy() for t in (A.angles, A.detector_shift))
    angles, shift = (t[min(item, len(t) - 1)] if t.ndim == 2 else t for t in (angles, shift))
    height, width = (n * size for n, size in zip(A.image_shape, A.pixel_size))
    near, far = getattr(A, "source_origin", None), getattr(A, "source_detector", None)
    reach = 0.75 * math.hypot(height, width)
    cells = (np.arange(A.num_detectors + 1) - A.num_detectors / 2) * A.detector_spacing

    def view(angle: float, offset: float) -> tuple[Any, Any]:
        """Return the source and points on the detector, (places, 2).

        Of parallel rays, the start of every ray is returned in place of the source.
        """
        across, ahead = (
            np.array([math.cos(angle), math.sin(angle)]),
            np.array([-math.sin(angle), math.cos(angle)]),
        )
        s = cells + offset
        if near is None or far is None:
            return s[:, None] * across + reach * ahead, s[:, None] * across - reach * ahead
        source = -near * ahead
        fan = s / far
        if getattr(A, "curved", False):
            return source, source + far * (
                np.cos(fan)[:, None] * ahead + np.sin(fan)[:, None] * across
            )
        return source, source + far * ahead + s[:, None] * across

    figure = new_figure((6.4, 6.4), layout="constrained")
    axes = figure.add_subplot()
    axes.add_patch(
        Rectangle(
            (-width / 2, -height / 2),
            width,
            height,
            facecolor="#eeeeee",
            edgecolor=_VOLUME,
            label="image",
        )
    )
    axes.text(-width / 2, height / 2, " row 0", va="top", ha="left", color=_VOLUME, fontsize=8)
    first, detector = view(float(angles[0]), float(shift[0]))
    for end in (0, -1):
        start = first if near is not None else first[end]
        axes.plot(
            *zip(start, detector[end]),
            color=_RAYS,
            lw=1,
            label="outermost rays" if end == 0 else None,
        )
    axes.plot(*detector.T, color=_PANEL, lw=3, solid_capstyle="butt", label="detector, first view")
    axes.annotate(
        "cell 0", detector[0], color=_PANEL, fontsize=8, textcoords="offset points", xytext=(4, 4)
    )
    radius = near if near is not None else reach
    path = radius * np.stack([np.sin(angles), -np.cos(angles)], 1) * (1 if near is not None else -1)
    axes.plot(
        *path.T,
        ".",
        color=_SOURCE,
        ms=3,
        label="source, every view" if near is not None else "start of the rays, every view",
    )
    axes.plot(*path[0], "o", color=_SOURCE, ms=9, label="first view")
    if len(angles) > 1:
        _arrow_2d(axes, radius, float(angles[0]), float(np.median(np.diff(angles))), near is None)
    axes.plot(0, 0, "+", color="black", ms=9)
    axes.margins(0.08)
    axes.set(aspect="equal", xlabel="x (columns)", ylabel="y (against the rows)")
    axes.set_title(str(A), fontsize=10)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def _arrow_2d(axes: Any, radius: float, start: float, step: float, parallel: bool) -> None:
    sign = 1 if step > 0 else -1
    angles = start + sign * np.linspace(0.15, 0.7, 30)
    line = 1.07 * radius * np.stack([np.sin(angles), -np.cos(angles)], 1) * (-1 if parallel else 1)
    axes.plot(*line[:-1].T, color=_TURN, lw=1.5)
    axes.annotate(
        "", line[-1], line[-4], arrowprops={"arrowstyle": "-|>", "color": _TURN, "lw": 1.5}
    )


# -- 3D --------------------------------------------------------------------------------------------


def _figure_3d(A: Scan3D, item: int) -> Any:
    vectors = A.vectors.detach().cpu().numpy()
    vectors = vectors if vectors.ndim == 2 else vectors[item]
    half = np.array([n * size / 2 for n, size in zip(A.volume_shape, A.voxel_size)])[::-1]
    away = 1.6 * float(np.linalg.norm(half))
    source, panel = _scene(vectors, A, away)
    figure = new_figure((11.0, 6.0), layout="constrained")
    places = figure.add_gridspec(1, 2, width_ratios=(1.2, 0.8), wspace=0.12)
    axes = figure.add_subplot(places[0], projection="3d", computed_zorder=False)
    corners = np.array(_CORNERS) * half
    for i, j in _EDGES:
        axes.plot(*np.stack([corners[i], corners[j]]).T, color=_VOLUME, lw=1)
    bottom = min(-half[2], float(panel[..., 2].min()), float(source[:, 2].min()))
    axes.plot([0, 0], [0, 0], [-1.5 * half[2], 1.5 * half[2]], color="black", lw=1, ls="-.")
    _panel_3d(axes, panel[0])
    _rays_3d(axes, vectors[0], panel[0], source[0], A, away)
    path = source if not A.parallel else panel.mean((1, 2))
    axes.plot(*path.T, ".", color=_SOURCE, ms=3)
    axes.plot(*path[:1].T, "o", color=_SOURCE, ms=9)
    if len(path) > 1:
        _arrow_3d(axes, path)
    _box_3d(axes, np.concatenate([path, panel[0].reshape(-1, 3), corners]), bottom)
    axes.set_title(str(A), fontsize=10)
    _draw_seen(figure.add_subplot(places[1]), A, vectors)
    _legend_3d(figure, A)
    return figure


def _scene(vectors: Any, A: Scan3D, away: float) -> tuple[Any, Any]:
    """Return sources (V, 3) and points on the panels (V, rows, columns, 3).

    For parallel beams both are at a finite distance.
    """
    s, d, u, v = np.split(vectors, 4, axis=1)
    rows, columns = A.detector_shape
    r, c = np.linspace(-rows / 2, rows / 2, 5), np.linspace(-columns / 2, columns / 2, 25)
    r, c = r[None, :, None, None], c[None, None, :, None]
    s, d, u, v = (t[:, None, None] for t in (s, d, u, v))
    if A.parallel:
        towards = s / np.linalg.norm(s, axis=-1, keepdims=True)
        # The centre of the panel may lie anywhere along the rays.
        d = d - (d * towards).sum(-1, keepdims=True) * towards + away * towards
        return (d - 2 * away * towards)[:, 0, 0], d + c * u + r * v
    if A.curved:
        e = d - s
        radius, wide = (
            np.linalg.norm(e, axis=-1, keepdims=True),
            np.linalg.norm(u, axis=-1, keepdims=True),
        )
        angle = c * wide / radius
        return s[:, 0, 0], s + np.cos(angle) * e + np.sin(angle) * radius / wide * u + r * v
    return s[:, 0, 0], d + c * u + r * v


def _panel_3d(axes: Any, panel: Any) -> None:
    axes.plot_surface(*np.moveaxis(panel, -1, 0), color=_PANEL, alpha=0.25, shade=False)
    edge = np.concatenate([panel[0], panel[:, -1], panel[-1, ::-1], panel[::-1, 0]])
    axes.plot(*edge.T, color=_PANEL, lw=1.5)
    axes.text(*panel[0, 0], "cell (0, 0)", color=_PANEL, fontsize=8, ha="center", va="top")


def _rays_3d(axes: Any, vectors: Any, panel: Any, source: Any, A: Scan3D, away: float) -> None:
    for corner in (panel[0, 0], panel[0, -1], panel[-1, 0], panel[-1, -1]):
        start = source
        if A.parallel:
            start = corner - 2 * away * vectors[:3] / np.linalg.norm(vectors[:3])
        axes.plot(*np.stack([start, corner]).T, color=_RAYS, lw=1)


def _arrow_3d(axes: Any, path: Any) -> None:
    """Draw an arrow from the first view along the path.

    It is about an eighth of the extent of the path long.
    """
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    length = 0.12 * max(float(np.ptp(path, axis=0).max()), 1e-12)
    if not steps.any():
        return
    end = min(int(np.searchsorted(np.cumsum(steps), length)) + 1, len(path) - 1)
    step = path[end] - path[0]
    size = np.linalg.norm(step)
    if size > 0:
        axes.quiver(
            *path[0], *(step / size * max(size, length)), color=_TURN, lw=2, arrow_length_ratio=0.35
        )


def _box_3d(axes: Any, points: Any, bottom: float) -> None:
    low, high = points.min(0), points.max(0)
    low[2] = min(low[2], bottom)
    # Flat scenes keep a height that shows the panel.
    size = np.maximum(high - low, 0.25 * (high - low).max())
    middle = (low + high) / 2
    xlim, ylim, zlim = np.stack([middle - size / 2, middle + size / 2], 1)
    axes.set(xlim=xlim, ylim=ylim, zlim=zlim)
    axes.set_box_aspect(size)
    axes.view_init(elev=24, azim=-58)
    axes.set_xlabel("x (columns)", fontsize=8)
    axes.set_ylabel("y (rows)", fontsize=8)
    axes.set_zlabel("z (slices)", fontsize=8)
    axes.tick_params(labelsize=7)


def _draw_seen(axes: Any, A: Scan3D, vectors: Any) -> None:
    """Draw the edges of the volume on the panel in a few views."""
    import torch
    from matplotlib.patches import Rectangle

    from invtoolbox.operators.tomography.scan_checks import half_size, seen_cells

    rows, columns = A.detector_shape
    axes.add_patch(Rectangle((-0.5, -0.5), columns, rows, facecolor="#d6e6f2", edgecolor=_PANEL))
    views = A._views(torch.from_numpy(vectors), torch.from_numpy(vectors))
    corners = torch.tensor(_CORNERS, dtype=torch.float64) * half_size(views).cpu()
    row, column, depth = (t.numpy() for t in seen_cells(views, corners))
    drawn = sorted({0, len(vectors) // 3, 2 * len(vectors) // 3})
    for rank, k in enumerate(drawn):
        if (depth[k] <= 0).any():
            continue
        for i, j in _EDGES:
            axes.plot(
                column[k, [i, j]],
                row[k, [i, j]],
                color=_SOURCE if rank == 0 else _VOLUME,
                lw=1.5 if rank == 0 else 0.7,
                alpha=1 if rank == 0 else 0.5,
            )
    axes.plot((columns - 1) / 2, (rows - 1) / 2, "+", color=_PANEL)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.set(xlabel="panel column", ylabel="panel row")
    axes.set_title(f"the volume seen by the panel, views {', '.join(map(str, drawn))}", fontsize=10)


def _legend_3d(figure: Any, A: Scan3D) -> None:
    from matplotlib.lines import Line2D

    path = "panel" if A.parallel else "source"
    entries = [
        ("o", "none", _SOURCE, f"{path}, first view"),
        (".", "none", _SOURCE, f"{path}, every view"),
        ("none", "-", _TURN, "order of the views"),
        ("none", "-", _PANEL, "panel, first view"),
        ("none", "-", _RAYS, "rays to its corners"),
        ("none", "-", _VOLUME, "volume"),
        ("none", "-.", "black", "axis of rotation"),
    ]
    handles = [
        Line2D([], [], marker=marker, ls=line, color=color, label=label)
        for marker, line, color, label in entries
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
