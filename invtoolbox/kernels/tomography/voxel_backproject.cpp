// Arguments: VoxelArguments of voxel_backprojection.py.
//
// Voxel-driven back-projection: a block of BZ x BY x BX voxels, all views. The sums of the block
// stay in the nearest cache, and so does the part of a view that the block is seen in.
#include "voxel_block.h"
REAL sum[BZ * BY * BX];
for (int g = 0; g < BZ * BY * BX; ++g)
    sum[g] = (REAL)0;
const REAL* panel = (const REAL*)projections + (size_t)item * views * rows * columns;
for (int v = 0; v < views; ++v, panel += (size_t)rows * columns) {
    const REAL* view = (const REAL*)table + 15 * v;
    for (int b = 0; b < BZ * BY; ++b) {
        const int h = h0 + b / BY, j = j0 + b % BY;
        if (h >= depth || j >= height) continue;
#include "voxel_line.h"
        for (int g = 0; g < BX; ++g) {
            const int i = i0 + g;
#include "voxel_place.h"
            sum[b * BX + g] += low * (left * panel[r0 + k0] + right * panel[r0 + k1]) +
                               high * (left * panel[r1 + k0] + right * panel[r1 + k1]);
        }
    }
}
for (int b = 0; b < BZ * BY; ++b) {
    const int h = h0 + b / BY, j = j0 + b % BY;
    if (h >= depth || j >= height) continue;
    REAL* out = (REAL*)volume + (((size_t)item * depth + h) * height + j) * width;
    for (int g = 0; g < BX && i0 + g < width; ++g)
        out[i0 + g] = sum[b * BX + g];
}
