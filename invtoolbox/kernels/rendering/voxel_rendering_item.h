// The item and the part of the task, and the nodes of the item. Every `parts`-th ray of an item
// belongs to a part.
//
// Layout of the data: nodes of a grid (X, Y, Z), the last axis fastest. A node that is kept has a
// row in the density (rows) and in the color (rows, BASES, CHANNELS). Rays are in units of the
// grid: node (i, j, k) lies at (i, j, k).
const int COLORS = BASES * CHANNELS;
const int item = task / parts, part = task % parts;
const REAL* rho = (const REAL*)density + (size_t)item * rows;
const REAL* field = (const REAL*)color + (size_t)item * rows * COLORS;
const int top[3] = {nx - 1, ny - 1, nz - 1};
const REAL step = (REAL)spacing, scale = (REAL)density_scale;
