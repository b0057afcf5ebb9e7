// The covariance (a, b; b, c) of the Gaussian in the image: V V^T plus the blur, with V = J W Q S,
// J the derivative of the projection and W the rotation of E (Zwicker et al., "EWA splatting",
// 2002, equation 24).
const REAL iz = (REAL)1 / p2;
// J grows without bound outside of the view. It is evaluated at most 15 % of the view beyond its
// edge.
const REAL ax = (REAL)0.15 * (REAL)width / fx, ay = (REAL)0.15 * (REAL)height / fy;
const REAL hx = ((REAL)width - cx) / fx + ax, lx = -(cx / fx + ax);
const REAL hy = ((REAL)height - cy) / fy + ay, ly = -(cy / fy + ay);
const REAL rx = p0 * iz, ry = p1 * iz;
const REAL ux = rx < lx ? lx : rx > hx ? hx : rx, uy = ry < ly ? ly : ry > hy ? hy : ry;
const REAL J00 = fx * iz, J02 = -fx * ux * iz, J11 = fy * iz, J12 = -fy * uy * iz;
REAL U[9], V[6];
for (int i = 0; i < 3; ++i)
    for (int k = 0; k < 3; ++k)
        U[3 * i + k] = (E[4 * i] * Q[k] + E[4 * i + 1] * Q[3 + k] + E[4 * i + 2] * Q[6 + k]) * s[k];
for (int k = 0; k < 3; ++k) {
    V[k] = J00 * U[k] + J02 * U[6 + k];
    V[3 + k] = J11 * U[3 + k] + J12 * U[6 + k];
}
const REAL a0 = V[0] * V[0] + V[1] * V[1] + V[2] * V[2];
const REAL c0 = V[3] * V[3] + V[4] * V[4] + V[5] * V[5];
const REAL b = V[0] * V[3] + V[1] * V[4] + V[2] * V[5];
// The determinant by the cross product of the rows of V: a c - b b would lose all digits of a thin
// Gaussian.
const REAL n0 = V[1] * V[5] - V[2] * V[4], n1 = V[2] * V[3] - V[0] * V[5];
const REAL n2 = V[0] * V[4] - V[1] * V[3];
const REAL soft = (REAL)blur, a = a0 + soft, c = c0 + soft;
const REAL det0 = n0 * n0 + n1 * n1 + n2 * n2, det = det0 + soft * (a0 + c0 + soft);
const REAL share = ANTIALIASED ? sqrt(det0 / det) : (REAL)1;
