// Arguments: SlabArguments of slabs.py.
//
// Copy the planes of a slab from the volume or, if ADDS, add them to it: 16 lines of every plane.
// Lines of a slab run along z, lines of the volume along x: squares of them are transposed.
//
// Not for CUDA, which needs no slabs.
{
// Multiplications and additions are fused across statements.
#pragma clang fp contract(fast)
#include "slab_vectors.h"
    const int n[3] = {width, height, depth};
    const long long step[3] = {1, width, (long long)width * height};
    const int M = AXIS, A = AXIS == 1 ? 0 : 1;
    // Steps along x, y and z in the slab, and the voxels of this task.
    const long long plane = (long long)(n[A] + 4) * stride;
    const long long in_slab[3] = {AXIS == 0   ? plane
                                  : AXIS == 1 ? stride
                                              : 1,
                                  AXIS == 1 ? plane : stride, AXIS == 2 ? plane : 1};
    int from[3] = {0, 0, 0}, to[3] = {width, height, depth};
    from[M] = slab_first;
    to[M] = slab_first + slab_planes;
    from[A] = task * 16;
    to[A] = least(from[A] + 16, n[A]);
    REAL* inside = (REAL*)slab + 2 * stride + FRONT + 2 - from[M] * in_slab[M];
    auto move = [](REAL* voxel, REAL* place) {
#if ADDS
        *voxel += *place;
#else
        *place = *voxel;
#endif
    };
    for (int y = from[1]; y < to[1]; ++y)
        for (int z = from[2]; z < to[2]; z += LANES)
            for (int x = from[0]; x < to[0]; x += LANES) {
                REAL* voxel = (REAL*)volume + x + y * step[1] + z * step[2];
                REAL* place = inside + x * in_slab[0] + y * in_slab[1] + z * in_slab[2];
                const int z_end = least(LANES, to[2] - z), x_end = least(LANES, to[0] - x);
                if (AXIS == 2 || z_end < LANES || x_end < LANES) {
                    for (int k = 0; k < z_end; ++k)
                        for (int i = 0; i < x_end; ++i)
                            move(voxel + i + k * step[2], place + i * in_slab[0] + k * in_slab[2]);
                    continue;
                }
                vec square[LANES];
                for (int l = 0; l < LANES; ++l)
                    square[l] = load(ADDS ? place + l * in_slab[0] : voxel + l * step[2]);
                turn(square);
                for (int l = 0; l < LANES; ++l) {
                    REAL* to_voxel = voxel + l * step[2];
                    if (ADDS) store(to_voxel, load(to_voxel) + square[l]);
                    else store(place + l * in_slab[0], square[l]);
                }
            }
}
