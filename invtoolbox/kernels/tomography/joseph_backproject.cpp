// Arguments: JosephArguments of joseph.py.
//
// The transpose of joseph_project.cpp in modes 0 and 1: LINES neighbouring lines of one group of
// images, which no other task writes to, and every ray that crosses them. The lines stay in the
// nearest cache, and no atomics are needed. LINES is 1 on CUDA.
{
#if LINES > 1
// Multiplications and additions are fused within an expression, the same in every variant.
#pragma clang fp contract(on)
#include "slab_vectors.h"
    typedef REAL pixels __attribute__((ext_vector_type(IMAGES)));
    auto load_pixels = [](const REAL* from) {
        pixels value;
        __builtin_memcpy(&value, from, sizeof(pixels));
        return value;
    };
    const int CELLS = 512, MARGIN = 64;
    const double ROUNDING = sizeof(REAL) == 4 ? 1.2e-7 : 2.3e-16;
    alignas(64) REAL cells[(CELLS + 2 * MARGIN) * IMAGES], cell_starts[CELLS + 2 * MARGIN];
    if (MODE == 0) {
        for (int k = 0; k < MARGIN * IMAGES; ++k)
            cells[k] = (REAL)0;
        for (int k = 0; k < CELLS + 2 * MARGIN; ++k)
            cell_starts[k] = (REAL)0;
    }
#endif
    const int blocks_vertical = (height + LINES - 1) / LINES;
    const int blocks = blocks_vertical + (width + LINES - 1) / LINES;
    const int item = task / blocks;
    const int block = task % blocks;
    const bool vertical = block < blocks_vertical;
    const int first = (vertical ? block : block - blocks_vertical) * LINES;
    const int lines = vertical ? height : width;
    const int across = vertical ? width : height;
    const int padded_lines = (vertical ? blocks_vertical : blocks - blocks_vertical) * LINES;
    const int stride = (across + 4) * IMAGES;
    const int begin = vertical ? 0 : vertical_rays, end = vertical ? vertical_rays : all_rays;
#include "joseph_ray.h"
    REAL* block_out =
        (REAL*)(vertical ? rows : columns) + ((size_t)item * padded_lines + first) * stride;
    for (int k = 0; k < LINES * stride; ++k)
        block_out[k] = (REAL)0;
    const REAL* all_y = (const REAL*)sinogram + (size_t)item * all_rays * IMAGES;
    const REAL along_first = (REAL)first - middle, along_last = (REAL)(first + LINES - 1) - middle;
    int tried = begin;
    for (int k = begin; k < end; ++k) {
        const int r = ((const int*)order)[k];
        const REAL start = ((const REAL*)offsets)[r] + shift;
        const REAL slope = ((const REAL*)slopes_in)[r];
#if LINES > 1
        if (MODE == 0) {
#include "joseph_collect.h"
        }
#endif
        const REAL x_first = start + slope * along_first, x_last = start + slope * along_last;
        if ((x_first <= (REAL)0 && x_last <= (REAL)0) || (x_first >= last && x_last >= last))
            continue;
        const REAL* c = (const REAL*)coefficients + r;
        const REAL* y = all_y + (size_t)r * IMAGES;
        REAL scaled[IMAGES];
        for (int l = 0; l < IMAGES; ++l)
            scaled[l] = c[0] * y[l];
#if MODE == 0 && LINES > 1
        // The places on all lines come first, in vectors; then each line's two pixels are read and
        // written at once.
        typedef REAL pair __attribute__((ext_vector_type(2 * IMAGES)));
        int places[LINES];
        REAL weights[LINES], lefts[LINES], rights[LINES];
        for (int m = 0; m < LINES; ++m) {
            const int j = first + m;
#include "joseph_sample.h"
            places[m] = m * stride + i * IMAGES;
            weights[m] = w;
            rights[m] = scaled[0] * w;
            lefts[m] = scaled[0] - rights[m];
        }
        for (int m = 0; m < LINES; ++m) {
            pair both, change;
            for (int l = 0; l < IMAGES; ++l) {
                const REAL right = IMAGES == 1 ? rights[m] : scaled[l] * weights[m];
                change[l] = IMAGES == 1 ? lefts[m] : scaled[l] - right;
                change[IMAGES + l] = right;
            }
            __builtin_memcpy(&both, block_out + places[m], sizeof(pair));
            both += change;
            __builtin_memcpy(block_out + places[m], &both, sizeof(pair));
        }
#else
        for (int m = 0; m < LINES; ++m) {
            const int j = first + m;
#include "joseph_sample.h"
            REAL* pixel = block_out + m * stride + i * IMAGES;
            for (int l = 0; l < IMAGES; ++l) {
                REAL right = scaled[l] * w;
                REAL left = scaled[l] - right;
                if (MODE == 1) {
                    const REAL tangent = (c[all_rays] + c[2 * all_rays] * along) * y[l];
                    right += tangent;
                    left -= tangent;
                }
                pixel[l] += left;
                pixel[IMAGES + l] += right;
            }
        }
#endif
    }
}
