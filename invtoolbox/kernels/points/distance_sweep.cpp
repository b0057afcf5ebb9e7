// Arguments: DistanceArguments of distance_field.py.
//
// Assign to every node on GROUP neighbouring lines along AXIS the nearest of the points that the
// nodes of its line hold. A node holds the number of a point, or -1. The last sweep, along axis 0,
// writes the distances instead.
//
// A point has the parabola (t - vertex)^2 + height along the line. The nearest points are the lower
// envelope of the parabolas (Felzenszwalb and Huttenlocher, 2012, algorithm 1). Vertices lie where
// the points are, not at the nodes, and do not decrease along the line.
const float* point = (const float*)points;
const int size = AXIS == 0 ? nx : AXIS == 1 ? ny : nz;
const long long stride = AXIS == 0 ? (long long)ny * nz : AXIS == 1 ? nz : 1;
const int lines = AXIS == 0 ? ny * nz : AXIS == 1 ? nx * nz : nx * ny;
const int A = AXIS == 0 ? 1 : 0, B = AXIS == 2 ? 1 : 2;
float* vertex = (float*)scratch + (long long)task * 4 * size;
float* height = vertex + size;
float* start = height + size;
int* index = (int*)(start + size);
for (int g = 0; g < GROUP; ++g) {
    const int line = task * GROUP + g;
    if (line >= lines) break;
    const int inner = AXIS == 2 ? ny : nz;
    const int first = line / inner, second = line % inner;
    const long long begin = AXIS == 0   ? (long long)line
                            : AXIS == 1 ? (long long)first * ny * nz + second
                                        : (long long)line * nz;
    int* node = (int*)nodes + begin;
    int count = 0;
    for (int j = 0; j < size; ++j) {
        const int held = node[j * stride];
        if (held < 0) continue;
        const float* p = point + 3 * (long long)held;
        const float v = p[AXIS], da = p[A] - (float)first, db = p[B] - (float)second;
        const float h = da * da + db * db;
        float from = -1.0f;
        bool keep = true;
        while (count > 0) {
            const float apart = v - vertex[count - 1];
            if (apart <= 0.0f) {
                keep = h < height[count - 1];
                if (!keep) break;
            } else {
                from = 0.5f * (v + vertex[count - 1]) + 0.5f * (h - height[count - 1]) / apart;
                if (from > start[count - 1]) break;
            }
            --count;
        }
        if (!keep) continue;
        vertex[count] = v;
        height[count] = h;
        start[count] = count > 0 ? from : -1.0f;
        index[count] = held;
        ++count;
    }
    int k = 0;
    for (int t = 0; t < size; ++t) {
        while (k + 1 < count && start[k + 1] <= (float)t)
            ++k;
#if AXIS == 0
        const float apart = (float)t - vertex[k];
        ((float*)node)[t * stride] = cell * sqrt(apart * apart + height[k]);
#else
        node[t * stride] = count > 0 ? index[k] : -1;
#endif
    }
}
