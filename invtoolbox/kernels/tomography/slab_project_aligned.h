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
    const bool outside = level && !(za > (REAL)0 && za < last_b);
    firsts[k] = (int)low / LANES * LANES;
    ends[k] = outside ? firsts[k] : ((int)high + LANES - 1) / LANES * LANES;
}
struct Plane {
    const REAL* line;
    REAL wa, za, zb, edge;
};
auto plane_of = [&](int k) __attribute__((always_inline)) {
    const REAL za = places[k] + (REAL)FRONT, zb = gaps[k];
    // The lowest lane's position minus what rounding could add.
    const REAL edge = za - (REAL)0.01 + (zb < (REAL)0 ? zb * (REAL)(LANES - 1) : (REAL)0);
    const REAL* line = (const REAL*)slab + (from + k - k_first) * plane + lines[k] * stride;
    return Plane{line, weights[k], za, zb, edge};
};
// Cells r to r + LANES - 1. Positions outside the line are not clamped: FRONT zeros lie there.
auto sample = [&](const Plane& p, int r) __attribute__((always_inline)) {
    const vec z = p.za + p.zb * (lane + (REAL)r);
    const int i0 = (int)(p.edge + p.zb * (REAL)r);
    const REAL *p0 = p.line + i0, *p1 = p0 + stride;
    const ivec i = __builtin_convertvector(z, ivec);
    const vec w = z - __builtin_convertvector(i, vec);
    vec below = load(p0), above = load(p0 + LANES);
    below += p.wa * (load(p1) - below);
    above += p.wa * (load(p1 + LANES) - above);
    const ivec index = i - (INTEGER)i0;
    const vec left = pick(below, above, index), right = pick(below, above, index + 1);
    return left + w * (right - left);
};
for (int k = 0; k < to - from; ++k) {
    const int r0 = firsts[k], r1 = ends[k];
    const REAL wide = (REAL)(2 * LANES) - (REAL)3.25;
    auto near = [&](int k) { return gaps[k] * (REAL)(LANES - 1) < wide && gaps[k] * (REAL)(LANES - 1) > -wide; };
    if (near(k)) {
        const Plane p = plane_of(k);
        // Two planes at a time where they are seen in the same cells.
        if (k + 1 < to - from && near(k + 1) && firsts[k + 1] == r0 && ends[k + 1] == r1) {
            const Plane q = plane_of(++k);
            for (int r = r0; r < r1; r += LANES)
                store(sums + r, load(sums + r) + (sample(p, r) + sample(q, r)));
        } else {
            for (int r = r0; r < r1; r += LANES)
                store(sums + r, load(sums + r) + sample(p, r));
        }
        continue;
    }
    const REAL wa = weights[k], za = places[k], zb = gaps[k];
    const REAL* line = (const REAL*)slab + FRONT + (from + k - k_first) * plane + lines[k] * stride;
    const REAL* next = line + stride;
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
for (int r = 0; r < here; ++r) {
    const REAL steep = steep0 + steep1 * (REAL)r;
    const REAL length = ROOT(flat + steep * steep);
    sums[r] = r >= ra && r < rb ? length * sums[r] : (REAL)0;
}
