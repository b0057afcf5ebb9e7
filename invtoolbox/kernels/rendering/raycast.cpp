// Arguments: RaycastArguments of raycast.py.
//
// Find the first primitive that a ray meets, among all primitives.
//
// Primitives are convex, so a ray is inside of one for an interval [enter, leave] of its range. The
// interval is computed in the primitive's frame, with lengths in units of its half sizes.
const int ROW = 31;  // numbers of a primitive, see _table in raycast.py
const REAL FARTHEST = (REAL)1e30;
const REAL* origin = (const REAL*)origins + 3 * (size_t)ray;
const REAL* direction = (const REAL*)directions + 3 * (size_t)ray;
const REAL share = ((const REAL*)shares)[ray];
const REAL off = sqrt(origin[0] * origin[0] + origin[1] * origin[1] + origin[2] * origin[2]);
REAL best = reach;
int found = -1;
for (int p = 0; p < primitives; ++p) {
    const REAL* row = (const REAL*)table + (size_t)ROW * p;
    const int kind = (int)row[0];
    const REAL *half_size = row + 1, *centre = row + 4, *way = row + 7, *axis = row + 12;
    const REAL *pivot = row + 15, *R = row + 18, *position = row + 27;
    const REAL radius = row[10], turn = row[11], nearest = row[30];
    // The primitives are sorted by their least distance from the base of the coordinates: the
    // others lie behind the hit.
    if (nearest - off > best) break;
    // Most rays miss the bounding sphere. A plane has none, and a negative radius.
    if (radius >= (REAL)0) {
        const REAL m0 = centre[0] + share * way[0] - origin[0];
        const REAL m1 = centre[1] + share * way[1] - origin[1];
        const REAL m2 = centre[2] + share * way[2] - origin[2];
        const REAL along = m0 * direction[0] + m1 * direction[1] + m2 * direction[2];
        if (along + radius < (REAL)0 || along - radius > best) continue;
        const REAL h0 = m0 - along * direction[0], h1 = m1 - along * direction[1];
        const REAL h2 = m2 - along * direction[2];
        if (h0 * h0 + h1 * h1 + h2 * h2 > radius * radius) continue;
    }
    // Move the ray back to the start of the interval of time: first the way, then the turn about
    // the pivot, by Rodrigues' formula.
    REAL x0 = origin[0] - share * way[0], x1 = origin[1] - share * way[1];
    REAL x2 = origin[2] - share * way[2];
    REAL v0 = direction[0], v1 = direction[1], v2 = direction[2];
    if (turn != (REAL)0) {
        const REAL s = -sin(share * turn), c = cos(share * turn);
        const REAL k0 = axis[0], k1 = axis[1], k2 = axis[2];
        x0 -= pivot[0];
        x1 -= pivot[1];
        x2 -= pivot[2];
        const REAL kx = ((REAL)1 - c) * (k0 * x0 + k1 * x1 + k2 * x2);
        const REAL kv = ((REAL)1 - c) * (k0 * v0 + k1 * v1 + k2 * v2);
        const REAL y0 = c * x0 + s * (k1 * x2 - k2 * x1) + kx * k0 + pivot[0];
        const REAL y1 = c * x1 + s * (k2 * x0 - k0 * x2) + kx * k1 + pivot[1];
        const REAL y2 = c * x2 + s * (k0 * x1 - k1 * x0) + kx * k2 + pivot[2];
        const REAL w0 = c * v0 + s * (k1 * v2 - k2 * v1) + kv * k0;
        const REAL w1 = c * v1 + s * (k2 * v0 - k0 * v2) + kv * k1;
        const REAL w2 = c * v2 + s * (k0 * v1 - k1 * v0) + kv * k2;
        x0 = y0;
        x1 = y1;
        x2 = y2;
        v0 = w0;
        v1 = w1;
        v2 = w2;
    }
    x0 -= position[0];
    x1 -= position[1];
    x2 -= position[2];
    REAL o[3], d[3];
    for (int a = 0; a < 3; ++a) {
        o[a] = (R[a] * x0 + R[a + 3] * x1 + R[a + 6] * x2) / half_size[a];
        d[a] = (R[a] * v0 + R[a + 3] * v1 + R[a + 6] * v2) / half_size[a];
    }
    REAL enter = -FARTHEST, leave = FARTHEST;
    // 0: plane z = 0. 1: box |x|, |y|, |z| <= 1. 2: cylinder x^2 + y^2 <= 1, |z| <= 1.
    // 3: ball x^2 + y^2 + z^2 <= 1.
    if (kind == 0) {
        if (d[2] == (REAL)0) continue;
        enter = -o[2] / d[2];
    }
    for (int a = (kind == 1 ? 0 : kind == 2 ? 2 : 3); a < 3; ++a) {
        if (d[a] == (REAL)0) {
            if (o[a] < -(REAL)1 || o[a] > (REAL)1) leave = -FARTHEST;
            continue;
        }
        const REAL one = (-(REAL)1 - o[a]) / d[a], two = ((REAL)1 - o[a]) / d[a];
        const REAL low = one < two ? one : two, high = one < two ? two : one;
        enter = low > enter ? low : enter;
        leave = high < leave ? high : leave;
    }
    if (kind >= 2) {
        const REAL o2 = kind == 3 ? o[2] : (REAL)0, d2 = kind == 3 ? d[2] : (REAL)0;
        const REAL a = d[0] * d[0] + d[1] * d[1] + d2 * d2;
        if (a == (REAL)0) {
            if (o[0] * o[0] + o[1] * o[1] + o2 * o2 > (REAL)1) continue;
        } else {
            // With the point nearest to the axis: the discriminant b^2 - a c would lose all digits
            // of a thin pole far away.
            const REAL middle = -(o[0] * d[0] + o[1] * d[1] + o2 * d2) / a;
            const REAL f0 = o[0] + middle * d[0], f1 = o[1] + middle * d[1], f2 = o2 + middle * d2;
            const REAL left = (REAL)1 - f0 * f0 - f1 * f1 - f2 * f2;
            if (left < (REAL)0) continue;
            const REAL half = sqrt(left / a);
            enter = middle - half > enter ? middle - half : enter;
            leave = middle + half < leave ? middle + half : leave;
        }
    }
    if (enter > leave) continue;
    // A ray that starts inside meets the wall by which it leaves.
    const REAL t = enter > (REAL)0 ? enter : leave;
    if (t > (REAL)0 && t < best && t < FARTHEST) {
        best = t;
        found = p;
    }
}
((REAL*)ranges)[ray] = best;
((int*)hits)[ray] = found;
