// Arguments: JosephArguments of joseph.py.
//
// Joseph's forward projection of GROUP rays of one main axis through LANES images.
//
// MODE 0: coefficients[0] times the sum of the samples.
// MODE 1: plus coefficients[1] times the sum of the differences of neighbours, plus
//         coefficients[2] times that sum weighted by the distance of the line from the centre
//         (derivatives in offset and slope).
// MODE 2: these three sums times the sinogram, summed over the batch, into `coefficients`.
const int groups_vertical = (vertical_rays + GROUP - 1) / GROUP;
const int groups = groups_vertical + (all_rays - vertical_rays + GROUP - 1) / GROUP;
const int items_here = MODE == 2 ? items : 1;
const int group = task % groups;
const bool vertical = group < groups_vertical;
const int first = vertical ? group * GROUP : vertical_rays + (group - groups_vertical) * GROUP;
const int end = vertical ? vertical_rays : all_rays;
const int lines = vertical ? height : width;
const int across = vertical ? width : height;
const int stride = (across + 4) * LANES;
#include "joseph_ray.h"
int rays[GROUP];
REAL starts[GROUP], slopes[GROUP];
int from_all = lines, to_all = 0;
for (int g = 0; g < GROUP; ++g) {
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
    const REAL* line =
        (const REAL*)(vertical ? rows : columns) + ((size_t)item * lines + from_all) * stride;
    REAL sum0[GROUP * LANES], sum1[GROUP * LANES], sum2[GROUP * LANES];
    for (int g = 0; g < GROUP * LANES; ++g)
        sum0[g] = sum1[g] = sum2[g] = (REAL)0;
    for (int j = from_all; j < to_all; ++j, line += stride) {
        for (int g = 0; g < GROUP; ++g) {
            const REAL start = starts[g], slope = slopes[g];
#include "joseph_sample.h"
            const REAL* pixel = line + i * LANES;
            for (int l = 0; l < LANES; ++l) {
                const REAL difference = pixel[LANES + l] - pixel[l];
                sum0[g * LANES + l] += pixel[l] + w * difference;
                if (MODE > 0) {
                    sum1[g * LANES + l] += difference;
                    sum2[g * LANES + l] += along * difference;
                }
            }
        }
    }
    for (int g = 0; g < GROUP && first + g < end; ++g) {
        const int r = rays[g];
        REAL* y = (REAL*)sinogram + ((size_t)item * all_rays + r) * LANES;
        const REAL* c = (const REAL*)coefficients + r;
        for (int l = 0; l < LANES; ++l) {
            const int k = g * LANES + l;
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
    for (int g = 0; g < GROUP && first + g < end; ++g) {
        REAL* m = (REAL*)coefficients + rays[g];
        m[0] = moment0[g];
        m[all_rays] = moment1[g];
        m[2 * all_rays] = moment2[g];
    }
}
