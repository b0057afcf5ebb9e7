"""Warp kernels that project 3D Gaussians into views, and their derivative. See `invtoolbox.kernels.rendering.splat_projection`.

One task: some Gaussians of a scene, and all views of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

#: Gaussians of a task.
PART = 256
#: Numbers of a splat before its features: mean (x, y), conic (xx, xy, yy), opacity.
GEOMETRY = 6

# What both directions need of a Gaussian and a view. V is the derivative of the projection times the Gaussian's axes, so that the
# covariance in the image is V V^T (Zwicker et al., "EWA splatting", 2002, equation 24).
_GAUSSIAN = """
            const REAL* m = (const REAL*)means + 3 * g;
            const REAL* q = (const REAL*)quats + 4 * g;
            const REAL* s = (const REAL*)scales + 3 * g;
            const REAL opacity = ((const REAL*)opacities)[g];
            const REAL length = ROOT(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
            const REAL turn = (REAL)1 / (length > (REAL)1e-30 ? length : (REAL)1e-30);
            const REAL w = q[0] * turn, x = q[1] * turn, y = q[2] * turn, z = q[3] * turn;
            const REAL Q[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                               2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                               2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)};
"""
_VIEW = """
                const REAL* E = (const REAL*)viewmats + 16 * view;
                const REAL* I = (const REAL*)Ks + 9 * view;
                const REAL fx = I[0], fy = I[4], cx = I[2], cy = I[5];
                const REAL p0 = E[0] * m[0] + E[1] * m[1] + E[2] * m[2] + E[3];
                const REAL p1 = E[4] * m[0] + E[5] * m[1] + E[6] * m[2] + E[7];
                const REAL p2 = E[8] * m[0] + E[9] * m[1] + E[10] * m[2] + E[11];
"""
_FOOTPRINT = """
                const REAL iz = (REAL)1 / p2;
                // The derivative of the projection is taken no farther outside of the view than 15 % of it: it grows without bound.
                const REAL ax = (REAL)0.15 * (REAL)width / fx, ay = (REAL)0.15 * (REAL)height / fy;
                const REAL hx = ((REAL)width - cx) / fx + ax, lx = -(cx / fx + ax);
                const REAL hy = ((REAL)height - cy) / fy + ay, ly = -(cy / fy + ay);
                const REAL rx = p0 * iz, ry = p1 * iz;
                const bool free_x = rx > lx && rx < hx, free_y = ry > ly && ry < hy;
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
                const REAL a0 = V[0] * V[0] + V[1] * V[1] + V[2] * V[2], c0 = V[3] * V[3] + V[4] * V[4] + V[5] * V[5];
                const REAL b = V[0] * V[3] + V[1] * V[4] + V[2] * V[5];
                // By the cross product of V: a c - b b would lose all digits of a thin Gaussian.
                const REAL n0 = V[1] * V[5] - V[2] * V[4], n1 = V[2] * V[3] - V[0] * V[5], n2 = V[0] * V[4] - V[1] * V[3];
                const REAL soft = (REAL)blur, a = a0 + soft, c = c0 + soft;
                const REAL det0 = n0 * n0 + n1 * n1 + n2 * n2, det = det0 + soft * (a0 + c0 + soft);
                const REAL share = ANTIALIASED ? ROOT(det0 / det) : (REAL)1;
"""
# Real spherical harmonics up to degree 3, in the order and with the signs of the original splats.
_HARMONICS = """
        auto harmonics = [](int count, REAL x, REAL y, REAL z, REAL* Y) {
            Y[0] = (REAL)0.28209479177387814;
            if (count > 1) {
                const REAL k = (REAL)0.4886025119029199;
                Y[1] = -k * y; Y[2] = k * z; Y[3] = -k * x;
            }
            if (count > 4) {
                const REAL k = (REAL)1.0925484305920792;
                Y[4] = k * x * y; Y[5] = -k * y * z; Y[6] = (REAL)0.31539156525252005 * (2 * z * z - x * x - y * y);
                Y[7] = -k * x * z; Y[8] = (REAL)0.5462742152960396 * (x * x - y * y);
            }
            if (count > 9) {
                const REAL k3 = (REAL)0.5900435899266435, k1 = (REAL)0.4570457994644658;
                Y[9] = -k3 * y * (3 * x * x - y * y); Y[10] = (REAL)2.890611442640554 * x * y * z;
                Y[11] = -k1 * y * (4 * z * z - x * x - y * y);
                Y[12] = (REAL)0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y);
                Y[13] = -k1 * x * (4 * z * z - x * x - y * y); Y[14] = (REAL)1.445305721320277 * z * (x * x - y * y);
                Y[15] = -k3 * x * (x * x - 3 * y * y);
            }
        };
"""
# Of sum_k h_k Y_k in the direction.
_HARMONICS_SLOPE = """
        auto slope = [](int count, REAL x, REAL y, REAL z, const REAL* h, REAL* d) {
            d[0] = d[1] = d[2] = (REAL)0;
            if (count > 1) {
                const REAL k = (REAL)0.4886025119029199;
                d[0] = -k * h[3]; d[1] = -k * h[1]; d[2] = k * h[2];
            }
            if (count > 4) {
                const REAL k = (REAL)1.0925484305920792, k0 = (REAL)0.31539156525252005, k2 = (REAL)0.5462742152960396;
                d[0] += k * y * h[4] - 2 * k0 * x * h[6] - k * z * h[7] + 2 * k2 * x * h[8];
                d[1] += k * x * h[4] - k * z * h[5] - 2 * k0 * y * h[6] - 2 * k2 * y * h[8];
                d[2] += -k * y * h[5] + 4 * k0 * z * h[6] - k * x * h[7];
            }
            if (count > 9) {
                const REAL k3 = (REAL)0.5900435899266435, k2 = (REAL)2.890611442640554, k1 = (REAL)0.4570457994644658;
                const REAL k0 = (REAL)0.3731763325901154, kc = (REAL)1.445305721320277;
                const REAL xx = x * x, yy = y * y, zz = z * z;
                d[0] += -6 * k3 * x * y * h[9] + k2 * y * z * h[10] + 2 * k1 * x * y * h[11] - 6 * k0 * x * z * h[12]
                    - k1 * (4 * zz - 3 * xx - yy) * h[13] + 2 * kc * x * z * h[14] - 3 * k3 * (xx - yy) * h[15];
                d[1] += -3 * k3 * (xx - yy) * h[9] + k2 * x * z * h[10] - k1 * (4 * zz - xx - 3 * yy) * h[11] - 6 * k0 * y * z * h[12]
                    + 2 * k1 * x * y * h[13] - 2 * kc * y * z * h[14] + 6 * k3 * x * y * h[15];
                d[2] += k2 * x * y * h[10] - 8 * k1 * y * z * h[11] + k0 * (6 * zz - 3 * xx - 3 * yy) * h[12] - 8 * k1 * x * z * h[13]
                    + kc * (xx - yy) * h[14];
            }
        };
"""
# The direction from the camera to the Gaussian.
_DIRECTION = """
                REAL d[3];
                for (int i = 0; i < 3; ++i)
                    d[i] = m[i] + E[i] * E[3] + E[4 + i] * E[7] + E[8 + i] * E[11];
                const REAL distance = ROOT(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
                const REAL id = (REAL)1 / (distance > (REAL)1e-30 ? distance : (REAL)1e-30);
                for (int i = 0; i < 3; ++i)
                    d[i] *= id;
"""
# The shortest axis, towards the camera.
_NORMAL = """
                const int thin = s[0] <= s[1] ? (s[0] <= s[2] ? 0 : 2) : (s[1] <= s[2] ? 1 : 2);
                const REAL facing = Q[thin] * d[0] + Q[3 + thin] * d[1] + Q[6 + thin] * d[2] > (REAL)0 ? (REAL)-1 : (REAL)1;
"""
_PROJECT = (
    (
        _HARMONICS
        + """
        const long long first = (long long)(part % parts) * PART, scene = part / parts;
        const long long last = first + PART < count ? first + PART : count;
        for (long long n = first; n < last; ++n) {
            const long long g = scene * count + n;
            GAUSSIAN
            for (int v = 0; v < views; ++v) {
                const long long view = scene * views + v, row = view * count + n;
                REAL* out = (REAL*)splats + row * ROW;
                int* box = (int*)boxes + 4 * row;
                REAL* reach = (REAL*)reaches + 2 * row;
                box[0] = box[1] = box[2] = box[3] = 0;
                for (int k = 0; k < ROW; ++k)
                    out[k] = (REAL)0;
                if (opacity < (REAL)(1.0 / 255.0))
                    continue;
                VIEW
                if (!(p2 > near && p2 < far))
                    continue;
                FOOTPRINT
                const REAL o = opacity * share;
                if (!(det > (REAL)0) || !(o >= (REAL)(1.0 / 255.0)))
                    continue;
                // An alpha of 1/255 is reached where half the Mahalanobis distance is this; a little more, so that the test of the
                // compositing decides.
                const REAL limit = LOG((REAL)255 * o);
                const REAL wide = ROOT(2 * limit * a) * (REAL)1.0001 + (REAL)1e-3;
                const REAL high = ROOT(2 * limit * c) * (REAL)1.0001 + (REAL)1e-3;
                const REAL mx = fx * rx + cx, my = fy * ry + cy;
                if ((wide > high ? wide : high) <= clip)
                    continue;
                // Pixel j has its centre at j + 1/2, and what is looked at lies up to `spread` from it. Clamped before they become whole.
                auto pixel = [](REAL value, int size) {
                    return value <= (REAL)0 ? 0 : value >= (REAL)size ? size : (int)value;
                };
                const REAL less = (REAL)(0.5 + spread), more = (REAL)(0.5 - spread);
                const int x0 = pixel(CEIL(mx - wide - less), width), x1 = pixel(CEIL(mx + wide - more), width);
                const int y0 = pixel(CEIL(my - high - less), height), y1 = pixel(CEIL(my + high - more), height);
                if (x0 >= x1 || y0 >= y1)
                    continue;
                box[0] = x0; box[1] = x1; box[2] = y0; box[3] = y1;
                reach[0] = p2; reach[1] = limit;
                const REAL id_ = (REAL)1 / det;
                out[0] = mx; out[1] = my; out[2] = c * id_; out[3] = -b * id_; out[4] = a * id_; out[5] = o;
                int at = GEOMETRY;
#if DEGREE >= 0 || NORMALS
                DIRECTION
#endif
#if DEGREE >= 0
                REAL Y[16];
                harmonics(HARMONICS, d[0], d[1], d[2], Y);
                const REAL* f = (const REAL*)colors + g * (3 * stride);
                for (int k = 0; k < 3; ++k) {
                    REAL value = (REAL)0.5;
                    for (int l = 0; l < HARMONICS; ++l)
                        value += Y[l] * f[3 * l + k];
                    out[at++] = value > (REAL)0 ? value : (REAL)0;
                }
#else
                const REAL* f = (const REAL*)colors + g * stride;
                for (int k = 0; k < CHANNELS; ++k)
                    out[at++] = f[k];
#endif
#if DEPTH
                out[at++] = p2;
#endif
#if NORMALS
                NORMAL
                for (int i = 0; i < 3; ++i)
                    out[at++] = facing * Q[3 * i + thin];
#endif
            }
        }
"""
    )
    .replace("GAUSSIAN", _GAUSSIAN)
    .replace("VIEW", _VIEW)
    .replace("FOOTPRINT", _FOOTPRINT)
    .replace("DIRECTION", _DIRECTION)
    .replace("NORMAL\n", _NORMAL)
)

# The transpose, step by step backwards. `poses` holds one row a task and view: the derivative in the upper 3 x 4 entries of the view.
_PULL = (
    (
        _HARMONICS
        + _HARMONICS_SLOPE
        + """
        const long long first = (long long)(part % parts) * PART, scene = part / parts;
        const long long last = first + PART < count ? first + PART : count;
        for (int v = 0; v < 12 * views; ++v)
            ((REAL*)poses)[(long long)part * 12 * views + v] = (REAL)0;
        for (long long n = first; n < last; ++n) {
            const long long g = scene * count + n;
            GAUSSIAN
            REAL dm[3] = {0, 0, 0}, ds[3] = {0, 0, 0}, dQ[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}, dopacity = (REAL)0;
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
                if (box[0] >= box[1])
                    continue;
                const REAL* D = (const REAL*)dsplats + row * ROW;
                VIEW
                FOOTPRINT
                REAL* dE = (REAL*)poses + ((long long)part * views + v) * 12;
                REAL dR[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}, dp[3] = {0, 0, 0};
                int at = GEOMETRY;
#if DEGREE >= 0 || NORMALS
                DIRECTION
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
                    if (!(value > (REAL)0))
                        continue;
                    for (int l = 0; l < HARMONICS; ++l) {
                        df[3 * l + k] += Y[l] * D[at];
                        h[l] += f[3 * l + k] * D[at];
                    }
                }
                REAL dd[3];
                slope(HARMONICS, d[0], d[1], d[2], h, dd);
                const REAL along = dd[0] * d[0] + dd[1] * d[1] + dd[2] * d[2];
                for (int i = 0; i < 3; ++i) {
                    // The direction is that of m + R^T t.
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
                NORMAL
                for (int i = 0; i < 3; ++i)
                    dQ[3 * i + thin] += facing * D[at++];
#endif
                // The conic is the inverse of the covariance: -C^-1 G C^-1.
                const REAL inverse = (REAL)1 / det, A = c * inverse, B = -b * inverse, C = a * inverse;
                const REAL GA = D[2], GB = (REAL)0.5 * D[3], GC = D[4];
                const REAL h00 = A * GA + B * GB, h01 = A * GB + B * GC, h10 = B * GA + C * GB, h11 = B * GB + C * GC;
                REAL da = -(h00 * A + h01 * B), db = -(h00 * B + h01 * C) - (h10 * A + h11 * B), dc = -(h10 * B + h11 * C);
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
                REAL dV[6], dU[9];
                for (int k = 0; k < 3; ++k) {
                    dV[k] = 2 * da * V[k] + db * V[3 + k];
                    dV[3 + k] = 2 * dc * V[3 + k] + db * V[k];
                    dU[k] = J00 * dV[k];
                    dU[3 + k] = J11 * dV[3 + k];
                    dU[6 + k] = J02 * dV[k] + J12 * dV[3 + k];
                }
                const REAL d00 = dV[0] * U[0] + dV[1] * U[1] + dV[2] * U[2], d02 = dV[0] * U[6] + dV[1] * U[7] + dV[2] * U[8];
                const REAL d11 = dV[3] * U[3] + dV[4] * U[4] + dV[5] * U[5], d12 = dV[3] * U[6] + dV[4] * U[7] + dV[5] * U[8];
                // J02 = -fx (p0 / p2) / p2, with the quotient held at the limit beyond it.
                const REAL gx = D[0] * fx - (free_x ? d02 * fx * iz : (REAL)0), gy = D[1] * fy - (free_y ? d12 * fy * iz : (REAL)0);
                dp[0] += gx * iz;
                dp[1] += gy * iz;
                dp[2] += iz * iz * (d02 * fx * ux + d12 * fy * uy - d00 * fx - d11 * fy) - iz * (gx * rx + gy * ry);
                for (int i = 0; i < 3; ++i) {
                    for (int k = 0; k < 3; ++k) {
                        const REAL t = dU[3 * i + k] * s[k];
                        for (int j = 0; j < 3; ++j) {
                            dR[3 * i + j] += t * Q[3 * j + k];
                            dQ[3 * j + k] += t * E[4 * i + j];
                        }
                        ds[k] += dU[3 * i + k] * (E[4 * i] * Q[k] + E[4 * i + 1] * Q[3 + k] + E[4 * i + 2] * Q[6 + k]);
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
            // The rotation of a unit quaternion, and its normalisation.
            REAL dq[4] = {
                2 * (x * (dQ[7] - dQ[5]) + y * (dQ[2] - dQ[6]) + z * (dQ[3] - dQ[1])),
                2 * (w * (dQ[7] - dQ[5]) + y * (dQ[1] + dQ[3]) + z * (dQ[2] + dQ[6])) - 4 * x * (dQ[4] + dQ[8]),
                2 * (w * (dQ[2] - dQ[6]) + x * (dQ[1] + dQ[3]) + z * (dQ[5] + dQ[7])) - 4 * y * (dQ[0] + dQ[8]),
                2 * (w * (dQ[3] - dQ[1]) + x * (dQ[2] + dQ[6]) + y * (dQ[5] + dQ[7])) - 4 * z * (dQ[0] + dQ[4])};
            const REAL off = dq[0] * w + dq[1] * x + dq[2] * y + dq[3] * z, unit[4] = {w, x, y, z};
            for (int k = 0; k < 4; ++k)
                ((REAL*)dquats)[4 * g + k] = (dq[k] - off * unit[k]) * turn;
            for (int k = 0; k < 3; ++k) {
                ((REAL*)dmeans)[3 * g + k] = dm[k];
                ((REAL*)dscales)[3 * g + k] = ds[k];
            }
            ((REAL*)dopacities)[g] = dopacity;
        }
"""
    )
    .replace("GAUSSIAN", _GAUSSIAN)
    .replace("VIEW", _VIEW)
    .replace("FOOTPRINT", _FOOTPRINT)
    .replace("DIRECTION", _DIRECTION)
    .replace("NORMAL\n", _NORMAL)
)


def _words(
    dtype: torch.dtype, channels: int, degree: int, depth: bool, normals: bool, antialiased: bool
) -> dict[str, str | int]:
    return {
        "GEOMETRY": GEOMETRY,
        "HARMONICS": (degree + 1) ** 2,
        "DEGREE": degree,
        "CHANNELS": channels,
        "DEPTH": depth,
        "NORMALS": normals,
        "ANTIALIASED": antialiased,
        "PART": PART,
        "ROW": GEOMETRY + channels + depth + 3 * normals,
        "REAL": REAL[dtype],
        "ROOT": "sqrt",
        "LOG": "log",
        "CEIL": "ceil",
    }


@cache
def project_kernel(
    dtype: torch.dtype, channels: int, degree: int, depth: bool, normals: bool, antialiased: bool
) -> Any:
    """Writes splats, boxes and reaches. ``degree`` is -1 where colors are given and no spherical harmonics."""
    return native_kernel(
        "project",
        _PROJECT,
        _words(dtype, channels, degree, depth, normals, antialiased),
        "address splats, boxes, reaches, means, quats, scales, opacities, colors, viewmats, Ks; "
        "int count, views, parts, stride, width, height; double near, far, blur, clip, spread",
        task="part",
    )


@cache
def pull_kernel(
    dtype: torch.dtype, channels: int, degree: int, depth: bool, normals: bool, antialiased: bool
) -> Any:
    """Takes the derivative in the splats back to the Gaussians and the views."""
    return native_kernel(
        "pull",
        _PULL,
        _words(dtype, channels, degree, depth, normals, antialiased),
        "address dmeans, dquats, dscales, dopacities, dcolors, poses, dsplats, boxes, means, quats, scales, opacities, "
        "colors, viewmats, Ks; int count, views, parts, stride, width, height; double blur",
        task="part",
    )
