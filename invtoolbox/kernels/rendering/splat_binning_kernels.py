"""Warp kernels for the CPU that sort splats into tiles. See `invtoolbox.kernels.rendering.splat_binning`.

One task: a view.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

#: Side of a tile in pixels.
TILE = 16

_COUNT = """
        const int* box = (const int*)boxes + 4 * (long long)count * view;
        int* share = (int*)shares + (long long)count * view;
        int* tile = (int*)sizes + (long long)across * down * view;
        for (int t = 0; t < across * down; ++t)
            tile[t] = 0;
        long long total = 0;
        for (int n = 0; n < count; ++n) {
            const int* b = box + 4 * n;
            if (b[0] >= b[1]) {
                share[n] = 0;
                continue;
            }
            const int x0 = b[0] / TILE, x1 = (b[1] - 1) / TILE, y0 = b[2] / TILE, y1 = (b[3] - 1) / TILE;
            share[n] = (x1 - x0 + 1) * (y1 - y0 + 1);
            total += share[n];
            for (int y = y0; y <= y1; ++y)
                for (int x = x0; x <= x1; ++x)
                    ++tile[y * across + x];
        }
        ((long long*)totals)[view] = total;
"""
# Positive numbers of IEEE are in the order of their bits. Splats are visited by depth, those of one depth by their number, and every tile
# takes them in that order.
_FILL = """
        const int* box = (const int*)boxes + 4 * (long long)count * view;
        const REAL* reach = (const REAL*)reaches + 2 * (long long)count * view;
        const long long base = ((const long long*)bases)[view];
        BITS* keys = (BITS*)scratch_keys + 2 * (long long)count * view;
        int* ids = (int*)scratch_ids + 2 * (long long)count * view;
        BITS* from_key = keys; BITS* to_key = keys + count;
        int* from = ids; int* to = ids + count;
        int seen = 0;
        for (int n = 0; n < count; ++n)
            if (box[4 * n] < box[4 * n + 1]) {
                __builtin_memcpy(from_key + seen, reach + 2 * n, sizeof(REAL));
                from[seen++] = n;
            }
        BITS lowest = ~(BITS)0, highest = 0;
        for (int k = 0; k < seen; ++k) {
            lowest &= from_key[k];
            highest |= from_key[k];
        }
        int buckets[2048];
        for (int shift = 0; shift < (int)(8 * sizeof(BITS)); shift += 11) {
            // Digits that all have alike sort nothing.
            if (((lowest ^ highest) >> shift & 2047) == 0 || seen < 2)
                continue;
            for (int k = 0; k < 2048; ++k)
                buckets[k] = 0;
            for (int k = 0; k < seen; ++k)
                ++buckets[from_key[k] >> shift & 2047];
            for (int k = 0, sum = 0; k < 2048; ++k) {
                const int here = buckets[k];
                buckets[k] = sum;
                sum += here;
            }
            for (int k = 0; k < seen; ++k) {
                const int place = buckets[from_key[k] >> shift & 2047]++;
                to_key[place] = from_key[k];
                to[place] = from[k];
            }
            BITS* key = from_key; from_key = to_key; to_key = key;
            int* id = from; from = to; to = id;
        }
        const int tiles = across * down;
        int* tile = (int*)sizes + (long long)tiles * view;
        long long* start = (long long*)starts + (long long)tiles * view;
        long long sum = base;
        for (int t = 0; t < tiles; ++t) {
            start[t] = sum;
            sum += tile[t];
            tile[t] = 0;
        }
        long long* pair = (long long*)pairs + (long long)count * view;
        sum = base;
        const int* share = (const int*)shares + (long long)count * view;
        for (int n = 0; n < count; ++n) {
            pair[n] = sum;
            sum += share[n];
        }
        for (int k = 0; k < seen; ++k) {
            const int n = from[k];
            const int* b = box + 4 * n;
            const int x0 = b[0] / TILE, x1 = (b[1] - 1) / TILE, y0 = b[2] / TILE, y1 = (b[3] - 1) / TILE;
            int own = (int)(pair[n] - base);
            for (int y = y0; y <= y1; ++y)
                for (int x = x0; x <= x1; ++x) {
                    const int t = y * across + x;
                    int* entry = (int*)entries + 2 * (start[t] + tile[t]++);
                    entry[0] = n;
                    entry[1] = own++;
                }
        }
"""


@cache
def count_kernel() -> Any:
    """How many tiles each splat touches, how many splats each tile has, and the total of a view."""
    return native_kernel(
        "count",
        _COUNT,
        {"TILE": TILE},
        "address totals, shares, sizes, boxes; int count, across, down",
        task="view",
    )


@cache
def fill_kernel(dtype: torch.dtype) -> Any:
    """The lists of the tiles: for every entry the splat, and the number of this pair of a splat and a tile."""
    bits = "unsigned int" if dtype == torch.float32 else "unsigned long long"
    return native_kernel(
        "fill",
        _FILL,
        {"TILE": TILE, "REAL": REAL[dtype], "BITS": bits},
        "address entries, starts, pairs, sizes, shares, boxes, reaches, bases, scratch_keys, scratch_ids; "
        "int count, across, down",
        task="view",
    )
