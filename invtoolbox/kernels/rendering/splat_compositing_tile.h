// Set-up of the two kernels that composite a tile of 16 x 16 pixels on the CPU. It must come first
// in a block, because the pragma must.
//
// A task takes the splats of its tile in chunks of CHUNK. It copies the splats of a chunk next to
// each other, and lists for each block of 4 x 4 pixels the splats that touch the block. Then each
// block goes through its own list, with its 16 pixels in one vector. So a small splat costs only
// the blocks that it touches, and an opaque block costs nothing.
//
// With RAYS, a tile takes its rays in groups of 256, and a block is 16 consecutive rays.
#pragma clang fp contract(fast)
constexpr int CHUNK = 256;  // the number of a splat in its chunk fits a byte
constexpr int ROW = GEOMETRY + FEATURES, PLANES = FEATURES + 1 + (MEDIAN >= 0);
typedef REAL vec __attribute__((ext_vector_type(16)));
typedef decltype(vec() < vec()) ivec;  // integers of the same size
typedef bool bits16 __attribute__((ext_vector_type(16)));
auto any = [](ivec mask) {
    return __builtin_bit_cast(unsigned short, __builtin_convertvector(mask, bits16)) != 0;
};
// exp of numbers between -60 and 0: 2^n e^f with |f| at most ln(2) / 2, and e^f by its series.
// Adding `magic` rounds to an integer, which then stands in the lowest bits of the sum.
auto power = [](vec x) {
    constexpr bool single = sizeof(REAL) == sizeof(float);
    constexpr double magic = single ? 12582912.0 : 6755399441055744.0;
    constexpr double ln2_high = single ? 0.693145751953125 : 0.693147180369123816490;
    constexpr double ln2_low = single ? 1.42860682030941723212e-6 : 1.90821492927058770002e-10;
    constexpr int terms = single ? 7 : 13, bias = single ? 127 : 1023, mantissa = single ? 23 : 52;
    x = x < (REAL)-60 ? (vec)(REAL)-60 : x;
    const vec shifted = x * (REAL)1.4426950408889634 + (REAL)magic;
    const vec n = shifted - (REAL)magic;
    const vec f = (x - n * (REAL)ln2_high) - n * (REAL)ln2_low;
    vec value = (vec)(REAL)1;
    for (int k = terms; k > 0; --k)
        value = value * (f * ((REAL)1 / (REAL)k)) + (REAL)1;
    ivec bits;
    const vec one = (vec)(REAL)magic;
    ivec zero;
    __builtin_memcpy(&bits, &shifted, sizeof(vec));
    __builtin_memcpy(&zero, &one, sizeof(vec));
    bits = (bits - zero + (ivec)bias) << (ivec)mantissa;
    vec scale;
    __builtin_memcpy(&scale, &bits, sizeof(vec));
    return value * scale;
};
const int tiles = across * down, view = tile / tiles, within = tile % tiles;
const int left = (within % across) * TILE, top = (within / across) * TILE;
const long long begin = ((const long long*)starts)[tile];
const long long total = ((const long long*)starts)[tile + 1] - begin;
const int* entry = (const int*)entries + 2 * begin;
// The places of the pixels or rays of block b are x_of(b) and y_of(b), from the tile's corner;
// locate(b, l) is the number of one of them in its plane, or -1 for none. load() reads a group.
#if RAYS
const long long plane = rays, lift = 0, groups_end = ((const long long*)begins)[tile + 1];
long long group = ((const long long*)begins)[tile];
vec xs[16], ys[16], west, east, north, south;
auto load = [&]() {
    for (int b = 0; b < 16; ++b) {
        west[b] = north[b] = (REAL)1e30;
        east[b] = south[b] = (REAL)-1e30;
        for (int l = 0; l < 16; ++l) {
            const long long ray = group + 16 * b + l;
            const long long known = ray < groups_end ? ray : groups_end - 1;
            const REAL x = ((const REAL*)places)[2 * known] - (REAL)left;
            const REAL y = ((const REAL*)places)[2 * known + 1] - (REAL)top;
            xs[b][l] = x;
            ys[b][l] = y;
            if (ray >= groups_end) continue;
            west[b] = x < west[b] ? x : west[b];
            east[b] = x > east[b] ? x : east[b];
            north[b] = y < north[b] ? y : north[b];
            south[b] = y > south[b] ? y : south[b];
        }
    }
};
auto locate = [&](int b, int l) {
    return group + 16 * b + l < groups_end ? group + 16 * b + l : -1LL;
};
auto x_of = [&](int b) { return xs[b]; };
auto y_of = [&](int b) { return ys[b]; };
#else
const long long plane = (long long)width * height, lift = (long long)view * (PLANES - 1) * plane;
const long long groups_end = 1;
long long group = 0;
vec column, line;
for (int l = 0; l < 16; ++l) {
    column[l] = (REAL)(l & 3) + (REAL)0.5;
    line[l] = (REAL)(l >> 2) + (REAL)0.5;
}
auto load = []() {};
auto locate = [&](int b, int l) {
    const int x = left + 4 * (b & 3) + (l & 3), y = top + 4 * (b >> 2) + (l >> 2);
    return x < width && y < height ? (long long)view * plane + (long long)y * width + x : -1LL;
};
auto x_of = [&](int b) { return column + (REAL)(4 * (b & 3)); };
auto y_of = [&](int b) { return line + (REAL)(4 * (b >> 2)); };
#endif
REAL rows[CHUNK * (ROW + 1)];
unsigned char lists[16 * CHUNK];
int counts[16];
// Copy the splats of a chunk, with positions from the tile's corner and the reach behind the
// features, and fill the lists of the blocks.
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
        const ivec touched = (east >= (REAL)(box[0] - left)) & (west <= (REAL)(box[1] - left)) &
                             (south >= (REAL)(box[2] - top)) & (north <= (REAL)(box[3] - top));
        for (int b = 0; b < 16; ++b)
            if (touched[b]) lists[b * CHUNK + counts[b]++] = (unsigned char)i;
#else
        const int x0 = box[0] > left ? (box[0] - left) >> 2 : 0;
        const int y0 = box[2] > top ? (box[2] - top) >> 2 : 0;
        const int x1 = box[1] < left + TILE ? (box[1] - 1 - left) >> 2 : 3;
        const int y1 = box[3] < top + TILE ? (box[3] - 1 - top) >> 2 : 3;
        for (int y = y0; y <= y1; ++y)
            for (int x = x0; x <= x1; ++x) {
                const int b = 4 * y + x;
                lists[b * CHUNK + counts[b]++] = (unsigned char)i;
            }
#endif
    }
};
