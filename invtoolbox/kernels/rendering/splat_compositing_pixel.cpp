// Arguments: CompositingArguments of splat_compositing.py.
//
// Composite the splats of one pixel or ray, front to back: the formula of splat_compositing.py.
//
// Neighbouring threads of a GPU take the pixels of one tile. It is not the default anywhere: the
// tests compare it with splat_compositing_tile.cpp and splat_compositing_block.cpp.
#include "splat_compositing_pixel.h"
const int total = (int)(((const long long*)starts)[tile + 1] - begin);
REAL* out = (REAL*)images + place;
REAL T = (REAL)1, sum[FEATURES];
int end = 0, middle = -1;
for (int k = 0; k < FEATURES; ++k)
    sum[k] = (REAL)0;
for (int i = 0; i < total; ++i) {
    const long long splat = (long long)view * splats_of_view + entry[2 * i];
    const REAL* row = (const REAL*)splats + splat * ROW;
#include "splat_compositing_exponent.h"
    if (!(sigma <= ((const REAL*)reaches)[2 * splat + 1])) continue;
    REAL alpha = row[5] * exp(-sigma);
    alpha = alpha > (REAL)0.999 ? (REAL)0.999 : alpha;
    const REAL next = T - T * alpha;
    if (next <= (REAL)1e-4) break;
    for (int k = 0; k < FEATURES; ++k)
        sum[k] += alpha * T * row[GEOMETRY + k];
    if (next <= (REAL)0.5 && T > (REAL)0.5) middle = i;
    T = next;
    end = i + 1;
}
for (int k = 0; k < FEATURES; ++k)
    out[k * plane] = sum[k];
out[FEATURES * plane] = T;
((int*)last)[pixel] = end;
#if MEDIAN >= 0
((int*)median)[pixel] = middle;
REAL depth = (REAL)0;
if (middle >= 0) {
    const long long splat = (long long)view * splats_of_view + entry[2 * middle];
    depth = ((const REAL*)splats)[splat * ROW + GEOMETRY + MEDIAN];
}
out[(FEATURES + 1) * plane] = depth;
#endif
