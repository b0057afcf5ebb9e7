// Arguments: GriddingArguments of gridding.py.
//
// Spread all samples of one image onto its grid, which holds zeros before: the transpose of
// gridding_gather.cpp, in the fixed order of the tiles, so that the bits depend on nothing else.
{
#pragma clang fp contract(fast)
    typedef REAL vec __attribute__((ext_vector_type(2 * SPAN_2)));
    const int pair_bytes = 2 * SPAN_2 * (int)sizeof(REAL);
    REAL* cells = (REAL*)grid;
    const REAL* in = (const REAL*)values;
    const int* places = (const int*)order;
    const int* corner = (const int*)corners;
    const REAL* taps = (const REAL*)weights;
    for (int m = 0; m < samples; ++m) {
        const int* p = corner + 3 * (long long)m;
        const REAL* u = taps + (SPAN_0 + SPAN_1 + SPAN_2) * (long long)m;
        const REAL *v = u + SPAN_0, *z = v + SPAN_1;
        const bool is_inside = p[2] + SPAN_2 <= size_2;
        vec product;
        for (int c = 0; c < SPAN_2; ++c) {
            product[2 * c] = z[c] * in[2 * (long long)places[m]];
            product[2 * c + 1] = z[c] * in[2 * (long long)places[m] + 1];
        }
        for (int a = 0; a < SPAN_0; ++a) {
            const long long i = p[0] + a < size_0 ? p[0] + a : p[0] + a - size_0;
            for (int b = 0; b < SPAN_1; ++b) {
                const long long j = p[1] + b < size_1 ? p[1] + b : p[1] + b - size_1;
                const REAL weight = u[a] * v[b];
                REAL* line = cells + 2 * (i * size_1 + j) * size_2;
                if (is_inside) {
                    vec cell;
                    __builtin_memcpy(&cell, line + 2 * p[2], pair_bytes);
                    cell += weight * product;
                    __builtin_memcpy(line + 2 * p[2], &cell, pair_bytes);
                } else
                    for (int c = 0; c < SPAN_2; ++c) {
                        const int k = p[2] + c < size_2 ? p[2] + c : p[2] + c - size_2;
                        line[2 * k] += weight * product[2 * c];
                        line[2 * k + 1] += weight * product[2 * c + 1];
                    }
            }
        }
    }
}
