// Arguments: PixelArguments of pixel_backprojection.py.
//
// The transpose of pixel_backproject.cpp: a view, to whose line no other task writes; or, if ATOMIC
// (CUDA), one row of the image in a view, by atomic additions.
const int parts = ATOMIC ? height : 1;
const int item = task / (views * parts);
const int v = task / parts % views;
const int first = ATOMIC ? task % parts : 0;
const int last = ATOMIC ? first + 1 : height;
const REAL* view = (const REAL*)table + 8 * v;
REAL* line = (REAL*)lines + (size_t)(item * views + v) * (detectors + 4) * LANES;
for (int j = first; j < last; ++j) {
    const REAL row = (REAL)j - (REAL)0.5 * (REAL)(height - 1);
    const REAL* values = (const REAL*)image + (size_t)(item * height + j) * width * LANES;
    for (int i = 0; i < width; ++i) {
#include "pixel_place.h"
        for (int l = 0; l < LANES; ++l) {
            const REAL scaled = weight * values[i * LANES + l];
            const REAL right = scaled * w;
#if ATOMIC
            wp::atomic_add(line + k * LANES + l, scaled - right);
            wp::atomic_add(line + (k + 1) * LANES + l, right);
#else
            line[k * LANES + l] += scaled - right;
            line[(k + 1) * LANES + l] += right;
#endif
        }
    }
}
