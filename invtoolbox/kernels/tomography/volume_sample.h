// The sample on plane k, at (xa, xb): the four voxels around the ray from `at` on, which of them
// exist, and the weights.
const REAL t = (REAL)k - (REAL)middle_m;
const REAL xa = (REAL)start_a + (REAL)slope_a * t, xb = (REAL)start_b + (REAL)slope_b * t;
if (!(xa > (REAL)0 && xa < (REAL)(n[a] + 1) && xb > (REAL)0 && xb < (REAL)(n[b] + 1))) continue;
const int ia = (int)xa, ib = (int)xb;
const REAL wa = xa - (REAL)ia, wb = xb - (REAL)ib;
const bool a_low = ia > 0, a_high = ia < n[a], b_low = ib > 0, b_high = ib < n[b];
const long long at =
    (long long)k * step[m] + (long long)(ia - 1) * step[a] + (long long)(ib - 1) * step[b];
