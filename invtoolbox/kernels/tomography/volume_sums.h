// The five sums of the family in volume.py over the planes of a ray through the volume x.
REAL sum0 = 0, sum_a0 = 0, sum_a1 = 0, sum_b0 = 0, sum_b1 = 0;
for (int k = from; k < to; ++k) {
#include "volume_sample.h"
    const REAL v00 = a_low && b_low ? (REAL)x[at] : (REAL)0;
    const REAL v01 = a_low && b_high ? (REAL)x[at + step[b]] : (REAL)0;
    const REAL v10 = a_high && b_low ? (REAL)x[at + step[a]] : (REAL)0;
    const REAL v11 = a_high && b_high ? (REAL)x[at + step[a] + step[b]] : (REAL)0;
    const REAL low = v00 + wb * (v01 - v00), high = v10 + wb * (v11 - v10);
    const REAL along_a = high - low;
    const REAL along_b = (v01 - v00) + wa * ((v11 - v10) - (v01 - v00));
    sum0 += low + wa * along_a;
    sum_a0 += along_a;
    sum_a1 += along_a * t;
    sum_b0 += along_b;
    sum_b1 += along_b * t;
}
