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
#: Lines of a plane that a group of neighbouring cells is followed across one by one; beyond, voxels are gathered.
SWEEP = 8
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
                REAL start_a[LANES], start_b[LANES], slope_a[LANES], slope_b[LANES], length[LANES];
""" + _GROUP + """
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

# The transpose. One task: a few planes of the slab, which no other task writes to, and every ray along the axis.
_BACKPROJECT = _TYPES + _VIEW + """
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
                    if (width_z > (REAL)0.02) {
                        const bool near = width_z * (REAL)(2 * LANES - 2) >= (REAL)(LANES - 1);
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
""" + _GROUP + """
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
        "MARGIN": str(MARGIN), "SWEEP": str(SWEEP), "TERMS": "5", "PARALLEL": str(int(parallel)), "CURVED": str(int(curved)), "AXIS": str(axis),
    }
    for word, value in words.items():
        source = source.replace(word, value)
    return source
