// Arguments: CompositingArguments of splat_compositing.py.
//
// Composite the splats of one tile, or of the rays in it, front to back, with a block of threads:
// the formula of splat_compositing.py.
//
// For CUDA. The block copies BATCH splats into its own memory, where all of its pixels read them,
// until the tile's list or its last pixel ends. The tests run it on Warp's blocks for the CPU.
#include "../block.h"
#include "splat_compositing_block.h"
constexpr int BATCH = entries_in_block(STRIDE * (int)sizeof(REAL), 256);
constexpr int ROWS = BATCH * STRIDE;
SHARED(REAL, rows, ROWS);
for (; group < groups_end; group += BLOCK) {
#include "splat_compositing_block_place.h"
    REAL T = (REAL)1, depth = (REAL)0, sum[FEATURES];
    int end = 0, middle = -1;
    bool live = inside;
    for (int k = 0; k < FEATURES; ++k)
        sum[k] = (REAL)0;
    for (int from = 0; from < total && any_of_block(live); from += BATCH) {
        const int count = total - from < BATCH ? total - from : BATCH;
        load(rows, from, count);
        SYNC;
        for (int i = 0; live && i < count; ++i) {
            const REAL* row = rows + i * STRIDE;
#include "splat_compositing_exponent.h"
            if (!(sigma <= row[REACH])) continue;
            REAL alpha = row[OPACITY] * exp(-sigma);
            alpha = alpha > (REAL)0.999 ? (REAL)0.999 : alpha;
            const REAL next = T - T * alpha;
            live = !(next <= (REAL)1e-4);
            if (!live) break;
            for (int k = 0; k < FEATURES; ++k)
                sum[k] += alpha * T * row[COLOR + k];
#if MEDIAN >= 0
            if (next <= (REAL)0.5 && T > (REAL)0.5) {
                middle = from + i;
                depth = row[COLOR + MEDIAN];
            }
#endif
            T = next;
            end = from + i + 1;
        }
    }
    if (inside) {
        REAL* out = (REAL*)images + place;
        for (int k = 0; k < FEATURES; ++k)
            out[k * plane] = sum[k];
        out[FEATURES * plane] = T;
        ((int*)last)[pixel] = end;
#if MEDIAN >= 0
        ((int*)median)[pixel] = middle;
        out[(FEATURES + 1) * plane] = depth;
#endif
    }
}
