// Arguments: GriddingArguments of gridding.py.
//
// Interpolate one image's grid at a block of samples: value_m = sum u_a v_b z_c grid[p + (a, b, c)],
// with the weights u, v and z of the three axes, SPAN_0, SPAN_1 and SPAN_2 of them, and indices that
// wrap around. Complex numbers are pairs. The sums over a and b are taken for every c side by side,
// in one vector.
{
#pragma clang fp contract(fast)
    typedef REAL vec __attribute__((ext_vector_type(2 * SPAN_2)));
    const int pair_bytes = 2 * SPAN_2 * (int)sizeof(REAL);
    const int begin = task * BLOCK;
    const int end = begin + BLOCK < samples ? begin + BLOCK : samples;
    const REAL* cells = (const REAL*)grid;
    REAL* out = (REAL*)values;
    const int* places = (const int*)order;
    const int* corner = (const int*)corners;
    const REAL* taps = (const REAL*)weights;
    for (int m = begin; m < end; ++m) {
        const int* p = corner + 3 * (long long)m;
        const REAL* u = taps + (SPAN_0 + SPAN_1 + SPAN_2) * (long long)m;
        const REAL *v = u + SPAN_0, *z = v + SPAN_1;
        const bool is_inside = p[2] + SPAN_2 <= size_2;
        vec sum = (vec)(REAL)0;
        for (int a = 0; a < SPAN_0; ++a) {
            const long long i = p[0] + a < size_0 ? p[0] + a : p[0] + a - size_0;
            for (int b = 0; b < SPAN_1; ++b) {
                const long long j = p[1] + b < size_1 ? p[1] + b : p[1] + b - size_1;
                const REAL* line = cells + 2 * (i * size_1 + j) * size_2;
                vec cell = (vec)(REAL)0;
                if (is_inside) __builtin_memcpy(&cell, line + 2 * p[2], pair_bytes);
                else
                    for (int c = 0; c < SPAN_2; ++c) {
                        const int k = p[2] + c < size_2 ? p[2] + c : p[2] + c - size_2;
                        cell[2 * c] = line[2 * k];
                        cell[2 * c + 1] = line[2 * k + 1];
                    }
                sum += u[a] * v[b] * cell;
            }
        }
        REAL real = (REAL)0, imaginary = (REAL)0;
        for (int c = 0; c < SPAN_2; ++c) {
            real += z[c] * sum[2 * c];
            imaginary += z[c] * sum[2 * c + 1];
        }
        out[2 * (long long)places[m]] = real;
        out[2 * (long long)places[m] + 1] = imaginary;
    }
}
