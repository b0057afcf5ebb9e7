// The rays of a column that share their path in the x-y plane. On one plane they lie between the
// same two lines, equally spaced along them: the two lines are weighed into one, and that line is
// resampled.
#include "slab_aligned.h"
// Only rows that are inside: rows outside add zeros.
int firsts[PLANES], ends[PLANES];
for (int k = 0; k < to - from; ++k) {
    const REAL za = places[k], zb = gaps[k], per = (REAL)1 / zb;
    const REAL p = -za * per, q = (last_b - za) * per;
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
    const REAL* line = (const REAL*)slab + FRONT + (k - k_first) * plane + j * stride;
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
