// Rays that do not share their path, in groups of a column's neighbours. A group that stays within
// SWEEP lines of a plane is followed line by line; otherwise its voxels are gathered.
const int SWEEP = 8;
for (int r = 0; r < here; r += LANES) {
    REAL start_a[LANES], start_b[LANES], slope_a[LANES], slope_b[LANES], length[LANES];
#include "slab_group.h"
    if (from >= to) continue;
    // Positions are monotone along the group if all rays run to the same side along the main axis.
    const double first_m = fma(rp0 + (double)r, T[9 + M], middle[M]);
    const double last_m = fma(rp0 + (double)(r + LANES - 1), T[9 + M], middle[M]);
    bool monotone = PARALLEL || first_m * last_m > 0.0;
    for (int l = 0; l < LANES; ++l)
        monotone = monotone && length[l] > (REAL)0;
    vec total = (vec)(REAL)0;
    const REAL* base = (const REAL*)slab + FRONT + (from - k_first) * plane;
    for (int k = from; k < to; ++k, base += plane) {
        const REAL t = (REAL)k - (REAL)middle_m;
        vec xa = load(start_a) + load(slope_a) * t, xb = load(start_b) + load(slope_b) * t;
        xa = xa > (REAL)0 ? xa : (vec)(REAL)0;
        xa = xa < last_a ? xa : (vec)last_a;
        xb = xb > (REAL)0 ? xb : (vec)(REAL)0;
        xb = xb < last_b ? xb : (vec)last_b;
        const ivec ia = __builtin_convertvector(xa, ivec), ib = __builtin_convertvector(xb, ivec);
        const vec wb = xb - __builtin_convertvector(ib, vec);
        // The ends of a monotone group bound its lines and voxels.
        const int a0 = (int)ia[0], a1 = (int)ia[LANES - 1];
        const int b0 = (int)ib[0], b1 = (int)ib[LANES - 1];
        const int line0 = least(a0, a1), line1 = most(a0, a1) + 1, i0 = least(b0, b1);
        if (monotone && line1 - line0 <= SWEEP && most(b0, b1) - i0 < 2 * LANES - 1) {
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
