// Vectors of LANES numbers and operations on them, for kernels that only run on a CPU.
// Neighbouring cells need neighbouring voxels, so vectors are loaded and permuted, never gathered.
#if SINGLE
#define INTEGER int
#define PERMUTE __builtin_ia32_vpermi2varps512
#define ROOT __builtin_sqrtf
#else
#define INTEGER long long
#define PERMUTE __builtin_ia32_vpermi2varpd512
#define ROOT __builtin_sqrt
#endif
#if defined(__AVX512F__)
#define LANES (64 / (int)sizeof(REAL))
#else
#define LANES (32 / (int)sizeof(REAL))
#endif
typedef REAL vec __attribute__((ext_vector_type(LANES)));
typedef INTEGER ivec __attribute__((ext_vector_type(LANES)));
typedef REAL raw __attribute__((vector_size(LANES * sizeof(REAL))));
typedef INTEGER raw_index __attribute__((vector_size(LANES * sizeof(REAL))));
ivec count;
for (int l = 0; l < LANES; ++l)
    count[l] = l;
// 0, 1, ..., LANES - 1.
const vec lane = __builtin_convertvector(count, vec);
auto load = [](const REAL* from) {
    vec value;
    __builtin_memcpy(&value, from, sizeof(vec));
    return value;
};
// The first half of a vector, and zeros.
auto load_half = [](const REAL* from) {
    vec value = (vec)(REAL)0;
    __builtin_memcpy(&value, from, sizeof(vec) / 2);
    return value;
};
auto store = [](REAL* to, vec value) { __builtin_memcpy(to, &value, sizeof(vec)); };
// Entries `index` (0 to 2 LANES - 1) of the two vectors.
auto pick = [](vec first, vec second, ivec index) {
#if defined(__AVX512F__)
    return (vec)PERMUTE((raw)first, (raw_index)index, (raw)second);
#elif defined(__AVX2__) && SINGLE
    const vec low = (vec)__builtin_ia32_permvarsf256((raw)first, (raw_index)index);
    const vec high = (vec)__builtin_ia32_permvarsf256((raw)second, (raw_index)index);
    return index < LANES ? low : high;
#else
    REAL both[2 * LANES];
    __builtin_memcpy(both, &first, sizeof(vec));
    __builtin_memcpy(both + LANES, &second, sizeof(vec));
    vec value;
    for (int l = 0; l < LANES; ++l)
        value[l] = both[index[l]];
    return value;
#endif
};
// The same index: a compiler would otherwise turn `index + 1` into two more broadcasts.
auto keep = [](ivec index) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(index));
#endif
    return index;
};
// Transpose a square of LANES vectors: squares of 2, 4, ... entries trade their corners.
auto turn = [&](vec* square) __attribute__((always_inline)) {
#pragma unroll
    for (int s = 1; s < LANES; s *= 2) {
        const ivec first = count + count / (INTEGER)s % 2 * (INTEGER)(LANES - s);
        const ivec second = first + (INTEGER)s;
#pragma unroll
        for (int l = 0; l < LANES; ++l) {
            if (l & s) continue;
            const vec top = square[l], bottom = square[l + s];
            square[l] = pick(top, bottom, first);
            square[l + s] = pick(top, bottom, second);
        }
    }
};
auto least = [](int p, int q) { return p < q ? p : q; };
auto most = [](int p, int q) { return p < q ? q : p; };
