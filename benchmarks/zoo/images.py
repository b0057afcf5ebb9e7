"""Items of pictures and of k-space: noise, blur, gaps, few pixels, counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import invtoolbox as it
from zoo.items import (
    DEFAULT,
    IMAGES,
    PICTURES,
    Answer,
    Item,
    Job,
    answer_of,
    draws,
    log_uniform,
    noise_level,
    sixty_decibels,
    stated_level,
    tensor,
)
from zoo.pictures import KINDS, Array, block_means, picture

#: Measurements above this PSNR are a picture already.
CLEAN = 35.0
#: Rows and columns, drawn if None.
Shape = tuple[int, int] | None


class Scene:
    """A picture with a scale of its values, and the random numbers of its item."""

    def __init__(
        self,
        job: str,
        index: int,
        margin: int = 0,
        multiple: int = 1,
        fine: int = 1,
        shape: Shape = None,
        channels: int | None = None,
    ) -> None:
        self.draw = draw = draws(job, index)
        self.kind = KINDS[(index // 2) % len(KINDS)]
        sides = draw.integers(24 // multiple, 64 // multiple + 1, 2) * multiple
        self.shape = shape or (int(sides[0]), int(sides[1]))
        drawn = 3 if draw.uniform() < 0.15 else 1
        self.channels = channels or drawn
        larger = (fine * (self.shape[0] + 2 * margin), fine * (self.shape[1] + 2 * margin))
        self.unit = log_uniform(draw, 1e-3, 1e3)
        self.offset = self.unit * draw.uniform(-1, 1) if draw.uniform() < 0.2 else 0.0
        planes = picture(draw, self.kind, larger, index % 2, self.channels)
        self.entire = self.offset + self.unit * planes
        rows, columns = (slice(margin, margin + n) for n in self.shape)
        self.truth = block_means(self.entire, fine)[:, rows, columns]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.shape)

    def noisy(self, clean: Array, level: float) -> tuple[Tensor, float]:
        """Return measurements with a noise level relative to the range, and the level."""
        std = level * self.unit
        return tensor(clean + std * self.draw.standard_normal(clean.shape))[None], std

    def words(self, *more: str) -> str:
        size = "x".join(map(str, self.image_shape if self.channels > 1 else self.shape))
        return ", ".join([f"{self.kind} {size}", f"unit {self.unit:.2g}", *more])


def solved(y: Tensor, A: Any, stated: float | None = None, **more: Any) -> Callable[[str], Answer]:
    """Return the call that a user writes, as a function of the prior's name."""

    def compute(prior: str) -> Answer:
        named = {} if prior == DEFAULT else {"prior": prior}
        return answer_of(
            lambda: it.reconstruct(y, A, noise_std=stated, progress=False, **named, **more)
        )

    return compute


def noise_words(level: float, stated: float | None, std: float) -> str:
    said = "" if stated is None else f" (stated {stated / std:.2g} times)"
    return f"noise {100 * level:.2g} %{said}"


def denoising(index: int, job: str = "denoising", shape: Shape = None) -> Item:
    scene = Scene(job, index, shape=shape)
    level = noise_level(scene.draw, 5e-4, 0.1)
    y, std = scene.noisy(scene.truth, level)
    # With the level for every second group of kinds of pictures.
    stated = std if (index // 8) % 2 and std > 0 else None
    truth = tensor(scene.truth)[None]
    A = it.operators.Identity(scene.image_shape)
    psnr = float(it.metrics.psnr(y, truth, data_range=scene.unit)) if std else math.inf
    return Item(
        scene.words(noise_words(level, stated, std)),
        truth,
        y,
        solved(y, A, stated),
        sixty_decibels(truth),
        without_level=stated is None and psnr > CLEAN,
        y=y,
        A=A,
        noise_std=std,
    )


def kernel(draw: np.random.Generator) -> Callable[[float], tuple[str, Array]]:
    """Return a blur of a random kind as a function of the factor of its width."""
    kind = ("gaussian", "disc", "box", "motion", "walk")[draw.integers(5)]
    width, ratio, angle = draw.uniform(0.7, 3.0), draw.uniform(0.5, 1.0), draw.uniform(0, math.pi)
    steps = np.cumsum(draw.standard_normal((60, 2)), 0)
    steps = (steps - steps.mean(0)) / max(np.abs(steps - steps.mean(0)).max(), 1e-9)

    def make(factor: float) -> tuple[str, Array]:
        w = width * factor
        reach = math.ceil(3 * w) if kind == "gaussian" else math.ceil(2 * w)
        reach = min(reach, 7)
        n = 9  # points per axis of a pixel
        axis = (np.arange((2 * reach + 1) * n) + 0.5) / n - reach - 0.5
        v, u = np.meshgrid(axis, axis, indexing="ij")
        p, q = math.cos(angle) * u + math.sin(angle) * v, math.cos(angle) * v - math.sin(angle) * u
        if kind == "gaussian":
            fine = np.exp(-(p**2 + (q / ratio) ** 2) / (2 * w**2))
        elif kind == "disc":
            fine = (p**2 + q**2 <= w**2).astype(float)
        elif kind == "box":
            fine = (np.maximum(abs(u), abs(v)) <= w).astype(float)
        elif kind == "motion":
            fine = ((abs(p) <= 1.9 * w) & (abs(q) <= 0.5)).astype(float)
        else:  # the trace of a hand that shakes
            fine = sum(
                np.exp(-((u - 1.8 * w * a) ** 2 + (v - 1.8 * w * b) ** 2) / 0.3) for a, b in steps
            )
        taps = np.asarray(fine).reshape(2 * reach + 1, n, 2 * reach + 1, n).mean((1, 3))
        return f"{kind} {w:.2g}", taps / taps.sum()

    return make


def deblurring(index: int, job: str = "deblurring", shape: Shape = None) -> Item:
    """A picture that goes on beyond its edges, or a periodic one; half of the kernels are wrong."""
    is_periodic = (index // 8) % 2 == 1
    margin = 0 if is_periodic else 12
    scene = Scene(job, index, margin, shape=shape)
    make = kernel(scene.draw)
    error = scene.draw.uniform(-0.1, 0.1) if scene.draw.uniform() < 0.5 else 0.0
    (name, taps), (_, exact) = make(1.0), make(1.0 + error)
    larger = scene.entire.shape[-2:]
    blur = it.operators.Blur(tensor(exact), larger, boundary="periodic")
    clean = blur(tensor(scene.entire)[None]).double().numpy()[0]
    inner = [slice(margin, margin + n) for n in scene.shape]
    level = noise_level(scene.draw)
    y, std = scene.noisy(clean[:, inner[0], inner[1]], level)
    stated = stated_level(scene.draw, std)
    boundary = "periodic" if is_periodic else "reflect"
    A = it.operators.Blur(tensor(taps), scene.image_shape, boundary=boundary)
    truth = tensor(scene.truth)[None]
    region = torch.zeros(1, 1, *scene.shape, dtype=torch.bool)
    edge = 0 if is_periodic else len(taps) // 2 + 1  # beyond it, nothing is known
    region[..., edge : scene.shape[0] - edge, edge : scene.shape[1] - edge] = True
    words = scene.words(f"{name}, {boundary}", f"kernel off {100 * error:.2g} %")
    return Item(
        f"{words}, {noise_words(level, stated, std)}",
        truth,
        y,
        solved(y, A, stated),
        sixty_decibels(truth),
        region,
        y=y,
        A=A,
        noise_std=std,
    )


def _gaps(draw: np.random.Generator, kind: str, shape: tuple[int, int], share: float) -> Array:
    """Return a mask whose zeros are about a share of the pixels."""
    mask = np.ones(shape)
    if kind == "pixels":
        return (draw.uniform(size=shape) >= share).astype(float)
    if kind == "lines":
        axis = int(draw.integers(2))
        is_known = draw.uniform(size=shape[axis]) >= share
        is_known[draw.integers(shape[axis])] = True
        return mask * (is_known[:, None] if axis == 0 else is_known)
    side = int(draw.integers(3, 9))
    while (mask == 0).mean() < share:
        row, column = (int(draw.integers(1 - side, n)) for n in shape)
        trial = mask.copy()
        trial[max(row, 0) : row + side, max(column, 0) : column + side] = 0
        if trial.sum() < 0.15 * trial.size:
            break
        mask = trial
    return mask


def inpainting(kind: str, index: int, job: str = "inpainting", shape: Shape = None) -> Item:
    from skimage.restoration import inpaint_biharmonic

    scene = Scene(f"{job} {kind}", index, shape=shape)
    share = scene.draw.uniform(0.3, 0.8)
    mask = _gaps(scene.draw, kind, scene.shape, share)
    level = 0.0 if scene.draw.uniform() < 0.25 else log_uniform(scene.draw, 1e-3, 0.1)
    y, std = scene.noisy(scene.truth, level)
    y = y * tensor(mask)
    stated = stated_level(scene.draw, std)
    # In units of the range, because the function works in these.
    values = (y[0].double().numpy() - scene.offset) / scene.unit
    filled = inpaint_biharmonic(np.moveaxis(values, 0, -1), mask == 0, channel_axis=-1)
    simple = scene.offset + scene.unit * np.moveaxis(filled, -1, 0)
    truth = tensor(scene.truth)[None]
    A = it.operators.Inpainting(tensor(mask), scene.image_shape)
    missing = f"{100 * (mask == 0).mean():.0f} % missing"
    return Item(
        scene.words(missing, noise_words(level, stated, std)),
        truth,
        tensor(simple)[None],
        solved(y, A, stated),
        sixty_decibels(truth),
        y=y,
        A=A,
        noise_std=std,
    )


def super_resolution(index: int) -> Item:
    factor = (2, 3, 4)[index % 3]
    scene = Scene("super-resolution", index, multiple=factor)
    names = ("bicubic", "gaussian", "box")
    name = names[scene.draw.integers(3)]
    exact = name if scene.draw.uniform() < 0.6 else names[scene.draw.integers(3)]
    truth = tensor(scene.truth)[None]
    taken = it.operators.Downsampling(scene.image_shape, factor, filter=exact)
    level = noise_level(scene.draw, 5e-4, 0.05)
    y, std = scene.noisy(taken(truth).double().numpy()[0], level)
    stated = stated_level(scene.draw, std)
    A = it.operators.Downsampling(scene.image_shape, factor, filter=name)
    simple = interpolate(y, size=scene.shape, mode="bicubic", align_corners=False)
    filters = name if name == exact else f"{name} instead of {exact}"
    return Item(
        scene.words(f"factor {factor}, {filters}", noise_words(level, stated, std)),
        truth,
        simple,
        solved(y, A, stated),
        sixty_decibels(truth),
        y=y,
        A=A,
        noise_std=std,
    )


def poisson(index: int) -> Item:
    """Photons of a picture, sharp or blurred; the picture is in photons."""
    scene = Scene("poisson counts", index)
    brightest = log_uniform(scene.draw, 5.0, 5000.0)
    planes = (scene.truth - scene.offset) / scene.unit
    truth = tensor(brightest * (0.02 + 0.98 * planes))[None]
    A: Any = it.operators.Identity(scene.image_shape)
    name = "sharp"
    if (index // 8) % 2:
        name, taps = kernel(scene.draw)(1.0)
        A = it.operators.Blur(tensor(taps), scene.image_shape, boundary="reflect")
    mean = A(truth).clamp_min(0).double().numpy()
    y = tensor(scene.draw.poisson(mean).astype(float))
    return Item(
        scene.words(f"{brightest:.3g} photons", name),
        truth,
        y,
        solved(y, A, data_term=it.data_terms.Poisson()),
        sixty_decibels(truth),
        y=y,
        A=A,
    )


def _coils(draw: np.random.Generator) -> Callable[[Array, Array], Array]:
    """Return smooth sensitivities of four coils as a function of places down and across."""
    far, turns = draw.uniform(0.7, 1.2), np.exp(1j * draw.uniform(0, 2 * math.pi, 4))
    centres = far * np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])

    def maps(v: Array, u: Array) -> Array:
        lobes = np.stack([np.exp(-((u - p) ** 2 + (v - q) ** 2) / 1.5) for p, q in centres])
        return lobes * turns[:, None, None] / np.sqrt((lobes**2).sum(0))

    return maps


def places(shape: tuple[int, ...], fine: int = 1) -> tuple[Array, Array]:
    axes = [2 * (np.arange(n * fine) + 0.5) / (n * fine) - 1 for n in shape]
    v, u = np.meshgrid(*axes, indexing="ij")
    return v, u


def _low_frequencies(planes: Array, shape: tuple[int, ...]) -> Array:
    """Return the unitary k-space, on the grid of a shape, of planes of twice its resolution."""
    k_space = planes
    for axis, n in zip((-2, -1), shape):
        # A pixel's middle lies half a fine pixel beside a fine pixel's; the origin is pixel n // 2.
        shift = 0.5 if n % 2 == 0 else -0.5
        frequency = np.arange(n) - n // 2
        place = np.arange(2 * n) - n - shift
        matrix = np.exp(-2j * math.pi * np.outer(frequency, place) / (2 * n)) / (2 * math.sqrt(n))
        k_space = np.moveaxis(np.moveaxis(k_space, axis, -1) @ matrix.T, -1, axis)
    return k_space


def mri(index: int) -> Item:
    """Lines or points of k-space, of a picture or of one of twice its resolution; 1 or 4 coils."""
    fine = 1 + (index // 8) % 2
    scene = Scene("mri", index, fine=fine)
    draw, shape = scene.draw, scene.shape
    a, b, c = draw.uniform(-1.5, 1.5, 3)

    def transverse(modulus: Array, v: Array, u: Array) -> Array:
        # The object ends before the picture does, and its phase is smooth.
        window = np.clip(1.6 - 1.6 * np.hypot(u, v), 0, 1)
        return scene.unit * modulus * window * np.exp(1j * (a + b * u + c * u * v))

    modulus = (scene.entire[:1] - scene.offset) / scene.unit
    entire = transverse(modulus, *places(shape, fine))
    truth = block_means(entire, fine)
    coils = _coils(draw) if draw.uniform() < 0.5 else None
    share, middle = draw.uniform(0.2, 0.6), draw.uniform(0.06, 0.15)
    if draw.uniform() < 0.6:
        k = abs(np.arange(shape[0]) - shape[0] // 2) / shape[0]
        is_taken = (draw.uniform(size=k.shape) < share) | (k <= middle / 2)
        mask = np.broadcast_to(is_taken[:, None], shape)
    else:
        mask = (draw.uniform(size=shape) < share) | (np.hypot(*places(shape)) <= 2 * middle)
    maps = None if coils is None else tensor(coils(*places(shape)))
    A = it.operators.CartesianMRI(tensor(mask.astype(float)), shape, maps)
    if fine == 2:
        seen = entire if coils is None else coils(*places(shape, fine)) * entire
        clean = tensor(_low_frequencies(seen, shape) * mask)[None]
    else:
        clean = A(tensor(truth)[None])
    level = noise_level(draw)
    # K-space is unitary: the level is that of the picture.
    parts = level * scene.unit * draw.standard_normal((2, *clean.shape))
    y = (clean + tensor(parts[0] + 1j * parts[1])) * A.sampled
    x = tensor(truth)[None]
    count = 1 if maps is None else len(maps)
    sampled = f"{100 * mask.mean():.0f} % sampled, {count} coils, {fine}-fold grid"
    return Item(
        scene.words(sampled, f"noise {100 * level:.2g} %"),
        x,
        A.pseudo_inverse(y),  # zero filling; the coils are combined by their maps
        solved(y, A),
        sixty_decibels(x),
        y=y,
        A=A,
        noise_std=level * scene.unit,
    )


JOBS = {
    "denoising": Job(denoising, 32, PICTURES, "the measurements"),
    "deblurring": Job(deblurring, 32, PICTURES, "the measurements"),
    "inpainting pixels": Job(
        partial(inpainting, "pixels"), 28, PICTURES, "biharmonic interpolation"
    ),
    "inpainting lines": Job(partial(inpainting, "lines"), 28, PICTURES, "biharmonic interpolation"),
    "inpainting blocks": Job(
        partial(inpainting, "blocks"), 28, PICTURES, "biharmonic interpolation"
    ),
    "super-resolution": Job(super_resolution, 28, PICTURES, "bicubic interpolation"),
    "poisson counts": Job(poisson, 28, PICTURES, "the measurements"),
    "mri": Job(mri, 28, (*IMAGES, "denoiser-natural"), "zero filling"),
}
