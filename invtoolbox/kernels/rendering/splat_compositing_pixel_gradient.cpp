// Arguments: CompositingArguments of splat_compositing.py.
//
// Add the gradient of one pixel or ray to every pair of a splat and a tile, back to front. The
// equations are those of splat_compositing_tile_gradient.cpp.
//
// For CUDA, with atomic additions. The CPU can run this source on one thread (see
// splat_compositing_pixel.cpp). If ORDERED, a task is the number `tile` of a tile: it goes through
// the pixels or rays of the tile, so that the sums have a fixed order.
#if ORDERED
#if RAYS
const long long from = ((const long long*)begins)[tile];
const long long until = ((const long long*)begins)[tile + 1];
#else
const long long from = (long long)tile * TILE * TILE, until = from + TILE * TILE;
#endif
#define SKIP continue
#define ADD(place, value) *(place) += value
for (long long task = from; task < until; ++task) {
#else
#define ADD(place, value) wp::atomic_add(place, value)
{
#endif
#include "splat_compositing_pixel.h"
    const int OUT = ROW + 2 * ABSOLUTE;
    const REAL* slope = (const REAL*)dimages + place;
    const long long base = ((const long long*)bases)[view];
    REAL T = ((const REAL*)images)[place + FEATURES * plane];
    REAL S = T * slope[FEATURES * plane];
    for (int i = ((const int*)last)[pixel] - 1; i >= 0; --i) {
        const long long splat = (long long)view * splats_of_view + entry[2 * i];
        const REAL* row = (const REAL*)splats + splat * ROW;
#include "splat_compositing_exponent.h"
        if (!(sigma <= ((const REAL*)reaches)[2 * splat + 1])) continue;
        const REAL raw = row[5] * exp(-sigma), alpha = raw > (REAL)0.999 ? (REAL)0.999 : raw;
        const REAL inverse = (REAL)1 / ((REAL)1 - alpha);
        T *= inverse;
        REAL* out = (REAL*)dpairs + (base + entry[2 * i + 1]) * OUT;
        REAL s = (REAL)0;
        for (int k = 0; k < FEATURES; ++k) {
            s += slope[k * plane] * row[GEOMETRY + k];
            ADD(out + GEOMETRY + k, alpha * T * slope[k * plane]);
        }
        const REAL pull = T * s - S * inverse;
        S += alpha * T * s;
        if (raw <= (REAL)0.999) {
            const REAL g = -alpha * pull;
            const REAL pull_x = -g * (row[2] * dx + row[3] * dy);
            const REAL pull_y = -g * (row[3] * dx + row[4] * dy);
            ADD(out, pull_x);
            ADD(out + 1, pull_y);
#if ABSOLUTE
            ADD(out + ROW, pull_x < (REAL)0 ? -pull_x : pull_x);
            ADD(out + ROW + 1, pull_y < (REAL)0 ? -pull_y : pull_y);
#endif
            ADD(out + 2, (REAL)0.5 * g * dx * dx);
            ADD(out + 3, g * dx * dy);
            ADD(out + 4, (REAL)0.5 * g * dy * dy);
            ADD(out + 5, -g / row[5]);
        }
    }
#if MEDIAN >= 0
    const int middle = ((const int*)median)[pixel];
    if (middle >= 0) {
        REAL* out = (REAL*)dpairs + (base + entry[2 * middle + 1]) * OUT;
        ADD(out + GEOMETRY + MEDIAN, slope[(FEATURES + 1) * plane]);
    }
#endif
}
#undef ADD
#undef SKIP
