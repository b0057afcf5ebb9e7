// The tile of the task's block, and its list. A tile takes its rays in groups of BLOCK, and its
// pixels at once. See also splat_compositing_block_place.h.
constexpr int ROW = GEOMETRY + FEATURES, PLANES = FEATURES + 1 + (MEDIAN >= 0);
const int tiles = across * down, tile = task / BLOCK, view = tile / tiles;
const long long begin = ((const long long*)starts)[tile];
const int total = (int)(((const long long*)starts)[tile + 1] - begin);
const int* entry = (const int*)entries + 2 * begin;
#if RAYS
const long long plane = rays, groups_end = ((const long long*)begins)[tile + 1];
long long group = ((const long long*)begins)[tile];
#else
const long long plane = (long long)width * height, groups_end = 1;
long long group = 0;
#endif
// A splat in the memory of the block: mean and conic, reach, opacity, features. The numbers that a
// pixel reads together lie next to each other, so that it reads up to four at once.
constexpr int REACH = 5, OPACITY = 6, COLOR = 7, STRIDE = (ROW + 1 + 3) / 4 * 4;
// Copy the splats from the place `from` of the list into the memory of the block, one per thread.
auto load = [&](REAL* rows, int from, int count) {
    for (int i = thread; i < count; i += BLOCK) {
        const long long splat = (long long)view * splats_of_view + entry[2 * (from + i)];
        const REAL* source = (const REAL*)splats + splat * ROW;
        REAL* row = rows + i * STRIDE;
        for (int k = 0; k < ROW; ++k)
            row[k < REACH ? k : k + 1] = source[k];
        row[REACH] = ((const REAL*)reaches)[2 * splat + 1];
    }
};
