// The sample of a ray on line `j`: pixels `i` and `i + 1` with weights 1 - w and w.
const REAL along = (REAL)j - middle;
REAL x = start + slope * along;
x = x > (REAL)0 ? x : (REAL)0;
x = x < last ? x : last;
const int i = (int)x;
const REAL w = x - (REAL)i;
