"""The Warp kernel that back-projects into a slab of a volume on the CPU. See `volume_slab_kernels`."""

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

# The transpose. One task: a few planes of the slab, which no other task writes to, and every ray along the axis.
_BACKPROJECT = (
    TYPES
    + VIEW
    + """
        const int k_first = slab_first + task * block, planes = least(block, slab_first + slab_planes - k_first);
        REAL* mine = (REAL*)slab + (long long)(task * block) * plane;
        for (long long k = 0; k < planes * plane; ++k)
            mine[k] = (REAL)0;
        alignas(64) REAL tile[COLS * (ROWS + 2 * MARGIN)];
        for (int k = 0; k < COLS * (ROWS + 2 * MARGIN); ++k)
            tile[k] = (REAL)0;
        REAL starts_a[ROWS], starts_b[ROWS], slopes_a[ROWS], slopes_b[ROWS], padded_a[ROWS + 2 * MARGIN], padded_b[ROWS + 2 * MARGIN];
        for (int k = 0; k < ROWS + 2 * MARGIN; ++k) {
            padded_a[k] = (REAL)0;
            padded_b[k] = (REAL)-1e9;
        }
        REAL *places_a = padded_a + MARGIN, *places_b = padded_b + MARGIN;
        for (int job = 0; job < listed * tiles; ++job) {
        const int view = ((const int*)chosen)[job / tiles];
        const int c_first = job % tiles * COLS, c_end = least(c_first + COLS, columns);
        const double* T = (const double*)table + 13 * view;
        const bool aligned = AXIS != 2 && T[9] == 0.0 && T[10] == 0.0;
        for (int r_first = 0; r_first < rows; r_first += ROWS) {
            const int here = least(ROWS, rows - r_first);
            const REAL* y = (const REAL*)projections + ((long long)view * rows + r_first) * columns + c_first;
            for (int g = 0; g < c_end - c_first; ++g)
                for (int r = here; r < ROWS; ++r)
                    tile[g * (ROWS + 2 * MARGIN) + MARGIN + r] = (REAL)0;
            if (c_end - c_first == COLS) {
                for (int r = 0; r < here; ++r)
                    for (int g = 0; g < COLS; ++g)
                        tile[g * (ROWS + 2 * MARGIN) + MARGIN + r] = y[(long long)r * columns + g];
            } else {
                for (int r = 0; r < here; ++r)
                    for (int g = 0; g < c_end - c_first; ++g)
                        tile[g * (ROWS + 2 * MARGIN) + MARGIN + r] = y[(long long)r * columns + g];
            }
            for (int c = c_first; c < c_end; ++c) {
                REAL* values = tile + (c - c_first) * (ROWS + 2 * MARGIN) + MARGIN;
"""
    + COLUMN_POINT
    + """
                if (aligned) {
"""
    + ALIGNED
    + """
                if (from >= to)
                    continue;
                for (int r = 0; r < here; ++r) {
                    const REAL steep = steep0 + steep1 * (REAL)r;
                    const REAL length = ROOT(flat + steep * steep);
                    values[r] = r >= ra && r < rb ? length * values[r] : (REAL)0;
                }
"""
    + ALIGNED_PLANES
    + """
                // Voxel i gets the cells r with |za + zb r - i| < 1, of which there are at most `terms`.
                int voxels[DEPTH_OF_SLAB], ends[DEPTH_OF_SLAB], most_terms[DEPTH_OF_SLAB];
                for (int k = 0; k < to - from; ++k) {
                    const REAL za = places[k], zb = gaps[k], width_z = zb < (REAL)0 ? -zb : zb;
                    const REAL end = za + zb * (REAL)(rb - 1), begin = za + zb * (REAL)ra;
                    REAL low = begin < end ? begin : end, high = (begin < end ? end : begin) + (REAL)1;
                    low = low > (REAL)2 ? low : (REAL)2;
                    low = low < last_b ? low : last_b;
                    high = high < last_b ? high : last_b;
                    high = high > (REAL)0 ? high : (REAL)0;
                    voxels[k] = (int)low;
                    ends[k] = (int)high + ((REAL)(int)high < high);
                    const REAL terms = (REAL)2 / (width_z > (REAL)0.02 ? width_z : (REAL)0.02);
                    most_terms[k] = (int)terms + ((REAL)(int)terms < terms);
                }
                for (int k = from; k < to; ++k) {
                    const int j = lines[k - from], terms = most_terms[k - from], i_end = ends[k - from];
                    const REAL wa = weights[k - from], za = places[k - from], zb = gaps[k - from];
                    const REAL width_z = zb < (REAL)0 ? -zb : zb;
                    REAL* line = mine + (k - k_first) * plane + j * stride;
                    REAL* next = line + stride;
                    if (width_z > (REAL)0.02) {
                        const bool near = width_z * (REAL)(2 * LANES - 2) >= (REAL)(LANES - 1);
                        const REAL per = (REAL)1 / zb, first = zb > (REAL)0 ? (za + (REAL)1) : (za - (REAL)1);
                        for (int i = voxels[k - from]; i < i_end; i += LANES) {
                            const vec at = lane + (REAL)i;
                            // The next whole number above; what is truncated is kept positive.
                            const ivec r = __builtin_convertvector((at - first) * per + (REAL)(MARGIN + 1), ivec) - (INTEGER)MARGIN;
                            const int r0 = (int)(zb < (REAL)0 ? r[LANES - 1] : r[0]);
                            const ivec index = r - (INTEGER)r0;
                            vec offset = za + zb * __builtin_convertvector(r, vec) - at;
                            const REAL* from_r = values + r0;
                            vec sum = (vec)(REAL)0;
                            for (int term = 0; term < terms; ++term) {
                                vec weight = offset > (REAL)0 ? (REAL)1 - offset : (REAL)1 + offset;
                                weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                                if (near) {
                                    sum += weight * pick(load(from_r + term), load(from_r + term + LANES), index);
                                } else {
                                    ivec far = r + (INTEGER)term;
                                    far = far > (INTEGER)-1 ? far : (ivec)(INTEGER)-1;
                                    far = far < (INTEGER)ROWS ? far : (ivec)(INTEGER)ROWS;
                                    vec value;
                                    for (int l = 0; l < LANES; ++l)
                                        value[l] = values[far[l]];
                                    sum += weight * value;
                                }
                                offset += zb;
                            }
                            const vec above = wa * sum;
                            store(line + i, load(line + i) + (sum - above));
                            store(next + i, load(next + i) + above);
                        }
                    } else {
                        for (int r = ra; r < rb; ++r) {
                            REAL z = za + zb * (REAL)r;
                            z = z > (REAL)0 ? z : (REAL)0;
                            z = z < last_b ? z : last_b;
                            const int i = (int)z;
                            const REAL w = z - (REAL)i;
                            const REAL above = wa * values[r], below = values[r] - above;
                            const REAL right = w * below, right_above = w * above;
                            line[i] += below - right;
                            line[i + 1] += right;
                            next[i] += above - right_above;
                            next[i + 1] += right_above;
                        }
                    }
                }
                } else {
                int from_all = k_first + planes, to_all = k_first, ra = here, rb = 0, own = 0;
                for (int r = 0; r < here; r += LANES) {
                REAL *start_a = starts_a + r, *start_b = starts_b + r, *slope_a = slopes_a + r, *slope_b = slopes_b + r, length[LANES];
"""
    + GROUP
    + """
                    from_all = least(from_all, from);
                    to_all = most(to_all, to);
                    for (int l = 0; l < LANES; ++l) {
                        values[r + l] *= length[l];
                        if (length[l] > (REAL)0 && r + l < here) {
                            ra = least(ra, r + l);
                            rb = most(rb, r + l + 1);
                            ++own;
                        } else {
                            start_b[l] = (REAL)-1e9;
                        }
                    }
                }
                const int ends = (here + LANES - 1) / LANES * LANES;
                for (int r = ends; r < ends + MARGIN; ++r)
                    places_b[r] = (REAL)-1e9;
                const double fm = fma(rp0, T[9 + M], middle[M]), fb = fma(rp0, T[9 + B], middle[B]), vm = T[9 + M], vb = T[9 + B];
                // One run of rows on one side of the source: positions are monotone along the column.
                const bool run = own == rb - ra && own > 1 && (PARALLEL || (fm + ra * vm) * (fm + (rb - 1) * vm) > 0.0);
                for (int k = from_all; k < to_all; ++k) {
                    REAL* base = mine + (k - k_first) * plane;
                    const REAL t = (REAL)k - (REAL)middle_m;
                    for (int r = 0; r < here; r += LANES) {
                        store(places_a + r, load(starts_a + r) + load(slopes_a + r) * t);
                        store(places_b + r, load(starts_b + r) + load(slopes_b + r) * t);
                    }
                    REAL gap = (REAL)0;
                    if (run) {
                        const REAL gap0 = places_b[ra + 1] - places_b[ra], gap1 = places_b[rb - 1] - places_b[rb - 2];
                        const REAL size0 = gap0 < (REAL)0 ? -gap0 : gap0, size1 = gap1 < (REAL)0 ? -gap1 : gap1;
                        gap = size0 < size1 ? size0 : size1;
                    }
                    if (gap * (REAL)(2 * LANES - 3) >= (REAL)LANES) {
                        // Voxel i gets the cells that lie less than one voxel away. They begin at the row r whose position is i - 1 (or
                        // i + 1, where positions fall): r = (n0 + n1 (i - 1)) / (m0 + m1 (i - 1)), a little earlier for the rounding.
                        const double reach = (double)t - (PARALLEL ? fm : T[M]), at_b = shift_b + (PARALLEL ? 0.0 : T[B]);
                        const double sb = T[B] / T[M];
                        const REAL n0 = (REAL)(PARALLEL ? -(fb + sb * reach + shift_b) : reach * fb + at_b * fm);
                        const REAL n1 = (REAL)(PARALLEL ? 1.0 : -fm);
                        const REAL m0 = (REAL)(PARALLEL ? vb - sb * vm : -reach * vb - at_b * vm), m1 = (REAL)(PARALLEL ? 0.0 : vm);
                        const REAL begin = places_b[ra], end = places_b[rb - 1];
                        const bool falls = end < begin;
                        const REAL lowest = falls ? end : begin, highest = falls ? begin : end;
                        const REAL low = lowest > (REAL)2 ? lowest : (REAL)2;
                        const REAL high = highest < last_b - (REAL)1 ? highest : last_b - (REAL)1;
                        const int terms = least((int)((REAL)2 / gap + (REAL)1.02), TERMS);
                        for (int i = (int)low; (REAL)i < high + (REAL)1; i += LANES) {
                            const vec at = lane + (REAL)i;
                            // Held within the column, where the map is monotone: it may have a pole beyond.
                            vec edge = falls ? at + (REAL)1 : at - (REAL)1;
                            edge = edge > lowest ? edge : (vec)lowest;
                            edge = edge < highest ? edge : (vec)highest;
                            const vec row = (n0 + n1 * edge) / (m0 + m1 * edge);
                            const ivec r = __builtin_convertvector(row + (REAL)(MARGIN + 0.99), ivec) - (INTEGER)MARGIN;
                            const int r_low = (int)r[0], r_high = (int)r[LANES - 1], r0 = least(r_low, r_high);
                            const ivec index = r - (INTEGER)r0;
                            vec weighed[TERMS], across[TERMS];
                            for (int term = 0; term < terms; ++term) {
                                const REAL *pa = places_a + r0 + term, *pb = places_b + r0 + term, *pv = values + r0 + term;
                                vec weight = pick(load(pb), load(pb + LANES), index) - at;
                                weight = weight > (REAL)0 ? (REAL)1 - weight : (REAL)1 + weight;
                                weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                                weighed[term] = weight * pick(load(pv), load(pv + LANES), index);
                                across[term] = pick(load(pa), load(pa + LANES), index);
                            }
                            const int r_a = most(ra, least(r0, rb - 1)), r_b = least(rb - 1, most(most(r_low, r_high) + terms - 1, ra));
                            const REAL xa = places_a[r_a], xb = places_a[r_b];
                            REAL line_low = xa < xb ? xa : xb, line_high = xa < xb ? xb : xa;
                            line_low = line_low > (REAL)2 ? line_low : (REAL)2;
                            line_high = line_high < last_a - (REAL)1 ? line_high : last_a - (REAL)1;
                            for (int j = (int)line_low; (REAL)j < line_high + (REAL)1; ++j) {
                                vec sum = (vec)(REAL)0;
                                for (int term = 0; term < terms; ++term) {
                                    vec weight = across[term] - (REAL)j;
                                    weight = weight > (REAL)0 ? (REAL)1 - weight : (REAL)1 + weight;
                                    weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                                    sum += weight * weighed[term];
                                }
                                REAL* line = base + j * stride + i;
                                store(line, load(line) + sum);
                            }
                        }
                    } else {
                        for (int r = ra; r < rb; ++r) {
                            REAL xa = places_a[r], xb = places_b[r];
                            xa = xa > (REAL)0 ? xa : (REAL)0;
                            xa = xa < last_a ? xa : last_a;
                            xb = xb > (REAL)0 ? xb : (REAL)0;
                            xb = xb < last_b ? xb : last_b;
                            const int ia = (int)xa, ib = (int)xb;
                            const REAL wa = xa - (REAL)ia, wb = xb - (REAL)ib;
                            const REAL above = wa * values[r], below = values[r] - above;
                            REAL* voxel = base + ia * stride + ib;
                            voxel[0] += below - wb * below;
                            voxel[1] += wb * below;
                            voxel[stride] += above - wb * above;
                            voxel[stride + 1] += wb * above;
                        }
                    }
                }
                }
            }
        }
        }
"""
)


@cache
def backproject_slab_kernel(dtype: torch.dtype, parallel: bool, curved: bool, axis: int) -> Any:
    """Fills the slab with the back-projection of the rays along ``axis``. A task: ``block`` planes."""
    return native_kernel(
        "backproject_slab",
        _BACKPROJECT,
        words(dtype, parallel, curved, axis),
        "address slab, projections, table, chosen; int rows, columns, depth, height, width; "
        "double size_x, size_y, size_z; int stride, slab_first, slab_planes, listed, block",
    )
