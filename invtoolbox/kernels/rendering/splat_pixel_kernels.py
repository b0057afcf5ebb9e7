"""Warp kernels that composite sorted splats pixel by pixel, and their derivative: what a GPU runs.

See `invtoolbox.kernels.rendering.splat_compositing`. One task: a pixel, those of a tile next to each other. The kernels run on a CPU as well, one
task after the other, where they are much slower than those of `splat_tile_kernels`; the tests hold the two together.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel
from invtoolbox.kernels.rendering.splat_binning_kernels import TILE
from invtoolbox.kernels.rendering.splat_projection_kernels import GEOMETRY

_PIXEL = """
#if RAYS
        const int tiles = across * down, tile = ((const int*)owners)[task], view = tile / tiles;
        const long long plane = rays, pixel = task, place = task;
        const REAL px = ((const REAL*)places)[2 * task], py = ((const REAL*)places)[2 * task + 1];
#else
        const int tiles = across * down, tile = task / (TILE * TILE), inside = task % (TILE * TILE);
        const int view = tile / tiles, within = tile % tiles;
        const int x = (within % across) * TILE + inside % TILE, y = (within / across) * TILE + inside / TILE;
        if (x >= width || y >= height)
            return;
        const long long plane = (long long)width * height, pixel = (long long)view * plane + (long long)y * width + x;
        const long long place = (long long)view * PLANES * plane + (long long)y * width + x;
        const REAL px = (REAL)x + (REAL)0.5, py = (REAL)y + (REAL)0.5;
#endif
        const long long begin = ((const long long*)starts)[tile];
        const int* entry = (const int*)entries + 2 * begin;
"""
# Entry i of the list, and how far below its peak the splat is here; the entry is done where it does not reach the pixel.
_SIGMA = """
            const long long splat = (long long)view * splats_of_view + entry[2 * i];
            const REAL* row = (const REAL*)splats + splat * ROW;
            const REAL dx = px - row[0], dy = py - row[1];
            const REAL sigma = (REAL)0.5 * (row[2] * dx * dx + row[4] * dy * dy) + row[3] * dx * dy;
            if (!(sigma <= ((const REAL*)reaches)[2 * splat + 1]))
                continue;
"""
_COMPOSITE = (
    _PIXEL
    + """
        const int total = (int)(((const long long*)starts)[tile + 1] - begin);
        REAL* out = (REAL*)images + place;
        REAL T = (REAL)1, sum[FEATURES];
        int end = 0, middle = -1;
        for (int k = 0; k < FEATURES; ++k)
            sum[k] = (REAL)0;
        for (int i = 0; i < total; ++i) {
"""
    + _SIGMA
    + """
            REAL alpha = row[5] * exp(-sigma);
            alpha = alpha > (REAL)0.999 ? (REAL)0.999 : alpha;
            const REAL next = T - T * alpha;
            if (next <= (REAL)1e-4)
                break;
            for (int k = 0; k < FEATURES; ++k)
                sum[k] += alpha * T * row[GEOMETRY + k];
            if (next <= (REAL)0.5 && T > (REAL)0.5)
                middle = i;
            T = next;
            end = i + 1;
        }
        for (int k = 0; k < FEATURES; ++k)
            out[k * plane] = sum[k];
        out[FEATURES * plane] = T;
        ((int*)last)[pixel] = end;
#if MEDIAN
        ((int*)median)[pixel] = middle;
        out[(FEATURES + 1) * plane] = middle < 0 ? (REAL)0
            : ((const REAL*)splats)[((long long)view * splats_of_view + entry[2 * middle]) * ROW + GEOMETRY + DEPTH_AT];
#endif
"""
)
_PULL = (
    _PIXEL
    + """
#if defined(__CUDA_ARCH__)
#define ADD(at, value) atomicAdd(&(at), value)
#else
#define ADD(at, value) (at) += (value)
#endif
        const REAL* slope = (const REAL*)dimages + place;
        const long long base = ((const long long*)bases)[view];
        REAL T = ((const REAL*)images)[place + FEATURES * plane];
        REAL S = T * slope[FEATURES * plane];
        for (int i = ((const int*)last)[pixel] - 1; i >= 0; --i) {
"""
    + _SIGMA
    + """
            const REAL raw = row[5] * exp(-sigma), alpha = raw > (REAL)0.999 ? (REAL)0.999 : raw;
            const REAL inverse = (REAL)1 / ((REAL)1 - alpha);
            T *= inverse;
            REAL* out = (REAL*)dpairs + (base + entry[2 * i + 1]) * ROW;
            REAL s = (REAL)0;
            for (int k = 0; k < FEATURES; ++k) {
                s += slope[k * plane] * row[GEOMETRY + k];
                ADD(out[GEOMETRY + k], alpha * T * slope[k * plane]);
            }
            const REAL pull = T * s - S * inverse;
            S += alpha * T * s;
            if (raw <= (REAL)0.999) {
                const REAL g = -alpha * pull;
                ADD(out[0], -g * (row[2] * dx + row[3] * dy));
                ADD(out[1], -g * (row[3] * dx + row[4] * dy));
                ADD(out[2], (REAL)0.5 * g * dx * dx);
                ADD(out[3], g * dx * dy);
                ADD(out[4], (REAL)0.5 * g * dy * dy);
                ADD(out[5], -g / row[5]);
            }
        }
#if MEDIAN
        const int middle = ((const int*)median)[pixel];
        if (middle >= 0)
            ADD(((REAL*)dpairs)[(base + entry[2 * middle + 1]) * ROW + GEOMETRY + DEPTH_AT], slope[(FEATURES + 1) * plane]);
#endif
"""
)


def words(
    dtype: torch.dtype, features: int, median: int | None, rays: bool
) -> dict[str, str | int]:
    """What the sources of both sets of kernels that composite are filled with."""
    return {
        "DEPTH_AT": median or 0,
        "MEDIAN": median is not None,
        "PLANES": features + 1 + (median is not None),
        "GEOMETRY": GEOMETRY,
        "TILE": TILE,
        "FEATURES": features,
        "ROW": GEOMETRY + features,
        "REAL": REAL[dtype],
        "RAYS": rays,
    }


@cache
def composite_pixel_kernel(
    dtype: torch.dtype, features: int, median: int | None, rays: bool
) -> Any:
    """Composites, pixels or rays. ``median`` is which feature the depth is, where the median depth is wanted."""
    return native_kernel(
        "composite_pixel",
        _COMPOSITE,
        words(dtype, features, median, rays),
        "address images, last, median, splats, boxes, reaches, entries, starts, places, owners; "
        "int rays, splats_of_view, across, down, width, height",
    )


@cache
def composite_pixel_pull_kernel(
    dtype: torch.dtype, features: int, median: int | None, rays: bool
) -> Any:
    """The derivative in every pair of a splat and a tile, added to what is there."""
    return native_kernel(
        "composite_pixel_pull",
        _PULL,
        words(dtype, features, median, rays),
        "address dpairs, dimages, images, last, median, splats, boxes, reaches, entries, starts, bases, places, owners; "
        "int rays, splats_of_view, across, down, width, height",
    )
