// Arguments: SumArguments of splat_compositing.py.
//
// Sum the gradients of the pairs of PART splats: the pairs of one splat lie next to each other.
const long long first = (long long)part * PART;
const long long last = first + PART < splats ? first + PART : splats;
for (long long n = first; n < last; ++n) {
    REAL* out = (REAL*)dsplats + n * ROW;
    const long long from = ((const long long*)pairs)[n];
    const int share = ((const int*)shares)[n];
    for (int k = 0; k < ROW; ++k)
        out[k] = (REAL)0;
    for (int j = 0; j < share; ++j)
        for (int k = 0; k < ROW; ++k)
            out[k] += ((const REAL*)dpairs)[(from + j) * ROW + k];
}
