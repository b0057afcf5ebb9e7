"""Kinds of pictures and of k-space that no rule was chosen on; `--fresh` draws their items."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import invtoolbox as it
from zoo.images import Scene, Shape, kernel, noise_words, places, solved
from zoo.items import (
    DEFAULT,
    Item,
    Job,
    log_uniform,
    noise_level,
    sixty_decibels,
    stated_level,
    tensor,
)
from zoo.pictures import Array, block_means

#: Pixels that are drawn around a picture, whose light a blur brings into it.
MARGIN = 12
PRIORS = ("tv", DEFAULT)


def _is_blurred(index: int) -> bool:
    """Return whether an item is blurred; the others are sharp."""
    return (index // 8) % 2 == 1


def _blur(taps: Array, planes: Array) -> Array:
    """Return planes ``(channel, row, column)`` with a margin, blurred."""
    blur = it.operators.Blur(tensor(taps), planes.shape[-2:], boundary="periodic")
    return np.asarray(blur(tensor(planes)[None]).double().numpy()[0])


def _inner(planes: Array) -> Array:
    """Return planes without their margin."""
    return planes[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _planes(scene: Scene) -> Array:
    """Return the values of a scene with its margin, in [0, 1]."""
    return np.asarray((scene.entire - scene.offset) / scene.unit)


def _interior(shape: tuple[int, int], edge: int) -> Tensor:
    """Return the pixels further from the edges than the light outside of them is seen."""
    edge = min(edge, min(shape) // 4)
    region = torch.zeros(1, 1, *shape, dtype=torch.bool)
    region[..., edge : shape[0] - edge, edge : shape[1] - edge] = True
    return region


def _operator(scene: Scene, taps: Array | None) -> Any:
    """Return the operator of a blurred picture, or of a sharp one without taps."""
    if taps is None:
        return it.operators.Identity(scene.image_shape)
    return it.operators.Blur(tensor(taps), scene.image_shape, boundary="reflect")


def _item(
    scene: Scene,
    about: str,
    truth: Array,
    y: Array,
    taps: Array | None,
    stated: float | None = None,
    std: float | None = None,
    fault: str = "",
) -> Item:
    """Return the item of a sharp or blurred picture; its simple answer is the picture itself."""
    A, measurements, x = _operator(scene, taps), tensor(y)[None], tensor(truth)[None]
    return Item(
        about,
        x,
        measurements,
        solved(measurements, A, stated),
        sixty_decibels(x),
        None if taps is None else _interior(scene.shape, len(taps) // 2 + 1),
        y=measurements,
        A=A,
        noise_std=std,
        fault=fault,
    )


def saturated(index: int) -> Item:
    """A photograph whose brightest parts exceed what the sensor holds, sharp or blurred."""
    scene = Scene("saturated", index, MARGIN)
    draw = scene.draw
    share, level = draw.uniform(0.02, 0.15), noise_level(draw, 1e-3, 0.05)
    planes = _planes(scene)
    light = planes / max(float(np.quantile(planes, 1 - share)), 1e-3)
    name, taps = kernel(draw)(1.0) if _is_blurred(index) else ("sharp", None)
    seen = _inner(light if taps is None else _blur(taps, light))
    y = np.clip(seen + level * draw.standard_normal(seen.shape), 0, 1)
    about = scene.words(name, f"{100 * share:.0f} % too bright", noise_words(level, None, level))
    return _item(scene, about, np.minimum(_inner(light), 1), y, taps, std=level)


def _as_jpeg(planes: Array, quality: int) -> Array:
    """Return planes in [0, 1] as a JPEG file holds them."""
    from PIL import Image

    bytes_ = np.round(255 * np.clip(planes, 0, 1)).astype(np.uint8)
    colour = bytes_[0] if len(planes) == 1 else np.moveaxis(bytes_, 0, -1)
    file = io.BytesIO()
    Image.fromarray(colour).save(file, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(file), dtype=np.float64) / 255
    return np.asarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def jpeg(index: int) -> Item:
    """A noisy photograph that was saved as a JPEG file, sharp or blurred."""
    scene = Scene("jpeg", index, MARGIN)
    draw = scene.draw
    quality, level = int(draw.integers(50, 96)), noise_level(draw, 1e-3, 0.05)
    planes = _planes(scene)
    name, taps = kernel(draw)(1.0) if _is_blurred(index) else ("sharp", None)
    seen = _inner(planes if taps is None else _blur(taps, planes))
    y = _as_jpeg(seen + level * draw.standard_normal(seen.shape), quality)
    about = scene.words(name, f"JPEG {quality}", noise_words(level, None, level))
    return _item(scene, about, _inner(planes), y, taps)


def wrong_kernel(index: int) -> Item:
    """A blur whose stated kernel is turned, beside its place, or too round by a little."""
    from scipy import ndimage

    scene = Scene("wrong kernel", index, MARGIN)
    draw = scene.draw
    name, taps = kernel(draw)(1.0)
    mistake = ("turned", "shifted", "smoothed")[draw.integers(3)]
    if mistake == "turned":
        amount = draw.uniform(4, 20)
        wrong = ndimage.rotate(taps, amount, reshape=False, order=1)
    elif mistake == "shifted":
        amount = draw.uniform(0.2, 0.8)
        wrong = ndimage.shift(taps, amount * _direction(draw), order=1)
    else:
        amount = draw.uniform(0.3, 0.9)
        wrong = ndimage.gaussian_filter(taps, amount)
    wrong = np.clip(wrong, 0, None) / np.clip(wrong, 0, None).sum()
    level = noise_level(draw)
    clean = _inner(_blur(taps, scene.entire))
    std = level * scene.unit
    y, stated = clean + std * draw.standard_normal(clean.shape), stated_level(draw, std)
    about = scene.words(name, f"stated {mistake} by {amount:.2g}", noise_words(level, stated, std))
    return _item(scene, about, scene.truth, y, wrong, stated, std, "kernel")


def _direction(draw: np.random.Generator) -> Array:
    angle = draw.uniform(0, 2 * math.pi)
    return np.array([math.cos(angle), math.sin(angle)])


def coloured_noise(index: int) -> Item:
    """A picture whose noise is smooth, or in stripes of its rows, sharp or blurred."""
    from scipy import ndimage

    scene = Scene("coloured noise", index, MARGIN)
    draw = scene.draw
    level = log_uniform(draw, 2e-3, 0.1)
    name, taps = kernel(draw)(1.0) if _is_blurred(index) else ("sharp", None)
    seen = _inner(scene.entire if taps is None else _blur(taps, scene.entire))
    noise = draw.standard_normal(seen.shape)
    if draw.uniform() < 0.6:
        width = draw.uniform(0.5, 1.5)
        colour = f"smooth {width:.2g}"
        noise = ndimage.gaussian_filter(noise, (0, width, width))
    else:
        share = draw.uniform(0.3, 0.9)
        colour = f"stripes {share:.2g}"
        rows = draw.standard_normal((len(seen), seen.shape[1], 1))
        noise = math.sqrt(share) * rows + math.sqrt(1 - share) * noise
    std = level * scene.unit
    y = seen + std * noise / noise.std()
    about = scene.words(name, colour, noise_words(level, None, std))
    return _item(scene, about, scene.truth, y, taps, std=std)


def unlike_channels(index: int) -> Item:
    """Three channels with unlike noise, as the colours of a dark photograph have, sharp or blurred."""
    scene = Scene("unlike channels", index, MARGIN, channels=3)
    draw = scene.draw
    levels = np.array([noise_level(draw, 2e-3, 0.15) for _ in range(3)])
    name, taps = kernel(draw)(1.0) if _is_blurred(index) else ("sharp", None)
    seen = _inner(scene.entire if taps is None else _blur(taps, scene.entire))
    noise = draw.standard_normal(seen.shape)
    y = seen + scene.unit * levels[:, None, None] * noise
    about = scene.words(name, "noise " + ", ".join(f"{100 * each:.2g} %" for each in levels))
    return _item(scene, about, scene.truth, y, taps)


def background_counts(index: int) -> Item:
    """Photons above a known background, sharp or blurred; the simple answer subtracts it."""
    scene = Scene("background counts", index)
    draw = scene.draw
    brightest = log_uniform(draw, 5.0, 5000.0)
    background = brightest * draw.uniform(0.1, 2.0)
    planes = np.asarray((scene.truth - scene.offset) / scene.unit)
    truth = tensor(brightest * (0.02 + 0.98 * planes))[None]
    name, taps = kernel(draw)(1.0) if _is_blurred(index) else ("sharp", None)
    A = _operator(scene, taps)
    mean = A(truth).clamp_min(0).double().numpy() + background
    y = tensor(draw.poisson(mean).astype(float))
    return Item(
        scene.words(f"{brightest:.3g} photons", f"background {background:.3g}", name),
        truth,
        y - background,
        solved(y, A, data_term=it.data_terms.Poisson(background)),
        sixty_decibels(truth),
        y=y,
        A=A,
    )


def _text(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return lines of letters, dark on white, on a grid that is four times finer."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", (4 * shape[1], 4 * shape[0]), 255)
    pen, size = ImageDraw.Draw(page), float(draw.uniform(28, 72))
    font = ImageFont.load_default(size)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"))
    for row in np.arange(-size / 2, 4 * shape[0], 1.2 * size):
        pen.text((-size / 3, row), "".join(draw.choice(letters, 40)), fill=0, font=font)
    return np.asarray(page, dtype=np.float64) / 255


def _lines(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return line art, curves and polygons, dark on white, on a grid that is four times finer."""
    from PIL import Image, ImageDraw

    page = Image.new("L", (4 * shape[1], 4 * shape[0]), 255)
    pen, sides = ImageDraw.Draw(page), np.array(page.size)
    for _ in range(draw.integers(4, 12)):
        corners = [tuple(point) for point in draw.uniform(0, 1, (draw.integers(2, 6), 2)) * sides]
        width = int(draw.integers(3, 10))
        if draw.uniform() < 0.5:
            pen.line(corners, fill=0, width=width)
        else:
            low, high = np.sort(draw.uniform(0, 1, (2, 2)) * sides, axis=0)
            pen.ellipse([*low, *high], outline=0, width=width)
    return np.asarray(page, dtype=np.float64) / 255


def drawings(index: int) -> Item:
    """Text or line art, noisy, blurred, with gaps, or of few pixels."""
    from skimage.restoration import inpaint_biharmonic

    scene = Scene("drawings", index, multiple=2, channels=1)
    draw, (rows, columns) = scene.draw, scene.shape
    larger = (rows + 2 * MARGIN, columns + 2 * MARGIN)
    kind, make = (("text", _text), ("line art", _lines))[draw.integers(2)]
    entire = block_means(make(draw, larger), 4)[None]
    truth = _inner(entire)
    level = noise_level(draw)
    noise = level * draw.standard_normal(truth.shape)
    stated = stated_level(draw, level)
    task = ("noise", "blur", "gaps", "few pixels")[(index // 2) % 4]
    about = f"{kind} {rows}x{columns}, {task}, {noise_words(level, stated, level)}"
    if task in ("noise", "blur"):
        taps = kernel(draw)(1.0)[1] if task == "blur" else None
        seen = _inner(entire if taps is None else _blur(taps, entire))
        return _item(scene, about, truth, seen + noise, taps, stated, level)
    x = tensor(truth)[None]
    if task == "gaps":
        mask = (draw.uniform(size=truth.shape[1:]) >= draw.uniform(0.3, 0.8)).astype(float)
        y = (x + tensor(noise)[None]) * tensor(mask)
        A: Any = it.operators.Inpainting(tensor(mask), scene.image_shape)
        simple = tensor(inpaint_biharmonic(y[0, 0].double().numpy(), mask == 0))[None, None]
    else:
        A = it.operators.Downsampling(scene.image_shape, 2, filter="box")
        y = A(x)
        y = y + tensor(noise[:, : y.shape[-2], : y.shape[-1]])[None]
        simple = interpolate(y, size=scene.shape, mode="bicubic", align_corners=False)
    compute = solved(y, A, stated)
    return Item(about, x, simple, compute, sixty_decibels(x), y=y, A=A, noise_std=level)


def narrow(index: int) -> Item:
    """A picture of a few rows or columns, sharp or blurred."""
    draw = np.random.default_rng([index, 1])
    sides = (int(draw.integers(9, 21)), int(draw.integers(100, 221)))
    shape: Shape = sides if draw.uniform() < 0.5 else sides[::-1]
    scene = Scene("narrow pictures", index, MARGIN, shape=shape)
    name, taps = kernel(scene.draw)(0.5) if _is_blurred(index) else ("sharp", None)
    seen = _inner(scene.entire if taps is None else _blur(taps, scene.entire))
    level = noise_level(scene.draw)
    std = level * scene.unit
    y, stated = seen + std * scene.draw.standard_normal(seen.shape), stated_level(scene.draw, std)
    about = scene.words(name, noise_words(level, stated, std))
    return _item(scene, about, scene.truth, y, taps, stated, std)


def radial(index: int) -> Item:
    """Radial lines of k-space, fewer than the grid needs; the simple answer is gridding."""
    scene = Scene("radial k-space", index, channels=1)
    draw = scene.draw
    a, b, c = draw.uniform(-1.5, 1.5, 3)
    v, u = places(scene.shape)
    window = np.clip(1.6 - 1.6 * np.hypot(u, v), 0, 1)
    planes = np.asarray((scene.truth - scene.offset) / scene.unit)
    image = scene.unit * planes * window * np.exp(1j * (a + b * u + c * u * v))
    truth = tensor(image)[None]
    spokes = int(draw.integers(8, max(scene.shape) + 1))
    angles = math.pi * np.arange(spokes) / spokes + draw.uniform(0, math.pi)
    reach = np.arange(2 * max(scene.shape)) / (2 * max(scene.shape)) - 0.5
    along = reach[None, :, None] * np.stack([np.sin(angles), np.cos(angles)], -1)[:, None]
    A = it.operators.NonUniformFourier(tensor(along * np.array(scene.shape)), scene.shape)
    level = noise_level(draw)
    clean = A(truth)
    parts = level * scene.unit * draw.standard_normal((2, *clean.shape))
    y = clean + tensor(parts[0] + 1j * parts[1])
    return Item(
        scene.words(f"{spokes} spokes", f"noise {100 * level:.2g} %"),
        truth,
        A.pseudo_inverse(y),
        solved(y, A),
        sixty_decibels(truth),
        y=y,
        A=A,
        noise_std=level * scene.unit,
    )


_PICTURE, _COUNT = "the measurements", 22
JOBS = {
    "saturated": Job(saturated, _COUNT, PRIORS, _PICTURE, is_new=True),
    "jpeg": Job(jpeg, _COUNT, PRIORS, _PICTURE, is_new=True),
    "wrong kernel": Job(wrong_kernel, _COUNT, PRIORS, _PICTURE, is_new=True),
    "coloured noise": Job(coloured_noise, _COUNT, PRIORS, _PICTURE, is_new=True),
    "unlike channels": Job(unlike_channels, _COUNT, PRIORS, _PICTURE, is_new=True),
    "background counts": Job(
        background_counts, _COUNT, PRIORS, "counts without background", is_new=True
    ),
    "drawings": Job(drawings, _COUNT, PRIORS, "measurements, interpolation", is_new=True),
    "narrow pictures": Job(narrow, _COUNT, PRIORS, _PICTURE, is_new=True),
    "radial k-space": Job(radial, _COUNT, PRIORS, "gridding", is_new=True),
}
