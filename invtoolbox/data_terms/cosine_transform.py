"""The cosine transform: the Fourier transform of signals that are mirrored at their edges."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_transform(x: Tensor, axis: int) -> Tensor:
    """The orthonormal DCT-II along an axis, by an FFT of the same length (Makhoul 1980).

    >>> cosine_transform(torch.ones(4), 0)
    tensor([2., 0., 0., 0.])
    """
    if x.is_complex():
        return torch.complex(cosine_transform(x.real, axis), cosine_transform(x.imag, axis))
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    spectrum = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1), dim=-1)
    return (spectrum * _twiddle(n, x)).real.mul(_orthonormal(n, x)).movedim(-1, axis)


def inverse_cosine_transform(x: Tensor, axis: int) -> Tensor:
    """The inverse of `cosine_transform`, which is its transpose."""
    if x.is_complex():
        return torch.complex(
            inverse_cosine_transform(x.real, axis), inverse_cosine_transform(x.imag, axis)
        )
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    x = x / _orthonormal(n, x)
    mirrored = torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:].flip(-1)], -1)
    samples = torch.fft.ifft(torch.complex(x, -mirrored) * _twiddle(n, x).conj(), dim=-1).real
    even = (n + 1) // 2
    result = torch.empty_like(x)
    result[..., ::2], result[..., 1::2] = samples[..., :even], samples[..., even:].flip(-1)
    return result.movedim(-1, axis)


def _twiddle(n: int, like: Tensor) -> Tensor:
    angle = torch.arange(n, dtype=like.dtype, device=like.device) * (-math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle)


def _orthonormal(n: int, like: Tensor) -> Tensor:
    scale = torch.full((n,), math.sqrt(2 / n), dtype=like.dtype, device=like.device)
    scale[0] = math.sqrt(1 / n)
    return scale
