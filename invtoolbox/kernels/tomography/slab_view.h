// The axes of a slab (main axis M, A across its lines, B along them) and the constants of its
// planes. Positions count from the first of the two zeros in front of the voxels (FRONT more zeros
// precede them on a line); `last_a` and `last_b` are the largest positions. ROWS cells of a column
// are treated together.
const int ROWS = 768;
const int n[3] = {width, height, depth};
const int M = AXIS, A = AXIS == 1 ? 0 : 1, B = AXIS == 2 ? 0 : 2;
const double middle_m = 0.5 * (double)(n[M] - 1);
const double shift_a = 0.5 * (double)(n[A] - 1) + 2.0, shift_b = 0.5 * (double)(n[B] - 1) + 2.0;
const REAL last_a = (REAL)(n[A] + 2), last_b = (REAL)(n[B] + 2);
const long long plane = (long long)(n[A] + 4) * stride;
const double size[3] = {size_x, size_y, size_z};
const int tiles = (columns + COLS - 1) / COLS;
