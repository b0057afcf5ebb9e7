// Arguments: MarchArguments of eikonal.py.
//
// Solve the factored eikonal equation of one shot of one item with differences of second order, node
// by node in the order of the times of the sweeps, and keep the derivatives (Treister and Haber 2016).
//
// A node depends on earlier nodes alone: along an axis on the earlier neighbour and, if it is earlier
// still, on the node behind it, with dtau/da = side (4 tau_1 - tau_2 - 3 tau) / (2 h). Where that has
// no solution the differences of first order are used, without an axis where they have none, and at
// last one neighbour, T = T_1 + h s.
//
// The derivatives are those of tau in the slowness of the node, `slope`, and in the values of the two
// nodes along every axis, `near` and `far`; `sides` holds the direction of the axis.
#include "eikonal_local.h"
const long long item = task / shots, shot = task % shots, base = (long long)task * nodes;
const int size[3] = {n0, n1, n2};
const double spacing[3] = {h0, h1, h2};
const REAL* at = (const REAL*)sources + AXES * shot;
const REAL* s = (const REAL*)slowness + item * nodes;
const REAL* d = (const REAL*)distance + shot * nodes;
const REAL* time = (const REAL*)times + base;
const int* rank = (const int*)order + base;
REAL* t = (REAL*)tau + base;
REAL* in_slowness = (REAL*)slope + base;
long long stride[AXES];
stride[AXES - 1] = 1;
for (int a = AXES - 1; a > 0; --a)
    stride[a - 1] = stride[a] * size[a];

for (int count = 0; count < nodes; ++count) {
    const long long k = rank[count];
    double A[AXES], B[AXES], A2[AXES], B2[AXES], first[AXES];
    int side[AXES], i[AXES];
    bool fixed = true, second[AXES];
    for (int a = AXES - 1, left = (int)k; a >= 0; --a)
        i[a] = left % size[a], left /= size[a];
    double along = 1e300;
    for (int a = 0; a < AXES; ++a) {
        const double offset = i[a] - at[a];
        fixed = fixed && offset <= 1.0 && offset >= -1.0;
        A[a] = B[a] = A2[a] = B2[a] = 0.0, side[a] = 0, first[a] = -1.0, second[a] = false;
        const double below = i[a] > 0 ? time[k - stride[a]] : 1e300;
        const double above = i[a] + 1 < size[a] ? time[k + stride[a]] : 1e300;
        const double least = below <= above ? below : above;
        const double p = offset * spacing[a] / d[k];
        // Between the source and the node: tau is level, so that dT/da = p tau.
        if (offset < 1.0 && offset > -1.0) A[a] = A2[a] = p;
        if (!(least < time[k])) continue;
        side[a] = below <= above ? -1 : 1, first[a] = least;
        const long long one = k + side[a] * stride[a], two = one + side[a] * stride[a];
        const double rate = side[a] * d[k] / spacing[a];
        A[a] = p - rate, B[a] = -rate * t[one];
        const int behind = i[a] + 2 * side[a];
        second[a] = behind >= 0 && behind < size[a] && time[two] <= least;
        A2[a] = second[a] ? p - 1.5 * rate : A[a];
        B2[a] = second[a] ? -rate * (2.0 * t[one] - 0.5 * t[two]) : B[a];
        along = least + spacing[a] * s[k] < along ? least + spacing[a] * s[k] : along;
    }
    double value = -1.0, weight = 0.0;
    if (fixed || !(along < 1e299)) {
        value = t[k];
        for (int a = 0; a < AXES; ++a)
            side[a] = 0;
    } else {
        SOLVE_QUADRATIC(A2, B2, side, s[k], value)
        if (value > 0.0) {
            for (int a = 0; a < AXES; ++a)
                A[a] = A2[a], B[a] = B2[a];
        } else {
            for (int a = 0; a < AXES; ++a)
                second[a] = false;
        }
        for (int used = 0; used + 1 < AXES && value < 0.0; ++used) {
            SOLVE_QUADRATIC(A, B, side, s[k], value)
            double latest = -1.0;
            for (int a = 0; a < AXES; ++a)
                latest = side[a] != 0 && first[a] > latest ? first[a] : latest;
            for (int a = 0; a < AXES; ++a)
                if (first[a] == latest && value < 0.0) A[a] = B[a] = 0.0, side[a] = 0;
        }
        // Sum of A q, with q = A tau - B: dtau = (s ds + sum q dB) / sum A q.
        for (int a = 0; a < AXES; ++a)
            weight += A[a] * (A[a] * value - B[a]);
    }
    const bool single = value < 0.0;
    in_slowness[k] = weight > 0.0 && !single ? s[k] / weight : 0.0;
    for (int a = 0; a < AXES; ++a) {
        const double rate = side[a] * d[k] / spacing[a];
        const double share = weight > 0.0 && !single ? -rate * (A[a] * value - B[a]) / weight : 0.0;
        ((REAL*)near)[AXES * (base + k) + a] = second[a] ? 2.0 * share : share;
        ((REAL*)far)[AXES * (base + k) + a] = second[a] ? -0.5 * share : 0.0;
        ((int*)sides)[AXES * (base + k) + a] = side[a];
    }
    if (single) {
        // One neighbour, T = T_1 + h s, of the axis that gives the least time.
        value = along / d[k];
        bool taken = false;
        for (int a = 0; a < AXES; ++a) {
            const double below = i[a] > 0 ? time[k - stride[a]] : 1e300;
            const double above = i[a] + 1 < size[a] ? time[k + stride[a]] : 1e300;
            const double least = below <= above ? below : above;
            if (taken || !(least < time[k] && least + spacing[a] * s[k] <= along)) continue;
            taken = true;
            const int direction = below <= above ? -1 : 1;
            const long long one = k + direction * stride[a];
            value = (t[one] * d[one] + spacing[a] * s[k]) / d[k];
            in_slowness[k] = spacing[a] / d[k];
            ((REAL*)near)[AXES * (base + k) + a] = d[one] / d[k];
            ((int*)sides)[AXES * (base + k) + a] = direction;
        }
    }
    t[k] = value;
}
