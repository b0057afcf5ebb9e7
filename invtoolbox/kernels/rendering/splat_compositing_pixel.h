// The place (px, py) of the task's pixel or ray, its tile, and the list of the tile. A pixel
// beyond the edge of the view has nothing to do.
const int ROW = GEOMETRY + FEATURES, PLANES = FEATURES + 1 + (MEDIAN >= 0);
#if RAYS
const int tiles = across * down, tile = ((const int*)owners)[task], view = tile / tiles;
const long long plane = rays, pixel = task, place = task;
const REAL px = ((const REAL*)places)[2 * task], py = ((const REAL*)places)[2 * task + 1];
#else
const int tiles = across * down, tile = task / (TILE * TILE), inside = task % (TILE * TILE);
const int view = tile / tiles, within = tile % tiles;
const int x = (within % across) * TILE + inside % TILE;
const int y = (within / across) * TILE + inside / TILE;
if (x >= width || y >= height) return;
const long long plane = (long long)width * height;
const long long pixel = (long long)view * plane + (long long)y * width + x;
const long long place = (long long)view * PLANES * plane + (long long)y * width + x;
const REAL px = (REAL)x + (REAL)0.5, py = (REAL)y + (REAL)0.5;
#endif
const long long begin = ((const long long*)starts)[tile];
const int* entry = (const int*)entries + 2 * begin;
