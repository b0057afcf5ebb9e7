// The place (x, y) of voxel `i` of a line (see voxel_line.h) on the panel of a view: the columns k0
// and k1 with weights `left` and `right`, and the rows that begin at r0 and r1 with weights `low`
// and `high`, which contain the distance weight.
const REAL c = (REAL)i - (REAL)0.5 * (REAL)(width - 1);
const REAL across = a0 + view[0] * c;
const REAL along = b0 + view[4] * c;
const REAL ahead = d0 + view[8] * c;
#if CURVED
const REAL far = sqrt(across * across + ahead * ahead);
const REAL inverse = (REAL)1 / far;
const REAL x = view[12] + view[13] * atan(across / ahead);
const REAL y = view[14] + along * inverse;
#else
const REAL inverse = (REAL)1 / ahead;
const REAL x = across * inverse;
const REAL y = along * inverse;
#endif
// Also false if x or y is not a number.
const bool seen = ahead > (REAL)0 && x > (REAL)-1 &&
                  x<(REAL)columns && y>(REAL) - 1 && y < (REAL)rows;
const REAL fx = seen ? x + (REAL)1 : (REAL)1;
const REAL fy = seen ? y + (REAL)1 : (REAL)1;
const int k = (int)fx - 1, l = (int)fy - 1;
const REAL p = fx - (REAL)(k + 1), q = fy - (REAL)(l + 1);
const REAL weight = seen ? inverse * inverse : (REAL)0;
// Cells outside the panel are zero: their neighbour is read, with weight 0.
const REAL left = k >= 0 ? (REAL)1 - p : (REAL)0;
const REAL right = k + 1 < columns ? p : (REAL)0;
const REAL low = l >= 0 ? weight * ((REAL)1 - q) : (REAL)0;
const REAL high = l + 1 < rows ? weight * q : (REAL)0;
const int k0 = k >= 0 ? k : 0, k1 = k + 1 < columns ? k + 1 : columns - 1;
const size_t r0 = (size_t)(l >= 0 ? l : 0) * columns;
const size_t r1 = (size_t)(l + 1 < rows ? l + 1 : rows - 1) * columns;
