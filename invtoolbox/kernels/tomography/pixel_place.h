// The place `x` of pixel (j, i) on the detector of a view, in cells of the padded line: cells k and
// k + 1 with weights 1 - w and w, times the distance weight. Two zeros on either side of the
// detector's cells stand for the outside of the detector.
const REAL c = (REAL)i - (REAL)0.5 * (REAL)(width - 1);
const REAL lateral = view[0] + view[1] * c + view[2] * row;
const REAL depth = view[3] + view[4] * c + view[5] * row;
#if CURVED
const REAL weight = (REAL)1 / (lateral * lateral + depth * depth);
REAL x = view[6] + view[7] * atan(lateral / depth) + (REAL)2;
#else
const REAL inverse = (REAL)1 / depth;
const REAL weight = inverse * inverse;
REAL x = lateral * inverse + (REAL)2;
#endif
x = x > (REAL)0 ? x : (REAL)0;
x = x < (REAL)(detectors + 2) ? x : (REAL)(detectors + 2);
const int k = (int)x;
const REAL w = x - (REAL)k;
