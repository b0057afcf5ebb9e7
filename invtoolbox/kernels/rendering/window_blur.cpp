// Arguments: BlurArguments of window_blur.py.
//
// Blur a row of a plane by a separable window of WINDOW weights, with zeros beyond the edge: along
// the column into `line`, then along the row.
{
#pragma clang fp contract(fast)
    constexpr int BLOCK = 256, REACH = WINDOW / 2;
    const int row = task % height;
    const REAL* plane = (const REAL*)planes + (long long)(task / height) * height * width;
    REAL* out = (REAL*)blurred + (long long)task * width;
    for (int left = 0; left < width; left += BLOCK) {
        // The first pixel of `line` is left - REACH.
        REAL line[BLOCK + 2 * REACH], sums[BLOCK];
        for (int x = 0; x < BLOCK + 2 * REACH; ++x)
            line[x] = (REAL)0;
        for (int x = 0; x < BLOCK; ++x)
            sums[x] = (REAL)0;
        const int from = left < REACH ? REACH - left : 0;
        const int until =
            left + BLOCK + REACH < width ? BLOCK + 2 * REACH : width - left + REACH;
        for (int k = 0; k < WINDOW; ++k) {
            const int y = row + k - REACH;
            if (y < 0 || y >= height) continue;
            const REAL weight = ((const REAL*)window)[k];
            const REAL* source = plane + (long long)y * width + left - REACH;
            for (int x = from; x < until; ++x)
                line[x] += weight * source[x];
        }
        for (int k = 0; k < WINDOW; ++k) {
            const REAL weight = ((const REAL*)window)[k];
            for (int x = 0; x < BLOCK; ++x)
                sums[x] += weight * line[x + k];
        }
        const int count = width - left < BLOCK ? width - left : BLOCK;
        for (int x = 0; x < count; ++x)
            out[left + x] = sums[x];
    }
}
