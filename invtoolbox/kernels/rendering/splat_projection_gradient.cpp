// Arguments: ProjectionArguments of splat_projection.py.
//
// The transpose of the derivative of splat_projection.cpp, step by step backwards: from the
// gradient `dsplats` to the gradients of PART Gaussians and of the extrinsic matrices.
//
// `poses` holds one row per task and view: the gradient of the upper 3 x 4 entries of the matrix.
const int HARMONICS = (DEGREE + 1) * (DEGREE + 1), ROW = GEOMETRY + CHANNELS + DEPTH + 3 * NORMALS + 2 * SURFACE;
#include "spherical_harmonics.h"
#include "spherical_harmonics_slope.h"
const long long first = (long long)(part % parts) * PART, scene = part / parts;
const long long last = first + PART < count ? first + PART : count;
for (int v = 0; v < 12 * views; ++v)
    ((REAL*)poses)[(long long)part * 12 * views + v] = (REAL)0;
for (long long n = first; n < last; ++n) {
    const long long g = scene * count + n;
#include "splat_projection_gaussian.h"
    REAL dm[3] = {0, 0, 0}, ds[3] = {0, 0, 0}, dQ[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    REAL dopacity = (REAL)0;
#if DEGREE >= 0
    const REAL* f = (const REAL*)colors + g * (3 * stride);
    REAL* df = (REAL*)dcolors + g * (3 * stride);
    for (int k = 0; k < 3 * stride; ++k)
        df[k] = (REAL)0;
#else
    REAL* df = (REAL*)dcolors + g * stride;
    for (int k = 0; k < stride; ++k)
        df[k] = (REAL)0;
#endif
    for (int v = 0; v < views; ++v) {
        const long long view = scene * views + v, row = view * count + n;
        const int* box = (const int*)boxes + 4 * row;
        if (box[0] >= box[1]) continue;
        const REAL* D = (const REAL*)dsplats + row * ROW;
#include "splat_projection_camera.h"
#include "splat_projection_footprint.h"
        REAL* dE = (REAL*)poses + ((long long)part * views + v) * 12;
        REAL dR[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}, dp[3] = {0, 0, 0};
        int at = GEOMETRY;
#if DEGREE >= 0 || NORMALS
#include "splat_projection_direction.h"
#endif
#if DEGREE >= 0
        REAL Y[16], h[16];
        harmonics(HARMONICS, d[0], d[1], d[2], Y);
        for (int l = 0; l < HARMONICS; ++l)
            h[l] = (REAL)0;
        for (int k = 0; k < 3; ++k, ++at) {
            REAL value = (REAL)0.5;
            for (int l = 0; l < HARMONICS; ++l)
                value += Y[l] * f[3 * l + k];
            if (!(value > (REAL)0)) continue;
            for (int l = 0; l < HARMONICS; ++l) {
                df[3 * l + k] += Y[l] * D[at];
                h[l] += f[3 * l + k] * D[at];
            }
        }
        REAL dd[3];
        harmonics_slope(HARMONICS, d[0], d[1], d[2], h, dd);
        const REAL along = dd[0] * d[0] + dd[1] * d[1] + dd[2] * d[2];
        for (int i = 0; i < 3; ++i) {
            // d is the direction of m + R^T t.
            const REAL du = (dd[i] - along * d[i]) * id;
            dm[i] += du;
            for (int j = 0; j < 3; ++j) {
                dR[3 * j + i] += E[4 * j + 3] * du;
                dE[4 * j + 3] += E[4 * j + i] * du;
            }
        }
#else
        for (int k = 0; k < CHANNELS; ++k)
            df[k] += D[at++];
#endif
#if DEPTH
        dp[2] += D[at++];
#endif
#if NORMALS
#include "splat_projection_normal.h"
        for (int i = 0; i < 3; ++i)
            dQ[3 * i + thin] += facing * D[at++];
#endif
#if SURFACE
        dp[2] += 2 * p2 * D[at++];
        const REAL dplane = facing * D[at++];
        for (int i = 0; i < 3; ++i) {
            const REAL du = dplane * Q[3 * i + thin];
            dQ[3 * i + thin] += dplane * distance * d[i];
            dm[i] += du;
            for (int j = 0; j < 3; ++j) {
                dR[3 * j + i] += E[4 * j + 3] * du;
                dE[4 * j + 3] += E[4 * j + i] * du;
            }
        }
#endif
        // The conic is the inverse of the covariance: its gradient G becomes -C^-1 G C^-1.
        const REAL inverse = (REAL)1 / det, A = c * inverse, B = -b * inverse, C = a * inverse;
        const REAL GA = D[2], GB = (REAL)0.5 * D[3], GC = D[4];
        const REAL h00 = A * GA + B * GB, h01 = A * GB + B * GC;
        const REAL h10 = B * GA + C * GB, h11 = B * GB + C * GC;
        REAL da = -(h00 * A + h01 * B), dc = -(h10 * B + h11 * C);
        REAL db = -(h00 * B + h01 * C) - (h10 * A + h11 * B);
        dopacity += D[5] * share;
#if ANTIALIASED
        if (share > (REAL)0) {
            // share^2 = det0 / det.
            const REAL k = D[5] * opacity / (2 * share), ratio = share * share;
            da += k * (c0 - ratio * c) * inverse;
            dc += k * (a0 - ratio * a) * inverse;
            db += k * (2 * b * (ratio - 1)) * inverse;
        }
#endif
        // The covariance is V V^T plus the blur, with V = J U.
        REAL dV[6], dU[9];
        for (int k = 0; k < 3; ++k) {
            dV[k] = 2 * da * V[k] + db * V[3 + k];
            dV[3 + k] = 2 * dc * V[3 + k] + db * V[k];
            dU[k] = J00 * dV[k];
            dU[3 + k] = J11 * dV[3 + k];
            dU[6 + k] = J02 * dV[k] + J12 * dV[3 + k];
        }
        const REAL d00 = dV[0] * U[0] + dV[1] * U[1] + dV[2] * U[2];
        const REAL d02 = dV[0] * U[6] + dV[1] * U[7] + dV[2] * U[8];
        const REAL d11 = dV[3] * U[3] + dV[4] * U[4] + dV[5] * U[5];
        const REAL d12 = dV[3] * U[6] + dV[4] * U[7] + dV[5] * U[8];
        // J02 = -fx (p0 / p2) / p2, and the quotient p0 / p2 is constant beyond its limits.
        const bool free_x = rx > lx && rx<hx, free_y = ry> ly && ry < hy;
        const REAL gx = D[0] * fx - (free_x ? d02 * fx * iz : (REAL)0);
        const REAL gy = D[1] * fy - (free_y ? d12 * fy * iz : (REAL)0);
        dp[0] += gx * iz;
        dp[1] += gy * iz;
        dp[2] += iz * iz * (d02 * fx * ux + d12 * fy * uy - d00 * fx - d11 * fy) -
                 iz * (gx * rx + gy * ry);
        // U = R Q S, and p = R m + t.
        for (int i = 0; i < 3; ++i) {
            for (int k = 0; k < 3; ++k) {
                const REAL t = dU[3 * i + k] * s[k];
                for (int j = 0; j < 3; ++j) {
                    dR[3 * i + j] += t * Q[3 * j + k];
                    dQ[3 * j + k] += t * E[4 * i + j];
                }
                ds[k] += dU[3 * i + k] *
                         (E[4 * i] * Q[k] + E[4 * i + 1] * Q[3 + k] + E[4 * i + 2] * Q[6 + k]);
            }
            for (int j = 0; j < 3; ++j) {
                dR[3 * i + j] += dp[i] * m[j];
                dm[j] += dp[i] * E[4 * i + j];
            }
            dE[4 * i + 3] += dp[i];
            for (int j = 0; j < 3; ++j)
                dE[4 * i + j] += dR[3 * i + j];
        }
    }
    // The rotation of a unit quaternion, and the normalization of the quaternion.
    const REAL dq[4] = {2 * (x * (dQ[7] - dQ[5]) + y * (dQ[2] - dQ[6]) + z * (dQ[3] - dQ[1])),
                        2 * (w * (dQ[7] - dQ[5]) + y * (dQ[1] + dQ[3]) + z * (dQ[2] + dQ[6])) -
                            4 * x * (dQ[4] + dQ[8]),
                        2 * (w * (dQ[2] - dQ[6]) + x * (dQ[1] + dQ[3]) + z * (dQ[5] + dQ[7])) -
                            4 * y * (dQ[0] + dQ[8]),
                        2 * (w * (dQ[3] - dQ[1]) + x * (dQ[2] + dQ[6]) + y * (dQ[5] + dQ[7])) -
                            4 * z * (dQ[0] + dQ[4])};
    const REAL off = dq[0] * w + dq[1] * x + dq[2] * y + dq[3] * z, unit[4] = {w, x, y, z};
    for (int k = 0; k < 4; ++k)
        ((REAL*)dquats)[4 * g + k] = (dq[k] - off * unit[k]) * turn;
    for (int k = 0; k < 3; ++k) {
        ((REAL*)dmeans)[3 * g + k] = dm[k];
        ((REAL*)dscales)[3 * g + k] = ds[k];
    }
    ((REAL*)dopacities)[g] = dopacity;
}
