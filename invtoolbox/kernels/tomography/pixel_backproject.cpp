// Arguments: PixelArguments of pixel_backprojection.py.
//
// Pixel-driven back-projection of LANES sinograms: GROUP neighbouring pixels of a row, all views.
// The sums of the group stay in registers.
const int groups = (width + GROUP - 1) / GROUP;
const int item = task / (height * groups);
const int j = task / groups % height;
const int first = task % groups * GROUP;
const REAL row = (REAL)j - (REAL)0.5 * (REAL)(height - 1);
const REAL* line = (const REAL*)lines + (size_t)item * views * (detectors + 4) * LANES;
REAL sum[GROUP * LANES];
for (int g = 0; g < GROUP * LANES; ++g)
    sum[g] = (REAL)0;
for (int v = 0; v < views; ++v, line += (detectors + 4) * LANES) {
    const REAL* view = (const REAL*)table + 8 * v;
    for (int g = 0; g < GROUP; ++g) {
        const int i = first + g;
#include "pixel_place.h"
        for (int l = 0; l < LANES; ++l) {
            const REAL left = line[k * LANES + l], right = line[(k + 1) * LANES + l];
            sum[g * LANES + l] += weight * (left + w * (right - left));
        }
    }
}
REAL* out = (REAL*)image + (size_t)(item * height + j) * width * LANES;
for (int g = 0; g < GROUP && first + g < width; ++g)
    for (int l = 0; l < LANES; ++l)
        out[(first + g) * LANES + l] = sum[g * LANES + l];
