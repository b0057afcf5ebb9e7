"""Deconvolve a stack of a microscope by overlapping tiles, from disk to disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.data_terms.poisson import Poisson
from invtoolbox.datasets.volumes.stacks import Metadata, Stack
from invtoolbox.errors import InputError
from invtoolbox.geometry.tiles import Tile, cut
from invtoolbox.jobs.images.tiles import at_ranks, with_bar
from invtoolbox.jobs.job import read_json, write_json
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.parameter_choice import CountSplitting
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.richardson_lucy import RichardsonLucy

#: Ranks of the contrast of the samples from which gain, weight and iterations are chosen, and the
#: largest lengths of a sample.
_RANKS, _SAMPLE = (0.8, 0.9, 1.0), (64, 96, 96)
#: Further voxels of a margin behind half of the kernel.
_FURTHER = 32
#: Bins of the photon transfer curve, standard deviations beyond which a difference is structure, and
#: the variance of a normal variable of variance 1 within them.
_BINS, _OUTLIER, _TRIMMED = 24, 3.0, 0.9733


@dataclass(frozen=True)
class Camera:
    """Photons of a reading are ``(reading - offset) / gain``, of which ``background`` are no image.

    Attributes:
        gain: units of a reading per photon.
        offset: reading without light, less the variance of the read noise over the gain, so that
            the variance of the photons is their mean (Snyder et al., JOSA A 10, 1993).
        background: photons per voxel that do not come from the sample.
    """

    gain: float
    offset: float
    background: float


@dataclass(frozen=True)
class Method:
    """How a stack is deconvolved.

    Attributes:
        prior: ``"tv"`` or ``"none"``, which is Richardson-Lucy.
        weight: weight of total variation; chosen by held-out photons on three samples by default.
        iterations: iterations of every tile; 100 with total variation by default, else those after
            which Richardson-Lucy stops on three samples.
        tile: largest numbers of slices, rows and columns that a tile determines.
        camera: gain, offset and background; estimated where they are None.
        saturation: reading from which a voxel is clipped.
    """

    prior: str = "tv"
    weight: float | None = None
    iterations: int | None = None
    tile: tuple[int, int, int] = (64, 192, 192)
    gain: float | None = None
    offset: float | None = None
    background: float | None = None
    saturation: float | None = None


class TiledStack(Stack):
    """Stack of the files of its tiles, as float32.

    Args:
        folder: folder of the files.
        tiles: tiles of one time and channel.
        shape: lengths of the five axes.
        metadata: metadata of the measured stack.
    """

    def __init__(
        self, folder: Path, tiles: Sequence[Tile], shape: Sequence[int], metadata: Metadata
    ) -> None:
        super().__init__(folder, shape, np.float32, metadata)
        self.tiles = tiles

    def file(self, time: int, channel: int, number: int) -> Path:
        """Return the file of a tile."""
        return self.path / f"tile_{time:05d}_{channel:03d}_{number:06d}.npy"

    def read(self, time: int, channel: int, part: tuple[slice, slice, slice]) -> np.ndarray:
        spans = [range(n)[s] for n, s in zip(self.shape[2:], part)]
        box = np.empty([len(span) for span in spans], np.float32)
        for number, tile in enumerate(self.tiles):
            common = [
                (max(span.start, bounds.start), min(span.stop, bounds.stop))
                for span, bounds in zip(spans, tile.kept)
            ]
            if any(a >= b for a, b in common):
                continue
            values = np.load(self.file(time, channel, number), mmap_mode="r")
            source = tuple(slice(a - k.start, b - k.start) for (a, b), k in zip(common, tile.kept))
            target = tuple(slice(a - s.start, b - s.start) for (a, b), s in zip(common, spans))
            box[target] = values[source]
        return box


def deconvolve_stack(
    stack: Stack, kernels: Sequence[Tensor], method: Method, folder: Path, progress: bool
) -> tuple[TiledStack, list[str]]:
    """Deconvolve every time and channel of a stack by tiles; finished tiles in the folder are kept.

    Every tile is solved together with a margin, half of the kernel and 32 voxels wide, of which
    nothing is kept. Weight, gain and iterations are the same for all tiles of a channel, so that the
    tiles fit.

    Args:
        stack: the stack.
        kernels: one kernel ``(slice, row, column)`` per channel.
        method: how it is deconvolved.
        folder: folder of the tiles.
        progress: whether to show a bar on a terminal.

    Returns:
        The result, in the units of the readings above the offset, and notes.
    """
    space = stack.shape[2:]
    margin = [max(k.shape[axis] for k in kernels) // 2 + _FURTHER for axis in range(3)]
    tiles = list(cut(space, method.tile, margin))
    # An axis that is not cut is as long as the stack.
    whole = [kept == slice(0, n) for kept, n in zip(tiles[0].kept, space)]
    for kernel in kernels:
        if any(k > t and not w for k, t, w in zip(kernel.shape, method.tile, whole)):
            raise InputError(
                f"the PSF of {tuple(kernel.shape)} voxels is larger than a tile of {method.tile}; give "
                "a larger --tile, or a smaller --psf-size"
            )
    result = TiledStack(folder, tiles, stack.shape, stack.metadata)
    plans = [_plan(stack, k, method, c, folder) for c, k in enumerate(kernels)]
    work = [
        (time, channel, number)
        for time in range(stack.shape[0])
        for channel in range(stack.shape[1])
        for number in range(len(tiles))
        if not result.file(time, channel, number).exists()
    ]
    for time, channel, number in with_bar(work, progress):
        tile = tiles[number]
        x = _deconvolve(
            stack, time, channel, tile, kernel=kernels[channel], plan=plans[channel], method=method
        )
        datasets.write_npy(
            result.file(time, channel, number), x[tile.inner].numpy(), overwrite=True
        )
    margins = ", ".join(map(str, margin))
    notes = [f"{len(tiles)} tiles with margins of {margins} voxels per time and channel"]
    for channel, plan in enumerate(plans):
        where = f"channel {channel}: " if len(plans) > 1 else ""
        camera = plan["camera"]
        weight = f", total variation of weight {plan['weight']:.3g}" if plan["weight"] else ""
        notes.append(
            f"{where}gain {camera['gain']:.4g}, offset {camera['offset']:.4g} and a background of "
            f"{camera['background']:.3g} photons{weight}, {plan['iterations']} iterations"
        )
    return result, [*notes, *_count_saturated(stack, method)]


def _plan(stack: Stack, kernel: Tensor, method: Method, channel: int, folder: Path) -> Any:
    """Return camera, weight and iterations of a channel, from its file if there is one."""
    path = folder / f"plan_{channel:03d}.json"
    if path.exists():
        return read_json(path)
    sizes = [max(n, k) for n, k in zip(_SAMPLE, kernel.shape)]
    pieces = list(cut(stack.shape[2:], sizes, 0))
    samples = at_ranks(
        pieces, lambda t: float(np.std(stack.read(0, channel, _box(t)), dtype=float)), _RANKS
    )
    limit = saturation_of(stack, method)
    readings = [stack.read(0, channel, _box(tile)).astype(float) for tile in samples]
    for sample in readings if limit is not None else ():
        sample[sample >= limit] = np.nan
    camera = _camera(readings, method)
    photons = np.concatenate([(r[np.isfinite(r)] - camera.offset) / camera.gain for r in readings])
    plan = {
        "camera": asdict(camera),
        "weight": method.weight,
        "iterations": method.iterations,
        "start": max(float(photons.mean()) - camera.background, 1e-3),
        "smoothing": 1e-2 * float(np.sqrt(np.mean(photons**2))),
    }
    is_tv = method.prior == "tv"
    if (is_tv and method.weight is None) or (not is_tv and method.iterations is None):
        choices = []
        for tile in samples:
            size = [min(n, k) for n, k in zip(tile.shape, kernel.shape)]
            problem, _ = _problem(
                stack, 0, channel, tile, kernel=_crop(kernel, size), camera=camera, method=method
            )
            solver = RichardsonLucy(tau=0 if is_tv else 1, accelerated=True)
            prior = _variation(stack) if is_tv else None
            rule = CountSplitting(iterations=100, sections=3) if is_tv else "auto"
            answer = solve(
                problem, prior, solver, rule,
                max_iterations=1 if is_tv else None, progress=False, check=False,
            )  # fmt: skip
            choices.append(float(answer.regularization) if is_tv else int(answer.iterations))
        plan["weight" if is_tv else "iterations"] = sorted(choices)[len(choices) // 2]
    if is_tv and method.iterations is None:
        plan["iterations"] = 100
    write_json(path, plan)
    return plan


def _deconvolve(
    stack: Stack, time: int, channel: int, tile: Tile, kernel: Tensor, plan: Any, method: Method
) -> Tensor:
    """Return the image of a tile with its margin, in the units of the readings."""
    camera = Camera(**plan["camera"])
    problem, largest = _problem(
        stack, time, channel, tile, kernel=kernel, camera=camera, method=method
    )
    if largest == 0:
        return torch.zeros(tile.shape)
    # Rounding grows where total variation is hardly smooth, so tiles have a larger smoothing.
    # Whatever depends on the tile (a start, factors of an extrapolation) would leave seams.
    solver = RichardsonLucy(
        max_iterations=plan["iterations"],
        tolerance=0.0,
        tau=0,
        accelerated="fixed",
        smoothing=plan["smoothing"],
    )
    start = torch.full((1, *problem.image_shape), plan["start"])
    prior = _variation(stack) if method.prior == "tv" else None
    weight = plan["weight"] if prior is not None else 1.0
    x = solve(problem, prior, solver, weight, initial=start, progress=False, check=False).x
    inside = tuple(
        slice(k - 1 - k // 2, k - 1 - k // 2 + n) for k, n in zip(kernel.shape, tile.shape)
    )
    return x[0, 0][inside] * camera.gain


def _problem(
    stack: Stack,
    time: int,
    channel: int,
    tile: Tile,
    kernel: Tensor,
    camera: Camera,
    method: Method,
) -> tuple[Problem, float]:
    """Return the problem of whole photons in a tile, and the largest of them."""
    readings = np.asarray(stack.read(time, channel, _box(tile)))
    if readings.dtype.kind == "f" and not np.isfinite(readings).all():
        place = ", ".join(f"{s.start}:{s.stop}" for s in tile.seen)
        raise InputError(
            f"{stack.path}: readings at [{place}] are NaN or infinite; replace them by the mean of "
            "their neighbours"
        )
    values = torch.from_numpy(readings.astype(np.float32))
    y = ((values - camera.offset) / camera.gain).round().clamp_min(0)[None, None]
    # The image reaches half of a kernel beyond the readings, about which nothing is assumed.
    reach = [n + k - 1 for n, k in zip(tile.shape, kernel.shape)]
    A: LinearOperator = Blur3D(kernel, reach, "valid")
    background: Any = camera.background
    limit = saturation_of(stack, method)
    is_known = values < limit if limit is not None else torch.ones_like(values, dtype=torch.bool)
    if not bool(is_known.all()):
        mask = is_known.to(y)
        A = cast(LinearOperator, Inpainting(mask[None], (1, *tile.shape)) @ A)
        y, background = y * mask, background * mask[None, None]
    return Problem(y, A, Poisson(background)), float(y.max())


def _variation(stack: Stack) -> TotalVariation:
    """Return total variation in units of a column's distance."""
    size = stack.metadata.voxel_size
    spacing = None if size is None else [h / size[2] for h in size]
    return TotalVariation(spacing=spacing)


def _crop(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Return the middle of a kernel, with its centre at the middle."""
    starts = [k // 2 - n // 2 for k, n in zip(kernel.shape, size)]
    return kernel[tuple(slice(a, a + n) for a, n in zip(starts, size))]


def _box(tile: Tile) -> tuple[slice, slice, slice]:
    return tile.seen[0], tile.seen[1], tile.seen[2]


def saturation_of(stack: Stack, method: Method) -> float | None:
    """Return the reading from which a voxel is clipped: the end of an integer type by default."""
    if method.saturation is not None or stack.dtype.kind != "u":
        return method.saturation
    return float(np.iinfo(stack.dtype).max)


def _count_saturated(stack: Stack, method: Method) -> list[str]:
    limit = saturation_of(stack, method)
    if limit is None:
        return []
    every = slice(None)
    count = sum(
        int((stack.read(time, channel, (slice(k, k + 1), every, every)) >= limit).sum())
        for time in range(stack.shape[0])
        for channel in range(stack.shape[1])
        for k in range(stack.shape[2])
    )
    sentence = f"{count} voxels are saturated (at least {limit:g}) and were left out"
    return [sentence] if count else []


def _camera(readings: Iterable[np.ndarray], method: Method) -> Camera:
    """Return the camera's numbers, estimated where the user gave none."""
    samples = list(readings)
    gain, offset = estimate_camera(samples, method.gain, method.offset)
    background = method.background
    if background is None:
        from scipy.ndimage import uniform_filter

        smooth = [uniform_filter(sample, (1, 5, 5)).ravel() for sample in samples]
        darkest = float(np.nanpercentile(np.concatenate(smooth), 1))
        background = max(0.0, (darkest - offset) / gain)
    return Camera(gain, offset, background)


def estimate_camera(
    readings: Sequence[np.ndarray], gain: float | None = None, offset: float | None = None
) -> tuple[float, float]:
    """Estimate gain and offset from the variance of readings as a line of their mean.

    The noise is that of second differences along rows, in bins of equal mean (photon transfer;
    Janesick, Photon Transfer, SPIE 2007). The offset is where the line meets 0.

    Args:
        readings: samples ``(slice, row, column)``; NaN counts as missing.
        gain: units of a reading per photon, if it is known.
        offset: offset, if it is known.

    >>> rng = np.random.default_rng(0)
    >>> photons = np.outer(np.linspace(5, 200, 400), np.ones(400))[None]
    >>> gain, offset = estimate_camera([2.0 * rng.poisson(photons) + 100])
    >>> round(gain, 1), round(offset / 10)
    (2.0, 10)
    """
    means, differences = [], []
    for values in readings:
        if values.shape[-1] >= 3:
            a, b, c = (values[..., k : values.shape[-1] - 2 + k] for k in range(3))
            means.append(((a + b + c) / 3).ravel())
            differences.append(((a - 2 * b + c) / 6**0.5).ravel())
    m, d = np.concatenate(means), np.concatenate(differences)
    m, d = m[np.isfinite(d)], d[np.isfinite(d)]
    edges = np.quantile(m, np.linspace(0, 1, _BINS + 1))
    points = []
    for low, high in itertools.pairwise(edges):
        inside = d[(m >= low) & (m <= high)]
        spread = np.median(np.abs(inside)) * 1.4826 if len(inside) > 10 else 0.0
        if spread > 0:
            inliers = inside[np.abs(inside) < _OUTLIER * spread]
            points.append(((low + high) / 2, np.mean(inliers**2) / _TRIMMED))
    dark = 0.0 if offset is None else offset
    if gain is None and len(points) > 2:
        x, variance = np.array(points).T
        slope, intercept = np.polyfit(x, variance, 1, w=1 / variance)
        if offset is not None:
            slope = float(np.median(variance / np.maximum(x - offset, 1e-12)))
        if slope > 0:
            return float(slope), dark if offset is not None else float(-intercept / slope)
    if gain is not None and offset is None and points:
        x, variance = np.array(points).T
        dark = float(np.median(x - variance / gain))
    return 1.0 if gain is None else gain, dark
