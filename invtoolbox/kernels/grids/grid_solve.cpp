// Arguments: SolveArguments of grid_system.py.
//
// Solve one item's system M x = target by conjugate gradients from x = 0, with the diagonal of M as
// the preconditioner (Hestenes and Stiefel 1952).
//
// A row of M has five entries: (M u)_k = diagonal_k u_k - right_k u_(k+1) - right_(k-1) u_(k-1)
// - down_k u_(k+stride) - down_(k-stride) u_(k-stride), and, with CHANNELS == 2, - across_k u'_k
// with the other channel's u'.
//
// The arrays are copied into rows of `stride` values with a row of zeros above and below. Only the
// part of a row that holds pixels with an edge is visited, in groups of LANES; zeros beyond it do no
// harm. Sums are taken in LANES parts in a fixed order, which lets the compiler use vectors.
#define EACH_PIXEL                                                                                 \
    for (int c = 0; c < CHANNELS; ++c)                                                             \
        for (int row = 0; row < height; ++row)                                                     \
            for (long long k = spans[2 * row]; k < spans[2 * row + 1]; k += LANES)

const long long pixels = (long long)height * width, plane = (long long)(height + 2) * stride;
REAL *array[8 * CHANNELS], *A = 0;
REAL* base = (REAL*)scratch + task * (8 * CHANNELS + 1) * plane;
for (long long k = 0; k < (8 * CHANNELS + 1) * plane; ++k)
    base[k] = (REAL)0;
for (int a = 0; a < 8 * CHANNELS; ++a)
    array[a] = base + a * plane + stride;
REAL **D = array, **I = D + CHANNELS, **R = I + CHANNELS, **V = R + CHANNELS, **P = V + CHANNELS;
REAL **Q = P + CHANNELS, **S = Q + CHANNELS, **X = S + CHANNELS;
long long* spans = (long long*)bounds + (long long)task * 2 * height;
for (int row = 0; row < height; ++row) {
    int first = width, last = -1;
    for (int c = 0; c < CHANNELS; ++c)
        for (int j = 0; j < width; ++j) {
            const long long from = ((long long)task * CHANNELS + c) * pixels + row * width + j;
            const long long k = row * stride + LANES + j;
            const REAL d = ((const REAL*)diagonal)[from];
            if (!(d > (REAL)0)) continue;
            first = j < first ? j : first, last = j > last ? j : last;
            D[c][k] = d, I[c][k] = (REAL)1 / d;
            R[c][k] = ((const REAL*)right)[from], V[c][k] = ((const REAL*)down)[from];
            S[c][k] = ((const REAL*)target)[from];
        }
    spans[2 * row] = row * stride + LANES + first / LANES * LANES;
    spans[2 * row + 1] = last < 0 ? spans[2 * row] : row * stride + LANES + last + 1;
#if CHANNELS == 2
    A = base + 8 * CHANNELS * plane + stride;
    for (int j = 0; j < width; ++j)
        A[row * stride + LANES + j] = ((const REAL*)across)[task * pixels + row * width + j];
#endif
}

double rho = 0, size = 0;
EACH_PIXEL for (int l = 0; l < LANES; ++l) {
    const REAL s = S[c][k + l], z = s * I[c][k + l];
    P[c][k + l] = z;
    rho += (double)s * z;
    size += (double)s * s;
}
const double limit = ((const double*)goal)[task], bound = limit * limit;
int step = 0;
for (; step < steps && size > bound && rho > 0; ++step) {
    double curvature = 0;
    for (int c = 0; c < CHANNELS; ++c)
        for (int row = 0; row < height; ++row) {
            const REAL *r = R[c], *v = V[c], *p = P[c], *d = D[c];
            REAL* q = Q[c];
            REAL part[LANES] = {0};
            for (long long k = spans[2 * row]; k < spans[2 * row + 1]; k += LANES)
                for (int l = 0; l < LANES; ++l) {
                    const long long j = k + l;
                    REAL value = d[j] * p[j] - r[j] * p[j + 1] - r[j - 1] * p[j - 1] -
                                 v[j] * p[j + stride] - v[j - stride] * p[j - stride];
#if CHANNELS == 2
                    value -= A[j] * P[1 - c][j];
#endif
                    q[j] = value;
                    part[l] += value * p[j];
                }
            for (int l = 0; l < LANES; ++l)
                curvature += part[l];
        }
    if (!(curvature > 0)) break;
    const REAL alpha = (REAL)(rho / curvature);
    double next = 0;
    size = 0;
    for (int c = 0; c < CHANNELS; ++c)
        for (int row = 0; row < height; ++row) {
            const REAL *p = P[c], *q = Q[c], *inverse = I[c];
            REAL *x = X[c], *s = S[c];
            REAL part[LANES] = {0}, square[LANES] = {0};
            for (long long k = spans[2 * row]; k < spans[2 * row + 1]; k += LANES)
                for (int l = 0; l < LANES; ++l) {
                    const long long j = k + l;
                    x[j] += alpha * p[j];
                    const REAL left = s[j] - alpha * q[j];
                    s[j] = left;
                    part[l] += left * left * inverse[j];
                    square[l] += left * left;
                }
            for (int l = 0; l < LANES; ++l) {
                next += part[l];
                size += square[l];
            }
        }
    const REAL beta = (REAL)(next / rho);
    EACH_PIXEL {
        REAL* p = P[c];
        const REAL *s = S[c], *inverse = I[c];
        for (int l = 0; l < LANES; ++l)
            p[k + l] = s[k + l] * inverse[k + l] + beta * p[k + l];
    }
    rho = next;
}

for (int c = 0; c < CHANNELS; ++c)
    for (int row = 0; row < height; ++row)
        for (int j = 0; j < width; ++j)
            ((REAL*)answer)[((long long)task * CHANNELS + c) * pixels + row * width + j] =
                X[c][row * stride + LANES + j];
#undef EACH_PIXEL
