// The rays of a column that share their path in the x-y plane. On one plane they lie between the
// same two lines, equally spaced along them: the two lines are weighed into one, and that line is
// resampled.
#include "slab_aligned.h"
// Only cells that are inside, in whole vectors: cells outside add zeros.
INTEGER firsts[PLANES], ends[PLANES];
for (int k = 0; k < to - from; k += LANES) {
    const vec za = load(places + k), zb = load(gaps + k), per = (REAL)1 / zb;
    const vec p = -za * per, q = (last_b - za) * per;
    vec low = (p < q ? p : q) - (REAL)1, high = (p < q ? q : p) + (REAL)2;
    // A level column is inside with all of its cells, or with none.
    const auto level = (zb < (REAL)1e-6) & (zb > (REAL)-1e-6);
    const auto inside = ~level | ((za > (REAL)0) & (za < last_b));
    low = level ? (vec)(REAL)ra : low;
    high = level ? (vec)(REAL)rb : high;
    low = low > (REAL)ra ? low : (vec)(REAL)ra;
    low = low < (REAL)rb ? low : (vec)(REAL)rb;
    high = high < (REAL)rb ? high : (vec)(REAL)rb;
    // No vector at all where no cell is inside (nor for numbers that are not): it would read far
    // beyond the line.
    high = (inside & (low < high) & (za == za)) ? high : (vec)(REAL)0;
    const ivec first = __builtin_convertvector(low, ivec) / (INTEGER)LANES * (INTEGER)LANES;
    const ivec end = (__builtin_convertvector(high, ivec) + (INTEGER)(LANES - 1)) / (INTEGER)LANES *
                     (INTEGER)LANES;
    __builtin_memcpy(firsts + k, &first, sizeof(ivec));
    __builtin_memcpy(ends + k, &end, sizeof(ivec));
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
// Cells r to r + LANES - 1. Positions outside the line are not clamped: FRONT zeros lie
// there. `half`: all voxels lie in a vector and a half.
auto sample = [&](const Plane& p, int r, bool half) __attribute__((always_inline)) {
    const vec z = p.za + p.zb * (lane + (REAL)r);
    const int i0 = (int)(p.edge + p.zb * (REAL)r);
    const REAL *p0 = p.line + i0, *p1 = p0 + stride;
    const ivec i = __builtin_convertvector(z, ivec);
    const vec w = z - __builtin_convertvector(i, vec);
    vec below = load(p0), above = half ? load_half(p0 + LANES) : load(p0 + LANES);
    below += p.wa * (load(p1) - below);
    above += p.wa * ((half ? load_half(p1 + LANES) : load(p1 + LANES)) - above);
    const ivec index = keep(i - (INTEGER)i0);
    const vec left = pick(below, above, index), right = pick(below, above, index + 1);
    return left + w * (right - left);
};
auto reach_of = [&](int k) { return (REAL)(LANES - 1) * (gaps[k] < (REAL)0 ? -gaps[k] : gaps[k]); };
const REAL narrow = (REAL)(LANES + LANES / 2) - (REAL)3.25;
for (int k = 0; k < to - from; ++k) {
    const int r0 = (int)firsts[k], r1 = (int)ends[k];
    const bool twin = k + 1 < to - from && firsts[k + 1] == r0 && ends[k + 1] == r1;
    if (twin && reach_of(k) < narrow && reach_of(k + 1) < narrow) {
        // Two planes that are seen in the same cells.
        const Plane p = plane_of(k), q = plane_of(++k);
        for (int r = r0; r < r1; r += LANES)
            store(sums + r, load(sums + r) + (sample(p, r, true) + sample(q, r, true)));
        continue;
    }
    if (reach_of(k) < (REAL)(2 * LANES) - (REAL)3.25) {
        const Plane p = plane_of(k);
        for (int r = r0; r < r1; r += LANES)
            store(sums + r, load(sums + r) + sample(p, r, false));
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
for (int r = 0; r < whole; r += LANES) {
    const vec at = lane + (REAL)r, steep = steep0 + steep1 * at;
    const vec length = __builtin_elementwise_sqrt(flat + steep * steep);
    const auto inside = (at >= (REAL)ra) & (at < (REAL)rb);
    store(sums + r, inside ? length * load(sums + r) : (vec)(REAL)0);
}
