// A column whose rays share their path in the x-y plane: `ra` to `rb` are the rows that belong to
// this axis, and the ray of row r has the length sqrt(flat + (steep0 + steep1 r)^2) between two
// planes.
const double px = PARALLEL ? middle[A] : T[A], pm = PARALLEL ? middle[M] : T[M];
const double da = PARALLEL ? T[A] : middle[A], dm = PARALLEL ? T[M] : middle[M];
const bool own = AXIS == 0 ? fabs(dm) >= fabs(da) : fabs(da) < fabs(dm);
int ra = 0, rb = own && dm != 0.0 ? here : 0;
if (PARALLEL) {
    rb = fabs(T[2]) > fabs(dm) ? 0 : rb;
} else {
    while (ra < rb && fabs(fma(rp0 + (double)ra, T[11], middle[2])) > fabs(dm))
        ++ra;
    while (ra < rb && fabs(fma(rp0 + (double)(rb - 1), T[11], middle[2])) > fabs(dm))
        --rb;
}
if (ra == rb) continue;
const double inverse = 1.0 / dm, slope = da * inverse, start = px - slope * pm + shift_a;
const double z0 = (PARALLEL ? fma(rp0, T[11], middle[2]) : T[2]) + shift_b;
const double z1 = PARALLEL ? T[2] : fma(rp0, T[11], middle[2]);
const double spread0 = PARALLEL ? T[11] : 0.0, spread1 = PARALLEL ? 0.0 : T[11];
const double flat_d =
    (size[M] * size[M] * dm * dm + size[A] * size[A] * da * da) * inverse * inverse;
const REAL flat = (REAL)flat_d;
const REAL steep0 = (REAL)(size[2] * z1 * inverse), steep1 = (REAL)(size[2] * spread1 * inverse);
// The planes on which the column is inside the slab, with one to spare on either side.
int from = k_first, to = k_first + planes;
if (slope != 0.0) {
    const double p = -start / slope + middle_m, q = ((double)last_a - start) / slope + middle_m;
    const double low = (p < q ? p : q) - 1.0, high = (p < q ? q : p) + 2.0;
    from = low > (double)from ? (low < (double)to ? (int)low : to) : from;
    to = high < (double)to ? (high > (double)from ? (int)high : from) : to;
} else if (start <= 0.0 || start >= (double)last_a) {
    to = from;
}
if (from >= to) continue;
// All planes at once, counted from `from`: line `lines` and weight between lines, and the position
// places + gaps r along them.
typedef double wide __attribute__((ext_vector_type(LANES)));
INTEGER lines[PLANES];
REAL weights[PLANES], places[PLANES], gaps[PLANES];
for (int k = 0; k < to - from; k += LANES) {
    const wide t = __builtin_convertvector(lane + (REAL)(from + k), wide) - middle_m;
    const wide reach = (t - pm) * inverse;
    vec xa = __builtin_convertvector(start + slope * t, vec);
    xa = xa > (REAL)0 ? xa : (vec)(REAL)0;
    xa = xa < last_a ? xa : (vec)last_a;
    const ivec below = __builtin_convertvector(xa, ivec);
    __builtin_memcpy(lines + k, &below, sizeof(ivec));
    store(weights + k, xa - __builtin_convertvector(below, vec));
    store(places + k, __builtin_convertvector(z0 + reach * z1, vec));
    store(gaps + k, __builtin_convertvector(spread0 + reach * spread1, vec));
}
