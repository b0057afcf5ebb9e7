"""Warp kernels of Joseph's method: one source for the CPU and CUDA.

The loops over a group of rays, or over the images of a batch, become vector instructions.

Layout of the data, with L = lanes (images that are projected together, next to each other in memory):

- an image is kept twice, by rows ``(H, W + 4, L)`` for rays whose main axis is vertical and by columns
  ``(W, H + 4, L)`` for the others, so that a sample's two neighbours are always adjacent. Two zeros in front
  of every line and two behind it stand for the outside: positions are clamped onto them instead of tested.
  With two of them the difference of neighbours, which the derivatives need, is zero there as well.
- a sinogram is ``(rays, L)``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

# A ray in the units of the padded lines, and its sample on line `j`: pixels `i` and `i + 1`, weights 1 - w
# and w. Every kernel uses these very expressions, so the adjoint's weights are the forward's to the last bit.
_RAY = """
        const REAL shift = (REAL)0.5 * (REAL)(across - 1) + (REAL)2;
        const REAL middle = (REAL)0.5 * (REAL)(lines - 1);
        const REAL last = (REAL)(across + 2);
"""
_SAMPLE = """
                const REAL along = (REAL)j - middle;
                REAL x = start + slope * along;
                x = x > (REAL)0 ? x : (REAL)0;
                x = x < last ? x : last;
                const int i = (int)x;
                const REAL w = x - (REAL)i;
"""
# The lines on which a ray is inside, one to spare on either side: what is clamped adds exactly zero.
_RANGE = """
            int from = 0, to = lines;
            if (slope != (REAL)0) {
                const REAL p = -start / slope + middle, q = (last - start) / slope + middle;
                REAL low = (p < q ? p : q) - (REAL)1, high = (p < q ? q : p) + (REAL)2;
                low = low > (REAL)0 ? low : (REAL)0;
                low = low < (REAL)lines ? low : (REAL)lines;
                high = high > (REAL)0 ? high : (REAL)0;
                high = high < (REAL)lines ? high : (REAL)lines;
                from = (int)low;
                to = (int)high;
            } else if (start <= (REAL)0 || start >= last) {
                to = 0;
            }
"""

# One task: GROUP rays of one main axis through LANES images.
_PROJECT = (
    """
        const int groups_vertical = (vertical_rays + GROUP - 1) / GROUP;
        const int groups = groups_vertical + (all_rays - vertical_rays + GROUP - 1) / GROUP;
        const int items_here = MODE == 2 ? items : 1;
        const int group = task % groups;
        const bool vertical = group < groups_vertical;
        const int first = vertical ? group * GROUP : vertical_rays + (group - groups_vertical) * GROUP;
        const int end = vertical ? vertical_rays : all_rays;
        const int lines = vertical ? height : width;
        const int across = vertical ? width : height;
        const int stride = (across + 4) * LANES;
"""
    + _RAY
    + """
        int rays[GROUP];
        REAL starts[GROUP], slopes[GROUP];
        int from_all = lines, to_all = 0;
        for (int g = 0; g < GROUP; ++g) {
            const int k = first + g < end ? first + g : end - 1;
            rays[g] = ((const int*)order)[k];
            const REAL start = starts[g] = ((const REAL*)offsets)[rays[g]] + shift;
            const REAL slope = slopes[g] = ((const REAL*)slopes_in)[rays[g]];
"""
    + _RANGE
    + """
            if (from < to) {
                from_all = from < from_all ? from : from_all;
                to_all = to > to_all ? to : to_all;
            }
        }
        REAL moment0[GROUP], moment1[GROUP], moment2[GROUP];
        for (int g = 0; g < GROUP; ++g)
            moment0[g] = moment1[g] = moment2[g] = (REAL)0;
        for (int n = 0; n < items_here; ++n) {
            const int item = MODE == 2 ? n : task / groups;
            const REAL* line = (const REAL*)(vertical ? rows : columns)
                + ((size_t)item * lines + from_all) * stride;
            REAL sum0[GROUP * LANES], sum1[GROUP * LANES], sum2[GROUP * LANES];
            for (int g = 0; g < GROUP * LANES; ++g)
                sum0[g] = sum1[g] = sum2[g] = (REAL)0;
            for (int j = from_all; j < to_all; ++j, line += stride) {
                for (int g = 0; g < GROUP; ++g) {
                    const REAL start = starts[g], slope = slopes[g];
"""
    + _SAMPLE
    + """
                    const REAL* pixel = line + i * LANES;
                    for (int l = 0; l < LANES; ++l) {
                        const REAL difference = pixel[LANES + l] - pixel[l];
                        sum0[g * LANES + l] += pixel[l] + w * difference;
                        if (MODE > 0) {
                            sum1[g * LANES + l] += difference;
                            sum2[g * LANES + l] += along * difference;
                        }
                    }
                }
            }
            for (int g = 0; g < GROUP && first + g < end; ++g) {
                const int r = rays[g];
                REAL* y = (REAL*)sinogram + ((size_t)item * all_rays + r) * LANES;
                const REAL* c = (const REAL*)coefficients + r;
                for (int l = 0; l < LANES; ++l) {
                    const int k = g * LANES + l;
                    if (MODE == 0) y[l] = c[0] * sum0[k];
                    if (MODE == 1) y[l] = c[0] * sum0[k] + c[all_rays] * sum1[k] + c[2 * all_rays] * sum2[k];
                    if (MODE == 2) {
                        moment0[g] += y[l] * sum0[k];
                        moment1[g] += y[l] * sum1[k];
                        moment2[g] += y[l] * sum2[k];
                    }
                }
            }
        }
        if (MODE == 2) {
            for (int g = 0; g < GROUP && first + g < end; ++g) {
                REAL* m = (REAL*)coefficients + rays[g];
                m[0] = moment0[g];
                m[all_rays] = moment1[g];
                m[2 * all_rays] = moment2[g];
            }
        }
"""
)

# One task: LINES neighbouring lines of one image group, which no other task writes to, and every ray that has
# them in its way. The lines stay in the cache nearest to the core, and no atomics are needed.
_BACKPROJECT_LINES = (
    """
        const int blocks_vertical = (height + LINES - 1) / LINES;
        const int blocks = blocks_vertical + (width + LINES - 1) / LINES;
        const int item = task / blocks;
        const int block = task % blocks;
        const bool vertical = block < blocks_vertical;
        const int first = (vertical ? block : block - blocks_vertical) * LINES;
        const int lines = vertical ? height : width;
        const int across = vertical ? width : height;
        const int padded_lines = (vertical ? blocks_vertical : blocks - blocks_vertical) * LINES;
        const int stride = (across + 4) * LANES;
        const int begin = vertical ? 0 : vertical_rays, end = vertical ? vertical_rays : all_rays;
"""
    + _RAY
    + """
        REAL* block_out = (REAL*)(vertical ? rows : columns) + ((size_t)item * padded_lines + first) * stride;
        for (int k = 0; k < LINES * stride; ++k)
            block_out[k] = (REAL)0;
        const REAL* all_y = (const REAL*)sinogram + (size_t)item * all_rays * LANES;
        const REAL along_first = (REAL)first - middle, along_last = (REAL)(first + LINES - 1) - middle;
        for (int k = begin; k < end; ++k) {
            const int r = ((const int*)order)[k];
            const REAL start = ((const REAL*)offsets)[r] + shift;
            const REAL slope = ((const REAL*)slopes_in)[r];
            const REAL x_first = start + slope * along_first, x_last = start + slope * along_last;
            if ((x_first <= (REAL)0 && x_last <= (REAL)0) || (x_first >= last && x_last >= last))
                continue;
            const REAL* c = (const REAL*)coefficients + r;
            const REAL* y = all_y + (size_t)r * LANES;
            REAL scaled[LANES];
            for (int l = 0; l < LANES; ++l)
                scaled[l] = c[0] * y[l];
            for (int m = 0; m < LINES; ++m) {
                const int j = first + m;
"""
    + _SAMPLE
    + """
                REAL* pixel = block_out + m * stride + i * LANES;
                for (int l = 0; l < LANES; ++l) {
                    REAL right = scaled[l] * w;
                    REAL left = scaled[l] - right;
                    if (MODE == 1) {
                        const REAL tangent = (c[all_rays] + c[2 * all_rays] * along) * y[l];
                        right += tangent;
                        left -= tangent;
                    }
                    pixel[l] += left;
                    pixel[LANES + l] += right;
                }
            }
        }
"""
)

# One task: one ray, scattered with atomic additions. For CUDA; on the CPU it is a check of the kernel above.
_BACKPROJECT_SCATTER = (
    """
        const int item = task / all_rays;
        const int k = task % all_rays;
        const bool vertical = k < vertical_rays;
        const int lines = vertical ? height : width;
        const int across = vertical ? width : height;
        const int padded_lines = (lines + LINES - 1) / LINES * LINES;
        const int stride = (across + 4) * LANES;
"""
    + _RAY
    + """
        const int r = ((const int*)order)[k];
        const REAL start = ((const REAL*)offsets)[r] + shift;
        const REAL slope = ((const REAL*)slopes_in)[r];
"""
    + _RANGE
    + """
        REAL* out = (REAL*)(vertical ? rows : columns) + (size_t)item * padded_lines * stride;
        const REAL* c = (const REAL*)coefficients + r;
        const REAL* y = (const REAL*)sinogram + ((size_t)item * all_rays + r) * LANES;
        for (int j = from; j < to; ++j) {
"""
    + _SAMPLE
    + """
            REAL* pixel = out + (size_t)j * stride + i * LANES;
            for (int l = 0; l < LANES; ++l) {
                const REAL scaled = c[0] * y[l];
                REAL right = scaled * w;
                REAL left = scaled - right;
                if (MODE == 1) {
                    const REAL tangent = (c[all_rays] + c[2 * all_rays] * along) * y[l];
                    right += tangent;
                    left -= tangent;
                }
                wp::atomic_add(pixel + l, left);
                wp::atomic_add(pixel + LANES + l, right);
            }
        }
"""
)


@cache
def project_kernel(dtype: torch.dtype, lanes: int, group: int, mode: int) -> Any:
    """Forward projection of ``group`` rays and ``lanes`` images a task.

    ``mode`` 0: ``coefficients[0]`` times the sum of samples. 1: plus ``coefficients[1]`` times the sum of the
    differences of neighbours, plus ``coefficients[2]`` times that sum weighted by the line's distance from
    the centre (derivatives in offset and slope). 2: those three sums times the sinogram, summed over the
    batch, into ``coefficients``.
    """
    return _kernel(
        "project", _PROJECT, {"REAL": REAL[dtype], "LANES": lanes, "GROUP": group, "MODE": mode}
    )


@cache
def backproject_kernel(dtype: torch.dtype, lanes: int, lines: int, mode: int, scatter: bool) -> Any:
    """The transpose of `project_kernel` in modes 0 and 1: by ``lines`` that a task owns, or by atomic
    scatter."""
    source = _BACKPROJECT_SCATTER if scatter else _BACKPROJECT_LINES
    return _kernel(
        "backproject", source, {"REAL": REAL[dtype], "LANES": lanes, "LINES": lines, "MODE": mode}
    )


def _kernel(name: str, source: str, words: dict[str, str | int]) -> Any:
    return native_kernel(
        name,
        source,
        words,
        "address rows, columns, sinogram, offsets, slopes_in, coefficients, order; "
        "int vertical_rays, all_rays, height, width, items",
    )
