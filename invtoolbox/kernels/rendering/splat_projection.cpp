// Arguments: ProjectionArguments of splat_projection.py.
//
// Project PART Gaussians of one scene into all views of the scene.
//
// Out come splats (GEOMETRY numbers: mean, conic and opacity; then the features: color, depth and
// normal, and of a surface the square of the depth and the distance of the plane), boxes of pixels, and reaches; see `project` in splat_projection.py.
const int HARMONICS = (DEGREE + 1) * (DEGREE + 1), ROW = GEOMETRY + CHANNELS + DEPTH + 3 * NORMALS + 2 * SURFACE;
#include "spherical_harmonics.h"
const long long first = (long long)(part % parts) * PART, scene = part / parts;
const long long last = first + PART < count ? first + PART : count;
for (long long n = first; n < last; ++n) {
    const long long g = scene * count + n;
#include "splat_projection_gaussian.h"
    for (int v = 0; v < views; ++v) {
        const long long view = scene * views + v, row = view * count + n;
        REAL* out = (REAL*)splats + row * ROW;
        int* box = (int*)boxes + 4 * row;
        REAL* reach = (REAL*)reaches + 2 * row;
        box[0] = box[1] = box[2] = box[3] = 0;
        for (int k = 0; k < ROW; ++k)
            out[k] = (REAL)0;
        if (opacity < (REAL)(1.0 / 255.0)) continue;
#include "splat_projection_camera.h"
        if (!(p2 > near && p2 < far)) continue;
#include "splat_projection_footprint.h"
        const REAL o = opacity * share;
        if (!(det > (REAL)0) || !(o >= (REAL)(1.0 / 255.0))) continue;
        // Alpha is 1/255 at the distance at which half the squared Mahalanobis distance is `limit`.
        // The box is slightly larger, so that the test of the compositing decides.
        const REAL limit = log((REAL)255 * o);
        const REAL wide = sqrt(2 * limit * a) * (REAL)1.0001 + (REAL)1e-3;
        const REAL high = sqrt(2 * limit * c) * (REAL)1.0001 + (REAL)1e-3;
        const REAL mx = fx * rx + cx, my = fy * ry + cy;
        if ((wide > high ? wide : high) <= clip) continue;
        // Pixel j has its centre at j + 1/2, and its samples lie up to `spread` from the centre.
        // Clamped before the conversion, which overflows for large numbers.
        auto pixel = [](REAL value, int size) {
            return value <= (REAL)0 ? 0 : value >= (REAL)size ? size : (int)value;
        };
        const REAL less = (REAL)(0.5 + spread), more = (REAL)(0.5 - spread);
        const int x0 = pixel(ceil(mx - wide - less), width);
        const int x1 = pixel(ceil(mx + wide - more), width);
        const int y0 = pixel(ceil(my - high - less), height);
        const int y1 = pixel(ceil(my + high - more), height);
        if (x0 >= x1 || y0 >= y1) continue;
        box[0] = x0;
        box[1] = x1;
        box[2] = y0;
        box[3] = y1;
        reach[0] = p2;
        reach[1] = limit;
        const REAL id_ = (REAL)1 / det;
        out[0] = mx;
        out[1] = my;
        out[2] = c * id_;
        out[3] = -b * id_;
        out[4] = a * id_;
        out[5] = o;
        int at = GEOMETRY;
#if DEGREE >= 0 || NORMALS
#include "splat_projection_direction.h"
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
#include "splat_projection_normal.h"
        for (int i = 0; i < 3; ++i)
            out[at++] = facing * Q[3 * i + thin];
#endif
#if SURFACE
        // The plane through the centre has the equation n . x = n . (distance d), x from the camera.
        out[at++] = p2 * p2;
        out[at++] = facing * toward * distance;
#endif
    }
}
