// Arguments: SortArguments of splat_binning.py.
//
// Write the lists of the tiles of one view: for every pair of a splat and a tile that it touches,
// the splat and the number of the pair.
//
// The splats are sorted by depth and then appended to their tiles in this order. The sort is a
// stable radix sort with digits of 11 bits: positive floating-point numbers have the order of their
// bits. For the CPU only: on CUDA, PyTorch sorts (see splat_binning.py).
const int* box = (const int*)boxes + 4 * (long long)count * view;
const REAL* reach = (const REAL*)reaches + 2 * (long long)count * view;
const long long base = ((const long long*)bases)[view];
BITS* keys = (BITS*)scratch_keys + 2 * (long long)count * view;
int* ids = (int*)scratch_ids + 2 * (long long)count * view;
BITS *from_key = keys, *to_key = keys + count;
int *from = ids, *to = ids + count;
int visible = 0;
for (int n = 0; n < count; ++n)
    if (box[4 * n] < box[4 * n + 1]) {
        __builtin_memcpy(from_key + visible, reach + 2 * n, sizeof(REAL));
        from[visible++] = n;
    }
BITS lowest = ~(BITS)0, highest = 0;
for (int k = 0; k < visible; ++k) {
    lowest &= from_key[k];
    highest |= from_key[k];
}
int buckets[2048];
for (int shift = 0; shift < (int)(8 * sizeof(BITS)); shift += 11) {
    // A digit that is the same in all keys changes no order.
    if (((lowest ^ highest) >> shift & 2047) == 0 || visible < 2) continue;
    for (int k = 0; k < 2048; ++k)
        buckets[k] = 0;
    for (int k = 0; k < visible; ++k)
        ++buckets[from_key[k] >> shift & 2047];
    for (int k = 0, sum = 0; k < 2048; ++k) {
        const int size = buckets[k];
        buckets[k] = sum;
        sum += size;
    }
    for (int k = 0; k < visible; ++k) {
        const int place = buckets[from_key[k] >> shift & 2047]++;
        to_key[place] = from_key[k];
        to[place] = from[k];
    }
    BITS* key = from_key;
    from_key = to_key;
    to_key = key;
    int* id = from;
    from = to;
    to = id;
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
for (int k = 0; k < visible; ++k) {
    const int n = from[k];
    const int* b = box + 4 * n;
#include "splat_binning_range.h"
    int own = (int)(pair[n] - base);
    for (int y = y0; y <= y1; ++y)
        for (int x = x0; x <= x1; ++x) {
            const int t = y * across + x;
            int* entry = (int*)entries + 2 * (start[t] + tile[t]++);
            entry[0] = n;
            entry[1] = own++;
        }
}
