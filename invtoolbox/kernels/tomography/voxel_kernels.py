"""Warp kernels of voxel-driven back-projection, and their transpose. See `invtoolbox.kernels.tomography.voxel_backprojection`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

# The place of a voxel on the panel of a view, and its weight; what depends on row and slice alone is in a0, b0 and d0.
_PLACE = """
                    const REAL c = (REAL)i - (REAL)0.5 * (REAL)(width - 1);
                    const REAL across = a0 + view[0] * c;
                    const REAL along = b0 + view[4] * c;
                    const REAL ahead = d0 + view[8] * c;
#if CURVED
                    const REAL far = sqrt(across * across + ahead * ahead);
                    const REAL inverse = (REAL)1 / far;
                    const REAL x = view[12] + view[13] * atan(across / ahead);
                    const REAL y = view[14] + along * inverse;
#else
                    const REAL inverse = (REAL)1 / ahead;
                    const REAL x = across * inverse;
                    const REAL y = along * inverse;
#endif
                    // Also false for what is not a number.
                    const bool seen = ahead > (REAL)0 && x > (REAL)-1 && x < (REAL)columns && y > (REAL)-1 && y < (REAL)rows;
                    const REAL fx = seen ? x + (REAL)1 : (REAL)1;
                    const REAL fy = seen ? y + (REAL)1 : (REAL)1;
                    const int k = (int)fx - 1, l = (int)fy - 1;
                    const REAL p = fx - (REAL)(k + 1), q = fy - (REAL)(l + 1);
                    const REAL weight = seen ? inverse * inverse : (REAL)0;
                    // Cells outside the panel are zero: their neighbour is read, with weight 0.
                    const REAL left = k >= 0 ? (REAL)1 - p : (REAL)0, right = k + 1 < columns ? p : (REAL)0;
                    const REAL low = l >= 0 ? weight * ((REAL)1 - q) : (REAL)0, high = l + 1 < rows ? weight * q : (REAL)0;
                    const int k0 = k >= 0 ? k : 0, k1 = k + 1 < columns ? k + 1 : columns - 1;
                    const size_t r0 = (size_t)(l >= 0 ? l : 0) * columns, r1 = (size_t)(l + 1 < rows ? l + 1 : rows - 1) * columns;
"""

_LINES = """
                const REAL row = (REAL)j - (REAL)0.5 * (REAL)(height - 1);
                const REAL slice = (REAL)h - (REAL)0.5 * (REAL)(depth - 1);
                const REAL a0 = view[1] * row + view[2] * slice + view[3];
                const REAL b0 = view[5] * row + view[6] * slice + view[7];
                const REAL d0 = view[9] * row + view[10] * slice + view[11];
"""

# The first voxel of the block of a task, and its item.
_BLOCK = """
        const int across_tasks = (width + BX - 1) / BX, along_tasks = (height + BY - 1) / BY, deep_tasks = (depth + BZ - 1) / BZ;
        const int i0 = task % across_tasks * BX;
        const int j0 = task / across_tasks % along_tasks * BY;
        const int h0 = task / (across_tasks * along_tasks) % deep_tasks * BZ;
        const int item = task / (across_tasks * along_tasks * deep_tasks);
"""

# One task: a block of voxels, all views. The sums of the block stay close at hand, and so does the part of a view that it sees.
_GATHER = (
    _BLOCK
    + """        REAL sum[BZ * BY * BX];
        for (int g = 0; g < BZ * BY * BX; ++g)
            sum[g] = (REAL)0;
        const REAL* panel = (const REAL*)read + (size_t)item * views * rows * columns;
        for (int v = 0; v < views; ++v, panel += (size_t)rows * columns) {
            const REAL* view = (const REAL*)table + 15 * v;
            for (int b = 0; b < BZ * BY; ++b) {
                const int h = h0 + b / BY, j = j0 + b % BY;
                if (h >= depth || j >= height)
                    continue;
"""
    + _LINES
    + """
                for (int g = 0; g < BX; ++g) {
                    const int i = i0 + g;
"""
    + _PLACE
    + """
                    sum[b * BX + g] += low * (left * panel[r0 + k0] + right * panel[r0 + k1])
                        + high * (left * panel[r1 + k0] + right * panel[r1 + k1]);
                }
            }
        }
        for (int b = 0; b < BZ * BY; ++b) {
            const int h = h0 + b / BY, j = j0 + b % BY;
            if (h >= depth || j >= height)
                continue;
            REAL* out = (REAL*)filled + (((size_t)item * depth + h) * height + j) * width;
            for (int g = 0; g < BX && i0 + g < width; ++g)
                out[i0 + g] = sum[b * BX + g];
        }
"""
)

# One task as above, for views whose columns hold lines of voxels along the slices: the column, its weight and the arctangent are found
# once a line. Panels come with their columns one after the other, and a cell of zeros around.
_GATHER_UPRIGHT = (
    _BLOCK
    + """        REAL sum[BY * BX * BZ];
        for (int g = 0; g < BY * BX * BZ; ++g)
            sum[g] = (REAL)0;
        const size_t size = (size_t)(rows + 2) * (columns + 2);
        const REAL* panel = (const REAL*)read + (size_t)item * views * size;
        const REAL slice = (REAL)h0 - (REAL)0.5 * (REAL)(depth - 1);
        for (int v = 0; v < views; ++v, panel += size) {
            const REAL* view = (const REAL*)table + 15 * v;
            for (int b = 0; b < BY * BX; ++b) {
                const REAL row = (REAL)(j0 + b / BX) - (REAL)0.5 * (REAL)(height - 1);
                const REAL c = (REAL)(i0 + b % BX) - (REAL)0.5 * (REAL)(width - 1);
                const REAL across = view[0] * c + view[1] * row + view[3];
                const REAL ahead = view[8] * c + view[9] * row + view[11];
                if (!(ahead > (REAL)0))
                    continue;
#if CURVED
                const REAL inverse = (REAL)1 / sqrt(across * across + ahead * ahead);
                const REAL x = view[12] + view[13] * atan(across / ahead) + (REAL)1;
                const REAL lift = view[14] + (REAL)1;
#else
                const REAL inverse = (REAL)1 / ahead;
                const REAL x = across * inverse + (REAL)1;
                const REAL lift = (REAL)1;
#endif
                if (!(x > (REAL)0 && x < (REAL)(columns + 1)))
                    continue;
                const int k = (int)x;
                const REAL weight = inverse * inverse;
                const REAL right = weight * (x - (REAL)k), left = weight - right;
                const REAL* near = panel + (size_t)k * (rows + 2);
                const REAL* next = near + rows + 2;
                const REAL start = (view[4] * c + view[5] * row + view[6] * slice + view[7]) * inverse + lift;
                const REAL step = view[6] * inverse;
                REAL* line = sum + b * BZ;
                for (int g = 0; g < BZ; ++g) {
                    REAL y = start + step * (REAL)g;
                    y = y > (REAL)0 ? y : (REAL)0;
                    y = y < (REAL)(rows + 1) ? y : (REAL)(rows + 1);
                    int l = (int)y;
                    l = l < rows ? l : rows;
                    const REAL q = y - (REAL)l;
                    const REAL low = left * near[l] + right * next[l], high = left * near[l + 1] + right * next[l + 1];
                    line[g] += low + q * (high - low);
                }
            }
        }
        for (int g = 0; g < BZ && h0 + g < depth; ++g)
            for (int j = 0; j < BY && j0 + j < height; ++j) {
                REAL* out = (REAL*)filled + (((size_t)item * depth + h0 + g) * height + j0 + j) * width;
                for (int i = 0; i < BX && i0 + i < width; ++i)
                    out[i0 + i] = sum[(j * BX + i) * BZ + g];
            }
"""
)

# The transpose. One task: a view, to whose panel no other task writes; or, with atomics, one row of voxels of it.
_SCATTER = (
    """
        const int parts = ATOMIC ? depth * height : 1;
        const int item = task / (views * parts);
        const int v = task / parts % views;
        const int first = ATOMIC ? task % parts : 0;
        const int last = ATOMIC ? first + 1 : depth * height;
        const REAL* view = (const REAL*)table + 15 * v;
        REAL* panel = (REAL*)filled + ((size_t)item * views + v) * rows * columns;
        for (int b = first; b < last; ++b) {
            const int h = b / height, j = b % height;
            const REAL* values = (const REAL*)read + (((size_t)item * depth + h) * height + j) * width;
"""
    + _LINES
    + """
            for (int i = 0; i < width; ++i) {
"""
    + _PLACE
    + """
                const REAL value = values[i];
#if ATOMIC
                wp::atomic_add(panel + r0 + k0, value * low * left);
                wp::atomic_add(panel + r0 + k1, value * low * right);
                wp::atomic_add(panel + r1 + k0, value * high * left);
                wp::atomic_add(panel + r1 + k1, value * high * right);
#else
                panel[r0 + k0] += value * low * left;
                panel[r0 + k1] += value * low * right;
                panel[r1 + k0] += value * high * left;
                panel[r1 + k1] += value * high * right;
#endif
            }
        }
"""
)


@cache
def voxel_kernel(
    dtype: torch.dtype,
    block: tuple[int, int, int],
    curved: bool,
    transpose: bool,
    upright: bool,
    atomic: bool,
) -> Any:
    """Back-projection of a block of voxels a task, or its transpose."""
    source = _SCATTER if transpose else _GATHER_UPRIGHT if upright else _GATHER
    words: dict[str, str | int] = {
        "REAL": REAL[dtype],
        "CURVED": curved,
        "ATOMIC": atomic,
        "BZ": block[0],
        "BY": block[1],
        "BX": block[2],
    }
    return native_kernel(
        "voxel",
        source,
        words,
        "address filled, read, table; int depth, height, width, views, rows, columns",
    )
