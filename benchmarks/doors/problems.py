"""Forty small problems, each in files that Python, a command and a scene read alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.images.decisions.default_prior import default_prior
from invtoolbox.jobs.images.kernels import SHAPES

#: Number of fine pixels along a pixel of a simulated scan.
FINE = 3
PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "coins", "hopper", "rocket", "moon")


@dataclass(frozen=True)
class Posed:
    """One problem, as Python, a command and a scene file get it.

    Attributes:
        kind: kind of the problem.
        about: sizes, for a reader.
        folder: folder of its files.
        truth: true image.
        y: measurements, as they were read from the file.
        A: operator.
        command: words of the command without those that all commands share.
        tables: tables of the scene file.
        prior: name of the prior.
        noise_std: standard deviation of the noise, if it is stated.
        weight: weight of the prior, or "auto".
        max_iterations: largest number of iterations.
    """

    kind: str
    about: str
    folder: Path
    truth: Tensor
    y: Tensor
    A: Any
    command: tuple[str, ...]
    tables: str
    prior: str = "default"
    noise_std: float | None = None
    weight: float | str = "auto"
    max_iterations: int | None = None

    @property
    def problem(self) -> it.Problem:
        """The problem with the least squares of all doors."""
        return it.Problem(self.y, self.A, it.data_terms.LeastSquares(noise_std=self.noise_std))

    @property
    def is_tiled(self) -> bool:
        """Whether commands and scenes solve it in tiles."""
        return self.kind.startswith("large")

    @property
    def prior_name(self) -> str:
        """Name of the prior that the default becomes."""
        return default_prior(self.problem) if self.prior == "default" else self.prior

    def quality(self, x: Tensor) -> float:
        """Return the PSNR of an answer; of a blur without borders, that of the measured part."""
        inner = [self.A.crop(v) for v in (x, self.truth)] if hasattr(self.A, "crop") else None
        shown, truth = inner or (x, self.truth)
        shown = shown.abs() if shown.is_complex() else shown
        return float(it.metrics.psnr(shown, truth, data_range=float(truth.max())))


def ellipses(draw: np.random.Generator, side: int, reach: float) -> np.ndarray:
    """Return a body of ellipses on ``side`` by ``side`` pixels, inside of a radius in pixels."""
    v, u = np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 2, indexing="ij")
    body = ((u / reach) ** 2 + (v / (draw.uniform(0.7, 0.95) * reach)) ** 2 < 1).astype(float)
    for _ in range(draw.integers(3, 7)):
        x, y = draw.uniform(-0.5, 0.5, 2) * reach
        a, b = draw.uniform(0.06, 0.3, 2) * reach
        body += draw.uniform(-0.6, 0.8) * (((u - x) / a) ** 2 + ((v - y) / b) ** 2 < 1)
    return np.maximum(body, 0)


def scan(draw: np.random.Generator, folder: Path, kind: str) -> Posed:
    """Pose a parallel or fan-beam scan of a body that was simulated on finer pixels."""
    side, is_fan = int(draw.integers(48, 57)), bool(draw.random() < 0.5)
    factor = draw.uniform(1.15, 1.4) if kind == "scan, wide object" else 0.95
    reach, larger = factor * side / 2, int(2 * math.ceil(factor * side / 2) + side % 2)
    grid = max(side, larger)
    arc = draw.uniform(60, 130) if kind == "scan, short arc" else 360 if is_fan else 180
    angles = np.deg2rad(arc) * np.arange(views := int(draw.integers(60, 101))) / views
    spacing, cells = (5 / 3 if is_fan else 1.0), math.ceil(2.25 * max(reach, 0.68 * side))
    geometry: dict[str, Any] = {"kind": "fan" if is_fan else "parallel", "num_detectors": cells}
    geometry |= {"detector_spacing": spacing, "pixel_size": 1.0, "image_shape": [side, side]}
    if is_fan:
        geometry |= {"source_origin": 3.0 * side, "source_detector": 5.0 * side}
    lines = [f"{key} = {json.dumps(value)}" for key, value in geometry.items()]
    lines += ["[angles]", 'unit = "radians"', f"values = {angles.tolist()}"]
    (folder / "geometry.toml").write_text("\n".join(lines))

    body = 2.0 / side * ellipses(draw, FINE * grid, FINE * reach)
    fine = (FINE * grid, FINE * grid)
    beams: dict[str, Any] = {"pixel_size": 1 / FINE, "detector_spacing": spacing}
    sizes = (fine, torch.from_numpy(angles), cells)
    source = (3.0 * side, 5.0 * side)
    O = it.operators
    A = O.FanBeam(*sizes, *source, **beams) if is_fan else O.ParallelBeam(*sizes, **beams)
    y = A(torch.from_numpy(body).float()[None, None])[0, 0].numpy()
    most, level = y.max(), 10 ** draw.uniform(-2.5, -1.6)
    y = y + level * most * draw.standard_normal(y.shape)
    if kind == "scan, gains":
        y = y + draw.uniform(0.02, 0.05) * most * draw.standard_normal((1, cells))
    if kind == "scan, dead cells":
        y[:, draw.choice(np.arange(cells // 4, 3 * cells // 4), draw.integers(1, 4))] = 0.0
    np.save(folder / "y.npy", y.astype(np.float32))
    item = it.datasets.open(folder / "y.npy", folder / "geometry.toml")[0]
    margin = FINE * (grid - side) // 2
    inner = torch.from_numpy(body).float()[None, None, margin : margin + FINE * side]
    inner = inner[..., margin : margin + FINE * side]
    return Posed(
        kind,
        f"{'fan' if is_fan else 'parallel'} {side}x{side}, {views} views, {arc:.0f} degrees, {level:.1%}",
        folder,
        torch.nn.functional.avg_pool2d(inner, FINE),
        item.y,
        item.geometry.operator(),
        ("ct", "y.npy", "--geometry", "geometry.toml"),
        '[measurements]\npath = "y.npy"\ngeometry = "geometry.toml"\n',
        noise_std=float(level * most) if draw.random() < 0.3 else None,
    )


def crop(draw: np.random.Generator, rows: int, columns: int) -> Tensor:
    """Return a crop of a photograph, grey or in color, ``(1, channel, rows, columns)``."""
    picture = it.datasets.photograph(str(draw.choice(PHOTOGRAPHS)))
    picture = picture if draw.random() < 0.3 else picture.mean(1, keepdim=True)
    top = int(draw.integers(picture.shape[2] - rows + 1))
    left = int(draw.integers(picture.shape[3] - columns + 1))
    return picture[..., top : top + rows, left : left + columns].contiguous()


def with_noise(draw: np.random.Generator, y: Tensor) -> tuple[Tensor, float]:
    """Return a picture with noise, and the level of the noise."""
    level = float(10 ** draw.uniform(-2.3, -1))
    return y + level * torch.from_numpy(draw.standard_normal(y.shape)).float(), level


def picture(draw: np.random.Generator, folder: Path, kind: str) -> Posed:
    """Pose a blurred, noisy, masked or small picture."""
    rows, columns = (2 * int(n) for n in draw.integers(24, 41, 2))
    truth, state = crop(draw, rows, columns), bool(draw.random() < 0.5)
    shape, file, words, table = tuple(truth.shape[1:]), "y.npy", (), ""
    if kind == "picture, blurred":
        shapes = {"gaussian": draw.uniform(0.8, 1.8), "disc": draw.uniform(1.2, 3)}
        shapes["motion"] = [draw.uniform(3, 7), draw.uniform(0, 180)]
        name = str(draw.choice(list(shapes)))
        size: Any = np.round(shapes[name], 2).tolist()
        kernel = SHAPES[name](size, "kernel")
        y, level = with_noise(draw, it.operators.Blur(kernel, shape[1:], boundary="valid")(truth))
        boundary = str(draw.choice(["valid", "reflect"]))
        if boundary == "reflect":
            truth = it.operators.Blur(kernel, shape[1:], boundary="valid").crop(truth)
        A: Any = it.operators.Blur(kernel, truth.shape[2:], boundary=boundary)
        numbers = ",".join(map(str, size)) if isinstance(size, list) else str(size)
        words = ("deblur", file, "--kernel", f"{name}:{numbers}", "--boundary", boundary)
        table = f'name = "blur"\nboundary = "{boundary}"\nkernel = {{ {name} = {size} }}\n'
        kind_words = f"{name} {size}, {boundary}"
    elif kind == "picture, noisy":
        A, (y, level) = it.operators.Identity(shape), with_noise(draw, truth)
        words, table, kind_words = ("denoise", file), 'name = "identity"\n', "identity"
    elif kind == "picture, small":
        name = str(draw.choice(["bicubic", "gaussian", "box"]))
        A = it.operators.Downsampling(shape, 2, name)
        y, level = with_noise(draw, A(truth))
        words = ("superresolve", file, "--factor", "2", "--filter", name)
        table, kind_words = f'name = "downsampling"\nfactor = 2\nfilter = "{name}"\n', name
    else:
        known = torch.from_numpy(draw.random(shape[1:]) < (keep := draw.uniform(0.3, 0.8)))
        A = it.operators.Inpainting(known[None], shape)
        y, level = with_noise(draw, truth)
        y, file = y * known, "y.tif"
        it.datasets.write_png(folder / "mask.png", 1.0 - known[None].float(), (0.0, 1.0))
        words, kind_words = ("inpaint", file, "--mask", "mask.png"), f"{keep:.0%} known"
        table = 'name = "inpainting"\nmask = { path = "mask.png", missing = "white" }\n'
    more = 'reader = "pictures"\noptions = { with_gaps = true }\n' if file == "y.tif" else ""
    if file == "y.npy":
        np.save(folder / file, y.numpy())
    else:
        colors = y[0].movedim(0, -1) if len(y[0]) == 3 else y[0, 0]
        form = "rgb" if len(y[0]) == 3 else "minisblack"
        tifffile.imwrite(folder / file, colors.numpy(), photometric=form)
    stated = f", noise {level:.3f}{' stated' if state else ''}"
    return Posed(
        kind,
        f"{kind_words}, {'x'.join(map(str, shape))}{stated}",
        folder,
        truth,
        it.datasets.open(folder / file)[0].y,
        A,
        words,
        f'[measurements]\npath = "{file}"\n{more}[operator]\n{table}',
        noise_std=level if state else None,
    )


def k_space(draw: np.random.Generator, folder: Path, kind: str) -> Posed:
    """Pose k-space of a body with a slow phase, of one coil or four, with lines left out."""
    side, coils = int(draw.integers(24, 33)) * 2, int(draw.choice([1, 4]))
    v, u = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    x = ellipses(draw, side, 0.45 * side) * np.exp(1j * (draw.uniform(-1, 1) * u + 0.4 * v))
    turn = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    away = (v - 1.2 * np.sin(turn)) ** 2 + (u - 1.2 * np.cos(turn)) ** 2
    maps = np.exp(-away / 1.5 + 1j * turn) if coils > 1 else np.ones((1, side, side))
    moved = np.fft.ifftshift(maps * x, (-2, -1))
    samples = np.fft.fftshift(np.fft.fft2(moved, norm="ortho"), (-2, -1))
    level = 10 ** draw.uniform(-2, -1.3)
    noise = draw.standard_normal((2, *samples.shape))
    lines = draw.random(side) < 0.4
    lines[side // 2 - 8 : side // 2 + 8] = True
    samples = (samples + level * (noise[0] + 1j * noise[1])) * lines
    with h5py.File(folder / "raw.h5", "w") as file:
        file["kspace"] = (samples if coils > 1 else samples[0])[None].astype(np.complex64)
        file["mask"] = lines
    item = it.datasets.open(folder / "raw.h5")[0]
    truth = np.sqrt((abs(maps) ** 2).sum(0)) * abs(x)
    return Posed(
        kind,
        f"{side}x{side}, {coils} coils, {lines.mean():.0%} of the lines, noise {level:.3f}",
        folder,
        torch.from_numpy(truth).float()[None, None],
        item.y,
        item.geometry.operator(),
        ("mri", "raw.h5"),
        '[kspace]\npath = "raw.h5"\n[method]\nprior = "tv"\n[output]\nformats = ["npy"]\n',
        prior="tv",
        noise_std=item.noise_std,
    )


def large(draw: np.random.Generator, folder: Path, kind: str) -> Posed:
    """Pose a noisy or blurred picture above the limit for tiles, with few iterations."""
    rows = int(draw.integers(1420, 1440))
    shape, small = (rows, 2_030_000 // rows), crop(draw, 240, 240).mean(1, keepdim=True)
    truth = torch.nn.functional.interpolate(small, shape, mode="bicubic").clamp(0, 1)
    is_blurred = kind == "large, blurred"
    if is_blurred:
        A: Any = it.operators.Blur(SHAPES["gaussian"](1.5, "kernel"), shape)
        words = ("deblur", "y.npy", "--kernel", "gaussian:1.5", "--boundary", "reflect")
        table = 'name = "blur"\nboundary = "reflect"\nkernel = { gaussian = 1.5 }\n'
    else:
        A = it.operators.Identity((1, *shape))
        words, table = ("denoise", "y.npy"), 'name = "identity"\n'
    y, level = with_noise(draw, A(truth))
    np.save(folder / "y.npy", y.numpy())
    return Posed(
        kind,
        f"{rows}x{shape[1]}, noise {level:.3f}",
        folder,
        truth,
        it.datasets.open(folder / "y.npy")[0].y,
        A,
        words,
        f'[measurements]\npath = "y.npy"\n[operator]\n{table}',
        prior="tv",
        weight=0.01 if is_blurred else 0.1,
        max_iterations=20,
    )


KINDS: dict[str, tuple[Callable[[np.random.Generator, Path, str], Posed], int]] = {
    "scan, dead cells": (scan, 4),
    "scan, gains": (scan, 4),
    "scan, short arc": (scan, 4),
    "scan, wide object": (scan, 4),
    "scan, complete": (scan, 4),
    "picture, blurred": (picture, 4),
    "picture, noisy": (picture, 4),
    "picture, gaps": (picture, 4),
    "picture, small": (picture, 3),
    "k-space": (k_space, 3),
    "large, noisy": (large, 1),
    "large, blurred": (large, 1),
}
