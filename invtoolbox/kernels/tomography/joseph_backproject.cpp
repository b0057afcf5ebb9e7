// Arguments: JosephArguments of joseph.py.
//
// The transpose of joseph_project.cpp in modes 0 and 1: LINES neighbouring lines of one group of
// images, which no other task writes to, and every ray that crosses them. The lines stay in the
// nearest cache, and no atomics are needed.
const int blocks_vertical = (height + LINES - 1) / LINES;
const int blocks = blocks_vertical + (width + LINES - 1) / LINES;
const int item = task / blocks;
const int block = task % blocks;
const bool vertical = block < blocks_vertical;
const int first = (vertical ? block : block - blocks_vertical) * LINES;
const int lines = vertical ? height : width;
const int across = vertical ? width : height;
const int padded_lines = (vertical ? blocks_vertical : blocks - blocks_vertical) * LINES;
const int stride = (across + 4) * LANES;
const int begin = vertical ? 0 : vertical_rays, end = vertical ? vertical_rays : all_rays;
#include "joseph_ray.h"
REAL* block_out =
    (REAL*)(vertical ? rows : columns) + ((size_t)item * padded_lines + first) * stride;
for (int k = 0; k < LINES * stride; ++k)
    block_out[k] = (REAL)0;
const REAL* all_y = (const REAL*)sinogram + (size_t)item * all_rays * LANES;
const REAL along_first = (REAL)first - middle, along_last = (REAL)(first + LINES - 1) - middle;
for (int k = begin; k < end; ++k) {
    const int r = ((const int*)order)[k];
    const REAL start = ((const REAL*)offsets)[r] + shift;
    const REAL slope = ((const REAL*)slopes_in)[r];
    const REAL x_first = start + slope * along_first, x_last = start + slope * along_last;
    if ((x_first <= (REAL)0 && x_last <= (REAL)0) || (x_first >= last && x_last >= last)) continue;
    const REAL* c = (const REAL*)coefficients + r;
    const REAL* y = all_y + (size_t)r * LANES;
    REAL scaled[LANES];
    for (int l = 0; l < LANES; ++l)
        scaled[l] = c[0] * y[l];
#if LANES == 1 && MODE == 0 && LINES > 1
    // On the CPU the places on all lines come first, in vectors; then each line's two pixels are
    // read and written at once.
    typedef REAL pair __attribute__((ext_vector_type(2)));
    int places[LINES];
    REAL lefts[LINES], rights[LINES];
    for (int m = 0; m < LINES; ++m) {
        const int j = first + m;
#include "joseph_sample.h"
        places[m] = m * stride + i;
        rights[m] = scaled[0] * w;
        lefts[m] = scaled[0] - rights[m];
    }
    for (int m = 0; m < LINES; ++m) {
        pair pixels;
        __builtin_memcpy(&pixels, block_out + places[m], sizeof(pair));
        pixels += (pair){lefts[m], rights[m]};
        __builtin_memcpy(block_out + places[m], &pixels, sizeof(pair));
    }
#else
    for (int m = 0; m < LINES; ++m) {
        const int j = first + m;
#include "joseph_sample.h"
        REAL* pixel = block_out + m * stride + i * LANES;
        for (int l = 0; l < LANES; ++l) {
            REAL right = scaled[l] * w;
            REAL left = scaled[l] - right;
            if (MODE == 1) {
                const REAL tangent = (c[all_rays] + c[2 * all_rays] * along) * y[l];
                right += tangent;
                left -= tangent;
            }
            pixel[l] += left;
            pixel[LANES + l] += right;
        }
    }
#endif
}
