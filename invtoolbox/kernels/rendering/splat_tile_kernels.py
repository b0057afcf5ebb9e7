"""Warp kernels for the CPU that composite sorted splats, and their derivative. See `invtoolbox.kernels.rendering.splat_compositing`.

One task: a tile of 16 x 16 pixels. It takes the splats of its list in parts, copies those of a part next to each other, and notes for
each block of 4 x 4 pixels which of them touch it; then each block goes through its own, its pixels in one vector. So a small splat costs
the blocks that it touches, and a block that is opaque costs nothing. Where there are rays in the place of pixels, a tile takes its own in
groups of 256, and a block is sixteen of them that follow each other.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel
from invtoolbox.kernels.rendering.splat_pixel_kernels import words
from invtoolbox.kernels.rendering.splat_projection_kernels import GEOMETRY

#: Splats of a part; their numbers in it fit a byte.
CHUNK = 256

_TYPES = """
#pragma clang fp contract(fast)
        typedef REAL vec __attribute__((ext_vector_type(16)));
        typedef decltype(vec() < vec()) ivec;  // whole numbers of the same size
        typedef bool bits16 __attribute__((ext_vector_type(16)));
        auto any = [](ivec mask) { return __builtin_bit_cast(unsigned short, __builtin_convertvector(mask, bits16)) != 0; };
        // exp of numbers between -60 and 0: 2^n e^f with |f| at most ln(2) / 2, and e^f by its series.
        auto power = [](vec x) {
            x = x < (REAL)-60 ? (vec)(REAL)-60 : x;
            const vec shifted = x * (REAL)1.4426950408889634 + (REAL)MAGIC;
            const vec n = shifted - (REAL)MAGIC;
            const vec f = (x - n * (REAL)LN2_HIGH) - n * (REAL)LN2_LOW;
            vec value = (vec)(REAL)1;
            for (int k = TERMS; k > 0; --k)
                value = value * (f * ((REAL)1 / (REAL)k)) + (REAL)1;
            ivec bits;
            const vec one = (vec)(REAL)MAGIC;
            ivec zero;
            __builtin_memcpy(&bits, &shifted, sizeof(vec));
            __builtin_memcpy(&zero, &one, sizeof(vec));
            bits = (bits - zero + (ivec)BIAS) << (ivec)MANTISSA;
            vec scale;
            __builtin_memcpy(&scale, &bits, sizeof(vec));
            return value * scale;
        };
        vec column, line;
        for (int l = 0; l < 16; ++l) {
            column[l] = (REAL)(l & 3) + (REAL)0.5;
            line[l] = (REAL)(l >> 2) + (REAL)0.5;
        }
        const int tiles = across * down, view = tile / tiles, within = tile % tiles;
        const int left = (within % across) * TILE, top = (within / across) * TILE;
        const long long begin = ((const long long*)starts)[tile];
        const long long total = ((const long long*)starts)[tile + 1] - begin;
        const int* entry = (const int*)entries + 2 * begin;
#if RAYS
        const long long plane = rays, lift = 0, ray_end = ((const long long*)begins)[tile + 1];
        long long group = ((const long long*)begins)[tile];
        vec xs[16], ys[16], west, east, north, south;
        auto take = [&]() {
            for (int b = 0; b < 16; ++b) {
                west[b] = north[b] = (REAL)1e30;
                east[b] = south[b] = (REAL)-1e30;
                for (int l = 0; l < 16; ++l) {
                    const long long ray = group + 16 * b + l, known = ray < ray_end ? ray : ray_end - 1;
                    const REAL x = ((const REAL*)places)[2 * known] - (REAL)left, y = ((const REAL*)places)[2 * known + 1] - (REAL)top;
                    xs[b][l] = x;
                    ys[b][l] = y;
                    if (ray >= ray_end)
                        continue;
                    west[b] = x < west[b] ? x : west[b];
                    east[b] = x > east[b] ? x : east[b];
                    north[b] = y < north[b] ? y : north[b];
                    south[b] = y > south[b] ? y : south[b];
                }
            }
        };
        auto spot = [&](int b, int l) { return group + 16 * b + l < ray_end ? group + 16 * b + l : -1LL; };
#define PX xs[b]
#define PY ys[b]
#define PUT +=
#define EVERY for (; group < ray_end; group += 256)
#else
        const long long plane = (long long)width * height, lift = (long long)view * (PLANES - 1) * plane;
        auto take = []() {};
        auto spot = [&](int b, int l) {
            const int x = left + 4 * (b & 3) + (l & 3), y = top + 4 * (b >> 2) + (l >> 2);
            return x < width && y < height ? (long long)view * plane + (long long)y * width + x : -1LL;
        };
#define PX (column + (REAL)(4 * (b & 3)))
#define PY (line + (REAL)(4 * (b >> 2)))
#define PUT =
#define EVERY
#endif
        REAL rows[CHUNK * (ROW + 1)];
        unsigned char lists[16 * CHUNK];
        int counts[16];
        // The splats of a part: their rows, halved conics, positions from the tile's corner; and the lists of the blocks.
        auto gather = [&](long long from, int count) {
            for (int b = 0; b < 16; ++b)
                counts[b] = 0;
            for (int i = 0; i < count; ++i) {
                const long long splat = (long long)view * splats_of_view + entry[2 * (from + i)];
                const REAL* source = (const REAL*)splats + splat * ROW;
                REAL* row = rows + i * (ROW + 1);
                for (int k = 0; k < ROW; ++k)
                    row[k] = source[k];
                row[0] -= (REAL)left;
                row[1] -= (REAL)top;
                row[ROW] = ((const REAL*)reaches)[2 * splat + 1];
                const int* box = (const int*)boxes + 4 * splat;
#if RAYS
                const ivec touched = (east >= (REAL)(box[0] - left)) & (west <= (REAL)(box[1] - left))
                    & (south >= (REAL)(box[2] - top)) & (north <= (REAL)(box[3] - top));
                for (int b = 0; b < 16; ++b)
                    if (touched[b])
                        lists[b * CHUNK + counts[b]++] = (unsigned char)i;
#else
                const int x0 = box[0] > left ? (box[0] - left) >> 2 : 0, y0 = box[2] > top ? (box[2] - top) >> 2 : 0;
                const int x1 = box[1] < left + TILE ? (box[1] - 1 - left) >> 2 : 3, y1 = box[3] < top + TILE ? (box[3] - 1 - top) >> 2 : 3;
                for (int y = y0; y <= y1; ++y)
                    for (int x = x0; x <= x1; ++x) {
                        const int b = 4 * y + x;
                        lists[b * CHUNK + counts[b]++] = (unsigned char)i;
                    }
#endif
            }
        };
"""
# Entry j of the list of a block, and how far below its peak the splat is at each of the pixels.
_SIGMA = """
                    const int i = list[j];
                    const REAL* row = rows + i * (ROW + 1);
                    const vec dx = px - row[0], dy = py - row[1];
                    const vec sigma = (REAL)0.5 * (row[2] * dx * dx + row[4] * dy * dy) + row[3] * dx * dy;
"""
_COMPOSITE = (
    _TYPES
    + """
        EVERY {
        take();
        vec clear[16], sums[16 * FEATURES];
        ivec ends[16], middles[16], open[16];
        int active = 0;
        for (int b = 0; b < 16; ++b) {
            clear[b] = (vec)(REAL)1;
            for (int k = 0; k < FEATURES; ++k)
                sums[b * FEATURES + k] = (vec)(REAL)0;
            ends[b] = (ivec)0;
            middles[b] = (ivec)(-1);
            const bool inside = spot(b, 0) >= 0;
            open[b] = inside ? (ivec)(-1) : (ivec)0;
            active += inside;
        }
        for (long long from = 0; from < total && active > 0; from += CHUNK) {
            const int count = total - from < CHUNK ? (int)(total - from) : CHUNK;
            gather(from, count);
            for (int b = 0; b < 16; ++b) {
                if (counts[b] == 0 || !any(open[b]))
                    continue;
                const vec px = PX, py = PY;
                vec T = clear[b], sum[FEATURES];
                ivec end = ends[b], live = open[b];
#if MEDIAN
                ivec middle = middles[b];
#endif
                for (int k = 0; k < FEATURES; ++k)
                    sum[k] = sums[b * FEATURES + k];
                const unsigned char* list = lists + b * CHUNK;
                for (int j = 0; j < counts[b]; ++j) {
"""
    + _SIGMA
    + """
                    ivec hit = (sigma <= row[ROW]) & live;
                    if (!any(hit))
                        continue;
                    vec alpha = row[5] * power(-sigma);
                    alpha = alpha > (REAL)0.999 ? (vec)(REAL)0.999 : alpha;
                    const vec next = T - T * alpha;
                    const ivec full = hit & (next <= (REAL)1e-4);
                    live = live & ~full;
                    hit = hit & ~full;
                    const vec weight = hit ? alpha * T : (vec)(REAL)0;
                    for (int k = 0; k < FEATURES; ++k)
                        sum[k] += weight * row[GEOMETRY + k];
#if MEDIAN
                    middle = (hit & (next <= (REAL)0.5) & (T > (REAL)0.5)) ? (ivec)(from + i) : middle;
#endif
                    T = hit ? next : T;
                    end = hit ? (ivec)(from + i + 1) : end;
                    if (any(full) && !any(live))
                        break;
                }
                clear[b] = T;
                ends[b] = end;
                open[b] = live;
#if MEDIAN
                middles[b] = middle;
#endif
                for (int k = 0; k < FEATURES; ++k)
                    sums[b * FEATURES + k] = sum[k];
                active -= !any(live);
            }
        }
        for (int b = 0; b < 16; ++b)
            for (int l = 0; l < 16; ++l) {
                const long long pixel = spot(b, l);
                if (pixel < 0)
                    continue;
                REAL* out = (REAL*)images + lift + pixel;
                for (int k = 0; k < FEATURES; ++k)
                    out[k * plane] = sums[b * FEATURES + k][l];
                out[FEATURES * plane] = clear[b][l];
                ((int*)last)[pixel] = (int)ends[b][l];
#if MEDIAN
                const int at = (int)middles[b][l];
                ((int*)median)[pixel] = at;
                out[(FEATURES + 1) * plane] = at < 0 ? (REAL)0
                    : ((const REAL*)splats)[((long long)view * splats_of_view + entry[2 * at]) * ROW + GEOMETRY + DEPTH_AT];
#endif
            }
        }
"""
)
# Back to front, so that the transmittance in front of a splat comes from that behind it by a division, and what lies behind is summed.
# With s the derivative's product with a splat's features and S what lies behind it, dL/dalpha = T s - S / (1 - alpha).
_PULL = (
    _TYPES
    + """
        EVERY {
        take();
        vec clear[16], behind[16], slopes[16 * FEATURES];
        ivec ends[16];
        int depth_of[16], deepest = 0;
        for (int b = 0; b < 16; ++b) {
            clear[b] = (vec)(REAL)1;
            behind[b] = (vec)(REAL)0;
            ends[b] = (ivec)0;
            for (int k = 0; k < FEATURES; ++k)
                slopes[b * FEATURES + k] = (vec)(REAL)0;
            depth_of[b] = 0;
            for (int l = 0; l < 16; ++l) {
                const long long pixel = spot(b, l);
                if (pixel < 0)
                    continue;
                const REAL* image = (const REAL*)images + lift + pixel;
                const REAL* slope = (const REAL*)dimages + lift + pixel;
                clear[b][l] = image[FEATURES * plane];
                behind[b][l] = image[FEATURES * plane] * slope[FEATURES * plane];
                for (int k = 0; k < FEATURES; ++k)
                    slopes[b * FEATURES + k][l] = slope[k * plane];
                const int end = ((const int*)last)[pixel];
                ends[b][l] = end;
                depth_of[b] = end > depth_of[b] ? end : depth_of[b];
            }
            deepest = depth_of[b] > deepest ? depth_of[b] : deepest;
        }
        REAL gains[CHUNK * SUMS];
        for (long long from = deepest > 0 ? (long long)(deepest - 1) / CHUNK * CHUNK : -1; from >= 0; from -= CHUNK) {
            const int count = deepest - from < CHUNK ? (int)(deepest - from) : CHUNK;
            gather(from, count);
            for (int k = 0; k < count * SUMS; ++k)
                gains[k] = (REAL)0;
            for (int b = 0; b < 16; ++b) {
                if (counts[b] == 0 || depth_of[b] <= from)
                    continue;
                const vec px = PX, py = PY;
                vec T = clear[b], S = behind[b], slope[FEATURES];
                const ivec end = ends[b];
                for (int k = 0; k < FEATURES; ++k)
                    slope[k] = slopes[b * FEATURES + k];
                const unsigned char* list = lists + b * CHUNK;
                for (int j = counts[b] - 1; j >= 0; --j) {
"""
    + _SIGMA
    + """
                    const ivec hit = (sigma <= row[ROW]) & (end > (ivec)(from + i));
                    if (!any(hit))
                        continue;
                    const vec raw = row[5] * power(-sigma);
                    const vec alpha = raw > (REAL)0.999 ? (vec)(REAL)0.999 : raw;
                    const vec inverse = (REAL)1 / ((REAL)1 - alpha);
                    T = hit ? T * inverse : T;
                    const vec weight = hit ? alpha * T : (vec)(REAL)0;
                    vec s = slope[0] * row[GEOMETRY];
                    for (int k = 1; k < FEATURES; ++k)
                        s += slope[k] * row[GEOMETRY + k];
                    const vec pull = T * s - S * inverse;
                    S += weight * s;
                    // In sigma; where alpha was cut off there is none.
                    const vec g = (hit & (raw <= (REAL)0.999)) ? -alpha * pull : (vec)(REAL)0;
                    vec t[SUMS];
                    t[0] = g * dx;
                    t[1] = g * dy;
                    t[2] = t[0] * dx;
                    t[3] = t[0] * dy;
                    t[4] = t[1] * dy;
                    t[5] = g;
                    for (int k = 0; k < FEATURES; ++k)
                        t[GEOMETRY + k] = weight * slope[k];
                    for (int k = GEOMETRY + FEATURES; k < SUMS; ++k)
                        t[k] = (vec)(REAL)0;
                    // Sixteen vectors become the one of their sums.
                    for (int k = 0; k < SUMS; k += 16) {
#define FOLD(p, q) (__builtin_shufflevector(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) \\
                    + __builtin_shufflevector(p, q, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD4(p, q) (__builtin_shufflevector(p, q, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) \\
                     + __builtin_shufflevector(p, q, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define FOLD2(p, q) (__builtin_shufflevector(p, q, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) \\
                     + __builtin_shufflevector(p, q, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define FOLD1(p, q) (__builtin_shufflevector(p, q, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) \\
                     + __builtin_shufflevector(p, q, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
                        const vec* u = t + k;
                        const vec a = FOLD4(FOLD(u[0], u[1]), FOLD(u[2], u[3])), c = FOLD4(FOLD(u[4], u[5]), FOLD(u[6], u[7]));
                        const vec d = FOLD4(FOLD(u[8], u[9]), FOLD(u[10], u[11])), e = FOLD4(FOLD(u[12], u[13]), FOLD(u[14], u[15]));
                        const vec sum = FOLD1(FOLD2(a, c), FOLD2(d, e));
                        REAL* place = gains + i * SUMS + k;
                        vec old;
                        __builtin_memcpy(&old, place, sizeof(vec));
                        old += sum;
                        __builtin_memcpy(place, &old, sizeof(vec));
                    }
                }
                clear[b] = T;
                behind[b] = S;
            }
            for (int i = 0; i < count; ++i) {
                const REAL* row = rows + i * (ROW + 1);
                const REAL* gain = gains + i * SUMS;
                const long long pair = entry[2 * (from + i) + 1];
                REAL* out = (REAL*)dpairs + (((const long long*)bases)[view] + pair) * ROW;
                out[0] PUT -(row[2] * gain[0] + row[3] * gain[1]);
                out[1] PUT -(row[3] * gain[0] + row[4] * gain[1]);
                out[2] PUT (REAL)0.5 * gain[2];
                out[3] PUT gain[3];
                out[4] PUT (REAL)0.5 * gain[4];
                out[5] PUT -gain[5] / row[5];
                for (int k = 0; k < FEATURES; ++k)
                    out[GEOMETRY + k] PUT gain[GEOMETRY + k];
            }
        }
#if MEDIAN
        for (int b = 0; b < 16; ++b)
            for (int l = 0; l < 16; ++l) {
                const long long pixel = spot(b, l);
                if (pixel < 0)
                    continue;
                const int at = ((const int*)median)[pixel];
                if (at >= 0)
                    ((REAL*)dpairs)[(((const long long*)bases)[view] + entry[2 * at + 1]) * ROW + GEOMETRY + DEPTH_AT]
                        += ((const REAL*)dimages)[lift + pixel + (FEATURES + 1) * plane];
            }
#endif
        }
"""
)
_GATHER = """
        const long long first = (long long)part * 1024, last = first + 1024 < splats ? first + 1024 : splats;
        for (long long n = first; n < last; ++n) {
            REAL* out = (REAL*)dsplats + n * ROW;
            const long long from = ((const long long*)pairs)[n];
            const int share = ((const int*)shares)[n];
            for (int k = 0; k < ROW; ++k)
                out[k] = (REAL)0;
            for (int j = 0; j < share; ++j)
                for (int k = 0; k < ROW; ++k)
                    out[k] += ((const REAL*)dpairs)[(from + j) * ROW + k];
        }
"""


def _words(
    dtype: torch.dtype, features: int, median: int | None, rays: bool
) -> dict[str, str | int]:
    single = dtype == torch.float32
    return words(dtype, features, median, rays) | {
        "SUMS": (GEOMETRY + features + 15) // 16 * 16,
        "CHUNK": CHUNK,
        "MAGIC": "12582912.0" if single else "6755399441055744.0",
        "TERMS": 7 if single else 13,
        "BIAS": 127 if single else 1023,
        "MANTISSA": 23 if single else 52,
        "LN2_HIGH": "0.693145751953125" if single else "0.693147180369123816490",
        "LN2_LOW": "1.42860682030941723212e-6" if single else "1.90821492927058770002e-10",
    }


@cache
def composite_kernel(dtype: torch.dtype, features: int, median: int | None, rays: bool) -> Any:
    """Composites, pixels or rays. ``median`` is which feature the depth is, where the median depth is wanted."""
    return native_kernel(
        "composite",
        _COMPOSITE,
        _words(dtype, features, median, rays),
        "address images, last, median, splats, boxes, reaches, entries, starts, places, begins; "
        "int rays, splats_of_view, across, down, width, height",
        task="tile",
    )


@cache
def composite_pull_kernel(dtype: torch.dtype, features: int, median: int | None, rays: bool) -> Any:
    """The derivative in every pair of a splat and a tile."""
    return native_kernel(
        "composite_pull",
        _PULL,
        _words(dtype, features, median, rays),
        "address dpairs, dimages, images, last, median, splats, boxes, reaches, entries, starts, bases, places, begins; "
        "int rays, splats_of_view, across, down, width, height",
        task="tile",
    )


@cache
def gather_kernel(dtype: torch.dtype, features: int) -> Any:
    """The derivative in every splat: the sum over its pairs, which lie next to each other."""
    return native_kernel(
        "gather",
        _GATHER,
        {"ROW": GEOMETRY + features, "REAL": REAL[dtype]},
        "address dsplats, dpairs, pairs, shares; long splats",
        task="part",
    )
