"""Warp kernels of Joseph's method in 3D for the CPU: many rays through a slab of planes at a time.

A slab holds some neighbouring planes across the main axis `m`, each as lines along `b` (z, or x for the main axis z), which lie next to
each other along `a`: (planes, n_a + 4, stride). Two zeros in front of the voxels and behind them stand for the outside: positions are
clamped onto them instead of tested. More zeros at the end of the lines let vectors be read past the end. Slabs are copied from the
volume and added to it, so that no second copy of it is ever held.

Where a panel's rows are stacked along z (`v` parallel to z: circular and helical scans), the rays of one column of cells share their path
in the x-y plane. On one plane they lie between the same two lines, equally spaced along them, and the whole column costs: the two lines
weighed into one, and that line resampled. Neighbouring cells need neighbouring voxels, so vectors are loaded and permuted, never gathered.

Other rays are followed in groups of a column's neighbours, voxel by voxel.

The weights are those of `volume_kernels`; main axes are decided by the very same operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

#: Cells of a tile: columns that a task treats together, and rows at a time.
COLS, ROWS = 16, 256
#: Planes of a slab at most: more of them would not stay near the cores.
PLANES = 64
#: Zeros around the cells of a tile in the back-projection, which reads past its ends.
MARGIN = 96
#: Lines of a plane that a group of neighbouring cells is followed across one by one; beyond, voxels are gathered.
SWEEP = 8
#: Zeros at the end of a line, beyond the two that stand for the outside.
TAIL = 36

TYPES = """
#pragma clang fp contract(fast)
#undef LANES
#if defined(__AVX512F__)
#define LANES (64 / (int)sizeof(REAL))
#else
#define LANES (32 / (int)sizeof(REAL))
#endif
        typedef REAL vec __attribute__((ext_vector_type(LANES)));
        typedef INTEGER ivec __attribute__((ext_vector_type(LANES)));
        ivec count;
        for (int l = 0; l < LANES; ++l)
            count[l] = l;
        const vec lane = __builtin_convertvector(count, vec);
        auto load = [](const REAL* from) { vec value; __builtin_memcpy(&value, from, sizeof(vec)); return value; };
        auto store = [](REAL* to, vec value) { __builtin_memcpy(to, &value, sizeof(vec)); };
        typedef REAL raw __attribute__((vector_size(LANES * sizeof(REAL))));
        typedef INTEGER raw_index __attribute__((vector_size(LANES * sizeof(REAL))));
        // Entries `index` (0 to 2 LANES - 1) of the two vectors.
        auto pick = [](vec first, vec second, ivec index) {
#if defined(__AVX512F__)
            return (vec)PERMUTE((raw)first, (raw_index)index, (raw)second);
#elif defined(__AVX2__) && SINGLE
            const vec low = (vec)__builtin_ia32_permvarsf256((raw)first, (raw_index)index);
            const vec high = (vec)__builtin_ia32_permvarsf256((raw)second, (raw_index)index);
            return index < LANES ? low : high;
#else
            REAL both[2 * LANES];
            __builtin_memcpy(both, &first, sizeof(vec));
            __builtin_memcpy(both + LANES, &second, sizeof(vec));
            vec value;
            for (int l = 0; l < LANES; ++l)
                value[l] = both[index[l]];
            return value;
#endif
        };
        auto least = [](int p, int q) { return p < q ? p : q; };
        auto most = [](int p, int q) { return p < q ? q : p; };
"""

# What the forward projection and its transpose have in common: the tile's view, and the constants of a column.
VIEW = """
        const int n[3] = {width, height, depth};
        const int M = AXIS, A = AXIS == 1 ? 0 : 1, B = AXIS == 2 ? 0 : 2;
        const double middle_m = 0.5 * (double)(n[M] - 1);
        const double shift_a = 0.5 * (double)(n[A] - 1) + 2.0, shift_b = 0.5 * (double)(n[B] - 1) + 2.0;
        const REAL last_a = (REAL)(n[A] + 2), last_b = (REAL)(n[B] + 2);
        const long long plane = (long long)(n[A] + 4) * stride;
        const double size[3] = {size_x, size_y, size_z};
        const int tiles = (columns + COLS - 1) / COLS;
"""
COLUMN_POINT = """
                const double cp = (double)c - 0.5 * (double)(columns - 1);
                const double sine = CURVED ? sin(cp * T[12]) : 0.0, cosine = CURVED ? cos(cp * T[12]) : 1.0;
                double middle[3];
                for (int k = 0; k < 3; ++k)
                    middle[k] = CURVED ? fma(sine, T[6 + k], cosine * T[3 + k]) : fma(cp, T[6 + k], T[3 + k]);
                const double rp0 = (double)r_first - 0.5 * (double)(rows - 1);
"""
# A column whose rays share their path in the x-y plane: `ra` to `rb` are the rows that belong to this axis, and the lengths come out as
# sqrt(flat + (steep0 + steep1 r)^2).
ALIGNED = """
                const double px = PARALLEL ? middle[A] : T[A], pm = PARALLEL ? middle[M] : T[M];
                const double da = PARALLEL ? T[A] : middle[A], dm = PARALLEL ? T[M] : middle[M];
                const bool own = AXIS == 0 ? fabs(dm) >= fabs(da) : fabs(da) < fabs(dm);
                int ra = 0, rb = own ? here : 0;
                if (PARALLEL) {
                    rb = fabs(T[2]) > fabs(dm) ? 0 : rb;
                } else {
                    while (ra < rb && fabs(fma(rp0 + (double)ra, T[11], middle[2])) > fabs(dm))
                        ++ra;
                    while (ra < rb && fabs(fma(rp0 + (double)(rb - 1), T[11], middle[2])) > fabs(dm))
                        --rb;
                }
                if (ra == rb)
                    continue;
                const double inverse = 1.0 / dm, slope = da * inverse, start = px - slope * pm + shift_a;
                const double z0 = (PARALLEL ? fma(rp0, T[11], middle[2]) : T[2]) + shift_b;
                const double z1 = PARALLEL ? T[2] : fma(rp0, T[11], middle[2]);
                const double spread0 = PARALLEL ? T[11] : 0.0, spread1 = PARALLEL ? 0.0 : T[11];
                const double flat_d = (size[M] * size[M] * dm * dm + size[A] * size[A] * da * da) * inverse * inverse;
                const REAL flat = (REAL)flat_d, steep0 = (REAL)(size[2] * z1 * inverse), steep1 = (REAL)(size[2] * spread1 * inverse);
                int from = k_first, to = k_first + planes;
                if (slope != 0.0) {
                    const double p = -start / slope + middle_m, q = ((double)last_a - start) / slope + middle_m;
                    const double low = (p < q ? p : q) - 1.0, high = (p < q ? q : p) + 2.0;
                    from = low > (double)from ? (low < (double)to ? (int)low : to) : from;
                    to = high < (double)to ? (high > (double)from ? (int)high : from) : to;
                } else if (start <= 0.0 || start >= (double)last_a) {
                    to = from;
                }
"""
# The planes of such a column, all at once: line j and weight wa between lines, and the position za + zb r along them.
ALIGNED_PLANES = """
                int lines[DEPTH_OF_SLAB];
                REAL weights[DEPTH_OF_SLAB], places[DEPTH_OF_SLAB], gaps[DEPTH_OF_SLAB];
                for (int k = from; k < to; ++k) {
                    const double t = (double)k - middle_m, reach = (t - pm) * inverse;
                    REAL xa = (REAL)(start + slope * t);
                    xa = xa > (REAL)0 ? xa : (REAL)0;
                    xa = xa < last_a ? xa : last_a;
                    lines[k - from] = (int)xa;
                    weights[k - from] = xa - (REAL)(int)xa;
                    places[k - from] = (REAL)(z0 + reach * z1);
                    gaps[k - from] = (REAL)(spread0 + reach * spread1);
                }
"""
# A group of rays that are followed one by one: their numbers, in arrays.
GROUP = """
                double low_d[LANES], high_d[LANES];
                for (int l = 0; l < LANES; ++l) {
                    const double rp = rp0 + (double)(r + l);
                    double P[3], d[3];
                    for (int k = 0; k < 3; ++k) {
                        const double cell = fma(rp, T[9 + k], middle[k]);
                        P[k] = PARALLEL ? cell : T[k];
                        d[k] = PARALLEL ? T[k] : cell;
                    }
                    const double dx = fabs(d[0]), dy = fabs(d[1]), dz = fabs(d[2]);
                    const int axis = dx >= dy ? (dx >= dz ? 0 : 2) : (dy >= dz ? 1 : 2);
                    const bool mine = axis == AXIS;
                    const double inverse = 1.0 / (mine ? d[M] : 1.0);
                    const double sa = d[A] * inverse, sb = d[B] * inverse;
                    const double oa = P[A] - sa * P[M] + shift_a, ob = P[B] - sb * P[M] + shift_b;
                    const double D2 = size_x * size_x * d[0] * d[0] + size_y * size_y * d[1] * d[1] + size_z * size_z * d[2] * d[2];
                    // The planes on which the ray is inside; a slope of zero divides to infinity, which compares rightly.
                    const double tiny = 1e-300;
                    const double ia = 1.0 / (fabs(sa) > tiny ? sa : tiny), ib = 1.0 / (fabs(sb) > tiny ? sb : tiny);
                    const double pa = -oa * ia, qa = ((double)last_a - oa) * ia, pb = -ob * ib, qb = ((double)last_b - ob) * ib;
                    const double low = (pa < qa ? pa : qa) > (pb < qb ? pb : qb) ? (pa < qa ? pa : qa) : (pb < qb ? pb : qb);
                    const double high = (pa < qa ? qa : pa) < (pb < qb ? qb : pb) ? (pa < qa ? qa : pa) : (pb < qb ? qb : pb);
                    low_d[l] = mine && low < high ? low + middle_m - 1.0 : 1e9;
                    high_d[l] = mine && low < high ? high + middle_m + 2.0 : -1e9;
                    // What is not on this axis stays at the zeros in the corner.
                    start_a[l] = mine ? (REAL)oa : (REAL)0;
                    start_b[l] = mine ? (REAL)ob : (REAL)0;
                    slope_a[l] = mine ? (REAL)sa : (REAL)0;
                    slope_b[l] = mine ? (REAL)sb : (REAL)0;
                    length[l] = mine ? (REAL)(sqrt(D2) * fabs(inverse)) : (REAL)0;
                }
                double low = 1e9, high = -1e9;
                for (int l = 0; l < LANES; ++l) {
                    low = low_d[l] < low ? low_d[l] : low;
                    high = high_d[l] > high ? high_d[l] : high;
                }
                const int from = low > (double)k_first ? (low < (double)(k_first + planes) ? (int)low : k_first + planes) : k_first;
                const int to = high < (double)(k_first + planes) ? (high > (double)k_first ? (int)high : k_first) : k_first + planes;
"""
# Copies planes of the volume into the slab, or adds the slab to them. One task: 16 lines of every plane.
_MOVE = """
        const int n[3] = {width, height, depth};
        const long long step[3] = {1, width, (long long)width * height};
        const int M = AXIS, A = AXIS == 1 ? 0 : 1, B = AXIS == 2 ? 0 : 2;
        const long long plane = (long long)(n[A] + 4) * stride;
        const int a0 = task * 16, a1 = a0 + 16 < n[A] ? a0 + 16 : n[A];
        REAL* inside = (REAL*)slab + 2 * stride + 2;
        REAL* voxels = (REAL*)volume + k_first * step[M];
#if AXIS == 0
        for (int a = a0; a < a1; ++a)
            for (int b = 0; b < n[B]; ++b)
                for (int k = 0; k < planes; ++k)
#elif AXIS == 1
        for (int k = 0; k < planes; ++k)
            for (int b = 0; b < n[B]; ++b)
                for (int a = a0; a < a1; ++a)
#else
        for (int k = 0; k < planes; ++k)
            for (int a = a0; a < a1; ++a)
                for (int b = 0; b < n[B]; ++b)
#endif
                {
                    REAL* voxel = voxels + k * step[M] + a * step[A] + b * step[B];
                    REAL* place = inside + k * plane + (long long)a * stride + b;
#if ADDS
                    *voxel += *place;
#else
                    *place = *voxel;
#endif
                }
"""


@cache
def move_slab_kernel(dtype: torch.dtype, axis: int, adds: bool) -> Any:
    """Copies planes of the volume into the slab; with ``adds`` adds the slab to them. A task: 16 lines of every plane."""
    return native_kernel(
        "move_slab",
        _MOVE,
        {"REAL": REAL[dtype], "AXIS": axis, "ADDS": adds},
        "address slab, volume; int depth, height, width, stride, k_first, planes",
    )


def words(dtype: torch.dtype, parallel: bool, curved: bool, axis: int) -> dict[str, str | int]:
    """What the sources of the kernels of slabs are filled with."""
    single = dtype == torch.float32
    return {
        "PERMUTE": "__builtin_ia32_vpermi2varps512" if single else "__builtin_ia32_vpermi2varpd512",
        "INTEGER": "int" if single else "long long",
        "ROOT": "__builtin_sqrtf" if single else "__builtin_sqrt",
        "REAL": REAL[dtype],
        "SINGLE": single,
        "COLS": COLS,
        "ROWS": ROWS,
        "MARGIN": MARGIN,
        "SWEEP": SWEEP,
        "TERMS": 5,
        "DEPTH_OF_SLAB": PLANES,
        "PARALLEL": parallel,
        "CURVED": curved,
        "AXIS": axis,
    }
