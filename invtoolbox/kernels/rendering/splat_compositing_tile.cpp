// Arguments: CompositingArguments of splat_compositing.py.
//
// Composite the splats of one tile, or of the rays in it, front to back: the formula of
// splat_compositing.py.
//
// For the CPU only, because it uses Clang's vectors; CUDA runs splat_compositing_block.cpp. See
// splat_compositing_tile.h for the order of the work.
{
#include "splat_compositing_tile.h"
    for (; group < groups_end; group += 256) {
        load();
        vec clear[16], sums[16 * FEATURES];
        ivec ends[16], middles[16], open[16];
        int active = 0;
        for (int b = 0; b < 16; ++b) {
            clear[b] = (vec)(REAL)1;
            for (int k = 0; k < FEATURES; ++k)
                sums[b * FEATURES + k] = (vec)(REAL)0;
            ends[b] = (ivec)0;
            middles[b] = (ivec)(-1);
            const bool inside = locate(b, 0) >= 0;
            open[b] = inside ? (ivec)(-1) : (ivec)0;
            active += inside;
        }
        for (long long from = 0; from < total && active > 0; from += CHUNK) {
            const int count = total - from < CHUNK ? (int)(total - from) : CHUNK;
            gather(from, count);
            for (int b = 0; b < 16; ++b) {
                if (counts[b] == 0 || !any(open[b])) continue;
                const vec px = x_of(b), py = y_of(b);
                vec T = clear[b], sum[FEATURES];
                ivec end = ends[b], live = open[b];
#if MEDIAN >= 0
                ivec middle = middles[b];
#endif
                for (int k = 0; k < FEATURES; ++k)
                    sum[k] = sums[b * FEATURES + k];
                const unsigned char* list = lists + b * CHUNK;
                for (int j = 0; j < counts[b]; ++j) {
                    const int i = list[j];
                    const REAL* row = rows + i * (ROW + 1);
#include "splat_compositing_exponent.h"
                    ivec hit = (sigma <= row[ROW]) & live;
                    if (!any(hit)) continue;
                    vec alpha = row[5] * power(-sigma);
                    alpha = alpha > (REAL)0.999 ? (vec)(REAL)0.999 : alpha;
                    const vec next = T - T * alpha;
                    const ivec full = hit & (next <= (REAL)1e-4);
                    live = live & ~full;
                    hit = hit & ~full;
                    const vec weight = hit ? alpha * T : (vec)(REAL)0;
                    for (int k = 0; k < FEATURES; ++k)
                        sum[k] += weight * row[GEOMETRY + k];
#if MEDIAN >= 0
                    const ivec half = hit & (next <= (REAL)0.5) & (T > (REAL)0.5);
                    middle = half ? (ivec)(from + i) : middle;
#endif
                    T = hit ? next : T;
                    end = hit ? (ivec)(from + i + 1) : end;
                    if (any(full) && !any(live)) break;
                }
                clear[b] = T;
                ends[b] = end;
                open[b] = live;
#if MEDIAN >= 0
                middles[b] = middle;
#endif
                for (int k = 0; k < FEATURES; ++k)
                    sums[b * FEATURES + k] = sum[k];
                active -= !any(live);
            }
        }
        for (int b = 0; b < 16; ++b)
            for (int l = 0; l < 16; ++l) {
                const long long pixel = locate(b, l);
                if (pixel < 0) continue;
                REAL* out = (REAL*)images + lift + pixel;
                for (int k = 0; k < FEATURES; ++k)
                    out[k * plane] = sums[b * FEATURES + k][l];
                out[FEATURES * plane] = clear[b][l];
                ((int*)last)[pixel] = (int)ends[b][l];
#if MEDIAN >= 0
                const int at = (int)middles[b][l];
                ((int*)median)[pixel] = at;
                REAL depth = (REAL)0;
                if (at >= 0) {
                    const long long splat = (long long)view * splats_of_view + entry[2 * at];
                    depth = ((const REAL*)splats)[splat * ROW + GEOMETRY + MEDIAN];
                }
                out[(FEATURES + 1) * plane] = depth;
#endif
            }
    }
}
