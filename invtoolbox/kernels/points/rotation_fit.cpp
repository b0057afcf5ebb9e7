// Arguments: RotationArguments of rotations.py.
//
// Fit a rotation R to the neighbourhood of one point of one item: minimize sum w |e + d - R e|^2
// over the edges that the point owns, which are e at rest and e + d after the motion. Out come R - 1
// and the minimum.
//
// R is the unit quaternion of the largest eigenvalue of Horn's 4 x 4 matrix ("Closed-form solution
// of absolute orientation using unit quaternions", 1987), refined by Newton's method, in double
// precision. geometry/rotations.py does the same for given matrices.
const long long item = task / count;
const int i = (int)(task % count);
const int* first = (const int*)starts;
const int* from = (const int*)tails;
const int* to = (const int*)heads;
const REAL* w = (const REAL*)weights;
const REAL* rest = (const REAL*)vectors;
const REAL* x = (const REAL*)moved + 3 * item * count;
// s = sum w (e + d) e^T, then divided by its norm.
double s[9] = {0};
for (int e = first[i]; e < first[i + 1]; ++e) {
    const REAL* r = rest + 3 * (long long)e;
    const REAL* p = x + 3 * (long long)from[e];
    const REAL* o = x + 3 * (long long)to[e];
    for (int a = 0; a < 3; ++a) {
        const double b = (double)w[e] * ((double)r[a] + ((double)p[a] - (double)o[a]));
        s[3 * a] += b * r[0];
        s[3 * a + 1] += b * r[1];
        s[3 * a + 2] += b * r[2];
    }
}
double size = 0.0;
for (int k = 0; k < 9; ++k)
    size += s[k] * s[k];
size = sqrt(size);
for (int k = 0; k < 9; ++k)
    s[k] = size > 0.0 ? s[k] / size : (k % 4 == 0 ? 1.0 : 0.0);
// A multiple of the identity decides ties.
double t[9];
for (int k = 0; k < 9; ++k)
    t[k] = s[k] + (k % 4 == 0 ? 1e-7 : 0.0);
double trace = 0.0, minors = 0.0, det = 0.0;
for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) {
        const int a1 = (a + 1) % 3, a2 = (a + 2) % 3, b1 = (b + 1) % 3, b2 = (b + 2) % 3;
        const double cofactor = t[3 * a1 + b1] * t[3 * a2 + b2] - t[3 * a1 + b2] * t[3 * a2 + b1];
        trace += t[3 * a + b] * t[3 * a + b];
        minors += cofactor * cofactor;
        if (a == 0) det += t[b] * cofactor;
    }
// The squares of the singular values: the three real roots of a cubic, by cosines. The largest
// eigenvalue of Horn's matrix is the sum of the singular values, with the sign of det on the least.
const double centre = trace / 3.0;
const double spread = centre * centre - minors / 3.0 > 0.0 ? centre * centre - minors / 3.0 : 0.0;
const double radius = sqrt(spread);
const double cubed = spread * radius > 1e-300 ? spread * radius : 1e-300;
double cosine = (centre * (centre * centre - 0.5 * minors) + 0.5 * det * det) / cubed;
cosine = cosine < -1.0 ? -1.0 : cosine > 1.0 ? 1.0 : cosine;
const double angle = acos(cosine) / 3.0, third = 2.0943951023931953;
const double g0 = centre + 2.0 * radius * cos(angle);
const double g1 = centre + 2.0 * radius * cos(angle - third);
const double g2 = centre + 2.0 * radius * cos(angle + third);
double value = sqrt(g0 > 0.0 ? g0 : 0.0) + sqrt(g1 > 0.0 ? g1 : 0.0) +
               (det < 0.0 ? -1.0 : 1.0) * sqrt(g2 > 0.0 ? g2 : 0.0);
// Two steps of Newton's method on the characteristic polynomial of Horn's matrix.
const double last = trace * trace - 4.0 * minors;
for (int k = 0; k < 2; ++k) {
    const double square = value * value, slope = 4.0 * value * (square - trace) - 8.0 * det;
    if (slope > 1e-9) value -= ((square - 2.0 * trace) * square - 8.0 * det * value + last) / slope;
}
// Horn's matrix minus the eigenvalue: the longest column of its adjugate is the quaternion.
const double xx = t[0], xy = t[3], xz = t[6];
const double yx = t[1], yy = t[4], yz = t[7];
const double zx = t[2], zy = t[5], zz = t[8];
const double k0 = xx + yy + zz - value, k1 = xx - yy - zz - value;
const double k2 = yy - xx - zz - value, k3 = zz - xx - yy - value;
const double b01 = yz - zy, b02 = zx - xz, b03 = xy - yx;
const double b12 = xy + yx, b13 = zx + xz, b23 = yz + zy;
const double l01 = b02 * b13 - b12 * b03, l02 = b02 * b23 - k2 * b03, l03 = b02 * k3 - b23 * b03;
const double l12 = b12 * b23 - k2 * b13, l13 = b12 * k3 - b23 * b13, l23 = k2 * k3 - b23 * b23;
const double u01 = k0 * k1 - b01 * b01, u02 = k0 * b12 - b02 * b01, u03 = k0 * b13 - b03 * b01;
const double u12 = b01 * b12 - b02 * k1, u13 = b01 * b13 - b03 * k1;
const double c[16] = {k1 * l23 - b12 * l13 + b13 * l12,     -(b01 * l23 - b12 * l03 + b13 * l02),
                      b01 * l13 - k1 * l03 + b13 * l01,     -(b01 * l12 - k1 * l02 + b12 * l01),
                      -(b01 * l23 - b12 * l03 + b13 * l02), k0 * l23 - b02 * l03 + b03 * l02,
                      -(k0 * l13 - b01 * l03 + b03 * l01),  k0 * l12 - b01 * l02 + b02 * l01,
                      b01 * l13 - k1 * l03 + b13 * l01,     -(k0 * l13 - b01 * l03 + b03 * l01),
                      b03 * u13 - b13 * u03 + k3 * u01,     -(b03 * u12 - b13 * u02 + b23 * u01),
                      -(b01 * l12 - k1 * l02 + b12 * l01),  k0 * l12 - b01 * l02 + b02 * l01,
                      -(b03 * u12 - b13 * u02 + b23 * u01), b02 * u12 - b12 * u02 + k2 * u01};
int best = 0;
for (int k = 1; k < 4; ++k)
    if (c[5 * k] * c[5 * k] > c[5 * best] * c[5 * best]) best = k;
const double* q = c + 4 * best;
double norm = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
norm = norm > 1e-300 ? norm : 1e-300;
double qw = q[0] / norm, qx = q[1] / norm, qy = q[2] / norm, qz = q[3] / norm;
// Newton's method on rotations, with s in place of t, removes the error of the 1e-7 above.
for (int k = 0; k < 2; ++k) {
    const double r[9] = {1.0 - 2.0 * (qy * qy + qz * qz), 2.0 * (qx * qy - qw * qz),
                         2.0 * (qx * qz + qw * qy),       2.0 * (qx * qy + qw * qz),
                         1.0 - 2.0 * (qx * qx + qz * qz), 2.0 * (qy * qz - qw * qx),
                         2.0 * (qx * qz - qw * qy),       2.0 * (qy * qz + qw * qx),
                         1.0 - 2.0 * (qx * qx + qy * qy)};
    double p[9];
    for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b)
            p[3 * a + b] = r[a] * s[b] + r[3 + a] * s[3 + b] + r[6 + a] * s[6 + b];
    const double v0 = p[7] - p[5], v1 = p[2] - p[6], v2 = p[3] - p[1];
    const double all = p[0] + p[4] + p[8] + 1e-9;
    const double m00 = all - p[0], m11 = all - p[4], m22 = all - p[8];
    const double m01 = -0.5 * (p[1] + p[3]), m02 = -0.5 * (p[2] + p[6]), m12 = -0.5 * (p[5] + p[7]);
    const double n00 = m11 * m22 - m12 * m12, n01 = m02 * m12 - m01 * m22;
    const double n02 = m01 * m12 - m02 * m11;
    const double whole = m00 * n00 + m01 * n01 + m02 * n02;
    const double n11 = m00 * m22 - m02 * m02, n12 = m01 * m02 - m00 * m12;
    const double n22 = m00 * m11 - m01 * m01;
    const double h0 = 0.5 * (n00 * v0 + n01 * v1 + n02 * v2) / whole;
    const double h1 = 0.5 * (n01 * v0 + n11 * v1 + n12 * v2) / whole;
    const double h2 = 0.5 * (n02 * v0 + n12 * v1 + n22 * v2) / whole;
    const double far = h0 * h0 + h1 * h1 + h2 * h2;
    if (!(far < 1e-6)) break;
    const double a0 = qw - qx * h0 - qy * h1 - qz * h2, a1 = qx + qw * h0 + qy * h2 - qz * h1;
    const double a2 = qy + qw * h1 + qz * h0 - qx * h2, a3 = qz + qw * h2 + qx * h1 - qy * h0;
    const double length = sqrt(a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3);
    qw = a0 / length;
    qx = a1 / length;
    qy = a2 / length;
    qz = a3 / length;
    if (far < 1e-24) break;
}
const double turn[9] = {
    -2.0 * (qy * qy + qz * qz), 2.0 * (qx * qy - qw * qz),  2.0 * (qx * qz + qw * qy),
    2.0 * (qx * qy + qw * qz),  -2.0 * (qx * qx + qz * qz), 2.0 * (qy * qz - qw * qx),
    2.0 * (qx * qz - qw * qy),  2.0 * (qy * qz + qw * qx),  -2.0 * (qx * qx + qy * qy)};
double energy = 0.0;
for (int e = first[i]; e < first[i + 1]; ++e) {
    const REAL* r = rest + 3 * (long long)e;
    const REAL* p = x + 3 * (long long)from[e];
    const REAL* o = x + 3 * (long long)to[e];
    for (int a = 0; a < 3; ++a) {
        const double left = ((double)p[a] - (double)o[a]) -
                            (turn[3 * a] * r[0] + turn[3 * a + 1] * r[1] + turn[3 * a + 2] * r[2]);
        energy += (double)w[e] * left * left;
    }
}
REAL* out = (REAL*)turns + 9 * (long long)task;
for (int k = 0; k < 9; ++k)
    out[k] = (REAL)turn[k];
((double*)energies)[task] = energy;
