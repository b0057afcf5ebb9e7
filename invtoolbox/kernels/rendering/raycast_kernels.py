"""The Warp kernel that meets rays with moving primitives. See `invtoolbox.kernels.rendering.raycast`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

#: Numbers that describe a primitive: kind, half sizes (3), centre, speed and radius of the sphere around it (7), angle, axis and pivot of
#: its turn (7), its rotation by rows (9), its place (3), and how near it may come to the base that coordinates are relative to.
ROW = 31

# One task: a ray against every primitive. Primitives are convex, so a ray is inside of one for an interval of its range; in the
# primitive's frame, with lengths in its half sizes, that interval has a short form.
_CAST = """
        const REAL* ox = (const REAL*)origins + 3 * (size_t)ray;
        const REAL* dx = (const REAL*)directions + 3 * (size_t)ray;
        const REAL share = ((const REAL*)shares)[ray];
        const REAL off = sqrt(ox[0] * ox[0] + ox[1] * ox[1] + ox[2] * ox[2]);
        REAL best = reach;
        int found = -1;
        for (int p = 0; p < primitives; ++p) {
            const REAL* row = (const REAL*)table + (size_t)ROW * p;
            // They are in the order of that distance: those that follow lie behind what was found.
            if (row[30] - off > best)
                break;
            // The sphere around it, which most rays miss. A negative radius: there is none.
            const REAL radius = row[10];
            if (radius >= (REAL)0) {
                const REAL m0 = row[4] + share * row[7] - ox[0], m1 = row[5] + share * row[8] - ox[1];
                const REAL m2 = row[6] + share * row[9] - ox[2];
                const REAL along = m0 * dx[0] + m1 * dx[1] + m2 * dx[2];
                if (along + radius < (REAL)0 || along - radius > best)
                    continue;
                const REAL h0 = m0 - along * dx[0], h1 = m1 - along * dx[1], h2 = m2 - along * dx[2];
                if (h0 * h0 + h1 * h1 + h2 * h2 > radius * radius)
                    continue;
            }
            // The ray as the primitive saw it at the start: moved back about the pivot.
            REAL x0 = ox[0] - share * row[7], x1 = ox[1] - share * row[8], x2 = ox[2] - share * row[9];
            REAL v0 = dx[0], v1 = dx[1], v2 = dx[2];
            if (row[11] != (REAL)0) {
                const REAL s = -sin(share * row[11]), c = cos(share * row[11]), k0 = row[12], k1 = row[13], k2 = row[14];
                x0 -= row[15]; x1 -= row[16]; x2 -= row[17];
                const REAL kx = ((REAL)1 - c) * (k0 * x0 + k1 * x1 + k2 * x2), kv = ((REAL)1 - c) * (k0 * v0 + k1 * v1 + k2 * v2);
                const REAL y0 = c * x0 + s * (k1 * x2 - k2 * x1) + kx * k0 + row[15];
                const REAL y1 = c * x1 + s * (k2 * x0 - k0 * x2) + kx * k1 + row[16];
                const REAL y2 = c * x2 + s * (k0 * x1 - k1 * x0) + kx * k2 + row[17];
                const REAL w0 = c * v0 + s * (k1 * v2 - k2 * v1) + kv * k0;
                const REAL w1 = c * v1 + s * (k2 * v0 - k0 * v2) + kv * k1;
                const REAL w2 = c * v2 + s * (k0 * v1 - k1 * v0) + kv * k2;
                x0 = y0; x1 = y1; x2 = y2; v0 = w0; v1 = w1; v2 = w2;
            }
            const REAL* R = row + 18;
            x0 -= row[27]; x1 -= row[28]; x2 -= row[29];
            REAL o[3], d[3];
            for (int a = 0; a < 3; ++a) {
                o[a] = (R[a] * x0 + R[a + 3] * x1 + R[a + 6] * x2) / row[1 + a];
                d[a] = (R[a] * v0 + R[a + 3] * v1 + R[a + 6] * v2) / row[1 + a];
            }
            const int kind = (int)row[0];
            REAL enter = -(REAL)FAR, leave = (REAL)FAR;
            // Plane z = 0, box |x|, |y|, |z| <= 1, cylinder x^2 + y^2 <= 1, |z| <= 1, ball x^2 + y^2 + z^2 <= 1.
            if (kind == 0) {
                if (d[2] == (REAL)0)
                    continue;
                enter = -o[2] / d[2];
            }
            for (int a = (kind == 1 ? 0 : kind == 2 ? 2 : 3); a < 3; ++a) {
                if (d[a] == (REAL)0) {
                    if (o[a] < -(REAL)1 || o[a] > (REAL)1)
                        leave = -(REAL)FAR;
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
                    if (o[0] * o[0] + o[1] * o[1] + o2 * o2 > (REAL)1)
                        continue;
                } else {
                    // By the point nearest to the axis: b^2 - a c would lose all digits of a thin pole far away.
                    const REAL middle = -(o[0] * d[0] + o[1] * d[1] + o2 * d2) / a;
                    const REAL f0 = o[0] + middle * d[0], f1 = o[1] + middle * d[1], f2 = o2 + middle * d2;
                    const REAL left = (REAL)1 - f0 * f0 - f1 * f1 - f2 * f2;
                    if (left < (REAL)0)
                        continue;
                    const REAL half = sqrt(left / a);
                    enter = middle - half > enter ? middle - half : enter;
                    leave = middle + half < leave ? middle + half : leave;
                }
            }
            if (enter > leave)
                continue;
            // From inside of it, a ray meets the wall that it leaves by.
            const REAL t = enter > (REAL)0 ? enter : leave;
            if (t > (REAL)0 && t < best && t < (REAL)FAR) {
                best = t;
                found = p;
            }
        }
        ((REAL*)ranges)[ray] = best;
        ((int*)hits)[ray] = found;
"""


@cache
def raycast_kernel(dtype: torch.dtype) -> Any:
    """The kernel in a precision."""
    return native_kernel(
        "raycast",
        _CAST,
        {"REAL": REAL[dtype], "ROW": ROW, "FAR": "1e30"},
        "address ranges, hits, origins, directions, shares, table; int primitives; double reach",
        task="ray",
    )
