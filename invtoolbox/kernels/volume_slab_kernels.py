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
# mypy: ignore-errors

from functools import cache

import torch

from invtoolbox.kernels.launch import warp

wp = warp()

#: Cells of a tile: columns that a task treats together, and rows at a time.
COLS, ROWS = 16, 256
#: Zeros around the cells of a tile in the back-projection, which reads past its ends.
MARGIN = 96
#: Zeros at the end of a line, beyond the two that stand for the outside.
TAIL = 36

_TYPES = """
        typedef REAL vec __attribute__((ext_vector_type(LANES)));
        typedef INTEGER ivec __attribute__((ext_vector_type(LANES)));
        ivec count;
        for (int l = 0; l < LANES; ++l)
            count[l] = l;
        const vec lane = __builtin_convertvector(count, vec);
        auto load = [](const REAL* from) { vec value; __builtin_memcpy(&value, from, sizeof(vec)); return value; };
        auto store = [](REAL* to, vec value) { __builtin_memcpy(to, &value, sizeof(vec)); };
        typedef REAL raw __attribute__((vector_size(64)));
        typedef INTEGER raw_index __attribute__((vector_size(64)));
        // Entries `index` (0 to 2 LANES - 1) of the two vectors.
        auto pick = [](vec first, vec second, ivec index) {
#if defined(__AVX512F__)
            return (vec)PERMUTE((raw)first, (raw_index)index, (raw)second);
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
_VIEW = """
        const int n[3] = {width, height, depth};
        const int M = AXIS, A = AXIS == 1 ? 0 : 1, B = AXIS == 2 ? 0 : 2;
        const double middle_m = 0.5 * (double)(n[M] - 1);
        const double shift_a = 0.5 * (double)(n[A] - 1) + 2.0, shift_b = 0.5 * (double)(n[B] - 1) + 2.0;
        const REAL last_a = (REAL)(n[A] + 2), last_b = (REAL)(n[B] + 2);
        const long long plane = (long long)(n[A] + 4) * stride;
        const double size[3] = {size_x, size_y, size_z};
        const int tiles = (columns + COLS - 1) / COLS;
"""
_COLUMN_POINT = """
                const double cp = (double)c - 0.5 * (double)(columns - 1);
                const double sine = CURVED ? sin(cp * T[12]) : 0.0, cosine = CURVED ? cos(cp * T[12]) : 1.0;
                double middle[3];
                for (int k = 0; k < 3; ++k)
                    middle[k] = CURVED ? fma(sine, T[6 + k], cosine * T[3 + k]) : fma(cp, T[6 + k], T[3 + k]);
                const double rp0 = (double)r_first - 0.5 * (double)(rows - 1);
"""
# A column whose rays share their path in the x-y plane: `ra` to `rb` are the rows that belong to this axis, and the lengths come out as
# sqrt(flat + (steep0 + steep1 r)^2).
_ALIGNED = """
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
# Plane k of such a column: line j and weight wa between lines, and the position za + zb r along them.
_ALIGNED_PLANE = """
                    const double t = (double)k - middle_m, reach = (t - pm) * inverse;
                    REAL xa = (REAL)(start + slope * t);
                    xa = xa > (REAL)0 ? xa : (REAL)0;
                    xa = xa < last_a ? xa : last_a;
                    const int j = (int)xa;
                    const REAL wa = xa - (REAL)j;
                    const REAL za = (REAL)(z0 + reach * z1), zb = (REAL)(spread0 + reach * spread1);
                    const REAL width_z = zb < (REAL)0 ? -zb : zb;
"""
# A group of rays that are followed one by one: their numbers, in arrays.
_GROUP = """
                REAL start_a[LANES], start_b[LANES], slope_a[LANES], slope_b[LANES], length[LANES];
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
                    const bool mine = axis == AXIS && r + l < here;
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
_GROUP_PLANE = """
                        const REAL t = (REAL)k - (REAL)middle_m;
                        REAL xa = start_a[l] + slope_a[l] * t, xb = start_b[l] + slope_b[l] * t;
                        xa = xa > (REAL)0 ? xa : (REAL)0;
                        xa = xa < last_a ? xa : last_a;
                        xb = xb > (REAL)0 ? xb : (REAL)0;
                        xb = xb < last_b ? xb : last_b;
                        const int ia = (int)xa, ib = (int)xb;
                        const REAL wa = xa - (REAL)ia, wb = xb - (REAL)ib;
                        const int at = ia * stride + ib;
"""

# One task: a tile of columns of one view through the planes of the slab; adds to the projections.
_PROJECT = _TYPES + _VIEW + """
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
""" + _COLUMN_POINT + """
                if (aligned) {
""" + _ALIGNED + """
                for (int k = from; k < to; ++k) {
""" + _ALIGNED_PLANE + """
                    const REAL* line = (const REAL*)slab + (k - k_first) * plane + j * stride;
                    const REAL* next = line + stride;
                    // Only rows that are inside; what is outside adds zeros.
                    int r0 = ra, r1 = rb;
                    const REAL per = (REAL)1 / zb, p = -za * per, q = (last_b - za) * per;
                    if (width_z > (REAL)1e-6) {
                        const REAL low = (p < q ? p : q) - (REAL)1, high = (p < q ? q : p) + (REAL)2;
                        r0 = low > (REAL)r0 ? (low < (REAL)r1 ? (int)low : r1) : r0;
                        r1 = high < (REAL)r1 ? (high > (REAL)r0 ? (int)high : r0) : r1;
                    }
                    if (width_z * (REAL)(LANES - 1) < (REAL)(2 * LANES - 3)) {
                        for (int r = r0 / LANES * LANES; r < r1; r += LANES) {
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
""" + _GROUP + """
                    if (from >= to)
                        continue;
                    REAL sum[LANES];
                    for (int l = 0; l < LANES; ++l)
                        sum[l] = (REAL)0;
                    const REAL* base = (const REAL*)slab + (from - k_first) * plane;
                    for (int k = from; k < to; ++k, base += plane) {
                        for (int l = 0; l < LANES; ++l) {
""" + _GROUP_PLANE + """
                            const REAL v00 = base[at], v01 = base[at + 1], v10 = base[at + stride], v11 = base[at + stride + 1];
                            const REAL below = v00 + wb * (v01 - v00), above = v10 + wb * (v11 - v10);
                            sum[l] += below + wa * (above - below);
                        }
                    }
                    for (int l = 0; l < LANES; ++l)
                        sums[r + l] = length[l] * sum[l];
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

# The transpose. One task: a few planes of the slab, which no other task writes to, and every ray along the axis.
_BACKPROJECT = _TYPES + _VIEW + """
        const int k_first = slab_first + task * block, planes = least(block, slab_first + slab_planes - k_first);
        REAL* mine = (REAL*)slab + (long long)(task * block) * plane;
        for (long long k = 0; k < planes * plane; ++k)
            mine[k] = (REAL)0;
        alignas(64) REAL tile[COLS * (ROWS + 2 * MARGIN)];
        for (int k = 0; k < COLS * (ROWS + 2 * MARGIN); ++k)
            tile[k] = (REAL)0;
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
""" + _COLUMN_POINT + """
                if (aligned) {
""" + _ALIGNED + """
                if (from >= to)
                    continue;
                for (int r = 0; r < here; ++r) {
                    const REAL steep = steep0 + steep1 * (REAL)r;
                    const REAL length = ROOT(flat + steep * steep);
                    values[r] = r >= ra && r < rb ? length * values[r] : (REAL)0;
                }
                for (int k = from; k < to; ++k) {
""" + _ALIGNED_PLANE + """
                    REAL* line = mine + (k - k_first) * plane + j * stride;
                    REAL* next = line + stride;
                    if (width_z * (REAL)(2 * LANES - 2) >= (REAL)(LANES - 1)) {
                        // Voxel i gets the cells r with |za + zb r - i| < 1, of which there are at most `terms`.
                        const REAL per = (REAL)1 / zb, end = za + zb * (REAL)(rb - 1), begin = za + zb * (REAL)ra;
                        REAL low = begin < end ? begin : end, high = begin < end ? end : begin;
                        low = low > (REAL)2 ? low : (REAL)2;
                        high = high < last_b - (REAL)1 ? high : last_b - (REAL)1;
                        const REAL terms_f = (REAL)2 / width_z;
                        const int terms = (int)terms_f + ((REAL)(int)terms_f < terms_f);
                        const REAL first = zb > (REAL)0 ? (za + (REAL)1) : (za - (REAL)1);
                        for (int i = (int)low; (REAL)i < high + (REAL)1; i += LANES) {
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
                                sum += weight * pick(load(from_r + term), load(from_r + term + LANES), index);
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
                for (int r = 0; r < here; r += LANES) {
""" + _GROUP + """
                    for (int k = from; k < to; ++k) {
                        REAL* base = mine + (k - k_first) * plane;
                        int place[LANES];
                        REAL v00[LANES], v01[LANES], v10[LANES], v11[LANES];
                        for (int l = 0; l < LANES; ++l) {
""" + _GROUP_PLANE + """
                            const REAL value = length[l] * values[r + l];
                            const REAL above = wa * value, below = value - above;
                            place[l] = at;
                            v01[l] = wb * below;
                            v00[l] = below - wb * below;
                            v11[l] = wb * above;
                            v10[l] = above - wb * above;
                        }
                        for (int l = 0; l < LANES; ++l) {
                            REAL* voxel = base + place[l];
                            voxel[0] += v00[l];
                            voxel[1] += v01[l];
                            voxel[stride] += v10[l];
                            voxel[stride + 1] += v11[l];
                        }
                    }
                }
                }
            }
        }
        }
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
def project_slab_kernel(dtype: torch.dtype, parallel: bool, curved: bool, axis: int):
    """Adds to the projections what the rays along ``axis`` meet in the slab. A task: COLS columns of a listed view."""
    snippet = _filled(_PROJECT, dtype, parallel, curved, axis)

    @wp.func_native(snippet=snippet)
    def run_task(slab: wp.uint64, projections: wp.uint64, table: wp.uint64, chosen: wp.uint64, rows: int, columns: int, depth: int,
                 height: int, width: int, size_x: wp.float64, size_y: wp.float64, size_z: wp.float64, stride: int, k_first: int,
                 planes: int, task: int): ...

    @wp.kernel(module="unique", enable_backward=False)
    def kernel(slab: wp.uint64, projections: wp.uint64, table: wp.uint64, chosen: wp.uint64, rows: int, columns: int, depth: int,
               height: int, width: int, size_x: wp.float64, size_y: wp.float64, size_z: wp.float64, stride: int, k_first: int,
               planes: int, first_task: int):
        run_task(slab, projections, table, chosen, rows, columns, depth, height, width, size_x, size_y, size_z, stride, k_first, planes,
                 wp.tid() + first_task)

    return kernel


@cache
def backproject_slab_kernel(dtype: torch.dtype, parallel: bool, curved: bool, axis: int):
    """Fills the slab with the back-projection of the rays along ``axis``. A task: ``block`` planes."""
    snippet = _filled(_BACKPROJECT, dtype, parallel, curved, axis)

    @wp.func_native(snippet=snippet)
    def run_task(slab: wp.uint64, projections: wp.uint64, table: wp.uint64, chosen: wp.uint64, rows: int, columns: int, depth: int,
                 height: int, width: int, size_x: wp.float64, size_y: wp.float64, size_z: wp.float64, stride: int, slab_first: int,
                 slab_planes: int, listed: int, block: int, task: int): ...

    @wp.kernel(module="unique", enable_backward=False)
    def kernel(slab: wp.uint64, projections: wp.uint64, table: wp.uint64, chosen: wp.uint64, rows: int, columns: int, depth: int,
               height: int, width: int, size_x: wp.float64, size_y: wp.float64, size_z: wp.float64, stride: int, slab_first: int,
               slab_planes: int, listed: int, block: int, first_task: int):
        run_task(slab, projections, table, chosen, rows, columns, depth, height, width, size_x, size_y, size_z, stride, slab_first,
                 slab_planes, listed, block, wp.tid() + first_task)

    return kernel


@cache
def move_slab_kernel(dtype: torch.dtype, axis: int, adds: bool):
    """Copies planes of the volume into the slab; with ``adds`` adds the slab to them. A task: 16 lines of every plane."""
    snippet = _filled(_MOVE, dtype, False, False, axis).replace("ADDS", str(int(adds)))

    @wp.func_native(snippet=snippet)
    def run_task(slab: wp.uint64, volume: wp.uint64, depth: int, height: int, width: int, stride: int, k_first: int, planes: int,
                 task: int): ...

    @wp.kernel(module="unique", enable_backward=False)
    def kernel(slab: wp.uint64, volume: wp.uint64, depth: int, height: int, width: int, stride: int, k_first: int, planes: int,
               first_task: int):
        run_task(slab, volume, depth, height, width, stride, k_first, planes, wp.tid() + first_task)

    return kernel


def _filled(source: str, dtype: torch.dtype, parallel: bool, curved: bool, axis: int) -> str:
    single = dtype == torch.float32
    words = {
        "PERMUTE": "__builtin_ia32_vpermi2varps512" if single else "__builtin_ia32_vpermi2varpd512",
        "INTEGER": "int" if single else "long long", "ROOT": "__builtin_sqrtf" if single else "__builtin_sqrt",
        "REAL": "float" if single else "double", "LANES": "16" if single else "8", "COLS": str(COLS), "ROWS": str(ROWS),
        "MARGIN": str(MARGIN), "PARALLEL": str(int(parallel)), "CURVED": str(int(curved)), "AXIS": str(axis),
    }
    for word, value in words.items():
        source = source.replace(word, value)
    return source
