"""Convolution with a kernel by FFT: whole images, or overlapping tiles of large images.

All functions are plain functions of tensors, differentiable in image and kernel.
`valid_convolution` needs no boundary rule; `pad` and `pad_transpose` apply one, and are exact
transposes of each other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.core.pytrees import map_items

#: numpy's names: "reflect" mirrors without repeating the edge pixel (d c b | a b c d | c b a).
PAD_MODES = {"reflect": "reflect", "periodic": "circular", "zero": "constant"}


class Plan(NamedTuple):
    """Partition of an image into tiles.

    Attributes:
        length: FFT lengths (rows, columns).
        tile: number of output pixels per tile (rows, columns).
    """

    length: tuple[int, int]
    tile: tuple[int, int]


@functools.lru_cache(maxsize=1024)
def fast_length(n: int) -> int:
    """Return the smallest even ``2^a 3^b 5^c`` that is at least ``n``.

    FFTs of these lengths are several times faster than FFTs of prime lengths.

    >>> fast_length(541)
    576
    """
    best = 1 << max(n - 1, 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            power = 2
            while three * power < n:
                power *= 2
            best = min(best, three * power)
            three *= 3
        five *= 5
    return best


def whole_limit(device: torch.device) -> int:
    """Return the number of pixels above which a plane is cut into tiles.

    On a CPU tiles that stay in the cache are faster from a few megapixels on (2048x2048: 36 ms,
    compared with 58 as a whole); on a GPU tiles only bound the memory.
    """
    return 1 << 24 if device.type == "cuda" else 1 << 20


def plan(
    size: tuple[int, int], kernel: tuple[int, int], tile: int | None, device: torch.device
) -> Plan:
    """Plan the tiles of an image of ``size``, padding included.

    ``tile`` is the FFT length of a tile; ``None`` chooses it.
    """
    if tile is not None:
        edge = tile
    elif size[0] * size[1] <= whole_limit(device):
        edge = max(size)
    else:
        edge = 2048 if device.type == "cuda" else 384
    # At least half of a tile must be new pixels, otherwise the overlap is most of the work.
    length = tuple(min(fast_length(n), fast_length(max(edge, 2 * k))) for n, k in zip(size, kernel))
    return Plan(
        (length[0], length[1]),
        (min(length[0], size[0]) - kernel[0] + 1, min(length[1], size[1]) - kernel[1] + 1),
    )


def groups(x: Tensor, area: int) -> Iterator[tuple[slice, slice]]:
    """Partition (batch, channel) into groups that are transformed together.

    ``area`` is the number of pixels per plane. On a CPU a transform of several planes at once is up
    to three times slower per pixel than plane by plane, as soon as the planes exceed the fast
    cache; small planes are faster together.
    """
    budget = (1 << 26) if x.device.type == "cuda" else (1 << 16)
    batch, channels = x.shape[0], x.shape[1]
    if area * channels <= budget:
        step = max(1, budget // (area * channels))
        for b in range(0, batch, step):
            yield slice(b, min(b + step, batch)), slice(0, channels)
    else:
        for b in range(batch):
            for c in range(channels):
                yield slice(b, b + 1), slice(c, c + 1)


def spectrum(kernel: Tensor, length: tuple[int, int]) -> Tensor:
    """Compute the transform of a kernel whose first entry lies at the origin."""
    return map_items(lambda item: torch.fft.rfft2(item, s=length), kernel)


def transfer(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the transform of a kernel whose centre ``(kh // 2, kw // 2)`` lies at the origin."""
    kh, kw = kernel.shape[-2:]
    padded = F.pad(kernel, (0, size[1] - kw, 0, size[0] - kh))
    return map_items(torch.fft.rfft2, torch.roll(padded, (-(kh // 2), -(kw // 2)), dims=(-2, -1)))


def apply_multiplier(x: Tensor, multiplier: Tensor) -> Tensor:
    """Multiply in the Fourier domain: periodic convolution with a transfer function."""
    return _filter(x, multiplier, (x.shape[-2], x.shape[-1]))


def _filter(x: Tensor, multiplier: Tensor, size: tuple[int, int]) -> Tensor:
    """Multiply in the Fourier domain of planes that zeros extend to ``size``."""

    def apply(x: Tensor, multiplier: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x, s=size) * multiplier, s=size)

    return map_items(apply, x, multiplier)


def valid_convolution(
    x: Tensor, kernel_spectrum: Tensor, kernel: tuple[int, int], cut: Plan
) -> Tensor:
    """Convolve at the places where the kernel fits inside ``x`` (overlap-save).

    Sizes shrink by ``kernel - 1``.
    """
    (kh, kw), (n0, n1) = kernel, cut.length
    size = x.shape[-2] - kh + 1, x.shape[-1] - kw + 1
    out: Tensor | None = None
    for r, c, h, w in _tiles(size, cut.tile):
        window = x[..., r : r + h + kh - 1, c : c + w + kw - 1]
        piece = _filter(window, kernel_spectrum, (n0, n1))
        # The first kernel - 1 outputs of a periodic convolution have wrapped around.
        piece = piece[..., kh - 1 : kh - 1 + h, kw - 1 : kw - 1 + w]
        if (h, w) == size:
            return piece
        if out is None:
            out = piece.new_empty(*piece.shape[:-2], *size)
        out[..., r : r + h, c : c + w] = piece
    assert out is not None
    return out


def valid_transpose(
    y: Tensor, kernel_spectrum: Tensor, kernel: tuple[int, int], cut: Plan
) -> Tensor:
    """Apply the transpose of `valid_convolution`: full correlation (overlap-add).

    Sizes grow by ``kernel - 1``.
    """
    (kh, kw), (n0, n1) = kernel, cut.length
    size = y.shape[-2], y.shape[-1]
    conjugate = kernel_spectrum.conj()
    out: Tensor | None = None
    for r, c, h, w in _tiles(size, cut.tile):
        # The correlation of a window reaches kernel - 1 beyond it, where windows add up.
        window = F.pad(
            y[..., r : r + h, c : c + w], (kw - 1, n1 - w - kw + 1, kh - 1, n0 - h - kh + 1)
        )
        piece = _filter(window, conjugate, (n0, n1))
        piece = piece[..., : h + kh - 1, : w + kw - 1]
        if (h, w) == size:
            return piece
        if out is None:
            out = piece.new_zeros(*piece.shape[:-2], size[0] + kh - 1, size[1] + kw - 1)
        out[..., r : r + h + kh - 1, c : c + w + kw - 1] += piece
    assert out is not None
    return out


def pad(x: Tensor, margins: tuple[int, int, int, int], boundary: str) -> Tensor:
    """Extend the last two axes by ``margins`` (top, bottom, left, right)."""
    top, bottom, left, right = margins
    if not any(margins):
        return x
    return F.pad(x, (left, right, top, bottom), mode=PAD_MODES[boundary])


def pad_transpose(z: Tensor, margins: tuple[int, int, int, int], boundary: str) -> Tensor:
    """Apply the transpose of `pad`: add copied values back to their origin, in place on ``z``."""
    z = fold(z, -2, margins[0], margins[1], boundary)
    return fold(z, -1, margins[2], margins[3], boundary)


def fold(z: Tensor, axis: int, before: int, after: int, boundary: str) -> Tensor:
    """Apply the transpose of padding along one axis, in place on ``z``."""
    n = z.shape[axis] - before - after
    # These are not `split`, whose views must not be written to.
    head, core = z.narrow(axis, 0, before), z.narrow(axis, before, n)
    tail = z.narrow(axis, before + n, after)
    if boundary == "reflect":
        if before:
            core.narrow(axis, 1, before).add_(head.flip(axis))
        if after:
            core.narrow(axis, n - 1 - after, after).add_(tail.flip(axis))
    elif boundary == "periodic":
        if before:
            core.narrow(axis, n - before, before).add_(head)
        if after:
            core.narrow(axis, 0, after).add_(tail)
    return core


def _tiles(size: tuple[int, int], tile: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Iterate over the tiles: first row, first column, height and width."""
    for r in range(0, size[0], tile[0]):
        for c in range(0, size[1], tile[1]):
            yield r, c, min(tile[0], size[0] - r), min(tile[1], size[1] - c)
