// The transpose of slab_project_aligned.h.
#include "slab_aligned.h"
for (int r = 0; r < here; ++r) {
    const REAL steep = steep0 + steep1 * (REAL)r;
    const REAL length = ROOT(flat + steep * steep);
    values[r] = r >= ra && r < rb ? length * values[r] : (REAL)0;
}
// Voxel i gets the cells r with |za + zb r - i| < 1, of which there are at most `terms`.
int voxels[PLANES], ends[PLANES], most_terms[PLANES];
for (int k = 0; k < to - from; ++k) {
    const REAL za = places[k], zb = gaps[k], width_z = zb < (REAL)0 ? -zb : zb;
    const REAL end = za + zb * (REAL)(rb - 1), begin = za + zb * (REAL)ra;
    REAL low = begin < end ? begin : end, high = (begin < end ? end : begin) + (REAL)1;
    low = low > (REAL)2 ? low : (REAL)2;
    low = low < last_b ? low : last_b;
    high = high < last_b ? high : last_b;
    high = high > (REAL)0 ? high : (REAL)0;
    voxels[k] = (int)low;
    ends[k] = (int)high + ((REAL)(int)high < high);
    const REAL terms = (REAL)2 / (width_z > (REAL)0.02 ? width_z : (REAL)0.02);
    most_terms[k] = (int)terms + ((REAL)(int)terms < terms);
}
for (int k = from; k < to; ++k) {
    const int j = (int)lines[k - from], terms = most_terms[k - from], i_end = ends[k - from];
    const REAL wa = weights[k - from], za = places[k - from], zb = gaps[k - from];
    const REAL width_z = zb < (REAL)0 ? -zb : zb;
    REAL* line = mine + FRONT + (k - k_first) * plane + j * stride;
    REAL* next = line + stride;
    if (width_z > (REAL)0.02) {
        const bool near = width_z * (REAL)(2 * LANES - 2) >= (REAL)(LANES - 1);
        const REAL per = (REAL)1 / zb, first = zb > (REAL)0 ? (za + (REAL)1) : (za - (REAL)1);
        for (int i = voxels[k - from]; i < i_end; i += LANES) {
            const vec at = lane + (REAL)i;
            // Rounded up: numbers are positive when they are truncated.
            const ivec r = __builtin_convertvector((at - first) * per + (REAL)(MARGIN + 1), ivec) -
                           (INTEGER)MARGIN;
            const int r0 = (int)(zb < (REAL)0 ? r[LANES - 1] : r[0]);
            const ivec index = r - (INTEGER)r0;
            vec offset = za + zb * __builtin_convertvector(r, vec) - at;
            const REAL* from_r = values + r0;
            vec sum = (vec)(REAL)0;
            for (int term = 0; term < terms; ++term) {
                vec weight = offset > (REAL)0 ? (REAL)1 - offset : (REAL)1 + offset;
                weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                if (near) {
                    sum += weight * pick(load(from_r + term), load(from_r + term + LANES), index);
                } else {
                    ivec far = r + (INTEGER)term;
                    far = far > (INTEGER)-1 ? far : (ivec)(INTEGER)-1;
                    far = far < (INTEGER)ROWS ? far : (ivec)(INTEGER)ROWS;
                    vec value;
                    for (int l = 0; l < LANES; ++l)
                        value[l] = values[far[l]];
                    sum += weight * value;
                }
                offset += zb;
            }
            const vec above = wa * sum;
            store(line + i, load(line + i) + (sum - above));
            store(next + i, load(next + i) + above);
        }
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
