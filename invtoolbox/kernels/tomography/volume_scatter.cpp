// Arguments: VolumeArguments of volume.py.
//
// The transpose of volume_project.cpp, added to `volume`: one ray of one item, scattered with
// atomic additions. For CUDA; on the CPU it is a check of the slab kernels.
//
// FIXED: `volume` holds 64-bit whole numbers, multiples of 1 / units[item]. They add up to the same
// in any order, so that the result is deterministic.
#include "volume_sizes.h"
const int c = task % columns, r = task / columns % rows;
const int view = task / columns / rows % views, item = task / columns / rows / views;
const double* T = (const double*)table + 13 * view;
const REAL y =
    ((const REAL*)projections)[((long long)item * views + view) * cells + r * columns + c];
#if FIXED
const double unit = ((const double*)units)[item];
wp::int64* x = (wp::int64*)volume + (long long)item * voxels;
auto add = [unit](wp::int64* place, REAL number) {
    wp::atomic_add(place, (wp::int64)((double)number * unit));
};
#else
REAL* x = (REAL*)volume + (long long)item * voxels;
auto add = [](REAL* place, REAL number) { wp::atomic_add(place, number); };
#endif
#include "volume_ray.h"
#include "volume_range.h"
#include "volume_coefficients.h"
#include "volume_spread.h"
