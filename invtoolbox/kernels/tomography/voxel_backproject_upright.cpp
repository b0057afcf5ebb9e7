// Arguments: VoxelArguments of voxel_backprojection.py.
//
// voxel_backproject.cpp for views in whose columns whole lines of voxels along the slices are seen,
// on the CPU: the column, its weight and the arctangent are computed once per line. The panels are
// transposed, (columns + 2, rows + 2), with a cell of zeros around them.
#include "voxel_block.h"
REAL sum[BY * BX * BZ];
for (int g = 0; g < BY * BX * BZ; ++g)
    sum[g] = (REAL)0;
const size_t size = (size_t)(rows + 2) * (columns + 2);
const REAL* panel = (const REAL*)projections + (size_t)item * views * size;
const REAL slice = (REAL)h0 - (REAL)0.5 * (REAL)(depth - 1);
for (int v = 0; v < views; ++v, panel += size) {
    const REAL* view = (const REAL*)table + 15 * v;
    for (int b = 0; b < BY * BX; ++b) {
        const REAL row = (REAL)(j0 + b / BX) - (REAL)0.5 * (REAL)(height - 1);
        const REAL c = (REAL)(i0 + b % BX) - (REAL)0.5 * (REAL)(width - 1);
        const REAL across = view[0] * c + view[1] * row + view[3];
        const REAL ahead = view[8] * c + view[9] * row + view[11];
        if (!(ahead > (REAL)0)) continue;
#if CURVED
        const REAL inverse = (REAL)1 / sqrt(across * across + ahead * ahead);
        const REAL x = view[12] + view[13] * atan(across / ahead) + (REAL)1;
        const REAL lift = view[14] + (REAL)1;
#else
        const REAL inverse = (REAL)1 / ahead;
        const REAL x = across * inverse + (REAL)1;
        const REAL lift = (REAL)1;
#endif
        if (!(x > (REAL)0 && x < (REAL)(columns + 1))) continue;
        const int k = (int)x;
        const REAL weight = inverse * inverse;
        const REAL right = weight * (x - (REAL)k), left = weight - right;
        const REAL* near = panel + (size_t)k * (rows + 2);
        const REAL* next = near + rows + 2;
        const REAL start =
            (view[4] * c + view[5] * row + view[6] * slice + view[7]) * inverse + lift;
        const REAL step = view[6] * inverse;
        REAL* line = sum + b * BZ;
        for (int g = 0; g < BZ; ++g) {
            REAL y = start + step * (REAL)g;
            y = y > (REAL)0 ? y : (REAL)0;
            y = y < (REAL)(rows + 1) ? y : (REAL)(rows + 1);
            int l = (int)y;
            l = l < rows ? l : rows;
            const REAL q = y - (REAL)l;
            const REAL low = left * near[l] + right * next[l];
            const REAL high = left * near[l + 1] + right * next[l + 1];
            line[g] += low + q * (high - low);
        }
    }
}
for (int g = 0; g < BZ && h0 + g < depth; ++g)
    for (int j = 0; j < BY && j0 + j < height; ++j) {
        REAL* out = (REAL*)volume + (((size_t)item * depth + h0 + g) * height + j0 + j) * width;
        for (int i = 0; i < BX && i0 + i < width; ++i)
            out[i0 + i] = sum[(j * BX + i) * BZ + g];
    }
