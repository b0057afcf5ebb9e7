// Arguments: SlabArguments of slabs.py.
//
// The transpose of slab_project.cpp: the kernel fills `block` planes of the slab, which no other
// task writes to, from every ray along the axis.
//
// Not for CUDA, for the same reason as slab_project.cpp.
{
// Multiplications and additions are fused across statements.
#pragma clang fp contract(fast)
#include "slab_vectors.h"
#include "slab_view.h"
    // SIDE neighbouring tiles are followed in every view, then the next ones: neighbouring views add
    // to about the same lines. Zeros around a column of cells: vectors are read past its ends.
    const int SIDE = 4, MARGIN = 96, HEIGHT = ROWS + 2 * MARGIN;
    const int k_first = slab_first + task * block;
    const int planes = least(block, slab_first + slab_planes - k_first);
    REAL* mine = (REAL*)slab + (long long)(task * block) * plane;
    for (long long k = 0; k < planes * plane; ++k)
        mine[k] = (REAL)0;
    alignas(64) REAL tile[COLS * HEIGHT];
    for (int k = 0; k < COLS * HEIGHT; ++k)
        tile[k] = (REAL)0;
    REAL starts_a[ROWS], starts_b[ROWS], slopes_a[ROWS], slopes_b[ROWS];
    REAL padded_a[ROWS + 2 * MARGIN], padded_b[ROWS + 2 * MARGIN];
    for (int k = 0; k < ROWS + 2 * MARGIN; ++k) {
        padded_a[k] = (REAL)0;
        padded_b[k] = (REAL)-1e9;
    }
    REAL *places_a = padded_a + MARGIN, *places_b = padded_b + MARGIN;
    for (int job = 0; job < listed * ((tiles + SIDE - 1) / SIDE * SIDE); ++job) {
        const int view = ((const int*)chosen)[job / SIDE % listed];
        const int c_first = (job / SIDE / listed * SIDE + job % SIDE) * COLS;
        const int c_end = least(c_first + COLS, columns);
        const double* T = (const double*)table + 13 * view;
        const bool aligned = AXIS != 2 && T[9] == 0.0 && T[10] == 0.0;
        for (int r_first = 0; r_first < rows; r_first += ROWS) {
            const int here = least(ROWS, rows - r_first);
            const REAL* y =
                (const REAL*)projections + ((long long)view * rows + r_first) * columns + c_first;
            for (int r = 0; r < least(ROWS, here + MARGIN); r += LANES) {
                REAL* cells = tile + MARGIN + r;
                if (c_end - c_first == COLS && r + LANES <= here) {
                    for (int g = 0; g < COLS; g += LANES) {
                        vec square[LANES];
                        for (int l = 0; l < LANES; ++l)
                            square[l] = load(y + (long long)(r + l) * columns + g);
                        turn(square);
                        for (int l = 0; l < LANES; ++l)
                            store(cells + (g + l) * HEIGHT, square[l]);
                    }
                    continue;
                }
                for (int g = 0; g < c_end - c_first; ++g) {
                    store(cells + g * HEIGHT, (vec)(REAL)0);
                    for (int l = 0; l < least(LANES, here - r); ++l)
                        cells[g * HEIGHT + l] = y[(long long)(r + l) * columns + g];
                }
            }
            for (int c = c_first; c < c_end; ++c) {
                REAL* values = tile + (c - c_first) * HEIGHT + MARGIN;
#include "slab_column.h"
                if (aligned) {
#include "slab_backproject_aligned.h"
                } else {
#include "slab_backproject_rays.h"
                }
            }
        }
    }
}
