// The numbers k to last of the samples of `ray` within the box.
const size_t here = (size_t)(shared_rays ? 0 : item) * rays + ray;
const REAL* o = (const REAL*)origins + 3 * here;
const REAL* d = (const REAL*)directions + 3 * here;
const REAL offset = ((const REAL*)offsets)[here];
const REAL* basis = (const REAL*)bases + BASES * here;
REAL enter = (REAL)near, leave = (REAL)far, inverse[3];
for (int x = 0; x < 3; ++x) {
    inverse[x] = (REAL)0;
    if (d[x] == (REAL)0) {
        if (o[x] < (REAL)0 || o[x] > (REAL)top[x]) leave = -(REAL)1;
        continue;
    }
    inverse[x] = (REAL)1 / d[x];
    const REAL one = -o[x] * inverse[x], two = ((REAL)top[x] - o[x]) * inverse[x];
    const REAL low = one < two ? one : two, high = one < two ? two : one;
    enter = low > enter ? low : enter;
    leave = high < leave ? high : leave;
}
// Samples lie at (k + offset) * step from the ray's origin, whatever the box is: a pose can move
// without moving the samples along the ray.
int k = 0, last = -1;
if (enter <= leave) {
    const REAL from = enter / step - offset;
    k = (int)from;
    k += (REAL)k < from;
    last = (int)(leave / step - offset + (REAL)1) - 1;
}
REAL light = (REAL)1;
