// The normal is the shortest axis, with the sign that points towards the camera.
const int thin = s[0] <= s[1] ? (s[0] <= s[2] ? 0 : 2) : (s[1] <= s[2] ? 1 : 2);
const REAL toward = Q[thin] * d[0] + Q[3 + thin] * d[1] + Q[6 + thin] * d[2];
const REAL facing = toward > (REAL)0 ? (REAL)-1 : (REAL)1;
