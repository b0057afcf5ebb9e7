// The transpose of slab_project_aligned.h.
#include "slab_aligned.h"
for (int r = 0; r < here; r += LANES) {
    const vec at = lane + (REAL)r, steep = steep0 + steep1 * at;
    const vec length = __builtin_elementwise_sqrt(flat + steep * steep);
    const auto inside = (at >= (REAL)ra) & (at < (REAL)rb);
    store(values + r, inside ? length * load(values + r) : (vec)(REAL)0);
}
// Voxel i gets the cells r with |za + zb r - i| < 1, of which there are at most `terms`: those from
// the first one with za + zb r > i - 1 (zb > 0) or < i + 1 (zb < 0). Vectors begin at a multiple of
// their length from the first voxel, which is number 2.
INTEGER voxels[PLANES], ends[PLANES], most_terms[PLANES];
REAL pers[PLANES], shifts[PLANES], edges[PLANES];
for (int k = 0; k < to - from; k += LANES) {
    const vec za = load(places + k), zb = load(gaps + k);
    const vec begin = za + zb * (REAL)ra, end = za + zb * (REAL)(rb - 1);
    vec low = begin < end ? begin : end, high = (begin < end ? end : begin) + (REAL)1;
    // Also false for numbers that are not.
    const auto inside = (low < last_b) & (high > (REAL)2);
    low = low > (REAL)2 ? low : (vec)(REAL)2;
    low = low < last_b ? low : (vec)last_b;
    high = high < last_b - (REAL)1 ? high : (vec)(last_b - (REAL)1);
    high = inside ? high : (vec)(REAL)0;
    vec size_z = zb < (REAL)0 ? -zb : zb;
    size_z = size_z > (REAL)0.02 ? size_z : (vec)(REAL)0.02;
    const ivec first =
        (__builtin_convertvector(low, ivec) - 2) / (INTEGER)LANES * (INTEGER)LANES + 2;
    const ivec last = __builtin_convertvector(high, ivec) + 1;
    const ivec terms = __builtin_convertvector((REAL)2 / size_z + (REAL)0.9999, ivec);
    __builtin_memcpy(voxels + k, &first, sizeof(ivec));
    __builtin_memcpy(ends + k, &last, sizeof(ivec));
    __builtin_memcpy(most_terms + k, &terms, sizeof(ivec));
    // The first cell of voxel i is per i + shift, truncated, minus MARGIN (MARGIN keeps it
    // positive); `edge` is the lowest lane's minus what rounding could add.
    const vec per = (REAL)1 / zb, one = zb > (REAL)0 ? (vec)(REAL)1 : (vec)(REAL)-1;
    const vec shift = (REAL)(MARGIN + 1) - (za + one) * per;
    store(pers + k, per);
    store(shifts + k, shift);
    store(edges + k, shift - (REAL)0.01 + (per < (REAL)0 ? per : (vec)(REAL)0) * (REAL)(LANES - 1));
}
for (int k = 0; k < to - from; ++k) {
    const int terms = (int)most_terms[k], i_end = (int)ends[k];
    const REAL wa = weights[k], za = places[k], zb = gaps[k];
    const REAL size_z = zb < (REAL)0 ? -zb : zb;
    REAL* line = mine + FRONT + (from + k - k_first) * plane + lines[k] * stride;
    REAL* next = line + stride;
    if (size_z > (REAL)0.02) {
        const REAL per = pers[k], shift = shifts[k], edge = edges[k];
        const REAL reach = (per < (REAL)0 ? -per : per) * (REAL)(LANES - 1);
        const REAL* cells = values - MARGIN;
        // Add `number` terms; `whole`: their cells lie in two vectors; `half`: in one and a half.
        auto spread = [&](int number, bool whole, bool half) __attribute__((always_inline)) {
            for (int i = (int)voxels[k]; i < i_end; i += LANES) {
                const vec at = lane + (REAL)i;
                const ivec r = __builtin_convertvector(at * per + shift, ivec);
                const int r0 = (int)(edge + per * (REAL)i);
                const ivec index = keep(r - (INTEGER)r0);
                // Without the margin first: zb MARGIN would cost digits of the position.
                const vec cell = __builtin_convertvector(r, vec) - (REAL)MARGIN;
                vec offset = zb * cell + (za - at);
                vec low, high;
                if (whole) {
                    low = load(cells + r0);
                    high = half ? load_half(cells + r0 + LANES) : load(cells + r0 + LANES);
                }
                vec sum = (vec)(REAL)0;
                for (int term = 0; term < number; ++term, offset += zb) {
                    vec weight = (REAL)1 - __builtin_elementwise_abs(offset);
                    weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                    if (whole) {
                        sum += weight * pick(low, high, index + (INTEGER)term);
                        continue;
                    }
                    ivec far = r + (INTEGER)term;
                    far = far > (INTEGER)(MARGIN - 1) ? far : (ivec)(INTEGER)(MARGIN - 1);
                    far = far < (INTEGER)(MARGIN + ROWS) ? far : (ivec)(INTEGER)(MARGIN + ROWS);
                    vec value;
                    for (int l = 0; l < LANES; ++l)
                        value[l] = cells[far[l]];
                    sum += weight * value;
                }
                store(line + i, load(line + i) + ((REAL)1 - wa) * sum);
                store(next + i, load(next + i) + wa * sum);
            }
        };
        if (reach + (REAL)(terms - 1) > (REAL)(2 * LANES) - (REAL)2.25) spread(terms, false, false);
        else if (terms == 2) spread(2, true, true);
        else if (terms == 3) spread(3, true, false);
        else spread(terms, true, false);
    } else {
        for (int r = ra; r < rb; ++r) {
            REAL z = za + zb * (REAL)r;
            z = z > (REAL)0 ? z : (REAL)0;
            z = z < last_b ? z : last_b;
            const int i = (int)z;
            const REAL w = z - (REAL)i;
            const REAL above = wa * values[r], below = values[r] - above;
            const REAL right = w * below, right_above = w * above;
            line[i] += below - right;
            line[i + 1] += right;
            next[i] += above - right_above;
            next[i + 1] += right_above;
        }
    }
}
