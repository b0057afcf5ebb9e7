"""Blur pictures by a separable window, for local means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: Neighbouring pixels that are blurred together. On CUDA they are a task, which has them in registers.
_BLOCK, _BLOCK_ON_CUDA = 256, 4


@dataclass
class BlurArguments:
    """Arguments of ``window_blur.cpp``."""

    planes: Tensor  # (..., height, width)
    blurred: Tensor  # of the same shape
    window: Tensor  # weights
    height: int
    width: int


@cache
def blur_kernel(dtype: torch.dtype, size: int, cuda: bool) -> Kernel:
    """Return the kernel that blurs a row, or on CUDA a part of it, by ``size`` weights."""
    block = _BLOCK_ON_CUDA if cuda else _BLOCK
    definitions: dict[str, str | int] = {
        "REAL": REAL[dtype],
        "WINDOW": size,
        "BLOCK": block,
        "UNROLLED": cuda,
    }
    return native_kernel("rendering/window_blur.cpp", definitions, BlurArguments)


def blur_planes(planes: Tensor, window: Tensor) -> Tensor:
    """Blur planes along rows and columns, with zeros beyond the edge.

    Args:
        planes: contiguous planes, ``(..., row, column)``.
        window: weights of both axes, of odd number.

    >>> blur_planes(torch.ones(1, 2, 3), torch.tensor([0.25, 0.5, 0.25]))
    tensor([[[0.5625, 0.7500, 0.5625],
             [0.5625, 0.7500, 0.5625]]])
    """
    height, width = planes.shape[-2:]
    blurred = torch.empty_like(planes)
    arguments = BlurArguments(planes, blurred, window.to(planes), height, width)
    rows = planes.numel() // max(width, 1)
    tasks = rows * -(-width // _BLOCK_ON_CUDA) if planes.is_cuda else rows
    kernel = blur_kernel(planes.dtype, len(window), planes.is_cuda)
    launch(kernel, tasks, arguments, work=2.0 * len(window) * planes.numel())
    return blurred
