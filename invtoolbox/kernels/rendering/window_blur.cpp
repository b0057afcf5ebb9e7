// Arguments: BlurArguments of window_blur.py.
//
// Blur a row of a plane by a separable window of WINDOW weights, with zeros beyond the edge: along
// the column into `line`, then along the row.
//
// With UNROLLED (CUDA) a task is BLOCK pixels of a row, loops have fixed lengths, and the compiler
// knows every index, so that `line` and `sums` are registers; otherwise a GPU keeps them in memory.
{
#pragma clang fp contract(fast)
    constexpr int REACH = WINDOW / 2;
#if UNROLLED
    const int blocks = (width + BLOCK - 1) / BLOCK, number = task / blocks;
    const int first = task % blocks * BLOCK, end = first + BLOCK;
#else
    const int number = task, first = 0, end = width;
#endif
    const int row = number % height;
    const REAL* plane = (const REAL*)planes + (long long)(number / height) * height * width;
    REAL* out = (REAL*)blurred + (long long)number * width;
    for (int left = first; left < end; left += BLOCK) {
        // The first pixel of `line` is left - REACH.
        REAL line[BLOCK + 2 * REACH], sums[BLOCK];
        for (int x = 0; x < BLOCK + 2 * REACH; ++x)
            line[x] = (REAL)0;
        for (int x = 0; x < BLOCK; ++x)
            sums[x] = (REAL)0;
        const int from = left < REACH ? REACH - left : 0;
        const int until = left + BLOCK + REACH < width ? BLOCK + 2 * REACH : width - left + REACH;
        for (int k = 0; k < WINDOW; ++k) {
            const int y = row + k - REACH;
            if (y < 0 || y >= height) continue;
            const REAL weight = ((const REAL*)window)[k];
            const REAL* source = plane + (long long)y * width + left - REACH;
#if UNROLLED
#pragma unroll
            for (int x = 0; x < BLOCK + 2 * REACH; ++x)
                if (x >= from && x < until) line[x] += weight * source[x];
#else
            for (int x = from; x < until; ++x)
                line[x] += weight * source[x];
#endif
        }
#if UNROLLED
#pragma unroll
#endif
        for (int k = 0; k < WINDOW; ++k) {
            const REAL weight = ((const REAL*)window)[k];
            for (int x = 0; x < BLOCK; ++x)
                sums[x] += weight * line[x + k];
        }
        const int count = width - left < BLOCK ? width - left : BLOCK;
#if UNROLLED
#pragma unroll
        for (int x = 0; x < BLOCK; ++x)
            if (x < count) out[left + x] = sums[x];
#else
        for (int x = 0; x < count; ++x)
            out[left + x] = sums[x];
#endif
    }
}
