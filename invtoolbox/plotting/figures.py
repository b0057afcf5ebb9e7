"""Figures of solutions, meshes and registrations, and the pictures of a posterior in a report.

The figures are made by matplotlib without pyplot, so no global state changes and no window opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.plotting import page
from invtoolbox.plotting.canvas import new_figure
from invtoolbox.plotting.charts import line_chart
from invtoolbox.plotting.comparison import under_measurements
from invtoolbox.plotting.pixels import Window, heat, plane, symmetric_window, to_bytes, window_of
from invtoolbox.posteriors.base import Posterior
from invtoolbox.posteriors.conformal import Calibration, Scores, coverage_curve, residual_scores

if TYPE_CHECKING:
    from invtoolbox.solution import Solution


def solution_figure(solution: Solution, reference: Tensor | None = None, item: int = 0) -> Any:
    """Draw reconstruction, measurements, residual and convergence of one item.

    The result is a ``matplotlib.figure.Figure``: ``figure.savefig("picture.png")`` writes it; a
    notebook shows it.

    Args:
        solution: a solution of `solve` or of `Solution.load`.
        reference: the true images; adds the reference and the error.
        item: number of the item in the batch.
    """
    truth = _reference(solution, reference)
    images = _images(solution, truth, item)
    columns = len(images) + 1
    figure = new_figure((3.4 * columns, 3.5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis, (name, picture, window, signed) in zip(axes, images):
        pixels = (
            picture
            if picture.ndim == 2
            else np.clip((picture - window.low) / (window.high - window.low), 0, 1)
        )
        drawn = axis.imshow(
            pixels,
            cmap="RdBu_r" if signed else "gray",
            vmin=window.low,
            vmax=window.high,
            aspect="equal" if max(pixels.shape[:2]) < 4 * min(pixels.shape[:2]) else "auto",
        )
        axis.set(title=name, xticks=[], yticks=[])
        if picture.ndim == 2:
            figure.colorbar(drawn, ax=axis, shrink=0.8)
    _convergence(axes[-1], solution, item)
    return figure


def _images(
    solution: Solution, truth: Tensor | None, item: int
) -> list[tuple[str, np.ndarray, Any, bool]]:
    estimate = plane(solution.x[item]) if isinstance(solution.x, Tensor) else None
    reference = None if truth is None else plane(truth[min(item, len(truth) - 1)])
    images: list[tuple[str, np.ndarray, Any, bool]] = []
    if estimate is not None:
        window = window_of(estimate if reference is None else reference)
        images.append(("reconstruction", estimate, window, False))
        if reference is not None:
            error = (estimate - reference).mean(-1) if estimate.ndim == 3 else estimate - reference
            images += [
                ("reference", reference, window, False),
                ("error", error, symmetric_window(error), True),
            ]
    measured, predicted = solution.measured_and_predicted()
    if isinstance(measured, tuple):
        measured, predicted = measured[0], predicted[0]
    y, fitted = (plane(t[item]) if isinstance(t, Tensor) else None for t in (measured, predicted))
    if y is not None and fitted is not None:
        residual = (fitted - y).mean(-1) if y.ndim == 3 else fitted - y
        images += [
            ("measurements", y, window_of(y), False),
            ("residual", residual, symmetric_window(residual), True),
        ]
    return images


def _convergence(axis: Any, solution: Solution, item: int) -> None:
    axis.set(title="convergence", xlabel="iteration")
    for name in ("objective", "certificate"):
        curve = solution.history[name][:, item].detach().cpu().double().numpy()
        finite = curve[np.isfinite(curve)]
        if finite.size:
            axis.plot(np.arange(1, len(curve) + 1), curve, label=name)
            if (finite > 0).all():
                axis.set_yscale("log")
    if axis.lines:
        axis.legend(frameon=False)


_LIGHT = (0.4, 0.6, 0.7)


def mesh_figure(
    meshes: Sequence[Any],
    titles: Sequence[str] = (),
    up: int = 1,
    turn: float = 35.0,
    colors: Sequence[Tensor | None] = (),
) -> Any:
    """Draw meshes in a panel each, shaded, from one viewpoint and at one scale.

    Args:
        meshes: one mesh or several, each a `geometry.Mesh`, ``(vertices, faces)``, or an object of
            trimesh, Open3D or PyTorch3D.
        titles: titles of the panels.
        up: axis that points up, 0 to 2.
        turn: rotation about that axis, degrees.
        colors: values of the vertices of each mesh, ``(N,)`` in [0, 1], shown from yellow to red;
            None for grey.

    >>> import torch
    >>> from invtoolbox.geometry.meshes import Mesh
    >>> figure = mesh_figure([Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))], ["a triangle"])
    >>> len(figure.axes)
    1
    """
    from invtoolbox.geometry.meshes import Mesh

    order = [(up + 1) % 3, (up + 2) % 3, up]  # right, along the view, up: a right-handed frame
    angle = np.deg2rad(turn)
    frame = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    tilt = np.deg2rad(12.0)
    frame = (
        np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        @ frame
    )
    meshes = [Mesh.of(mesh) for mesh in meshes]
    turned = [mesh.vertices.detach().cpu().double().numpy()[:, order] @ frame.T for mesh in meshes]
    low, high = np.min([v.min(0) for v in turned], 0), np.max([v.max(0) for v in turned], 0)
    wide, tall = high[0] - low[0], high[2] - low[2]
    height = min(7.0, 4.2 * max(tall, 1e-9) / max(wide, 1e-9) + 0.5)
    figure = new_figure((4.2 * len(meshes), height), layout="constrained")
    margin = 0.04 * max(wide, tall)
    for k, (mesh, vertices) in enumerate(zip(meshes, turned)):
        axes = figure.add_subplot(1, len(meshes), k + 1)
        values = colors[k] if k < len(colors) else None
        axes.add_collection(_shaded_faces(vertices, mesh.faces.cpu().numpy(), values))
        axes.set(
            xlim=(low[0] - margin, high[0] + margin),
            ylim=(low[2] - margin, high[2] + margin),
            aspect="equal",
            title=titles[k] if k < len(titles) else "",
        )
        axes.axis("off")
    return figure


def _shaded_faces(vertices: np.ndarray, faces: np.ndarray, values: Tensor | None) -> Any:
    """Return the triangles of a mesh, from back to front, as a ``PolyCollection``.

    Args:
        vertices: vertices in the axes of the viewpoint: right, along the view, up.
        faces: triangles, ``(F, 3)``.
        values: values of the vertices, see `mesh_figure`.
    """
    import matplotlib
    from matplotlib.collections import PolyCollection

    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    normals[normals[:, 1] > 0] *= -1  # towards the viewer at negative depth
    light = np.array(_LIGHT) / np.linalg.norm(_LIGHT)
    shade = 0.35 + 0.65 * np.clip(normals @ (light * [1, -1, 1]), 0, 1)
    base = np.full((len(faces), 3), 0.8)
    if values is not None:
        means = values.detach().cpu().double().numpy()[faces].mean(1)
        base = matplotlib.colormaps["YlOrRd"](means)[:, :3]
    back_to_front = np.argsort(-corners[:, :, 1].mean(1))
    return PolyCollection(
        corners[back_to_front][:, :, [0, 2]],
        facecolors=(base * shade[:, None])[back_to_front],
        edgecolors="face",
        linewidths=0.2,
    )


#: Number of samples next to the mean, and of samples behind the slider.
BESIDE, BEHIND = 4, 16
#: Number of groups of pixels with similar standard deviation in the chart of errors.
_GROUPS = 12


def uncertainty(
    posterior: Posterior | None,
    truth: Tensor | None,
    calibration: Calibration | None,
    shown: int,
    unit: str = "",
) -> list[str]:
    """Return the part of a report about a posterior; it is empty without a posterior of pictures.

    Args:
        posterior: posterior of all items.
        truth: the reference, ``(batch or 1, channel, *space)``.
        calibration: calibration of its intervals.
        shown: number of items with pictures; the curves are over all items.
        unit: unit of the images.
    """
    if posterior is None or plane(posterior.mean[0]) is None:
        return []
    mean, std = posterior.mean.detach().cpu(), posterior.std.detach().cpu()
    # A sampler makes new draws, each as slow as those of its run; so it makes no more of them.
    samples = posterior.sample(min(BEHIND, posterior.number)).detach().cpu()
    if truth is not None and truth.shape[1:] != mean.shape[1:]:
        truth = None  # the reference is a part of the image alone
    body = ["<h2>Uncertainty</h2>"]
    several = len(mean) > 1
    curves = (
        [] if truth is None else _curves(posterior, truth.to(mean).expand_as(mean), calibration)
    )
    for k in range(min(len(mean), shown)):
        if several:
            body.append(f"<h3>Item {k}</h3>")
        reference = None if truth is None else truth[min(k, len(truth) - 1)]
        body += _pictures(mean[k], std[k], samples[:, k], reference, unit)
        if curves and not several:
            body.append(page.charts(curves))
    if several and curves:
        body += [f"<h3>All {len(mean)} items</h3>", page.charts(curves)]
    return body


def _pictures(
    mean: Tensor, std: Tensor, samples: Tensor, reference: Tensor | None, unit: str
) -> list[str]:
    """Return rows of pictures of a posterior.

    The first one has mean, standard deviation, error and a slider over samples, the second one some
    samples side by side.
    """
    true = None if reference is None else plane(reference)
    figures, window = deviation_pictures(mean, std, true, unit=unit)
    drawn = [to_bytes(p, window) for sample in samples if (p := plane(sample)) is not None]
    figures.append(
        page.slider(drawn, "Samples", "Stable parts are certain; parts that change are not.")
    )
    some = [
        page.picture(p, f"Sample {k + 1}", "in the window of the mean")
        for k, p in enumerate(drawn[:BESIDE])
    ]
    return [page.row(figures, len(figures)), page.row(some, BESIDE)]


def deviation_pictures(
    mean: Tensor, std: Tensor, truth: np.ndarray | None, caption: str = "", unit: str = ""
) -> tuple[list[str], Window]:
    """Return figures of mean, standard deviation and error, and the window of the mean.

    Args:
        mean: mean of a posterior, ``(channel, rows, columns)``.
        std: its standard deviation.
        truth: the true picture; None leaves the error out.
        caption: text next to the mean.
        unit: unit of the image.
    """
    middle, spread = plane(mean), plane(std)
    assert middle is not None and spread is not None
    window = window_of(middle if truth is None else truth)
    # Standard deviation and error share a window, so that they can be compared.
    error = None if truth is None else abs(middle - truth)
    largest = window_of(spread).high
    if error is not None:
        largest = max(largest, window_of(error).high / 2)
    heated = Window(0.0, largest)
    bar = page.color_bar(heated, "heat", unit)
    figures = [
        page.shades(middle, window, "Mean", caption, unit=unit),
        page.picture(heat(spread, heated), "Standard deviation", "per pixel", bar=bar),
    ]
    if error is not None:
        figures.append(
            page.picture(heat(error, heated), "Error of the mean", "its magnitude", bar=bar)
        )
    return figures, window


def _curves(posterior: Posterior, truth: Tensor, calibration: Calibration | None) -> list[str]:
    """Return charts of the coverage of intervals and of the size of errors, over all items."""
    scores: Scores = residual_scores([posterior], [truth])
    levels, actual = coverage_curve(scores)
    lines, names = [levels * 100, actual * 100], ["as it should be", "as it is"]
    if calibration is not None:
        floored = residual_scores([posterior], [truth], calibration.scores.floor)
        lines.append(coverage_curve(floored, levels, calibration)[1] * 100)
        names.append("calibrated")
    coverage = line_chart(
        [line.numpy() for line in lines],
        "pixels within, %",
        names,
        log=False,
        axis="the interval says, %",
        places=(levels * 100).tolist(),
        low_legend=True,
    )
    caption = f"Of the pixels, {100 * scores.below(1.959964):.1f} % lie within the 95 % interval"
    if calibration is not None:
        caption += (
            f", {100 * float(calibration.coverage(posterior, truth, 0.95).mean()):.1f} % once it "
            "is calibrated"
        )
    figures = [page.chart(coverage, "Coverage", caption + ".")] if coverage is not None else []
    stated, actual = grouped_errors(
        posterior.std.detach().cpu(), (posterior.mean.detach().cpu() - truth)
    )
    errors = (
        line_chart(
            [stated.numpy(), actual.numpy()],
            "error",
            ["as it should be", "as it is"],
            log=False,
            axis="standard deviation",
            places=stated.tolist(),
            low_legend=True,
        )
        if len(stated) > 1
        else None
    )
    if errors is not None:
        caption = "Root mean square error of pixels of about the same standard deviation."
        figures.append(page.chart(errors, "Calibration", caption))
    return figures


def grouped_errors(std: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Group pixels of similar standard deviation.

    Args:
        std: standard deviation of every pixel.
        error: error of every pixel.

    Returns:
        Root mean squares of the standard deviation and of the error, ``(groups,)`` each.

    >>> std = torch.linspace(0.1, 1.0, 1000)
    >>> stated, actual = grouped_errors(std, 2 * std)
    >>> bool((actual / stated - 2).abs().max() < 1e-5)
    True
    """
    order = std.flatten().argsort()
    groups = [g for g in order.chunk(_GROUPS) if len(g)]
    stated, actual = (
        torch.stack([sizes.flatten()[g].double().square().mean().sqrt() for g in groups])
        for sizes in (std, error)
    )
    apart = torch.cat([torch.ones(1, dtype=torch.bool), stated.diff() > 1e-9 * stated.max()])
    return stated[apart], actual[apart]


def _reference(solution: Solution, reference: Any) -> Tensor | None:
    if reference is None:
        return None
    if not isinstance(solution.x, Tensor):
        raise InputError(
            "a reference is compared with images, and the solution is a "
            f"{type(solution.x).__name__}"
        )
    try:
        truth = torch.as_tensor(reference).detach().cpu()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"a reference is an image as an array or a tensor, got {type(reference).__name__}; a "
            "figure is saved by solution.plot().savefig(path)"
        ) from error
    expected = tuple(solution.x.shape)
    # Axes of length 1 may be left out, as in the measurements.
    missing = expected[: max(0, len(expected) - truth.ndim)]
    if all(n == 1 for n in missing):
        truth = truth[(None,) * len(missing)]
    measured = tuple(under_measurements(solution, solution.x).shape)
    if truth.ndim == len(measured) and tuple(truth.shape[1:]) == measured[1:]:
        expected = measured
    if (
        truth.ndim != len(expected)
        or tuple(truth.shape[1:]) != expected[1:]
        or truth.shape[0] not in (1, expected[0])
    ):
        raise InputError(
            f"the reference has shape {tuple(truth.shape)}, expected {expected} as the solution, or "
            "one item"
        )
    return truth


#: Number of tiles of the checkerboard, and of lines of the grid, along the longer side.
_TILES, _LINES = 8, 28


def registration_figure(
    images: Sequence[Tensor],
    displacement: Tensor,
    jacobian: Tensor,
    spacing: Sequence[float],
) -> Any:
    """Draw a registration; of volumes, the three middle slices, one per row.

    In an overlay the fixed image is cyan and the moving one red, so that equal images are grey.

    Args:
        images: the fixed image, and the moving image on its grid before and after the registration,
            NaN outside of it, ``(*space)`` each.
        displacement: the field, ``(d, *space)``, components along the axes, in the unit of the
            spacing.
        jacobian: Jacobian determinant, ``(*space)``.
        spacing: distance of neighbours along every axis.
    """
    shape = images[0].shape
    normals: list[int | None] = [0, 1, 2] if len(shape) == 3 else [None]
    figure = new_figure((16, 3.4 * len(normals)), layout="constrained")
    titles = ("overlay before", "overlay after", "checkerboard", "deformed grid", "Jacobian")
    scaled = [_normalize(image) for image in images]
    for number, normal in enumerate(normals):
        axes = [k for k in range(len(shape)) if k != normal]
        index = tuple(n // 2 if k == normal else slice(None) for k, n in enumerate(shape))
        still, start, end = (image[index] for image in scaled)
        u = [displacement[k][index].detach().cpu().double().numpy() for k in axes]
        change = jacobian[index].detach().cpu().numpy()
        rows, columns = still.shape
        h, w = (spacing[k] for k in axes)
        row, column = np.mgrid[:rows, :columns]
        tile = max(rows, columns) / _TILES
        is_moved = (row // tile + column // tile) % 2 == 1
        panels = [figure.add_subplot(len(normals), 5, 5 * number + k) for k in range(1, 6)]
        # In the planes along the slices the first slice is at the bottom.
        ends = (0, rows * h) if number else (rows * h, 0)
        settings = {"extent": (0, columns * w, *ends), "origin": "lower" if number else "upper"}
        for axis, moving in zip(panels, (start, end)):
            axis.imshow(np.stack([moving, still, still], -1), **settings)
        panels[2].imshow(np.where(is_moved, end, still), cmap="gray", vmin=0, vmax=1, **settings)
        step = max(1, max(rows, columns) // _LINES)
        x, y = (column + 0.5) * w + u[1], (row + 0.5) * h + u[0]
        for lines in ((x[::step].T, y[::step].T), (x[:, ::step], y[:, ::step])):
            panels[3].plot(*lines, color="tab:blue", linewidth=0.5)
        panels[3].set(xlim=(0, columns * w), ylim=ends, aspect="equal")
        shown = panels[4].imshow(change, cmap="RdBu_r", vmin=0, vmax=2, **settings)
        if (change <= 0).any():
            folds = np.ma.masked_where(change > 0, np.ones_like(change))
            panels[4].imshow(folds, cmap="summer", vmin=0, vmax=1, **settings)
        figure.colorbar(shown, ax=panels[4], shrink=0.8, label="folds are yellow")
        for axis, title in zip(panels, titles if number == 0 else [""] * 5):
            axis.set(title=title, xticks=[], yticks=[])
    return figure


def _normalize(image: Tensor) -> np.ndarray:
    """Return an image in [0, 1], between two percentiles, 0 for values that are not finite."""
    values = image.detach().cpu().double().numpy()
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low) - low) / ((high - low) or 1.0)
    return np.asarray(np.clip(scaled, 0, 1))
