"""The Warp kernel that projects a slab of a volume on the CPU. See `volume_slab_kernels`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import native_kernel
from invtoolbox.kernels.tomography.slab_kernels import (
    ALIGNED,
    ALIGNED_PLANES,
    COLUMN_POINT,
    GROUP,
    TYPES,
    VIEW,
    words,
)

# One task: a tile of columns of one view through the planes of the slab; adds to the projections.
_PROJECT = (
    TYPES
    + VIEW
    + """
        const int view = ((const int*)chosen)[task / tiles];
        const int c_first = task % tiles * COLS, c_end = least(c_first + COLS, columns);
        const double* T = (const double*)table + 13 * view;
        const bool aligned = AXIS != 2 && T[9] == 0.0 && T[10] == 0.0;
        alignas(64) REAL tile[COLS * ROWS];
        for (int r_first = 0; r_first < rows; r_first += ROWS) {
            const int here = least(ROWS, rows - r_first);
            for (int k = 0; k < COLS * ROWS; ++k)
                tile[k] = (REAL)0;
            for (int c = c_first; c < c_end; ++c) {
                REAL* sums = tile + (c - c_first) * ROWS;
"""
    + COLUMN_POINT
    + """
                if (aligned) {
"""
    + ALIGNED
    + """
"""
    + ALIGNED_PLANES
    + """
                // Only rows that are inside; what is outside adds zeros.
                int firsts[DEPTH_OF_SLAB], ends[DEPTH_OF_SLAB];
                for (int k = 0; k < to - from; ++k) {
                    const REAL za = places[k], zb = gaps[k], per = (REAL)1 / zb, p = -za * per, q = (last_b - za) * per;
                    const bool level = zb < (REAL)1e-6 && zb > (REAL)-1e-6;
                    REAL low = (p < q ? p : q) - (REAL)1, high = (p < q ? q : p) + (REAL)2;
                    low = !level && low > (REAL)ra ? low : (REAL)ra;
                    low = low < (REAL)rb ? low : (REAL)rb;
                    high = !level && high < (REAL)rb ? high : (REAL)rb;
                    high = high > (REAL)ra ? high : (REAL)ra;
                    firsts[k] = (int)low / LANES * LANES;
                    ends[k] = (int)high;
                }
                for (int k = from; k < to; ++k) {
                    const int j = lines[k - from], r0 = firsts[k - from], r1 = ends[k - from];
                    const REAL wa = weights[k - from], za = places[k - from], zb = gaps[k - from];
                    const REAL width_z = zb < (REAL)0 ? -zb : zb;
                    const REAL* line = (const REAL*)slab + (k - k_first) * plane + j * stride;
                    const REAL* next = line + stride;
                    if (width_z * (REAL)(LANES - 1) < (REAL)(2 * LANES - 3)) {
                        for (int r = r0; r < r1; r += LANES) {
                            vec z = za + zb * (lane + (REAL)r);
                            z = z > (REAL)0 ? z : (vec)(REAL)0;
                            z = z < last_b ? z : (vec)last_b;
                            const ivec i = __builtin_convertvector(z, ivec);
                            const vec w = z - __builtin_convertvector(i, vec);
                            const int i0 = (int)(zb < (REAL)0 ? i[LANES - 1] : i[0]);
                            const REAL *p0 = line + i0, *p1 = next + i0;
                            vec below = load(p0), above = load(p0 + LANES);
                            below += wa * (load(p1) - below);
                            above += wa * (load(p1 + LANES) - above);
                            const ivec index = i - (INTEGER)i0;
                            const vec left = pick(below, above, index), right = pick(below, above, index + 1);
                            store(sums + r, load(sums + r) + (left + w * (right - left)));
                        }
                    } else {
                        for (int r = r0; r < r1; ++r) {
                            REAL z = za + zb * (REAL)r;
                            z = z > (REAL)0 ? z : (REAL)0;
                            z = z < last_b ? z : last_b;
                            const int i = (int)z;
                            const REAL w = z - (REAL)i;
                            const REAL left = line[i] + wa * (next[i] - line[i]);
                            const REAL right = line[i + 1] + wa * (next[i + 1] - line[i + 1]);
                            sums[r] += left + w * (right - left);
                        }
                    }
                }
                for (int r = 0; r < here; ++r) {
                    const REAL steep = steep0 + steep1 * (REAL)r;
                    const REAL length = ROOT(flat + steep * steep);
                    sums[r] = r >= ra && r < rb ? length * sums[r] : (REAL)0;
                }
                } else {
                for (int r = 0; r < here; r += LANES) {
                REAL start_a[LANES], start_b[LANES], slope_a[LANES], slope_b[LANES], length[LANES];
"""
    + GROUP
    + """
                    if (from >= to)
                        continue;
                    bool whole = true;
                    for (int l = 0; l < LANES; ++l)
                        whole = whole && length[l] > (REAL)0;
                    vec total = (vec)(REAL)0;
                    const REAL* base = (const REAL*)slab + (from - k_first) * plane;
                    for (int k = from; k < to; ++k, base += plane) {
                        const REAL t = (REAL)k - (REAL)middle_m;
                        vec xa = load(start_a) + load(slope_a) * t, xb = load(start_b) + load(slope_b) * t;
                        xa = xa > (REAL)0 ? xa : (vec)(REAL)0;
                        xa = xa < last_a ? xa : (vec)last_a;
                        xb = xb > (REAL)0 ? xb : (vec)(REAL)0;
                        xb = xb < last_b ? xb : (vec)last_b;
                        const ivec ia = __builtin_convertvector(xa, ivec), ib = __builtin_convertvector(xb, ivec);
                        const vec wb = xb - __builtin_convertvector(ib, vec);
                        // Along the column positions are monotone: the ends bound the lines and the voxels in question.
                        const int a0 = (int)ia[0], a1 = (int)ia[LANES - 1], b0 = (int)ib[0], b1 = (int)ib[LANES - 1];
                        const int line0 = least(a0, a1), line1 = most(a0, a1) + 1, i0 = least(b0, b1);
                        if (whole && line1 - line0 <= SWEEP && most(b0, b1) - i0 < 2 * LANES - 1) {
                            const ivec index = ib - (INTEGER)i0;
                            for (int j = line0; j <= line1; ++j) {
                                const REAL* line = base + j * stride + i0;
                                const vec first = load(line), second = load(line + LANES);
                                const vec left = pick(first, second, index), right = pick(first, second, index + 1);
                                vec weight = xa - (REAL)j;
                                weight = weight > (REAL)0 ? (REAL)1 - weight : (REAL)1 + weight;
                                weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                                total += weight * (left + wb * (right - left));
                            }
                        } else {
                            const vec wa = xa - __builtin_convertvector(ia, vec);
                            const ivec at = ia * (INTEGER)stride + ib;
                            vec v00, v01, v10, v11;
                            for (int l = 0; l < LANES; ++l) {
                                const REAL* voxel = base + at[l];
                                v00[l] = voxel[0];
                                v01[l] = voxel[1];
                                v10[l] = voxel[stride];
                                v11[l] = voxel[stride + 1];
                            }
                            const vec below = v00 + wb * (v01 - v00), above = v10 + wb * (v11 - v10);
                            total += below + wa * (above - below);
                        }
                    }
                    for (int l = 0; l < LANES; ++l)
                        sums[r + l] = length[l] * total[l];
                }
                }
            }
            REAL* y = (REAL*)projections + ((long long)view * rows + r_first) * columns + c_first;
            if (c_end - c_first == COLS) {
                for (int r = 0; r < here; ++r)
                    for (int g = 0; g < COLS; ++g)
                        y[(long long)r * columns + g] += tile[g * ROWS + r];
            } else {
                for (int r = 0; r < here; ++r)
                    for (int g = 0; g < c_end - c_first; ++g)
                        y[(long long)r * columns + g] += tile[g * ROWS + r];
            }
        }
"""
)


@cache
def project_slab_kernel(dtype: torch.dtype, parallel: bool, curved: bool, axis: int) -> Any:
    """Adds to the projections what the rays along ``axis`` meet in the slab. A task: COLS columns of a listed view."""
    return native_kernel(
        "project_slab",
        _PROJECT,
        words(dtype, parallel, curved, axis),
        "address slab, projections, table, chosen; int rows, columns, depth, height, width; "
        "double size_x, size_y, size_z; int stride, k_first, planes",
    )
