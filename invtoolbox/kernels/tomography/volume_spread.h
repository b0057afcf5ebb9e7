// The transpose of volume_sums.h: a ray with value y adds to the voxels around its samples.
for (int k = from; k < to; ++k) {
#include "volume_sample.h"
    const REAL value = c0 * y, tangent_a = (a0 + a1 * t) * y, tangent_b = (b0 + b1 * t) * y;
    const REAL low = (REAL)1 - wa, left = (REAL)1 - wb;
    if (a_low && b_low) add(x + at, value * low * left - tangent_a * left - tangent_b * low);
    if (a_low && b_high) add(x + at + step[b], value * low * wb - tangent_a * wb + tangent_b * low);
    if (a_high && b_low)
        add(x + at + step[a], value * wa * left + tangent_a * left - tangent_b * wa);
    if (a_high && b_high)
        add(x + at + step[a] + step[b], value * wa * wb + tangent_a * wb + tangent_b * wa);
}
