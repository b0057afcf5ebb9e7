// The ray of cell (r, c) of the view with table row T (see rays.py): point P, direction d, main
// axis m. `fma` is spelled out so that every kernel rounds alike: a ray must have the same main
// axis in all of them. On plane t, counted from the middle one, the ray is at (start_a + slope_a t,
// start_b + slope_b t); `length` is its length between two planes.
const double cp = (double)c - 0.5 * (double)(columns - 1);
const double rp = (double)r - 0.5 * (double)(rows - 1);
const double sine = CURVED ? sin(cp * T[12]) : 0.0, cosine = CURVED ? cos(cp * T[12]) : 1.0;
double P[3], d[3];
for (int k = 0; k < 3; ++k) {
    const double middle =
        CURVED ? fma(sine, T[6 + k], cosine * T[3 + k]) : fma(cp, T[6 + k], T[3 + k]);
    const double cell = fma(rp, T[9 + k], middle);
    P[k] = PARALLEL ? cell : T[k];
    d[k] = PARALLEL ? T[k] : cell;
}
const double dx = fabs(d[0]), dy = fabs(d[1]), dz = fabs(d[2]);
const int m = dx >= dy ? (dx >= dz ? 0 : 2) : (dy >= dz ? 1 : 2);
const int a = m == 1 ? 0 : 1, b = m == 2 ? 0 : 2;
const double slope_a = d[a] / d[m], slope_b = d[b] / d[m];
const double D2 =
    size_x * size_x * d[0] * d[0] + size_y * size_y * d[1] * d[1] + size_z * size_z * d[2] * d[2];
const double length = sqrt(D2) / fabs(d[m]);
// Positions count from the zero in front of the first voxel.
const double start_a = P[a] - slope_a * P[m] + 0.5 * (double)(n[a] - 1) + 1.0;
const double start_b = P[b] - slope_b * P[m] + 0.5 * (double)(n[b] - 1) + 1.0;
const double middle_m = 0.5 * (double)(n[m] - 1);
