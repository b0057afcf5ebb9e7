// Arguments: RotationArguments of rotations.py.
//
// Compute half the gradient of sum w |d - (R - 1) e|^2 in the displacement of one point of one
// item, with the rotations R held fixed: the sum of w (d - (R - 1) e) over the edges that start at
// the point, minus the sum over the edges that lead to it. R is the rotation of an edge's owner.
const long long item = task / count;
const int i = (int)(task % count);
const int* own = (const int*)owners;
const int* from = (const int*)tails;
const int* to = (const int*)heads;
const REAL* w = (const REAL*)weights;
const REAL* rest = (const REAL*)vectors;
const REAL* x = (const REAL*)moved + 3 * item * count;
const REAL* turn = (const REAL*)turns + 9 * item * count;
double sum[3] = {0.0, 0.0, 0.0};
for (int way = 0; way < 2; ++way) {
    const int* first = (const int*)(way ? arrivals : departures);
    const int* through = (const int*)(way ? arriving : departing);
    const double sign = way ? -1.0 : 1.0;
    for (int k = first[i]; k < first[i + 1]; ++k) {
        const int e = through[k];
        const REAL* r = rest + 3 * (long long)e;
        const REAL* p = x + 3 * (long long)from[e];
        const REAL* o = x + 3 * (long long)to[e];
        const REAL* t = turn + 9 * (long long)own[e];
        for (int a = 0; a < 3; ++a)
            sum[a] += sign * (double)w[e] *
                      (((double)p[a] - (double)o[a]) -
                       ((double)t[3 * a] * r[0] + (double)t[3 * a + 1] * r[1] +
                        (double)t[3 * a + 2] * r[2]));
    }
}
for (int a = 0; a < 3; ++a)
    ((REAL*)slopes)[3 * (long long)task + a] = (REAL)sum[a];
