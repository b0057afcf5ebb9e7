// The unit vector d from the camera to the Gaussian: m + R^T t, normalized.
REAL d[3];
for (int i = 0; i < 3; ++i)
    d[i] = m[i] + E[i] * E[3] + E[4 + i] * E[7] + E[8 + i] * E[11];
const REAL distance = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
const REAL id = (REAL)1 / (distance > (REAL)1e-30 ? distance : (REAL)1e-30);
for (int i = 0; i < 3; ++i)
    d[i] *= id;
