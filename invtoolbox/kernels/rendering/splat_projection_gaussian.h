// Gaussian `g`: its centre m, its axes (the columns of Q, the rotation of the unit quaternion w, x,
// y, z) with the standard deviations s, and its opacity.
const REAL* m = (const REAL*)means + 3 * g;
const REAL* q = (const REAL*)quats + 4 * g;
const REAL* s = (const REAL*)scales + 3 * g;
const REAL opacity = ((const REAL*)opacities)[g];
const REAL length = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
const REAL turn = (REAL)1 / (length > (REAL)1e-30 ? length : (REAL)1e-30);
const REAL w = q[0] * turn, x = q[1] * turn, y = q[2] * turn, z = q[3] * turn;
const REAL Q[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z),     2 * (x * z + w * y),
                   2 * (x * y + w * z),     1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                   2 * (x * z - w * y),     2 * (y * z + w * x),     1 - 2 * (x * x + y * y)};
