// Arguments: SlabArguments of slabs.py.
//
// Copy the planes of a slab from the volume or, if ADDS, add them to it: 16 lines of every plane.
//
// Not for CUDA, which needs no slabs.
const int n[3] = {width, height, depth};
const long long step[3] = {1, width, (long long)width * height};
const int M = AXIS, A = AXIS == 1 ? 0 : 1, B = AXIS == 2 ? 0 : 2;
const long long plane = (long long)(n[A] + 4) * stride;
const int a0 = task * 16, a1 = a0 + 16 < n[A] ? a0 + 16 : n[A];
REAL* inside = (REAL*)slab + 2 * stride + 2;
REAL* voxels = (REAL*)volume + slab_first * step[M];
#if AXIS == 0
for (int a = a0; a < a1; ++a)
    for (int b = 0; b < n[B]; ++b)
        for (int k = 0; k < slab_planes; ++k)
#elif AXIS == 1
for (int k = 0; k < slab_planes; ++k)
    for (int b = 0; b < n[B]; ++b)
        for (int a = a0; a < a1; ++a)
#else
for (int k = 0; k < slab_planes; ++k)
    for (int a = a0; a < a1; ++a)
        for (int b = 0; b < n[B]; ++b)
#endif
        {
            REAL* voxel = voxels + k * step[M] + a * step[A] + b * step[B];
            REAL* place = inside + k * plane + (long long)a * stride + b;
#if ADDS
            *voxel += *place;
#else
            *place = *voxel;
#endif
        }
