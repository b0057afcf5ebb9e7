// The gradient of sum_k h_k Y_k in the direction (x, y, z), with Y of spherical_harmonics.h.
auto harmonics_slope = [](int count, REAL x, REAL y, REAL z, const REAL* h, REAL* d) {
    d[0] = d[1] = d[2] = (REAL)0;
    if (count > 1) {
        const REAL k = (REAL)0.4886025119029199;
        d[0] = -k * h[3];
        d[1] = -k * h[1];
        d[2] = k * h[2];
    }
    if (count > 4) {
        const REAL k = (REAL)1.0925484305920792, k0 = (REAL)0.31539156525252005;
        const REAL k2 = (REAL)0.5462742152960396;
        d[0] += k * y * h[4] - 2 * k0 * x * h[6] - k * z * h[7] + 2 * k2 * x * h[8];
        d[1] += k * x * h[4] - k * z * h[5] - 2 * k0 * y * h[6] - 2 * k2 * y * h[8];
        d[2] += -k * y * h[5] + 4 * k0 * z * h[6] - k * x * h[7];
    }
    if (count > 9) {
        const REAL k3 = (REAL)0.5900435899266435, k2 = (REAL)2.890611442640554;
        const REAL k1 = (REAL)0.4570457994644658, k0 = (REAL)0.3731763325901154;
        const REAL kc = (REAL)1.445305721320277;
        const REAL xx = x * x, yy = y * y, zz = z * z;
        d[0] += -6 * k3 * x * y * h[9] + k2 * y * z * h[10] + 2 * k1 * x * y * h[11] -
                6 * k0 * x * z * h[12] - k1 * (4 * zz - 3 * xx - yy) * h[13] +
                2 * kc * x * z * h[14] - 3 * k3 * (xx - yy) * h[15];
        d[1] += -3 * k3 * (xx - yy) * h[9] + k2 * x * z * h[10] -
                k1 * (4 * zz - xx - 3 * yy) * h[11] - 6 * k0 * y * z * h[12] +
                2 * k1 * x * y * h[13] - 2 * kc * y * z * h[14] + 6 * k3 * x * y * h[15];
        d[2] += k2 * x * y * h[10] - 8 * k1 * y * z * h[11] +
                k0 * (6 * zz - 3 * xx - 3 * yy) * h[12] - 8 * k1 * x * z * h[13] +
                kc * (xx - yy) * h[14];
    }
};
