"""Changes of the detector and of the views of a measurement; its geometry changes along with it.

`extend_truncated` continues projections of an object wider than the detector, so that filtered
back-projection shows no cupping. The other functions bin or crop the detector and select views.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.datasets import Geometry3D, Measurement
from invtoolbox.datasets.scans.geometry_file import check_is_2d
from invtoolbox.errors import InputError
from invtoolbox.measurements.sinogram import Sinogram
from invtoolbox.operators.tomography.scan_2d import Scan

#: Number of further fits of the ellipse, without the inclusions that a coarse image shows, and the
#: most cells and the views of the coarse image.
_FITS, _CELLS, _VIEWS = 2, 96, 180
#: Least arc of the views of a coarse image.
_HALF_TURN = math.radians(150)


@overload
def extend_truncated(measurement: Measurement, cells: int | None = None) -> Measurement: ...
@overload
def extend_truncated(
    measurement: Tensor, cells: int | None = None, *, operator: Scan
) -> tuple[Tensor, Scan]: ...
def extend_truncated(
    measurement: Measurement | Tensor, cells: int | None = None, *, operator: Scan | None = None
) -> Measurement | tuple[Tensor, Scan]:
    r"""Extend truncated projections smoothly on both sides of the detector.

    Filtered back-projection treats line integrals beyond the detector as 0. Its filter turns the
    step at the edge into a bright rim and a shift of the values inside. Here a view continues by
    the mean of two guesses. The first one is a homogeneous ellipse with the line integrals ``E``,
    fitted to all views, and again after a coarse filtered back-projection of the longer views has
    shown what differs from it inside the field of view. The second one is the mirror image of the
    view, as far as the ellipse reaches:

    .. math:: e_k = \tfrac{1}{2} \max(E_k + (y_0 - E_0) f_k(n), 0)
              + \tfrac{1}{2} \max(2 y_0 - y_k, 0) f_k(1.5 r), \quad
              f_k(m) = \cos^2(\pi k / (2 m + 2)) \text{ for } k \le m,

    at ``k`` of ``n`` cells beyond the edge of value :math:`y_0`, of an ellipse that reaches ``r``
    cells beyond it. Of a 3D scan the ellipse is that of the plane of the source, with one density
    per row of the panel. A scan without such a plane (helices, poses per view) is continued by
    mirror images with ``n`` in place of ``1.5 r``.

    The values inside the field of view become usable, but their level remains a guess, which only
    information from outside can determine. A solver needs an image that covers the object. It takes
    the level from the added cells if they have a small weight, such as
    ``LeastSquares(weights=w)`` with 1 in the measured cells and 0.01 in the added ones.

    Args:
        measurement: line integrals ``(1, 1, view, *detector)`` and their geometry, of a 2D or a 3D
            scan; or the tensor alone, ``(batch, channel, view, *detector)``, with its operator.
        cells: number ``n`` of cells added on each side; half the detector by default.
        operator: operator of a tensor, any 2D or 3D scan.

    Returns:
        The longer measurement; of a tensor, the longer tensor and the operator of its detector.

    Sources: Hsieh et al., Medical Physics 31, 2004, and Sourbelle, Kachelriess and Kalender,
    European Radiology 15, 2005 (cylinders and ellipses of water); Ohnesorge, Flohr, Schwarz, Heiken
    and Bae, Medical Physics 27, 2000 (mirror images).

    >>> from invtoolbox.datasets import Geometry
    >>> g = Geometry("parallel", angles=(0.0, 1.0, 2.0), num_detectors=5, image_shape=(4, 4))
    >>> disc = 2 * (4.5**2 - torch.arange(-2.0, 3.0).square()).sqrt()
    >>> extend_truncated(Measurement(disc.expand(1, 1, 3, 5), g), 2).y[0, 0, 0].round(decimals=1)
    tensor([3.0000, 6.1000, 8.1000, 8.8000, 9.0000, 8.8000, 8.1000, 6.1000, 3.0000])
    """
    y = measurement if isinstance(measurement, Tensor) else measurement.y
    if isinstance(measurement, Tensor) and not isinstance(operator, Scan):
        raise InputError(
            f"extend_truncated needs the operator of a tensor, a scan, got {operator!r}; pass operator="
        )
    count = y.shape[-1]
    n = count // 2 if cells is None else int(cells)
    check_range("extend_truncated", f"[1, {count - 1}]", cells=n)
    scan: Any = operator if isinstance(measurement, Tensor) else measurement.geometry
    if not isinstance(scan, Scan):
        scan = scan.operator()
    outside = [_continue(item[None], scan, n) for item in y]
    left, right = (torch.cat(side) for side in zip(*outside))
    y = torch.cat([left, y, right], -1)
    if isinstance(measurement, Tensor):
        assert operator is not None
        return y, operator.widen(n)
    geometry: Any = measurement.geometry
    if isinstance(geometry, Geometry3D):
        panel = (geometry.detector_shape[0], count + 2 * n)
        changed: Any = dataclasses.replace(geometry, detector_shape=panel)
    else:
        geometry = check_is_2d(geometry, "extend_truncated")
        changed = dataclasses.replace(geometry, num_detectors=count + 2 * n)
    return _replace(measurement, y, changed, measurement.noise_std, detector_extended=n)


def _continue(y: Tensor, scan: Scan, cells: int) -> tuple[Tensor, Tensor]:
    """Continue the views of one item to the left and to the right; see `extend_truncated`.

    Args:
        y: line integrals, ``(1, channel, view, *detector)``.
        scan: their operator.
        cells: number of cells on each side.
    """
    plane = None if y.is_complex() else Sinogram.of(y, scan)
    if plane is None or not bool(plane.values.sum() > 0):  # an ellipse has a positive density
        return _beyond(y.flip(-1), None, cells).flip(-1), _beyond(y, None, cells)
    ellipse = _fit_ellipse(plane, 3)
    coarse = plane.coarsen(_CELLS, _VIEWS)
    if plane.arc >= _HALF_TURN and coarse.field_of_view > 8 * coarse.spacing:
        for _ in range(_FITS):
            ellipse = _fit_ellipse(_remove_inclusions(coarse, ellipse), 1, ellipse)
    return _sides(y, plane, ellipse, cells)


def _remove_inclusions(plane: Sinogram, ellipse: np.ndarray) -> Sinogram:
    """Return the line integrals of the object without what differs from its most frequent value.

    Inside the field of view, a filtered back-projection of the longer views shows the difference.
    """
    count = plane.values.shape[1]
    y = plane.values.float()[None, None]
    left, right = _sides(y, plane, ellipse, count // 2)
    longer = torch.cat([left, y, right], -1)
    wide = plane.change(values=longer[0, 0]).operator(count, plane.field_of_view)
    x = wide.pseudo_inverse(longer)
    line = torch.arange(count) - (count - 1) / 2
    inside = torch.hypot(line[:, None], line[None, :]) < count / 2 - 1
    inclusions = torch.where(inside, x - x[..., inside].median(), 0.0)
    projected = plane.operator(count, plane.field_of_view)(inclusions)
    return plane.change(values=plane.values - projected[0, 0])


def _sides(y: Tensor, plane: Sinogram, ellipse: np.ndarray, cells: int) -> tuple[Tensor, Tensor]:
    """Continue views by the mean of an ellipse and of the mirror image of the view.

    Args:
        y: line integrals, ``(1, channel, view, *detector)``.
        plane: geometry of the rays.
        ellipse: result of `_fit_ellipse`.
        cells: number of cells on each side.
    """
    views, count = plane.values.shape
    longer = plane.change(values=plane.values.new_zeros(views, count + 2 * cells))
    E = torch.from_numpy(_project_ellipse(longer, ellipse)).to(y)
    E = E.view(views, *[1] * (y.ndim - 4), -1)
    # One density per channel and row of the panel.
    sums = y.sum((2, y.ndim - 1), keepdim=True)
    E = E * (sums / E[..., cells:-cells].sum((0, -1)).clamp_min(1e-30))
    return _beyond(y.flip(-1), E.flip(-1), cells).flip(-1), _beyond(y, E, cells)


def _beyond(y: Tensor, E: Tensor | None, cells: int) -> Tensor:
    """Continue views beyond their last cell.

    Args:
        y: line integrals of the object.
        E: line integrals of the ellipse on the longer detector, if there is one.
        cells: number of cells.
    """
    k = torch.arange(1, cells + 1, dtype=y.real.dtype, device=y.device)

    def fade(reach: Tensor) -> Tensor:
        return torch.cos(math.pi * k / (2 * reach + 2)).square() * (k <= reach)

    whole = torch.full_like(k[:1], cells)
    mirror = (2 * y[..., -1:] - y[..., -1 - cells : -1].flip(-1)).clamp_min(0)
    if E is None:
        return mirror * fade(whole)
    ahead, edge = E[..., -cells:], E[..., -1 - cells : -cells]
    ellipse = (ahead + (y[..., -1:] - edge) * fade(whole)).clamp_min(0)
    reach = (1.5 * (ahead > 0).sum(-1, keepdim=True)).clamp(1, cells)
    return (ellipse + mirror * fade(reach)) / 2


def _fit_ellipse(plane: Sinogram, power: int, start: np.ndarray | None = None) -> np.ndarray:
    """Fit a homogeneous ellipse to the line integrals of one plane.

    Args:
        plane: line integrals and their geometry.
        power: rays count by this power of their distance from the axis, because the outer ones show
            how far the object reaches, and the inner ones its inclusions.
        start: another result to begin with.

    Returns:
        Density, two half axes, angle of the first one, and the centre (x, y).
    """
    from scipy.optimize import least_squares

    few = plane.change(
        values=plane.values[:: max(1, len(plane.angles) // 30)],
        angles=plane.angles[:: max(1, len(plane.angles) // 30)],
    )
    reach = float(plane.distances.abs().max())
    guess = [float(plane.values.max()) / (2.6 * reach), 1.37 * reach, 1.3 * reach, 0.3, 0.0, 0.0]
    low = [0.0, reach / 4, reach / 4, -math.inf, -reach, -reach]
    high = [math.inf, 3 * reach, 3 * reach, math.inf, reach, reach]
    target, weights = few.values.numpy(), (plane.distances / reach).abs().pow(power).numpy()
    return np.asarray(
        least_squares(
            lambda ellipse: ((_project_ellipse(few, ellipse) - target) * weights).ravel(),
            # A coarser plane has a shorter reach, so the last result may be out of its bounds.
            guess if start is None else np.clip(start, low, high),
            bounds=(low, high),
            x_scale=[guess[0], reach, reach, 1.0, reach, reach],
        ).x
    )


def _project_ellipse(plane: Sinogram, ellipse: np.ndarray) -> np.ndarray:
    """Compute the line integrals of a homogeneous ellipse, ``(views, cells)``.

    Args:
        plane: geometry of the rays.
        ellipse: result of `_fit_ellipse`.
    """
    density, a, b, turn, x, y = ellipse
    normal = plane.normals.numpy()
    away = plane.distances.numpy() - x * np.cos(normal) - y * np.sin(normal)
    # The chord at the distance s, of an ellipse with the shadow w: 2 a b sqrt(w^2 - s^2) / w^2.
    shadow = np.square(a * np.cos(normal - turn)) + np.square(b * np.sin(normal - turn))
    chord = 2 * a * b * np.sqrt(np.maximum(shadow - np.square(away), 0)) / shadow
    return np.asarray(density * chord)


def bin_detector(
    measurement: Measurement, factor: int, average: str = "transmission"
) -> Measurement:
    """Join groups of ``factor`` detector cells; remaining cells at the end are cut off.

    Args:
        measurement: line integrals ``(1, 1, view, cell)``, without unit, and their geometry.
        factor: number of cells that become one cell.
        average: ``"transmission"`` averages ``exp(-y)``, as a larger cell would have counted;
            ``"line integral"`` averages ``y``. They differ if line integrals vary within a cell.

    Returns:
        a measurement whose geometry has fewer, wider cells at the same places, and whose noise is
        smaller by ``1 / sqrt(factor)``.

    >>> from invtoolbox.datasets import Geometry
    >>> g = Geometry("parallel", angles=(0.0,), num_detectors=5, image_shape=(4, 4))
    >>> m = bin_detector(Measurement(torch.ones(1, 1, 1, 5), g), 2)
    >>> m.y.shape, m.geometry.detector_spacing, m.geometry.detector_shift
    (torch.Size([1, 1, 1, 2]), 2.0, -0.5)
    """
    geometry = check_is_2d(measurement.geometry, "bin_detector")
    factor = int(factor)
    check_range("bin_detector", f"[1, {geometry.num_detectors}]", factor=factor)
    check_choice("bin_detector", ("transmission", "line integral"), average=average)
    count = geometry.num_detectors // factor
    groups = measurement.y[..., : count * factor].unflatten(-1, (count, factor))
    if average == "transmission":
        # Relative to the smallest line integral, so that strong attenuation does not underflow.
        least = groups.amin(-1, keepdim=True)
        y = least.squeeze(-1) - (least - groups).exp().mean(-1).log()
    else:
        y = groups.mean(-1)
    lost = geometry.num_detectors - count * factor
    changed = dataclasses.replace(
        geometry,
        num_detectors=count,
        detector_spacing=geometry.detector_spacing * factor,
        detector_shift=geometry.detector_shift - lost / 2 * geometry.detector_spacing,
    )
    noise = None if measurement.noise_std is None else measurement.noise_std / math.sqrt(factor)
    return _replace(measurement, y, changed, noise, detector_binning=factor)


def crop_detector(measurement: Measurement, start: int, stop: int) -> Measurement:
    """Crop the detector to the cells ``start`` to ``stop - 1``.

    The cells keep their places, because the shift of the detector changes too.

    Args:
        measurement: line integrals ``(1, 1, view, cell)`` and their geometry.
        start: first cell that is kept.
        stop: first cell after those that are kept.

    >>> from invtoolbox.datasets import Geometry
    >>> g = Geometry("parallel", angles=(0.0,), num_detectors=6, image_shape=(4, 4))
    >>> cropped = crop_detector(Measurement(torch.zeros(1, 1, 1, 6), g), 0, 4)
    >>> cropped.geometry.axis_column  # unchanged, counted from cell 0
    2.5
    """
    geometry = check_is_2d(measurement.geometry, "crop_detector")
    cells = geometry.num_detectors
    if not 0 <= start < stop <= cells:
        raise InputError(
            f"crop_detector keeps cells from start to stop - 1 within 0..{cells}, got {start} and "
            f"{stop}"
        )
    # The shift refers to the middle of the detector, which moves to that of the cells that remain.
    shift = ((start + stop - 1) / 2 - (cells - 1) / 2) * geometry.detector_spacing
    changed = dataclasses.replace(
        geometry, num_detectors=stop - start, detector_shift=geometry.detector_shift + shift
    )
    y = measurement.y[..., start:stop]
    return _replace(measurement, y, changed, measurement.noise_std, detector_cells=(start, stop))


def select_views(measurement: Measurement, views: Sequence[int] | slice | Tensor) -> Measurement:
    """Select views, with their angles, by index or slice and in the given order.

    >>> from invtoolbox.datasets import Geometry
    >>> g = Geometry("parallel", angles=(0.0, 0.5, 1.0), num_detectors=6, image_shape=(4, 4))
    >>> select_views(Measurement(torch.zeros(1, 1, 3, 6), g), slice(None, None, 2)).geometry.angles
    (0.0, 1.0)
    """
    geometry = check_is_2d(measurement.geometry, "select_views")
    count = len(geometry.angles)
    indices = range(count)[views] if isinstance(views, slice) else [int(k) for k in views]
    if not len(indices) or not all(-count <= k < count for k in indices):
        raise InputError(f"select_views takes at least one index of the {count} views, got {views}")
    indices = [k % count for k in indices]
    changed = dataclasses.replace(geometry, angles=tuple(geometry.angles[k] for k in indices))
    y = measurement.y.index_select(-2, torch.tensor(indices, device=measurement.y.device))
    return _replace(measurement, y, changed, measurement.noise_std, views=tuple(indices))


def _replace(
    measurement: Measurement, y: Tensor, geometry: Any, noise_std: float | None, **facts: Any
) -> Measurement:
    return dataclasses.replace(
        measurement, y=y, geometry=geometry, noise_std=noise_std, meta={**measurement.meta, **facts}
    )
