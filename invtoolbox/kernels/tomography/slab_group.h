// Rays r to r + LANES - 1 of a column, which are followed one by one: their starts, slopes and
// lengths in arrays, and the planes `from` to `to` on which at least one of them is inside the
// slab. The main axes are decided by the same operations as in volume_ray.h.
double low_d[LANES], high_d[LANES];
for (int l = 0; l < LANES; ++l) {
    const double rp = rp0 + (double)(r + l);
    double P[3], d[3];
    for (int k = 0; k < 3; ++k) {
        const double cell = fma(rp, T[9 + k], middle[k]);
        P[k] = PARALLEL ? cell : T[k];
        d[k] = PARALLEL ? T[k] : cell;
    }
    const double dx = fabs(d[0]), dy = fabs(d[1]), dz = fabs(d[2]);
    const int axis = dx >= dy ? (dx >= dz ? 0 : 2) : (dy >= dz ? 1 : 2);
    const bool mine = axis == AXIS;
    const double inverse = 1.0 / (mine ? d[M] : 1.0);
    const double sa = d[A] * inverse, sb = d[B] * inverse;
    const double oa = P[A] - sa * P[M] + shift_a, ob = P[B] - sb * P[M] + shift_b;
    const double D2 = size_x * size_x * d[0] * d[0] + size_y * size_y * d[1] * d[1] +
                      size_z * size_z * d[2] * d[2];
    // The planes on which the ray is inside. A slope of zero becomes `tiny`: its quotients are huge
    // with the right signs.
    const double tiny = 1e-300;
    const double ia = 1.0 / (fabs(sa) > tiny ? sa : tiny), ib = 1.0 / (fabs(sb) > tiny ? sb : tiny);
    const double pa = -oa * ia, qa = ((double)last_a - oa) * ia;
    const double pb = -ob * ib, qb = ((double)last_b - ob) * ib;
    const double low_a = pa < qa ? pa : qa, high_a = pa < qa ? qa : pa;
    const double low_b = pb < qb ? pb : qb, high_b = pb < qb ? qb : pb;
    const double low = low_a > low_b ? low_a : low_b, high = high_a < high_b ? high_a : high_b;
    low_d[l] = mine && low < high ? low + middle_m - 1.0 : 1e9;
    high_d[l] = mine && low < high ? high + middle_m + 2.0 : -1e9;
    // Rays of another axis stay at the zeros in the corner.
    start_a[l] = mine ? (REAL)oa : (REAL)0;
    start_b[l] = mine ? (REAL)ob : (REAL)0;
    slope_a[l] = mine ? (REAL)sa : (REAL)0;
    slope_b[l] = mine ? (REAL)sb : (REAL)0;
    length[l] = mine ? (REAL)(sqrt(D2) * fabs(inverse)) : (REAL)0;
}
double low = 1e9, high = -1e9;
for (int l = 0; l < LANES; ++l) {
    low = low_d[l] < low ? low_d[l] : low;
    high = high_d[l] > high ? high_d[l] : high;
}
const int k_end = k_first + planes;
const int from = low > (double)k_first ? (low < (double)k_end ? (int)low : k_end) : k_first;
const int to = high < (double)k_end ? (high > (double)k_first ? (int)high : k_first) : k_end;
