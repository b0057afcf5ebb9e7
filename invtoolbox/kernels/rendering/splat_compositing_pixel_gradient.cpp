// Arguments: CompositingArguments of splat_compositing.py.
//
// Add the gradient of one pixel or ray to every pair of a splat and a tile, back to front. The
// equations are those of splat_compositing_tile_gradient.cpp.
//
// With atomic additions; the CPU can run this source on one thread. It is not the default anywhere,
// see splat_compositing_block_gradient.cpp.
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
        wp::atomic_add(out + GEOMETRY + k, alpha * T * slope[k * plane]);
    }
    const REAL pull = T * s - S * inverse;
    S += alpha * T * s;
    if (raw <= (REAL)0.999) {
        const REAL g = -alpha * pull;
        const REAL pull_x = -g * (row[2] * dx + row[3] * dy);
        const REAL pull_y = -g * (row[3] * dx + row[4] * dy);
        wp::atomic_add(out, pull_x);
        wp::atomic_add(out + 1, pull_y);
#if ABSOLUTE
        wp::atomic_add(out + ROW, pull_x < (REAL)0 ? -pull_x : pull_x);
        wp::atomic_add(out + ROW + 1, pull_y < (REAL)0 ? -pull_y : pull_y);
#endif
        wp::atomic_add(out + 2, (REAL)0.5 * g * dx * dx);
        wp::atomic_add(out + 3, g * dx * dy);
        wp::atomic_add(out + 4, (REAL)0.5 * g * dy * dy);
        wp::atomic_add(out + 5, -g / row[5]);
    }
}
#if MEDIAN >= 0
const int middle = ((const int*)median)[pixel];
if (middle >= 0) {
    REAL* out = (REAL*)dpairs + (base + entry[2 * middle + 1]) * OUT;
    wp::atomic_add(out + GEOMETRY + MEDIAN, slope[(FEATURES + 1) * plane]);
}
#endif
