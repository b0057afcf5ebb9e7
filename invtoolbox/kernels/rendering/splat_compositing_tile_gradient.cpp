// Arguments: CompositingArguments of splat_compositing.py.
//
// Compute the gradient of every pair of a splat and the task's tile, back to front.
//
// The transmittance T in front of a splat is the transmittance behind it divided by 1 - alpha. With
// s, the product of the image's gradient and the splat's features, and S, the sum of alpha T s over
// the splats behind it (and the gradient of the transmittance that is left),
//     dL/dalpha = T s - S / (1 - alpha).
// If ABSOLUTE, two more numbers per pair are the sums over the pixels of the absolute derivatives
// in the mean (Ye et al., "AbsGS", 2024, equation 4). For the CPU only, because it uses Clang's
// vectors; CUDA runs splat_compositing_block_gradient.cpp. See splat_compositing_tile.h for the
// order of the work.
{
#include "splat_compositing_tile.h"
// Each macro halves the lanes per sum: after FOLD8, FOLD4, FOLD2 and FOLD1, sixteen vectors have
// become the one vector of their sums.
#define LANES(p, q, ...) __builtin_shufflevector(p, q, __VA_ARGS__)
#define FOLD8(p, q)                                                        \
    (LANES(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) + \
     LANES(p, q, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD4(p, q)                                                          \
    (LANES(p, q, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) + \
     LANES(p, q, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define FOLD2(p, q)                                                          \
    (LANES(p, q, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) + \
     LANES(p, q, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define FOLD1(p, q)                                                           \
    (LANES(p, q, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) + \
     LANES(p, q, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
    constexpr int OUT = ROW + 2 * ABSOLUTE, SUMS = (OUT + 15) / 16 * 16;
    // Several groups of rays add to a pair, and the only group of pixels writes it.
    auto put = [](REAL& at, REAL value) {
#if RAYS
        at += value;
#else
        at = value;
#endif
    };
    for (; group < groups_end; group += 256) {
        load();
        vec clear[16], behind[16], slopes[16 * FEATURES];
        ivec ends[16];
        int depth_of[16], deepest = 0;
        for (int b = 0; b < 16; ++b) {
            clear[b] = (vec)(REAL)1;
            behind[b] = (vec)(REAL)0;
            ends[b] = (ivec)0;
            for (int k = 0; k < FEATURES; ++k)
                slopes[b * FEATURES + k] = (vec)(REAL)0;
            depth_of[b] = 0;
            for (int l = 0; l < 16; ++l) {
                const long long pixel = locate(b, l);
                if (pixel < 0) continue;
                const REAL* image = (const REAL*)images + lift + pixel;
                const REAL* slope = (const REAL*)dimages + lift + pixel;
                clear[b][l] = image[FEATURES * plane];
                behind[b][l] = image[FEATURES * plane] * slope[FEATURES * plane];
                for (int k = 0; k < FEATURES; ++k)
                    slopes[b * FEATURES + k][l] = slope[k * plane];
                const int end = ((const int*)last)[pixel];
                ends[b][l] = end;
                depth_of[b] = end > depth_of[b] ? end : depth_of[b];
            }
            deepest = depth_of[b] > deepest ? depth_of[b] : deepest;
        }
        REAL gains[CHUNK * SUMS];
        long long from = deepest > 0 ? (long long)(deepest - 1) / CHUNK * CHUNK : -1;
        for (; from >= 0; from -= CHUNK) {
            const int count = deepest - from < CHUNK ? (int)(deepest - from) : CHUNK;
            gather(from, count);
            for (int k = 0; k < count * SUMS; ++k)
                gains[k] = (REAL)0;
            for (int b = 0; b < 16; ++b) {
                if (counts[b] == 0 || depth_of[b] <= from) continue;
                const vec px = x_of(b), py = y_of(b);
                vec T = clear[b], S = behind[b], slope[FEATURES];
                const ivec end = ends[b];
                for (int k = 0; k < FEATURES; ++k)
                    slope[k] = slopes[b * FEATURES + k];
                const unsigned char* list = lists + b * CHUNK;
                for (int j = counts[b] - 1; j >= 0; --j) {
                    const int i = list[j];
                    const REAL* row = rows + i * (ROW + 1);
#include "splat_compositing_exponent.h"
                    const ivec hit = (sigma <= row[ROW]) & (end > (ivec)(from + i));
                    if (!any(hit)) continue;
                    const vec raw = row[5] * power(-sigma);
                    const vec alpha = raw > (REAL)0.999 ? (vec)(REAL)0.999 : raw;
                    const vec inverse = (REAL)1 / ((REAL)1 - alpha);
                    T = hit ? T * inverse : T;
                    const vec weight = hit ? alpha * T : (vec)(REAL)0;
                    vec s = slope[0] * row[GEOMETRY];
                    for (int k = 1; k < FEATURES; ++k)
                        s += slope[k] * row[GEOMETRY + k];
                    const vec pull = T * s - S * inverse;
                    S += weight * s;
                    // dL/dsigma, which is zero where alpha was cut off.
                    const vec g = (hit & (raw <= (REAL)0.999)) ? -alpha * pull : (vec)(REAL)0;
                    vec t[SUMS];
                    t[0] = g * dx;
                    t[1] = g * dy;
                    t[2] = t[0] * dx;
                    t[3] = t[0] * dy;
                    t[4] = t[1] * dy;
                    t[5] = g;
                    for (int k = 0; k < FEATURES; ++k)
                        t[GEOMETRY + k] = weight * slope[k];
#if ABSOLUTE
                    const vec pull_x = row[2] * t[0] + row[3] * t[1];
                    const vec pull_y = row[3] * t[0] + row[4] * t[1];
                    t[ROW] = pull_x < (REAL)0 ? -pull_x : pull_x;
                    t[ROW + 1] = pull_y < (REAL)0 ? -pull_y : pull_y;
#endif
                    for (int k = OUT; k < SUMS; ++k)
                        t[k] = (vec)(REAL)0;
                    for (int k = 0; k < SUMS; k += 16) {
                        const vec* u = t + k;
                        const vec a = FOLD4(FOLD8(u[0], u[1]), FOLD8(u[2], u[3]));
                        const vec c = FOLD4(FOLD8(u[4], u[5]), FOLD8(u[6], u[7]));
                        const vec d = FOLD4(FOLD8(u[8], u[9]), FOLD8(u[10], u[11]));
                        const vec e = FOLD4(FOLD8(u[12], u[13]), FOLD8(u[14], u[15]));
                        const vec sum = FOLD1(FOLD2(a, c), FOLD2(d, e));
                        REAL* place = gains + i * SUMS + k;
                        vec old;
                        __builtin_memcpy(&old, place, sizeof(vec));
                        old += sum;
                        __builtin_memcpy(place, &old, sizeof(vec));
                    }
                }
                clear[b] = T;
                behind[b] = S;
            }
            for (int i = 0; i < count; ++i) {
                const REAL* row = rows + i * (ROW + 1);
                const REAL* gain = gains + i * SUMS;
                const long long pair = entry[2 * (from + i) + 1];
                REAL* out = (REAL*)dpairs + (((const long long*)bases)[view] + pair) * OUT;
                put(out[0], -(row[2] * gain[0] + row[3] * gain[1]));
                put(out[1], -(row[3] * gain[0] + row[4] * gain[1]));
                put(out[2], (REAL)0.5 * gain[2]);
                put(out[3], gain[3]);
                put(out[4], (REAL)0.5 * gain[4]);
                put(out[5], -gain[5] / row[5]);
                for (int k = 0; k < FEATURES; ++k)
                    put(out[GEOMETRY + k], gain[GEOMETRY + k]);
                for (int k = ROW; k < OUT; ++k)
                    put(out[k], gain[k]);
            }
        }
#if MEDIAN >= 0
        for (int b = 0; b < 16; ++b)
            for (int l = 0; l < 16; ++l) {
                const long long pixel = locate(b, l);
                if (pixel < 0) continue;
                const int at = ((const int*)median)[pixel];
                if (at < 0) continue;
                const long long pair = ((const long long*)bases)[view] + entry[2 * at + 1];
                ((REAL*)dpairs)[pair * OUT + GEOMETRY + MEDIAN] +=
                    ((const REAL*)dimages)[lift + pixel + (FEATURES + 1) * plane];
            }
#endif
    }
}
