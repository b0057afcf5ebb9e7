// Arguments: DistanceArguments of distance_field.py.
//
// Lower the distances of the nodes within REACH cells of one point to their distance from this
// point. They are exact afterwards, also if several points share a cell.
//
// With ATOMIC (CUDA), tasks run at once; otherwise one thread runs them all.
const float* p = (const float*)points + 3 * (long long)task;
const int i = (int)(p[0] + 0.5f), j = (int)(p[1] + 0.5f), k = (int)(p[2] + 0.5f);
for (int x = i - REACH > 0 ? i - REACH : 0; x <= i + REACH && x < nx; ++x)
    for (int y = j - REACH > 0 ? j - REACH : 0; y <= j + REACH && y < ny; ++y)
        for (int z = k - REACH > 0 ? k - REACH : 0; z <= k + REACH && z < nz; ++z) {
            const float a = (float)x - p[0], b = (float)y - p[1], c = (float)z - p[2];
            const float distance = cell * sqrt(a * a + b * b + c * c);
            float* node = (float*)nodes + ((long long)x * ny + y) * nz + z;
#if ATOMIC
            // Floating-point numbers that are not negative have the order of their bits.
            union {
                float value;
                int bits;
            } as;
            as.value = distance;
            wp::atomic_min((int*)node, as.bits);
#else
            if (distance < *node) *node = distance;
#endif
        }
