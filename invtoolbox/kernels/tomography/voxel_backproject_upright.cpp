// Arguments: VoxelArguments of voxel_backprojection.py.
//
// voxel_backproject.cpp for views in whose columns whole lines of voxels along the slices are seen,
// on the CPU: LINES lines side by side (BY x BX), `block` slices of each, all views. The sums stay
// in the nearest cache. The panels are transposed, (columns + 2, stride), with a column of zeros on
// either side, a zero in front of the rows and more behind them.
//
// Along a line the rows rise linearly. So the two columns are weighed into one, which is resampled:
// vectors are loaded and permuted, never gathered.
//
// Not for CUDA, which uses voxel_backproject.cpp: the code uses clang's vector extensions.
{
// Multiplications and additions are fused across statements.
#pragma clang fp contract(fast)
#include "slab_vectors.h"
    const int LINES = BY * BX;
    const int across_tasks = (width + BX - 1) / BX, along_tasks = (height + BY - 1) / BY;
    const int deep_tasks = (depth + block - 1) / block;
    const int i0 = task % across_tasks * BX;
    const int j0 = task / across_tasks % along_tasks * BY;
    const int h0 = task / (across_tasks * along_tasks) % deep_tasks * block;
    const int item = task / (across_tasks * along_tasks * deep_tasks);
    const int deep = least(block, depth - h0), whole = (deep + LANES - 1) / LANES * LANES;
    alignas(64) REAL sum[LINES * BZ];
    for (int g = 0; g < LINES * BZ; ++g)
        sum[g] = (REAL)0;
    const size_t size = (size_t)stride * (columns + 2);
    const REAL* panel = (const REAL*)projections + (size_t)item * views * size;
    const REAL slice = (REAL)h0 - (REAL)0.5 * (REAL)(depth - 1), end = (REAL)(rows + 1);
    REAL cs[LINES], rs[LINES];
    for (int b = 0; b < LINES; ++b) {
        cs[b] = (REAL)(i0 + b % BX) - (REAL)0.5 * (REAL)(width - 1);
        rs[b] = (REAL)(j0 + b / BX) - (REAL)0.5 * (REAL)(height - 1);
    }
    for (int v = 0; v < views; ++v, panel += size) {
        const REAL* view = (const REAL*)table + 15 * v;
        // Of each line: the column k, the weights of k and k + 1, and the row of slice h0 + g,
        // start + step g, counted from the zero in front.
        int ks[LINES];
        REAL lefts[LINES], rights[LINES], starts[LINES], steps[LINES];
        for (int b = 0; b < LINES; ++b) {
            const REAL across = view[0] * cs[b] + view[1] * rs[b] + view[3];
            const REAL ahead = view[8] * cs[b] + view[9] * rs[b] + view[11];
#if CURVED
            const REAL inverse = (REAL)1 / ROOT(across * across + ahead * ahead);
            const REAL x = view[12] + view[13] * atan(across / ahead) + (REAL)1;
            const REAL lift = view[14] + (REAL)1;
#else
            const REAL inverse = (REAL)1 / ahead;
            const REAL x = across * inverse + (REAL)1, lift = (REAL)1;
#endif
            // Also false if x is not a number.
            const bool seen = ahead > (REAL)0 && x > (REAL)0 && x < (REAL)(columns + 1);
            const REAL place = seen ? x : (REAL)0, weight = inverse * inverse;
            ks[b] = seen ? (int)place : -1;
            rights[b] = weight * (place - (REAL)(int)place);
            lefts[b] = weight - rights[b];
            starts[b] =
                (view[4] * cs[b] + view[5] * rs[b] + view[6] * slice + view[7]) * inverse + lift;
            steps[b] = view[6] * inverse;
        }
        for (int b = 0; b < LINES; ++b) {
            if (ks[b] < 0) continue;
            const REAL left = lefts[b], right = rights[b], start = starts[b], step = steps[b];
            const REAL *near = panel + (size_t)ks[b] * stride, *next = near + stride;
            const REAL size_y = step < (REAL)0 ? -step : step;
            REAL* line = sum + b * BZ;
            const REAL last = start + step * (REAL)(whole - 1);
            if (size_y * (REAL)(LANES - 1) < (REAL)(2 * LANES - 3)) {
                const bool inside =
                    start >= (REAL)0 && start <= end && last >= (REAL)0 && last <= end;
                const vec slopes = step * lane;
                for (int g = 0; g < whole; g += LANES) {
                    vec y = slopes + (start + step * (REAL)g);
                    if (!inside) {
                        y = y > (REAL)0 ? y : (vec)(REAL)0;
                        y = y < end ? y : (vec)end;
                    }
                    const ivec l = __builtin_convertvector(y, ivec);
                    const vec w = y - __builtin_convertvector(l, vec);
                    const int l0 = (int)(step < (REAL)0 ? l[LANES - 1] : l[0]);
                    const REAL *p0 = near + l0, *p1 = next + l0;
                    const vec below = left * load(p0) + right * load(p1);
                    const vec above = left * load(p0 + LANES) + right * load(p1 + LANES);
                    const ivec index = l - (INTEGER)l0;
                    const vec low = pick(below, above, index);
                    const vec high = pick(below, above, index + 1);
                    store(line + g, load(line + g) + (low + w * (high - low)));
                }
            } else {
                for (int g = 0; g < deep; ++g) {
                    REAL y = start + step * (REAL)g;
                    y = y > (REAL)0 ? y : (REAL)0;
                    y = y < end ? y : end;
                    const int l = (int)y;
                    const REAL w = y - (REAL)l;
                    const REAL low = left * near[l] + right * next[l];
                    const REAL high = left * near[l + 1] + right * next[l + 1];
                    line[g] += low + w * (high - low);
                }
            }
        }
    }
    for (int g = 0; g < deep; ++g)
        for (int j = 0; j < BY && j0 + j < height; ++j) {
            REAL* out = (REAL*)volume + (((size_t)item * depth + h0 + g) * height + j0 + j) * width;
            for (int i = 0; i < BX && i0 + i < width; ++i)
                out[i0 + i] = sum[(j * BX + i) * BZ + g];
        }
}
