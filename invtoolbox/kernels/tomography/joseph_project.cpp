// Arguments: JosephArguments of joseph.py.
//
// Joseph's forward projection of GROUP rays of one main axis through IMAGES images.
//
// MODE 0: coefficients[0] times the sum of the samples.
// MODE 1: plus coefficients[1] times the sum of the differences of neighbours, plus
//         coefficients[2] times that sum weighted by the distance of the line from the centre
//         (derivatives in offset and slope).
// MODE 2: these three sums times the sinogram, summed over the batch, into `coefficients`.
//
// GROUP is 1 on CUDA. On a CPU it is a multiple of the length of a vector.
{
#if GROUP > 1
// Multiplications and additions are fused within an expression, the same in every variant.
#pragma clang fp contract(on)
#include "slab_vectors.h"
#endif
    const int groups_vertical = (vertical_rays + GROUP - 1) / GROUP;
    const int groups = groups_vertical + (all_rays - vertical_rays + GROUP - 1) / GROUP;
    const int items_here = MODE == 2 ? items : 1;
    const int group = task % groups;
    const bool vertical = group < groups_vertical;
    const int first = vertical ? group * GROUP : vertical_rays + (group - groups_vertical) * GROUP;
    const int end = vertical ? vertical_rays : all_rays;
    const int lines = vertical ? height : width;
    const int across = vertical ? width : height;
    const int stride = (across + 4) * IMAGES;
#include "joseph_ray.h"
    int rays[GROUP];
    REAL starts[GROUP], slopes[GROUP];
    int from_all = lines, to_all = 0;
    for (int g = 0; g < GROUP; ++g) {
        // The last group repeats its last ray.
        const int k = first + g < end ? first + g : end - 1;
        rays[g] = ((const int*)order)[k];
        const REAL start = starts[g] = ((const REAL*)offsets)[rays[g]] + shift;
        const REAL slope = slopes[g] = ((const REAL*)slopes_in)[rays[g]];
#include "joseph_range.h"
        if (from < to) {
            from_all = from < from_all ? from : from_all;
            to_all = to > to_all ? to : to_all;
        }
    }
    REAL moment0[GROUP], moment1[GROUP], moment2[GROUP];
    for (int g = 0; g < GROUP; ++g)
        moment0[g] = moment1[g] = moment2[g] = (REAL)0;
    for (int n = 0; n < items_here; ++n) {
        const int item = MODE == 2 ? n : task / groups;
        const REAL* all_lines =
            (const REAL*)(vertical ? rows : columns) + (size_t)item * lines * stride;
        REAL sum0[GROUP * IMAGES], sum1[GROUP * IMAGES], sum2[GROUP * IMAGES];
#if GROUP > 1
#include "joseph_vectors.h"
#else
        for (int l = 0; l < IMAGES; ++l)
            sum0[l] = sum1[l] = sum2[l] = (REAL)0;
        const REAL start = starts[0], slope = slopes[0];
        for (int j = from_all; j < to_all; ++j) {
#include "joseph_sample.h"
            const REAL* pixel = all_lines + (size_t)j * stride + i * IMAGES;
            for (int l = 0; l < IMAGES; ++l) {
                const REAL difference = pixel[IMAGES + l] - pixel[l];
                sum0[l] += pixel[l] + w * difference;
                if (MODE > 0) {
                    sum1[l] += difference;
                    sum2[l] += along * difference;
                }
            }
        }
#endif
        for (int g = 0; g < GROUP; ++g) {
            const int r = rays[g];
            REAL* y = (REAL*)sinogram + ((size_t)item * all_rays + r) * IMAGES;
            const REAL* c = (const REAL*)coefficients + r;
            for (int l = 0; l < IMAGES; ++l) {
                const int k = g * IMAGES + l;
                if (MODE == 0) y[l] = c[0] * sum0[k];
                if (MODE == 1)
                    y[l] = c[0] * sum0[k] + c[all_rays] * sum1[k] + c[2 * all_rays] * sum2[k];
                if (MODE == 2) {
                    moment0[g] += y[l] * sum0[k];
                    moment1[g] += y[l] * sum1[k];
                    moment2[g] += y[l] * sum2[k];
                }
            }
        }
    }
    if (MODE == 2) {
        for (int g = 0; g < GROUP; ++g) {
            REAL* m = (REAL*)coefficients + rays[g];
            m[0] = moment0[g];
            m[all_rays] = moment1[g];
            m[2 * all_rays] = moment2[g];
        }
    }
}
