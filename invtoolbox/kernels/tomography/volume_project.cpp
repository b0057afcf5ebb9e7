// Arguments: VolumeArguments of volume.py.
//
// Joseph's forward projection in 3D or, with TANGENT, its derivative if the table changes by
// `tangent`: one ray of one item. See volume.py for the formula. The volume is of the type STORED,
// that of the sums by default; a shorter one is converted voxel by voxel.
#ifndef STORED
#define STORED REAL
#endif
#include "volume_sizes.h"
const int c = task % columns, r = task / columns % rows;
const int view = task / columns / rows % views, item = task / columns / rows / views;
const double* T = (const double*)table + 13 * view;
const STORED* x = (const STORED*)volume + (long long)item * voxels;
#include "volume_ray.h"
#include "volume_range.h"
#include "volume_coefficients.h"
#include "volume_sums.h"
((REAL*)projections)[((long long)item * views + view) * cells + r * columns + c] =
    c0 * sum0 + a0 * sum_a0 + a1 * sum_a1 + b0 * sum_b0 + b1 * sum_b1;
