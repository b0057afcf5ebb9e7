// Arguments: VolumeArguments of volume.py.
//
// The derivative of <projections, A volume> in the 13 numbers of a view, summed over a row of the
// panel and the items. A task is a row, so that no two tasks add to one place and the order of the
// sums is fixed.
#include "volume_sizes.h"
const int r = task % rows, view = task / rows;
const double* T = (const double*)table + 13 * view;
double grad[13];
for (int k = 0; k < 13; ++k)
    grad[k] = 0.0;
for (int c = 0; c < columns; ++c) {
#include "volume_ray.h"
#include "volume_range.h"
    double g0 = 0.0, ga0 = 0.0, ga1 = 0.0, gb0 = 0.0, gb1 = 0.0;
    for (int item = 0; item < items; ++item) {
        const REAL* x = (const REAL*)volume + (long long)item * voxels;
#include "volume_sums.h"
        const long long cell = ((long long)item * views + view) * cells + r * columns + c;
        const double y = ((const REAL*)projections)[cell];
        g0 += y * sum0;
        ga0 += y * sum_a0;
        ga1 += y * sum_a1;
        gb0 += y * sum_b0;
        gb1 += y * sum_b1;
    }
    // Backwards through offset, slope and length to the ray's point and direction.
    ga0 *= length;
    gb0 *= length;
    ga1 = ga1 * length - P[m] * ga0;
    gb1 = gb1 * length - P[m] * gb0;
    double gP[3], gd[3];
    const double stretch = g0 * length / D2;
    gd[0] = stretch * size_x * size_x * d[0];
    gd[1] = stretch * size_y * size_y * d[1];
    gd[2] = stretch * size_z * size_z * d[2];
    gP[a] = ga0;
    gP[b] = gb0;
    gP[m] = -slope_a * ga0 - slope_b * gb0;
    gd[a] += ga1 / d[m];
    gd[b] += gb1 / d[m];
    gd[m] -= (slope_a * ga1 + slope_b * gb1 + g0 * length) / d[m];
    for (int k = 0; k < 3; ++k) {
        const double fixed = PARALLEL ? gd[k] : gP[k], cell = PARALLEL ? gP[k] : gd[k];
        grad[k] += fixed;
        grad[3 + k] += CURVED ? cosine * cell : cell;
        grad[6 + k] += CURVED ? sine * cell : cp * cell;
        grad[9 + k] += rp * cell;
        if (CURVED) grad[12] += cp * cell * (cosine * T[6 + k] - sine * T[3 + k]);
    }
}
for (int k = 0; k < 13; ++k)
    ((double*)gradient)[(long long)task * 13 + k] = grad[k];
