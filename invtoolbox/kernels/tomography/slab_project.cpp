// Arguments: SlabArguments of slabs.py.
//
// Joseph's forward projection in 3D on the CPU: a tile of COLS columns of a listed view through the
// planes of a slab (see slabs.py), added to the projections. Neighbouring tasks take the same
// tile of neighbouring views, which reads about the same lines. The weights are those of
// volume_project.cpp.
//
// Not for CUDA, which uses volume_project.cpp: the layout suits vectors of a CPU, and the code uses
// clang's vector extensions.
{
// Multiplications and additions are fused across statements.
#pragma clang fp contract(fast)
#include "slab_vectors.h"
#include "slab_view.h"
    const int k_first = slab_first, planes = slab_planes;
    const int view = ((const int*)chosen)[task % listed];
    const int c_first = task / listed * COLS, c_end = least(c_first + COLS, columns);
    const double* T = (const double*)table + 13 * view;
    const bool aligned = AXIS != 2 && T[9] == 0.0 && T[10] == 0.0;
    alignas(64) REAL tile[COLS * ROWS];
    for (int r_first = 0; r_first < rows; r_first += ROWS) {
        const int here = least(ROWS, rows - r_first);
        const int whole = (here + LANES - 1) / LANES * LANES;
        bool empty = true;
        for (int g = 0; g < COLS; ++g)
            for (int r = 0; r < whole; r += LANES)
                store(tile + g * ROWS + r, (vec)(REAL)0);
        for (int c = c_first; c < c_end; ++c) {
            REAL* sums = tile + (c - c_first) * ROWS;
#include "slab_column.h"
            if (aligned) {
#include "slab_project_aligned.h"
            } else {
#include "slab_project_rays.h"
            }
            empty = false;
        }
        if (empty) continue;
        REAL* y = (REAL*)projections + ((long long)view * rows + r_first) * columns + c_first;
        for (int r = 0; r < here; r += LANES, y += (long long)LANES * columns) {
            if (c_end - c_first < COLS || here - r < LANES) {
                for (int l = 0; l < least(LANES, here - r); ++l)
                    for (int g = 0; g < c_end - c_first; ++g)
                        y[(long long)l * columns + g] += tile[g * ROWS + r + l];
                continue;
            }
            for (int g = 0; g < COLS; g += LANES) {
                vec square[LANES];
                for (int l = 0; l < LANES; ++l)
                    square[l] = load(tile + (g + l) * ROWS + r);
                turn(square);
                for (int l = 0; l < LANES; ++l) {
                    REAL* line = y + (long long)l * columns + g;
                    store(line, load(line) + square[l]);
                }
            }
        }
    }
}
