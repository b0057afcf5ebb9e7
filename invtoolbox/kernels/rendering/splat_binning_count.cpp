// Arguments: CountArguments of splat_binning.py.
//
// Count the splats of every tile of one view, and the tiles of every splat.
//
// For the CPU only: on CUDA, PyTorch sorts (see splat_binning.py).
const int* box = (const int*)boxes + 4 * (long long)count * view;
int* share = (int*)shares + (long long)count * view;
int* tile = (int*)sizes + (long long)across * down * view;
for (int t = 0; t < across * down; ++t)
    tile[t] = 0;
long long total = 0;
for (int n = 0; n < count; ++n) {
    const int* b = box + 4 * n;
    if (b[0] >= b[1]) {
        share[n] = 0;
        continue;
    }
#include "splat_binning_range.h"
    share[n] = (x1 - x0 + 1) * (y1 - y0 + 1);
    total += share[n];
    for (int y = y0; y <= y1; ++y)
        for (int x = x0; x <= x1; ++x)
            ++tile[y * across + x];
}
((long long*)totals)[view] = total;
