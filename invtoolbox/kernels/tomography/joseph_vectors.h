// The samples of GROUP rays in vectors of LANES rays.
typedef REAL pixels __attribute__((ext_vector_type(IMAGES)));
for (int g = 0; g < GROUP; g += LANES) {
    // Rays whose pixels lie in two vectors from the lowest one's on, on every line: positions are
    // linear along the rays, so that the first and the last line decide. Clamping narrows them.
    auto near_first = [&]() {
        const vec start = load(starts + g), slope = load(slopes + g);
        const vec p = start + slope * ((REAL)from_all - middle);
        const vec q = start + slope * ((REAL)(to_all - 1) - middle);
        const vec a = p - p[0], b = q - q[0];
        return __builtin_reduce_min(a < b ? a : b) >= (REAL)-0.5 &&
               __builtin_reduce_max(a < b ? b : a) <= (REAL)(2 * LANES - 5);
    };
    bool near = IMAGES == 1 && across + 4 >= 2 * LANES && near_first();
    if (IMAGES == 1 && across + 4 >= 2 * LANES && !near) {
        for (int l = 0; l < LANES / 2; ++l) {
            const int a = g + l, b = g + LANES - 1 - l, ray = rays[a];
            const REAL start = starts[a], slope = slopes[a];
            rays[a] = rays[b], starts[a] = starts[b], slopes[a] = slopes[b];
            rays[b] = ray, starts[b] = start, slopes[b] = slope;
        }
        near = near_first();
    }
    const vec start = load(starts + g), slope = load(slopes + g);
    vec total0 = (vec)(REAL)0, total1 = total0, total2 = total0;
    pixels totals0[LANES], totals1[LANES], totals2[LANES];
#pragma unroll
    for (int l = 0; l < LANES; ++l)
        totals0[l] = totals1[l] = totals2[l] = (pixels)(REAL)0;
    auto place = [&](int j, vec& w) __attribute__((always_inline)) {
        vec x = start + slope * ((REAL)j - middle);
        x = x > (REAL)0 ? x : (vec)(REAL)0;
        x = x < last ? x : (vec)last;
        const ivec i = __builtin_convertvector(x, ivec);
        w = x - __builtin_convertvector(i, vec);
        return i;
    };
    const REAL* line = all_lines + (size_t)from_all * stride;
    for (int j = from_all; IMAGES == 1 && j < to_all; ++j, line += stride) {
        vec w, left, right;
        const ivec i = place(j, w);
        if (near) {
            const int i0 = most(0, least((int)i[0] - 1, across + 4 - 2 * LANES));
            const vec low = load(line + i0), high = load(line + i0 + LANES);
            const ivec index = keep(i - (INTEGER)i0);
            left = pick(low, high, index);
            right = pick(low, high, index + 1);
        } else {
            for (int l = 0; l < LANES; ++l) {
                left[l] = line[i[l]];
                right[l] = line[i[l] + 1];
            }
        }
        const vec difference = right - left;
        total0 += left + w * difference;
        if (MODE > 0) {
            total1 += difference;
            total2 += ((REAL)j - middle) * difference;
        }
    }
    // The places on RUN lines come first: reading them one by one has to wait for stores that are
    // too recent.
    const int RUN = 8;
    INTEGER places[RUN * LANES];
    REAL weights[RUN * LANES];
    for (int first_j = from_all; IMAGES > 1 && first_j < to_all; first_j += RUN) {
        const int j_end = least(first_j + RUN, to_all);
        for (int j = first_j; j < j_end; ++j) {
            vec w;
            const ivec i = place(j, w) * (INTEGER)IMAGES;
            __builtin_memcpy(places + (j - first_j) * LANES, &i, sizeof(ivec));
            store(weights + (j - first_j) * LANES, w);
        }
        for (int j = first_j; j < j_end; ++j, line += stride) {
#pragma unroll
            for (int l = 0; l < LANES; ++l) {
                const int k = (j - first_j) * LANES + l;
                pixels left, right;
                __builtin_memcpy(&left, line + places[k], sizeof(pixels));
                __builtin_memcpy(&right, line + places[k] + IMAGES, sizeof(pixels));
                const pixels difference = right - left, weight = weights[k];
                totals0[l] += left + weight * difference;
                if (MODE > 0) {
                    totals1[l] += difference;
                    totals2[l] += (pixels)((REAL)j - middle) * difference;
                }
            }
        }
    }
    if (IMAGES == 1) {
        store(sum0 + g, total0);
        store(sum1 + g, total1);
        store(sum2 + g, total2);
    } else {
        __builtin_memcpy(sum0 + g * IMAGES, totals0, sizeof totals0);
        __builtin_memcpy(sum1 + g * IMAGES, totals1, sizeof totals1);
        __builtin_memcpy(sum2 + g * IMAGES, totals2, sizeof totals2);
    }
}
