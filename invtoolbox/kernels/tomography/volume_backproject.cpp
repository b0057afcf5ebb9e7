// Arguments: VolumeArguments of volume.py.
//
// The transpose of volume_project.cpp, added to `volume`: a few planes across the main axis `axis`
// of one item, which no other task writes to, and every ray along that axis. No atomics are needed.
#include "volume_sizes.h"
const int blocks = (n[axis] + block - 1) / block;
const int item = task / blocks;
const int plane_from = task % blocks * block;
const int plane_to = plane_from + block < n[axis] ? plane_from + block : n[axis];
REAL* x = (REAL*)volume + (long long)item * voxels;
auto add = [](REAL* place, REAL number) { *place += number; };
for (long long ray = 0; ray < views * cells; ++ray) {
    const int c = (int)(ray % columns), r = (int)(ray / columns % rows), view = (int)(ray / cells);
    const double* T = (const double*)table + 13 * view;
    const REAL y = ((const REAL*)projections)[item * (views * cells) + ray];
#include "volume_ray.h"
    if (m != axis) continue;
#include "volume_range.h"
    from = from > plane_from ? from : plane_from;
    to = to < plane_to ? to : plane_to;
#include "volume_coefficients.h"
#include "volume_spread.h"
}
