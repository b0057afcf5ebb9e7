// Arguments: ContributorArguments of splat_compositing.py.
//
// Find the NUMBER splats of one pixel with the largest weights alpha T, the largest first: the
// formula of splat_compositing.py. Of equal weights the nearer splat comes first; places without a
// splat hold the id -1 and the weight 0.
#include "splat_compositing_pixel.h"
const int total = (int)(((const long long*)starts)[tile + 1] - begin);
int* id = (int*)ids + pixel * NUMBER;
REAL* weight = (REAL*)weights + pixel * NUMBER;
for (int k = 0; k < NUMBER; ++k) {
    id[k] = -1;
    weight[k] = (REAL)0;
}
REAL T = (REAL)1;
for (int i = 0; i < total; ++i) {
    const long long splat = (long long)view * splats_of_view + entry[2 * i];
    const REAL* row = (const REAL*)splats + splat * ROW;
#include "splat_compositing_exponent.h"
    if (!(sigma <= ((const REAL*)reaches)[2 * splat + 1])) continue;
    REAL alpha = row[5] * exp(-sigma);
    alpha = alpha > (REAL)0.999 ? (REAL)0.999 : alpha;
    const REAL next = T - T * alpha, own = alpha * T;
    if (next <= (REAL)1e-4) break;
    T = next;
    if (own <= weight[NUMBER - 1]) continue;
    int k = NUMBER - 1;
    for (; k > 0 && weight[k - 1] < own; --k) {
        weight[k] = weight[k - 1];
        id[k] = id[k - 1];
    }
    weight[k] = own;
    id[k] = entry[2 * i];
}
