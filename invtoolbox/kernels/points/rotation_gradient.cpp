// Arguments: RotationArguments of rotations.py.
//
// Compute half the gradient of sum w |d - (R - 1) e|^2 in the displacement of one point of one
// item, with the rotations R held fixed: the sum of w (d - (R - 1) e) over the edges of the point,
// minus the sum over the edges that lead to it. R is the rotation of the point that owns an edge.
const long long item = task / count;
const int i = (int)(task % count);
const int* first = (const int*)starts;
const int* other = (const int*)neighbours;
const int* back = (const int*)arrivals;
const int* into = (const int*)arriving;
const int* from = (const int*)owners;
const REAL* w = (const REAL*)weights;
const REAL* rest = (const REAL*)vectors;
const REAL* x = (const REAL*)moved + 3 * item * count;
const REAL* turn = (const REAL*)turns + 9 * item * count;
double sum[3] = {0.0, 0.0, 0.0};
const REAL* own = turn + 9 * (long long)i;
for (int e = first[i]; e < first[i + 1]; ++e) {
    const REAL* r = rest + 3 * (long long)e;
    const REAL* o = x + 3 * (long long)other[e];
    for (int a = 0; a < 3; ++a)
        sum[a] += (double)w[e] * (((double)x[3 * i + a] - (double)o[a]) -
                                  ((double)own[3 * a] * r[0] + (double)own[3 * a + 1] * r[1] +
                                   (double)own[3 * a + 2] * r[2]));
}
for (int k = back[i]; k < back[i + 1]; ++k) {
    const int e = into[k], j = from[e];
    const REAL* r = rest + 3 * (long long)e;
    const REAL* o = x + 3 * (long long)j;
    const REAL* theirs = turn + 9 * (long long)j;
    for (int a = 0; a < 3; ++a)
        sum[a] -= (double)w[e] * (((double)o[a] - (double)x[3 * i + a]) -
                                  ((double)theirs[3 * a] * r[0] + (double)theirs[3 * a + 1] * r[1] +
                                   (double)theirs[3 * a + 2] * r[2]));
}
for (int a = 0; a < 3; ++a)
    ((REAL*)slopes)[3 * (long long)task + a] = (REAL)sum[a];
