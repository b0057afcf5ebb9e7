// The transpose of slab_project_rays.h. If neighbouring cells lie far enough apart along the lines,
// vectors of voxels collect their cells, at most TERMS per voxel; otherwise each ray adds to its
// four voxels.
const int TERMS = 5;
int from_all = k_first + planes, to_all = k_first, ra = here, rb = 0, own = 0;
for (int r = 0; r < here; r += LANES) {
    REAL *start_a = starts_a + r, *slope_a = slopes_a + r;
    REAL *start_b = starts_b + r, *slope_b = slopes_b + r, length[LANES];
#include "slab_group.h"
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
const double vm = T[9 + M], fm = fma(rp0, vm, middle[M]);
const double vb = T[9 + B], fb = fma(rp0, vb, middle[B]);
// One run of rows on one side of the source: positions are monotone along the column.
const bool run =
    own == rb - ra && own > 1 && (PARALLEL || (fm + ra * vm) * (fm + (rb - 1) * vm) > 0.0);
for (int k = from_all; k < to_all; ++k) {
    REAL* base = mine + FRONT + (k - k_first) * plane;
    const REAL t = (REAL)k - (REAL)middle_m;
    for (int r = 0; r < here; r += LANES) {
        store(places_a + r, load(starts_a + r) + load(slopes_a + r) * t);
        store(places_b + r, load(starts_b + r) + load(slopes_b + r) * t);
    }
    REAL gap = (REAL)0;
    if (run) {
        const REAL gap0 = places_b[ra + 1] - places_b[ra];
        const REAL gap1 = places_b[rb - 1] - places_b[rb - 2];
        const REAL size0 = gap0 < (REAL)0 ? -gap0 : gap0, size1 = gap1 < (REAL)0 ? -gap1 : gap1;
        gap = size0 < size1 ? size0 : size1;
    }
    if (gap * (REAL)(2 * LANES - 3) >= (REAL)LANES) {
        // Voxel i gets the cells that lie less than one voxel away. They begin at the row r whose
        // position is i - 1 (i + 1 if positions fall along the column):
        // r = (n0 + n1 (i - 1)) / (m0 + m1 (i - 1)), a little earlier because of the rounding.
        const double reach = (double)t - (PARALLEL ? fm : T[M]);
        const double at_b = shift_b + (PARALLEL ? 0.0 : T[B]);
        const double sb = T[B] / T[M];
        const REAL n0 = (REAL)(PARALLEL ? -(fb + sb * reach + shift_b) : reach * fb + at_b * fm);
        const REAL n1 = (REAL)(PARALLEL ? 1.0 : -fm);
        const REAL m0 = (REAL)(PARALLEL ? vb - sb * vm : -reach * vb - at_b * vm);
        const REAL m1 = (REAL)(PARALLEL ? 0.0 : vm);
        const REAL begin = places_b[ra], end = places_b[rb - 1];
        const bool falls = end < begin;
        const REAL lowest = falls ? end : begin, highest = falls ? begin : end;
        const REAL low = lowest > (REAL)2 ? lowest : (REAL)2;
        const REAL high = highest < last_b - (REAL)1 ? highest : last_b - (REAL)1;
        const int terms = least((int)((REAL)2 / gap + (REAL)1.02), TERMS);
        for (int i = (int)low; (REAL)i < high + (REAL)1; i += LANES) {
            const vec at = lane + (REAL)i;
            // Clamped to the column, on which the map is monotone: it may have a pole beyond.
            vec edge = falls ? at + (REAL)1 : at - (REAL)1;
            edge = edge > lowest ? edge : (vec)lowest;
            edge = edge < highest ? edge : (vec)highest;
            const vec row = (n0 + n1 * edge) / (m0 + m1 * edge);
            const ivec r =
                __builtin_convertvector(row + (REAL)(MARGIN + 0.99), ivec) - (INTEGER)MARGIN;
            const int r_low = (int)r[0], r_high = (int)r[LANES - 1], r0 = least(r_low, r_high);
            const ivec index = r - (INTEGER)r0;
            vec weighed[TERMS], across[TERMS];
            for (int term = 0; term < terms; ++term) {
                const REAL *pa = places_a + r0 + term, *pb = places_b + r0 + term;
                const REAL* pv = values + r0 + term;
                vec weight = pick(load(pb), load(pb + LANES), index) - at;
                weight = weight > (REAL)0 ? (REAL)1 - weight : (REAL)1 + weight;
                weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                weighed[term] = weight * pick(load(pv), load(pv + LANES), index);
                across[term] = pick(load(pa), load(pa + LANES), index);
            }
            const int r_a = most(ra, least(r0, rb - 1));
            const int r_b = least(rb - 1, most(most(r_low, r_high) + terms - 1, ra));
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
