// Arguments: VoxelArguments of voxel_backprojection.py.
//
// The transpose of voxel_backproject.cpp: a view, to whose panel no other task writes; or, if
// ATOMIC (CUDA), one row of voxels in a view, by atomic additions.
const int parts = ATOMIC ? depth * height : 1;
const int item = task / (views * parts);
const int v = task / parts % views;
const int first = ATOMIC ? task % parts : 0;
const int last = ATOMIC ? first + 1 : depth * height;
const REAL* view = (const REAL*)table + 15 * v;
REAL* panel = (REAL*)projections + ((size_t)item * views + v) * rows * columns;
for (int b = first; b < last; ++b) {
    const int h = b / height, j = b % height;
    const REAL* values = (const REAL*)volume + (((size_t)item * depth + h) * height + j) * width;
#include "voxel_line.h"
    for (int i = 0; i < width; ++i) {
#include "voxel_place.h"
        const REAL value = values[i];
#if ATOMIC
        wp::atomic_add(panel + r0 + k0, value * low * left);
        wp::atomic_add(panel + r0 + k1, value * low * right);
        wp::atomic_add(panel + r1 + k0, value * high * left);
        wp::atomic_add(panel + r1 + k1, value * high * right);
#else
        panel[r0 + k0] += value * low * left;
        panel[r0 + k1] += value * low * right;
        panel[r1 + k0] += value * high * left;
        panel[r1 + k1] += value * high * right;
#endif
    }
}
