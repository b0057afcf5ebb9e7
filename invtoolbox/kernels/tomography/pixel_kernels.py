"""Warp kernels of pixel-driven back-projection, and their transpose. See
`invtoolbox.kernels.tomography.pixel_backprojection`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

# The place of a pixel on the detector of a view, in cells of the padded line: two zeros on either side of the
# detector's cells stand for what it did not measure.
_PLACE = """
                const REAL c = (REAL)i - (REAL)0.5 * (REAL)(width - 1);
                const REAL lateral = view[0] + view[1] * c + view[2] * row;
                const REAL depth = view[3] + view[4] * c + view[5] * row;
#if CURVED
                const REAL weight = (REAL)1 / (lateral * lateral + depth * depth);
                REAL x = view[6] + view[7] * atan(lateral / depth) + (REAL)2;
#else
                const REAL inverse = (REAL)1 / depth;
                const REAL weight = inverse * inverse;
                REAL x = lateral * inverse + (REAL)2;
#endif
                x = x > (REAL)0 ? x : (REAL)0;
                x = x < (REAL)(detectors + 2) ? x : (REAL)(detectors + 2);
                const int k = (int)x;
                const REAL w = x - (REAL)k;
"""

# One task: GROUP neighbouring pixels of a row, all views. The sums of the group stay in registers.
_GATHER = (
    """
        const int groups = (width + GROUP - 1) / GROUP;
        const int item = task / (height * groups);
        const int j = task / groups % height;
        const int first = task % groups * GROUP;
        const REAL row = (REAL)j - (REAL)0.5 * (REAL)(height - 1);
        const REAL* line = (const REAL*)lines + (size_t)item * views * (detectors + 4) * LANES;
        REAL sum[GROUP * LANES];
        for (int g = 0; g < GROUP * LANES; ++g)
            sum[g] = (REAL)0;
        for (int v = 0; v < views; ++v, line += (detectors + 4) * LANES) {
            const REAL* view = (const REAL*)table + 8 * v;
            for (int g = 0; g < GROUP; ++g) {
                const int i = first + g;
"""
    + _PLACE
    + """
                for (int l = 0; l < LANES; ++l) {
                    const REAL left = line[k * LANES + l], right = line[(k + 1) * LANES + l];
                    sum[g * LANES + l] += weight * (left + w * (right - left));
                }
            }
        }
        REAL* out = (REAL*)image + (size_t)(item * height + j) * width * LANES;
        for (int g = 0; g < GROUP && first + g < width; ++g)
            for (int l = 0; l < LANES; ++l)
                out[(first + g) * LANES + l] = sum[g * LANES + l];
"""
)

# The transpose. One task: a view, to whose line no other task writes; or, with atomics, one row of it.
_SCATTER = (
    """
        const int parts = ATOMIC ? height : 1;
        const int item = task / (views * parts);
        const int v = task / parts % views;
        const int first = ATOMIC ? task % parts : 0;
        const int last = ATOMIC ? first + 1 : height;
        const REAL* view = (const REAL*)table + 8 * v;
        REAL* line = (REAL*)lines + (size_t)(item * views + v) * (detectors + 4) * LANES;
        for (int j = first; j < last; ++j) {
            const REAL row = (REAL)j - (REAL)0.5 * (REAL)(height - 1);
            const REAL* values = (const REAL*)image + (size_t)(item * height + j) * width * LANES;
            for (int i = 0; i < width; ++i) {
"""
    + _PLACE
    + """
                for (int l = 0; l < LANES; ++l) {
                    const REAL scaled = weight * values[i * LANES + l];
                    const REAL right = scaled * w;
#if ATOMIC
                    wp::atomic_add(line + k * LANES + l, scaled - right);
                    wp::atomic_add(line + (k + 1) * LANES + l, right);
#else
                    line[k * LANES + l] += scaled - right;
                    line[(k + 1) * LANES + l] += right;
#endif
                }
            }
        }
"""
)


@cache
def pixel_kernel(
    dtype: torch.dtype, lanes: int, group: int, curved: bool, transpose: bool, atomic: bool
) -> Any:
    """Back-projection of ``group`` pixels and ``lanes`` images a task, or its transpose."""
    words: dict[str, str | int] = {
        "REAL": REAL[dtype],
        "LANES": lanes,
        "GROUP": group,
        "CURVED": curved,
        "ATOMIC": atomic,
    }
    return native_kernel(
        "pixel",
        _SCATTER if transpose else _GATHER,
        words,
        "address image, lines, table; int height, width, views, detectors",
    )
