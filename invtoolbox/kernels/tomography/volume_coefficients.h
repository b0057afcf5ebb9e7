// The coefficients c0, a0, a1, b0, b1 of the family in volume.py: of the projection or, with
// TANGENT, of its derivative if the table changes by E.
#if TANGENT
const double* E = (const double*)tangent + 13 * view;
double dP[3], dd[3];
for (int k = 0; k < 3; ++k) {
    double cell = CURVED ? fma(sine, E[6 + k], cosine * E[3 + k]) : fma(cp, E[6 + k], E[3 + k]);
    cell = fma(rp, E[9 + k], cell);
    if (CURVED) cell += cp * E[12] * (cosine * T[6 + k] - sine * T[3 + k]);
    dP[k] = PARALLEL ? cell : E[k];
    dd[k] = PARALLEL ? E[k] : cell;
}
const double da1 = (dd[a] - slope_a * dd[m]) / d[m], db1 = (dd[b] - slope_b * dd[m]) / d[m];
const double da0 = dP[a] - slope_a * dP[m] - da1 * P[m];
const double db0 = dP[b] - slope_b * dP[m] - db1 * P[m];
const double along = size_x * size_x * d[0] * dd[0] + size_y * size_y * d[1] * dd[1] +
                     size_z * size_z * d[2] * dd[2];
const REAL c0 = (REAL)(length * (along / D2 - dd[m] / d[m]));
const REAL a0 = (REAL)(length * da0), a1 = (REAL)(length * da1);
const REAL b0 = (REAL)(length * db0), b1 = (REAL)(length * db1);
#else
const REAL c0 = (REAL)length, a0 = (REAL)0, a1 = (REAL)0, b0 = (REAL)0, b1 = (REAL)0;
#endif
