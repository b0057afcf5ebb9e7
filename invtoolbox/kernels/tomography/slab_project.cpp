// Arguments: SlabArguments of slabs.py.
//
// Joseph's forward projection in 3D on the CPU: a tile of COLS columns of a listed view through the
// planes of a slab (see slabs.py), added to the projections. The weights are those of
// volume_project.cpp.
//
// Not for CUDA, which uses volume_project.cpp: the layout suits vectors of a CPU, and the code uses
// clang's vector extensions.
{
#include "slab_vectors.h"
#include "slab_view.h"
    const int k_first = slab_first, planes = slab_planes;
    const int view = ((const int*)chosen)[task / tiles];
    const int c_first = task % tiles * COLS, c_end = least(c_first + COLS, columns);
    const double* T = (const double*)table + 13 * view;
    const bool aligned = AXIS != 2 && T[9] == 0.0 && T[10] == 0.0;
    alignas(64) REAL tile[COLS * ROWS];
    for (int r_first = 0; r_first < rows; r_first += ROWS) {
        const int here = least(ROWS, rows - r_first);
        for (int k = 0; k < COLS * ROWS; ++k)
            tile[k] = (REAL)0;
        for (int c = c_first; c < c_end; ++c) {
            REAL* sums = tile + (c - c_first) * ROWS;
#include "slab_column.h"
            if (aligned) {
#include "slab_project_aligned.h"
            } else {
#include "slab_project_rays.h"
            }
        }
        REAL* y = (REAL*)projections + ((long long)view * rows + r_first) * columns + c_first;
        if (c_end - c_first == COLS) {
            for (int r = 0; r < here; ++r)
                for (int g = 0; g < COLS; ++g)
                    y[(long long)r * columns + g] += tile[g * ROWS + r];
        } else {
            for (int r = 0; r < here; ++r)
                for (int g = 0; g < c_end - c_first; ++g)
                    y[(long long)r * columns + g] += tile[g * ROWS + r];
        }
    }
}
