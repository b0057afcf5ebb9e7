// Real spherical harmonics up to degree 3, in the order and with the signs of Kerbl et al. (2023).
auto harmonics = [](int count, REAL x, REAL y, REAL z, REAL* Y) {
    Y[0] = (REAL)0.28209479177387814;
    if (count > 1) {
        const REAL k = (REAL)0.4886025119029199;
        Y[1] = -k * y;
        Y[2] = k * z;
        Y[3] = -k * x;
    }
    if (count > 4) {
        const REAL k = (REAL)1.0925484305920792;
        Y[4] = k * x * y;
        Y[5] = -k * y * z;
        Y[6] = (REAL)0.31539156525252005 * (2 * z * z - x * x - y * y);
        Y[7] = -k * x * z;
        Y[8] = (REAL)0.5462742152960396 * (x * x - y * y);
    }
    if (count > 9) {
        const REAL k3 = (REAL)0.5900435899266435, k1 = (REAL)0.4570457994644658;
        Y[9] = -k3 * y * (3 * x * x - y * y);
        Y[10] = (REAL)2.890611442640554 * x * y * z;
        Y[11] = -k1 * y * (4 * z * z - x * x - y * y);
        Y[12] = (REAL)0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y);
        Y[13] = -k1 * x * (4 * z * z - x * x - y * y);
        Y[14] = (REAL)1.445305721320277 * z * (x * x - y * y);
        Y[15] = -k3 * x * (x * x - 3 * y * y);
    }
};
