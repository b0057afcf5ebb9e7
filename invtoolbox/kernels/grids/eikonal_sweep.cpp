// Arguments: SweepArguments of eikonal.py.
//
// Fast sweeping of one shot of one item (Zhao 2005): the nodes are visited in the 2^AXES orders of
// their axes, and a node takes the time that its neighbours give if it is smaller. `tau` holds the
// values near the source and infinity elsewhere.
#include "eikonal_local.h"
const long long item = task / shots, shot = task % shots;
const int size[3] = {n0, n1, n2};
const double spacing[3] = {h0, h1, h2};
const REAL* at = (const REAL*)sources + AXES * shot;
const REAL* s = (const REAL*)slowness + item * nodes;
const REAL* d = (const REAL*)distance + shot * nodes;
REAL* t = (REAL*)tau + (long long)task * nodes;
long long stride[AXES];
stride[AXES - 1] = 1;
for (int a = AXES - 1; a > 0; --a)
    stride[a - 1] = stride[a] * size[a];

double change = 1.0;
for (int round = 0; round < rounds && change > tolerance; ++round) {
    change = 0.0;
    for (int corner = 0; corner < (1 << AXES); ++corner) {
        int i[AXES];
        long long k = 0;
        for (int a = 0; a < AXES; ++a) {
            i[a] = (corner >> a) & 1 ? size[a] - 1 : 0;
            k += i[a] * stride[a];
        }
        for (int count = 0; count < nodes; ++count) {
            if (count > 0) {
                bool carry = true;
                for (int a = AXES - 1; a >= 0; --a) {
                    const int step = (corner >> a) & 1 ? -1 : 1;
                    if (!carry) continue;
                    i[a] += step, k += step * stride[a];
                    carry = i[a] < 0 || i[a] == size[a];
                    if (carry) i[a] -= step * size[a], k -= step * (long long)size[a] * stride[a];
                }
            }
            double A[AXES], B[AXES], first[AXES];
            int side[AXES];
            bool fixed = true;
            double along = 1e300;
            for (int a = 0; a < AXES; ++a) {
                A[a] = B[a] = 0.0, side[a] = 0, first[a] = -1.0;
                const double offset = i[a] - at[a];
                fixed = fixed && offset <= 1.0 && offset >= -1.0;
                const double below = i[a] > 0 ? t[k - stride[a]] * d[k - stride[a]] : 1e300;
                const double above =
                    i[a] + 1 < size[a] ? t[k + stride[a]] * d[k + stride[a]] : 1e300;
                const double least = below <= above ? below : above;
                if (!(least < 1e299)) continue;
                side[a] = below <= above ? -1 : 1, first[a] = least;
                // dtau/da = side (tau_neighbour - tau) / h.
                const double rate = side[a] * d[k] / spacing[a];
                A[a] = offset * spacing[a] / d[k] - rate;
                B[a] = -rate * t[k + side[a] * stride[a]];
                along = least + spacing[a] * s[k] < along ? least + spacing[a] * s[k] : along;
            }
            if (fixed || !(along < 1e299)) continue;
            // Without the axis whose neighbour is latest, if the time would fall along one.
            double value = -1.0;
            for (int used = 0; used + 1 < AXES && value < 0.0; ++used) {
                SOLVE_QUADRATIC(A, B, side, s[k], value)
                double latest = -1.0;
                for (int a = 0; a < AXES; ++a)
                    latest = side[a] != 0 && first[a] > latest ? first[a] : latest;
                for (int a = 0; a < AXES; ++a)
                    if (first[a] == latest && value < 0.0) A[a] = B[a] = 0.0, side[a] = 0;
            }
            value = value < 0.0 ? along / d[k] : value;
            if (value < t[k]) {
                const double relative = t[k] < 1e299 ? 1.0 - value / t[k] : 1.0;
                change = relative > change ? relative : change;
                t[k] = value;
            }
        }
    }
}
