// Arguments: CompositingArguments of splat_compositing.py.
//
// Compute the gradient of every pair of a splat and the block's tile, back to front. The equations
// are those of splat_compositing_tile_gradient.cpp.
//
// For CUDA. The block copies BATCH splats into its own memory. For each of them a warp sums the
// terms of its pixels, and stores the sums; then the block adds the sums of its warps in their
// order and writes them. A pair belongs to one block: there are no atomic additions, and the bits
// are always the same.
#include "../block.h"
#include "splat_compositing_block.h"
constexpr int OUT = ROW + 2 * ABSOLUTE, WARPS = BLOCK / WARP;
constexpr int BATCH = entries_in_block((STRIDE + WARPS * OUT) * (int)sizeof(REAL), 64);
constexpr int ROWS = BATCH * STRIDE, GAINS = WARPS * BATCH * OUT;
SHARED(REAL, rows, ROWS);
SHARED(REAL, gains, GAINS);
REAL* gains_of_warp = gains + thread / WARP * BATCH * OUT;
// The sum of the number n of the batch over 32 threads. On a CPU, where a warp is one thread, it is
// made in the order of warp_sums.h, so that the bits are the same.
auto sum_of_threads = [&](int w, int n) {
#if WARP == 32
    return gains[w * BATCH * OUT + n];
#else
    REAL part[32];
    for (int k = 0; k < 32; ++k)
        part[k] = gains[(32 * w + k) * BATCH * OUT + n];
    for (int half = 16; half > 0; half /= 2)
        for (int k = 0; k < half; ++k)
            part[k] += part[k + half];
    return part[0];
#endif
};
const long long base = ((const long long*)bases)[view];
for (; group < groups_end; group += BLOCK) {
#include "splat_compositing_block_place.h"
    const REAL* slope_at = (const REAL*)dimages + place;
    REAL slope[FEATURES], T = (REAL)1, S = (REAL)0;
    int end = 0;
    for (int k = 0; k < FEATURES; ++k)
        slope[k] = inside ? slope_at[k * plane] : (REAL)0;
    if (inside) {
        T = ((const REAL*)images)[place + FEATURES * plane];
        S = T * slope_at[FEATURES * plane];
        end = ((const int*)last)[pixel];
    }
#if MEDIAN >= 0
    const int middle = inside ? ((const int*)median)[pixel] : -1;
    const REAL slope_of_median = inside ? slope_at[(FEATURES + 1) * plane] : (REAL)0;
#endif
    for (int from = (total - 1) / BATCH * BATCH; total > 0 && from >= 0; from -= BATCH) {
        if (!any_of_block(end > from)) continue;
        const int count = total - from < BATCH ? total - from : BATCH;
        load(rows, from, count);
        SYNC;
        for (int i = count - 1; i >= 0; --i) {
            const REAL* row = rows + i * STRIDE;
#include "splat_compositing_exponent.h"
            const bool hit = end > from + i && sigma <= row[REACH];
            REAL weight = (REAL)0, g = (REAL)0;
            if (hit) {
                const REAL raw = row[OPACITY] * exp(-sigma);
                const REAL alpha = raw > (REAL)0.999 ? (REAL)0.999 : raw;
                const REAL inverse = (REAL)1 / ((REAL)1 - alpha);
                T *= inverse;
                weight = alpha * T;
                REAL s = (REAL)0;
                for (int k = 0; k < FEATURES; ++k)
                    s += slope[k] * row[COLOR + k];
                // dL/dsigma, which is zero where alpha was cut off.
                if (raw <= (REAL)0.999) g = -alpha * (T * s - S * inverse);
                S += weight * s;
            }
            const REAL pull_x = -g * (row[2] * dx + row[3] * dy);
            const REAL pull_y = -g * (row[3] * dx + row[4] * dy);
            // Term k of the pixel's gradient; k is known at compile time, once the loops are
            // unrolled.
            auto term = [&](int k) {
                if (k == 0) return pull_x;
                if (k == 1) return pull_y;
                if (k == 2) return (REAL)0.5 * g * dx * dx;
                if (k == 3) return g * dx * dy;
                if (k == 4) return (REAL)0.5 * g * dy * dy;
                if (k == 5) return -g;  // to be divided by the opacity
                if (k == ROW) return pull_x < (REAL)0 ? -pull_x : pull_x;
                if (k > ROW) return pull_y < (REAL)0 ? -pull_y : pull_y;
#if MEDIAN >= 0
                if (k == GEOMETRY + MEDIAN && middle == from + i)
                    return weight * slope[MEDIAN] + slope_of_median;
#endif
                return weight * slope[k - GEOMETRY];
            };
            REAL* gain = gains_of_warp + i * OUT;
#include "../warp_sums.h"
        }
        SYNC;
        for (int n = thread; n < count * OUT; n += BLOCK) {
            REAL sum = (REAL)0;
            for (int w = 0; w < BLOCK / 32; ++w)
                sum += sum_of_threads(w, n);
            const int i = n / OUT, k = n % OUT;
            if (k == 5) sum /= rows[i * STRIDE + OPACITY];
            REAL* out = (REAL*)dpairs + (base + entry[2 * (from + i) + 1]) * OUT + k;
#if RAYS
            *out += sum;
#else
            *out = sum;
#endif
        }
    }
}
