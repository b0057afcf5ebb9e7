// Arguments: JosephArguments of joseph.py.
//
// The transpose of joseph_project.cpp in modes 0 and 1: one ray, scattered with atomic additions.
// For CUDA; on the CPU it is a check of joseph_backproject.cpp.
const int item = task / all_rays;
const int k = task % all_rays;
const bool vertical = k < vertical_rays;
const int lines = vertical ? height : width;
const int across = vertical ? width : height;
const int padded_lines = (lines + LINES - 1) / LINES * LINES;
const int stride = (across + 4) * IMAGES;
#include "joseph_ray.h"
const int r = ((const int*)order)[k];
const REAL start = ((const REAL*)offsets)[r] + shift;
const REAL slope = ((const REAL*)slopes_in)[r];
#include "joseph_range.h"
REAL* out = (REAL*)(vertical ? rows : columns) + (size_t)item * padded_lines * stride;
const REAL* c = (const REAL*)coefficients + r;
const REAL* y = (const REAL*)sinogram + ((size_t)item * all_rays + r) * IMAGES;
for (int j = from; j < to; ++j) {
#include "joseph_sample.h"
    REAL* pixel = out + (size_t)j * stride + i * IMAGES;
    for (int l = 0; l < IMAGES; ++l) {
        const REAL scaled = c[0] * y[l];
        REAL right = scaled * w;
        REAL left = scaled - right;
        if (MODE == 1) {
            const REAL tangent = (c[all_rays] + c[2 * all_rays] * along) * y[l];
            right += tangent;
            left -= tangent;
        }
        wp::atomic_add(pixel + l, left);
        wp::atomic_add(pixel + IMAGES + l, right);
    }
}
