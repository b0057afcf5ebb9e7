"""Warp kernels of the distance to a set of points on a grid, and of trilinear look-up. See `invtoolbox.kernels.points.distance_field` and
`invtoolbox.kernels.points.trilinear`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

# One task: GROUP neighbouring lines of nodes along AXIS, one after the other. Each node holds the number of a point, or -1. Among the
# points that the nodes of a line hold, every node of the line is given the nearest one, by the lower envelope of the parabolas
# (t - vertex)^2 + height; vertices lie where the points are, not at the nodes, and do not fall along the line.
_SWEEP = """
        const float* point = (const float*)points;
        const int size = AXIS == 0 ? nx : AXIS == 1 ? ny : nz;
        const long long stride = AXIS == 0 ? (long long)ny * nz : AXIS == 1 ? nz : 1;
        const int lines = AXIS == 0 ? ny * nz : AXIS == 1 ? nx * nz : nx * ny;
        const int A = AXIS == 0 ? 1 : 0, B = AXIS == 2 ? 1 : 2;
        float* vertex = (float*)scratch + (long long)task * 4 * size;
        float* height = vertex + size;
        float* start = height + size;
        int* index = (int*)(start + size);
        for (int g = 0; g < GROUP; ++g) {
            const int line = task * GROUP + g;
            if (line >= lines)
                break;
            const int inner = AXIS == 2 ? ny : nz;
            const int first = line / inner, second = line % inner;
            const long long begin = AXIS == 0 ? (long long)line : AXIS == 1 ? (long long)first * ny * nz + second : (long long)line * nz;
            int* node = (int*)nodes + begin;
            int count = 0;
            for (int j = 0; j < size; ++j) {
                const int held = node[j * stride];
                if (held < 0)
                    continue;
                const float* p = point + 3 * (long long)held;
                const float v = p[AXIS], da = p[A] - (float)first, db = p[B] - (float)second;
                const float h = da * da + db * db;
                float from = -1.0f;
                bool keep = true;
                while (count > 0) {
                    const float apart = v - vertex[count - 1];
                    if (apart <= 0.0f) {
                        keep = h < height[count - 1];
                        if (!keep)
                            break;
                    } else {
                        from = 0.5f * (v + vertex[count - 1]) + 0.5f * (h - height[count - 1]) / apart;
                        if (from > start[count - 1])
                            break;
                    }
                    --count;
                }
                if (!keep)
                    continue;
                vertex[count] = v;
                height[count] = h;
                start[count] = count > 0 ? from : -1.0f;
                index[count] = held;
                ++count;
            }
            int k = 0;
            for (int t = 0; t < size; ++t) {
                while (k + 1 < count && start[k + 1] <= (float)t)
                    ++k;
#if AXIS == 0
                const float apart = (float)t - vertex[k];
                ((float*)node)[t * stride] = cell * sqrt(apart * apart + height[k]);
#else
                node[t * stride] = count > 0 ? index[k] : -1;
#endif
            }
        }
"""

# One task: a point. The distances of the nodes around it are exact afterwards, whichever points share a cell.
_SPLAT = """
        const float* p = (const float*)points + 3 * (long long)task;
        const int i = (int)(p[0] + 0.5f), j = (int)(p[1] + 0.5f), k = (int)(p[2] + 0.5f);
        for (int x = i - REACH > 0 ? i - REACH : 0; x <= i + REACH && x < nx; ++x)
            for (int y = j - REACH > 0 ? j - REACH : 0; y <= j + REACH && y < ny; ++y)
                for (int z = k - REACH > 0 ? k - REACH : 0; z <= k + REACH && z < nz; ++z) {
                    const float a = (float)x - p[0], b = (float)y - p[1], c = (float)z - p[2];
                    const float distance = cell * sqrt(a * a + b * b + c * c);
                    float* node = (float*)nodes + ((long long)x * ny + y) * nz + z;
#if ATOMIC
                    // Floats that are not negative are in the order of their bits.
                    union { float value; int bits; } as;
                    as.value = distance;
                    wp::atomic_min((int*)node, as.bits);
#else
                    if (distance < *node)
                        *node = distance;
#endif
                }
"""

# One task: a point. The value between the eight nodes around it and its slope; beyond the grid the distance to the grid is added.
_LOOK_UP = """
        const REAL* p = (const REAL*)points + 3 * (long long)task;
        const int sizes[3] = {nx, ny, nz};
        const REAL origin[3] = {(REAL)ox, (REAL)oy, (REAL)oz};
        const REAL inverse = (REAL)1 / (REAL)cell;
        int corner[3];
        REAL w[3], beyond[3], outside = (REAL)0;
        for (int a = 0; a < 3; ++a) {
            const REAL u = (p[a] - origin[a]) * inverse;
            const REAL last = (REAL)(sizes[a] - 1);
            const REAL inside = u > (REAL)0 ? (u < last ? u : last) : (REAL)0;  // also of NaN
            int c = (int)inside;
            corner[a] = c < sizes[a] - 2 ? c : sizes[a] - 2;
            w[a] = inside - (REAL)corner[a];
            beyond[a] = (u - inside) * (REAL)cell;
            outside += beyond[a] * beyond[a];
        }
        const float* at = (const float*)nodes + ((long long)corner[0] * ny + corner[1]) * nz + corner[2];
        const long long sx = (long long)ny * nz, sy = nz;
        // Along z, then y, then x; the slopes fall out on the way.
        const REAL d00 = at[1] - at[0], d01 = at[sy + 1] - at[sy];
        const REAL d10 = at[sx + 1] - at[sx], d11 = at[sx + sy + 1] - at[sx + sy];
        const REAL v00 = at[0] + w[2] * d00, v01 = at[sy] + w[2] * d01;
        const REAL v10 = at[sx] + w[2] * d10, v11 = at[sx + sy] + w[2] * d11;
        const REAL v0 = v00 + w[1] * (v01 - v00), v1 = v10 + w[1] * (v11 - v10);
        const REAL dz0 = d00 + w[1] * (d01 - d00), dz1 = d10 + w[1] * (d11 - d10);
        REAL slope[3];
        slope[0] = (v1 - v0) * inverse;
        slope[1] = ((v01 - v00) + w[0] * ((v11 - v10) - (v01 - v00))) * inverse;
        slope[2] = (dz0 + w[0] * (dz1 - dz0)) * inverse;
        outside = sqrt(outside);
        for (int a = 0; a < 3; ++a)
            ((REAL*)slopes)[3 * (long long)task + a] = beyond[a] != (REAL)0 ? beyond[a] / outside : slope[a];
        ((REAL*)values)[task] = v0 + w[0] * (v1 - v0) + outside;
"""


@cache
def sweep_kernel(axis: int, group: int) -> Any:
    """Nearest points along the lines of one axis; the last axis, 0, leaves distances."""
    return native_kernel(
        "sweep",
        _SWEEP,
        {"AXIS": axis, "GROUP": group},
        "address nodes, points, scratch; int nx, ny, nz; float cell",
    )


@cache
def splat_kernel(reach: int, atomic: bool) -> Any:
    """Exact distances at the nodes within ``reach`` cells of each point."""
    return native_kernel(
        "splat",
        _SPLAT,
        {"REACH": reach, "ATOMIC": atomic},
        "address nodes, points; int nx, ny, nz; float cell",
    )


@cache
def look_up_kernel(dtype: torch.dtype) -> Any:
    """Values and slopes between the nodes of a grid of float32, for points of a precision."""
    return native_kernel(
        "look_up",
        _LOOK_UP,
        {"REAL": REAL[dtype]},
        "address nodes, points, values, slopes; int nx, ny, nz; double ox, oy, oz, cell",
    )
