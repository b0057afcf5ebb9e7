// The camera of `view`: its extrinsic matrix E, its intrinsics, and the centre of the Gaussian in
// the camera's frame.
const REAL* E = (const REAL*)viewmats + 16 * view;
const REAL* I = (const REAL*)Ks + 9 * view;
const REAL fx = I[0], fy = I[4], cx = I[2], cy = I[5];
const REAL p0 = E[0] * m[0] + E[1] * m[1] + E[2] * m[2] + E[3];
const REAL p1 = E[4] * m[0] + E[5] * m[1] + E[6] * m[2] + E[7];
const REAL p2 = E[8] * m[0] + E[9] * m[1] + E[10] * m[2] + E[11];
