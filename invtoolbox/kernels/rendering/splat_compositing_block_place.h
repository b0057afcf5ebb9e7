// The place (px, py) of the thread's pixel or ray of the group, if it is `inside` of the view or
// group.
#if RAYS
const long long pixel = group + thread, place = pixel;
const bool inside = pixel < groups_end;
const REAL px = inside ? ((const REAL*)places)[2 * pixel] : (REAL)0;
const REAL py = inside ? ((const REAL*)places)[2 * pixel + 1] : (REAL)0;
#else
const int within = tile % tiles;
const int x = (within % across) * TILE + thread % TILE;
const int y = (within / across) * TILE + thread / TILE;
const bool inside = x < width && y < height;
const long long pixel = (long long)view * plane + (long long)y * width + x;
const long long place = (long long)view * PLANES * plane + (long long)y * width + x;
const REAL px = (REAL)x + (REAL)0.5, py = (REAL)y + (REAL)0.5;
#endif
