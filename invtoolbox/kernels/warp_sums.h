// Store the sum of term(k) over the threads of a warp in gain[k], for k from 0 to OUT - 1, given
// `hit`: whether the thread has terms other than 0.
//
// Sixteen terms at a time: at each step a thread sends one half of its terms to the thread across
// and adds the half that it receives, so that after four steps each thread holds one term. That
// takes 16 exchanges in place of 80 for sixteen sums in turn. Every index is known at compile time,
// which keeps the terms in registers.
#if WARP == 1
for (int k = 0; k < OUT; ++k)
    gain[k] = hit ? term(k) : (REAL)0;
#else
#define HALVE(HALF)                                                         \
    {                                                                       \
        const bool upper = lane & 2 * HALF;                                 \
        _Pragma("unroll") for (int k = 0; k < HALF; ++k) {                  \
            const REAL sent = upper ? part[k] : part[k + HALF];             \
            const REAL stays = upper ? part[k + HALF] : part[k];            \
            part[k] = stays + __shfl_xor_sync(0xffffffffu, sent, 2 * HALF); \
        }                                                                   \
    }
const int lane = thread % WARP;
if (!any_of_warp(hit)) {
    for (int k = lane; k < OUT; k += WARP)
        gain[k] = (REAL)0;
    continue;
}
#pragma unroll
for (int first = 0; first < OUT; first += 16) {
    REAL part[16];
#pragma unroll
    for (int k = 0; k < 16; ++k)
        part[k] = hit && first + k < OUT ? term(first + k) : (REAL)0;
    HALVE(8)
    HALVE(4)
    HALVE(2)
    HALVE(1)
    const REAL sum = part[0] + __shfl_xor_sync(0xffffffffu, part[0], 1);
    if (lane % 2 == 0 && first + lane / 2 < OUT) gain[first + lane / 2] = sum;
}
#endif
