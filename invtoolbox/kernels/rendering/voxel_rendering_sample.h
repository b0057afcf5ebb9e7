// Sample number k at the distance t: its optical thickness tau, its weight w_k = T_k alpha_k, with
// T_k = light, and its color. Skipped samples continue the loop over k.
const REAL t = ((REAL)k + offset) * step;
int cell[3];
REAL f[3];
for (int x = 0; x < 3; ++x) {
    const REAL u = o[x] + t * d[x];
    int i = (int)u;
    i = i < 0 ? 0 : i;
    cell[x] = i = i < top[x] ? i : top[x] - 1;
    f[x] = u - (REAL)i;
}
if (clearance) {
    const int clear =
        ((const unsigned char*)clearance)[((size_t)cell[0] * top[1] + cell[1]) * top[2] + cell[2]];
    if (clear > 0) {
        // The cube of clear - 1 cells around this one is empty: continue where the ray leaves the
        // cube, or one sample before.
        REAL out = leave;
        for (int x = 0; x < 3; ++x) {
            if (d[x] == (REAL)0) continue;
            const REAL wall =
                d[x] > (REAL)0 ? (REAL)(cell[x] + clear) : (REAL)(cell[x] - clear + 1);
            const REAL way = (wall - o[x]) * inverse[x];
            out = way < out ? way : out;
        }
        const int next = (int)(out / step - offset);
        k = next > k + 1 ? next : k + 1;
        continue;
    }
}
++k;
const REAL e0 = (REAL)1 - f[0], e1 = (REAL)1 - f[1], e2 = (REAL)1 - f[2];
const REAL w[8] = {e0 * e1 * e2,   e0 * e1 * f[2],   e0 * f[1] * e2,   e0 * f[1] * f[2],
                   f[0] * e1 * e2, f[0] * e1 * f[2], f[0] * f[1] * e2, f[0] * f[1] * f[2]};
const size_t base = ((size_t)cell[0] * ny + cell[1]) * nz + cell[2];
const size_t near_row = base + nz, far_row = base + (size_t)ny * nz;
size_t at[8] = {base,    base + 1,    near_row,     near_row + 1,
                far_row, far_row + 1, far_row + nz, far_row + nz + 1};
if (numbers) {
    int absent = 0;
    for (int q = 0; q < 8; ++q) {
        const int kept = ((const int*)numbers)[at[q]];
        absent |= kept < 0;
        at[q] = (size_t)kept;
    }
    if (absent) continue;
}
REAL s = (REAL)0;
for (int q = 0; q < 8; ++q)
    s += w[q] * rho[at[q]];
if (s < (REAL)least) continue;
// tau = step scale softplus(s), and alpha = 1 - exp(-tau); by their series where the difference
// would lose digits.
const REAL small = EXP(s > (REAL)0 ? -s : s);
const REAL series =
    small * ((REAL)1 - small * ((REAL)0.5 - small * ((REAL)(1.0 / 3) - small * (REAL)0.25)));
const REAL logarithm = small < (REAL)1e-3 ? series : LOG((REAL)1 + small);
const REAL tau = step * scale * ((s > (REAL)0 ? s : (REAL)0) + logarithm);
const REAL passed = EXP(-tau);
const REAL alpha =
    tau < (REAL)1e-3
        ? tau * ((REAL)1 - tau * ((REAL)0.5 - tau * ((REAL)(1.0 / 6) - tau * (REAL)(1.0 / 24))))
        : (REAL)1 - passed;
const REAL weight = light * alpha;
#if CHANNELS > 0
// The color is the sigmoid of sum_b basis_b v_b.
REAL v[COLORS], raw[CHANNELS];
for (int c = 0; c < COLORS; ++c)
    v[c] = (REAL)0;
for (int q = 0; q < 8; ++q) {
    const REAL* node = field + at[q] * COLORS;
    for (int c = 0; c < COLORS; ++c)
        v[c] += w[q] * node[c];
}
for (int c = 0; c < CHANNELS; ++c) {
    REAL sum = (REAL)0;
    for (int b = 0; b < BASES; ++b)
        sum += basis[b] * v[b * CHANNELS + c];
    raw[c] = (REAL)1 / ((REAL)1 + EXP(-sum));
}
#endif
