r"""Pixel-driven back-projection, the last step of filtered back-projection.

For each pixel and view, the kernel computes the place where the pixel is seen on the detector,
interpolates linearly between the two cells there (zero outside the detector) and adds the value
with its distance weight. The result is smoother than the transpose of the projector, which is why
analytic inversion uses it. Its own transpose serves automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.linear_map import linear_map
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel
from invtoolbox.kernels.tomography.joseph import interleave, pad_lines, plan_lanes

#: Neighbouring pixels that a task of the CPU treats side by side, one image at a time.
_GROUP = 32


@dataclass(frozen=True, eq=False)
class PixelViews:
    r"""Places where the pixels of an image of ``shape`` (H, W) are seen, view by view.

    With a pixel's column ``c`` and row ``r`` counted from the image's centre,
    ``lateral = t_0 + t_1 c + t_2 r`` and ``depth = t_3 + t_4 c + t_5 r``:

    - flat detector: cell ``lateral / depth``, weight ``1 / depth^2`` (a parallel beam has depth 1);
    - curved detector: cell ``t_6 + t_7 arctan(lateral / depth)``, weight
      ``1 / (lateral^2 + depth^2)``.

    Attributes:
        table: the numbers t of every view, shape (V, 8), float64.
        shape: (H, W).
        curved: whether the detector is curved.
    """

    table: Tensor
    shape: tuple[int, int]
    curved: bool = False


@dataclass
class PixelArguments:
    """Arguments of the kernels.

    Attributes:
        image: (items, H, W, lanes).
        lines: the sinogram with two zeros on either side of every line, (items, V, detectors + 4,
            lanes).
        table: `PixelViews.table` in the precision of the image.
        height, width, views, detectors: the sizes above.
    """

    image: Tensor
    lines: Tensor
    table: Tensor
    height: int
    width: int
    views: int
    detectors: int


@cache
def pixel_kernel(name: str, dtype: torch.dtype, lanes: int, curved: bool, **further: int) -> Kernel:
    """Return the kernel of the file ``pixel_{name}.cpp`` for ``lanes`` images per task.

    Args:
        name: "backproject" or "project".
        dtype: precision of the images.
        lanes: number of images that are projected together.
        curved: see `PixelViews`.
        further: further definitions, see the files.
    """
    definitions = {"REAL": REAL[dtype], "LANES": lanes, "CURVED": curved} | further
    return native_kernel(f"tomography/pixel_{name}.cpp", definitions, PixelArguments)


def pixel_backproject(sinogram: Tensor, views: PixelViews) -> Tensor:
    """Back-project ``(N, V, D) -> (N, H, W)``, differentiably in the sinogram.

    Raises:
        InputError: wrong shape or dtype.

    >>> table = torch.tensor([[1.0, 1, 0, 1, 0, 0, 0, 0]])      # column c is seen in cell 1 + c
    >>> pixel_backproject(torch.tensor([[[1.0, 2.0, 4.0]]]), PixelViews(table, (1, 5)))
    tensor([[[0., 1., 2., 4., 0.]]])
    """
    if sinogram.ndim != 3 or sinogram.shape[1] != views.table.shape[0]:
        raise InputError(
            f"back-projection takes sinograms of shape (batch, {views.table.shape[0]}, "
            f"detectors), got {tuple(sinogram.shape)}"
        )
    if sinogram.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"back-projection takes float32 or float64, got {sinogram.dtype}; convert with .float()"
        )
    detectors = sinogram.shape[2]
    return linear_map(
        sinogram, lambda y: _backproject(y, views), lambda x: _project(x, views, detectors)
    )


def _backproject(sinogram: Tensor, views: PixelViews) -> Tensor:
    height, width = views.shape
    sizes = (height, width, *sinogram.shape[1:])
    table = views.table.to(sinogram).contiguous()
    image = sinogram.new_empty(sinogram.shape[0], height, width)
    for start, count, lanes in plan_lanes(sinogram):
        # Two zeros on either side of a line stand for the outside of the detector.
        lines = pad_lines(sinogram[start : start + count], lanes)
        items = lines.shape[0]
        direct = lanes == 1
        out = image[start : start + count] if direct else image.new_empty(height * width, lanes)
        group = max(_GROUP // lanes, 4) if sinogram.device.type == "cpu" else 1
        kernel = pixel_kernel("backproject", sinogram.dtype, lanes, views.curved, GROUP=group)
        arguments = PixelArguments(out, lines, table, *sizes)
        tasks = items * height * -(-width // group)
        launch(kernel, tasks, arguments, float(items * height * width) * len(table))
        if not direct:
            image[start : start + count] = out.t()[:count].view(count, height, width)
    return image


def _project(image: Tensor, views: PixelViews, detectors: int) -> Tensor:
    height, width = views.shape
    number_views = views.table.shape[0]
    sizes = (height, width, number_views, detectors)
    table = views.table.to(image).contiguous()
    sinogram = image.new_empty(image.shape[0], number_views, detectors)
    atomic = image.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    for start, count, lanes in plan_lanes(image):
        values = interleave(image[start : start + count], lanes)
        items = count if lanes == 1 else 1
        lines = image.new_zeros(items, number_views, detectors + 4, lanes)
        kernel = pixel_kernel("project", image.dtype, lanes, views.curved, ATOMIC=atomic)
        arguments = PixelArguments(values, lines, table, *sizes)
        # A task is a view, or a row of the image in a view if additions are atomic.
        tasks = items * number_views * (height if atomic else 1)
        launch(kernel, tasks, arguments, float(items * height * width) * number_views)
        # The outer cells hold what falls outside of the detector.
        inside = lines[:, :, 2 : detectors + 2].permute(0, 3, 1, 2)[:, : count // items]
        sinogram[start : start + count] = inside.reshape(count, number_views, detectors)
    return sinogram
