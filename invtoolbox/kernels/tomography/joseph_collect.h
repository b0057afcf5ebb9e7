// Parallel rays of neighbouring cells of one view, equally spaced up to the rounding: a pixel
// collects the cells that lie less than one pixel away. Only where all weights of a vector of
// pixels come from two vectors of cells; other rays are followed one by one.
if (k >= tried) {
    const int many = least(CELLS, least(detectors - r % detectors, end - k));
    const REAL* o = (const REAL*)offsets + r;
    tried = k + many;
    const double gap_d = many > 1 ? ((double)o[many - 1] - (double)o[0]) / (double)(many - 1) : 0.0;
    const REAL gap = (REAL)(gap_d < 0.0 ? -gap_d : gap_d), per = (REAL)1 / gap;
    const int terms = gap > (REAL)0.5 ? most(1, (int)((REAL)2 / gap + (REAL)0.9999)) : 4;
    bool even = gap > (REAL)0.5 && ((const int*)order)[k + many - 1] == r + many - 1 &&
                per * (REAL)(LANES - 1) + (REAL)terms <= (REAL)(2 * LANES - 3);
    if (even) {
        const double size0 = fabs((double)o[0]), size1 = fabs((double)o[many - 1]);
        const double bound = 4.0 * ROUNDING * (1.0 + (size0 > size1 ? size0 : size1));
        int odd = 0;
        for (int d = 0; d < many; ++d) {
            odd |= ((const REAL*)slopes_in)[r + d] != slope;
            odd |= !(fabs((double)o[d] - ((double)o[0] + gap_d * (double)d)) <= bound);
        }
        even = !odd;
    }
    if (even) {
        // Positions rise along the cells.
        const REAL* c = (const REAL*)coefficients + r;
        const REAL* y = all_y + (size_t)r * IMAGES;
        auto copy = [&](int to, const int step) __attribute__((always_inline)) {
            for (int d = 0; d < many; ++d, to += step) {
                cell_starts[to] = o[d] + shift;
                for (int l = 0; l < IMAGES; ++l)
                    cells[to * IMAGES + l] = c[d] * y[d * IMAGES + l];
            }
        };
        if (gap_d > 0.0) copy(MARGIN, 1);
        else copy(MARGIN + many - 1, -1);
        for (int n = (MARGIN + many) * IMAGES; n < (2 * MARGIN + many) * IMAGES; ++n)
            cells[n] = (REAL)0;
        const vec tilt = (vec)slope;
        auto collect = [&](const int number) __attribute__((always_inline)) {
            for (int m = 0; m < LINES; ++m) {
                const REAL along = (REAL)(first + m) - middle;
                const REAL lowest = cell_starts[MARGIN] + slope * along;
                REAL highest = cell_starts[MARGIN + many - 1] + slope * along;
                if (!(highest > (REAL)1 && lowest < last)) continue;
                highest = highest < (REAL)(across + 1) ? highest : (REAL)(across + 1);
                // The first cell of pixel p is p per + from, truncated.
                const REAL from = ((REAL)-1 - lowest) * per + (REAL)(MARGIN + 1);
                const int p_end = least((int)highest + 2, across + 2);
                int p = lowest > (REAL)2 ? ((int)lowest - 2) / LANES * LANES + 2 : 2;
                REAL* pixel = block_out + m * stride + p * IMAGES;
                // Weights come first, for RUN pixels at a time: they are read one by one afterwards, which
                // has to wait for stores that are too recent.
                const int RUN = IMAGES == 1 ? LANES : 8 * LANES;
                for (; p < p_end; p += RUN, pixel += RUN * IMAGES) {
                    INTEGER numbers[RUN];
                    REAL factors[4 * RUN];
                    for (int q = 0; q < least(RUN, p_end - p); q += LANES) {
                        const vec at = lane + (REAL)(p + q);
                        const ivec n = __builtin_convertvector(at * per + from, ivec);
                        const int n0 = (int)n[0];
                        const ivec index = keep(n - (INTEGER)n0);
                        const vec low = load(cell_starts + n0), high = load(cell_starts + n0 + LANES);
                        const vec a = load(cells + n0), b = load(cells + n0 + LANES);
                        vec sum = (vec)(REAL)0;
#pragma unroll
                        for (int t = 0; t < number; ++t) {
                            const ivec entry = index + (INTEGER)t;
                            vec weight = pick(low, high, entry) + tilt * along - at;
                            weight = (REAL)1 - __builtin_elementwise_abs(weight);
                            weight = weight > (REAL)0 ? weight : (vec)(REAL)0;
                            if (IMAGES == 1) sum += weight * pick(a, b, entry);
                            else store(factors + t * RUN + q, weight);
                        }
                        if (IMAGES > 1) {
                            __builtin_memcpy(numbers + q, &n, sizeof(ivec));
                        } else if (p + LANES <= across + 4) {
                            store(pixel, load(pixel) + sum);
                        } else {
                            for (int l = 0; l < p_end - p; ++l)
                                pixel[l] += sum[l];
                        }
                    }
                    for (int q = 0; q < (IMAGES == 1 ? 0 : least(RUN, p_end - p)); ++q) {
                        const REAL* of = cells + numbers[q] * IMAGES;
                        pixels sum = (pixels)(REAL)0;
#pragma unroll
                        for (int t = 0; t < number; ++t)
                            sum += (pixels)factors[t * RUN + q] * load_pixels(of + t * IMAGES);
                        sum += load_pixels(pixel + q * IMAGES);
                        __builtin_memcpy(pixel + q * IMAGES, &sum, sizeof(pixels));
                    }
                }
            }
        };
        if (terms == 1) collect(1);
        else if (terms == 2) collect(2);
        else if (terms == 3) collect(3);
        else collect(4);
        k += many - 1;
        continue;
    }
}
