// A CUDA device for one kernel, emulated on a CPU: the grid's variables, and atomic additions.
//
// It comes between Warp's headers and the source that Warp generates for CUDA. Kernels with shared
// memory run a block after the other, see emulated_block.h; of others every thread of the grid runs
// by itself.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <vector>

struct EmulatedIndex {
    unsigned x, y, z;
};
static thread_local EmulatedIndex threadIdx{}, blockIdx{}, blockDim{}, gridDim{};

#define __global__
#define __launch_bounds__(...)
// All threads of a block run on one thread of the CPU.
#define __shared__ static thread_local

namespace emulated {
// What threads wait for: all others of their block, or of their warp.
enum Group { BLOCK_OF_THREADS, WARP_OF_THREADS };
void wait(Group group, int line);
// Give a number to the other threads of the group, and wait until theirs are there.
void give(Group group, unsigned long long number, int line);
// Return the number of a thread, by its index in the block or warp, and whether any is not 0.
unsigned long long take(Group group, unsigned thread);
bool any_given(Group group);
unsigned lane();
}  // namespace emulated

inline int emulated_vote(emulated::Group group, bool flag, int line) {
    emulated::give(group, flag, line);
    return emulated::any_given(group);
}

template <class Number> inline Number emulated_exchange(Number number, int distance, int line) {
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &number, sizeof number);
    emulated::give(emulated::WARP_OF_THREADS, bits, line);
    bits = emulated::take(emulated::WARP_OF_THREADS, emulated::lane() ^ (unsigned)distance);
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

#define __syncthreads() emulated::wait(emulated::BLOCK_OF_THREADS, __LINE__)
#define __syncthreads_or(flag) emulated_vote(emulated::BLOCK_OF_THREADS, flag, __LINE__)
#define __any_sync(mask, flag) emulated_vote(emulated::WARP_OF_THREADS, flag, __LINE__)
#define __shfl_xor_sync(mask, number, distance) emulated_exchange(number, distance, __LINE__)

namespace emulated {
// How floating-point numbers are added. PLAIN is a fault on purpose, which ThreadSanitizer has to
// report; WIDE adds float32 terms in float64, on one thread.
enum Additions { ATOMIC, PLAIN, WIDE };
static int additions = ATOMIC;
static std::atomic<long long> float_additions{0};
static std::unordered_map<void*, double> wide_sums;
}  // namespace emulated

namespace wp {
// Warp reserves shared memory for tiles in every kernel; kernels of this project have no tiles.
struct emulated_tile_storage {
    static void init() {}
    static void bind(emulated_tile_storage*) {}
};

// Atomic addition of two numbers that may differ in type, as in CUDA's atomicAdd.
template <class Number, class Term> inline Number emulated_atomic_add(Number* place, Term term) {
    if (std::is_floating_point<Number>::value) emulated::float_additions++;
    if (emulated::additions == emulated::WIDE && std::is_same<Number, float>::value) {
        emulated::wide_sums.emplace(place, *place).first->second += (double)term;
        return *place;
    }
    if (emulated::additions == emulated::PLAIN) {
        const Number before = *place;
        *place = before + (Number)term;
        return before;
    }
    Number before, after;
    __atomic_load(place, &before, __ATOMIC_RELAXED);
    do {
        after = before + (Number)term;
    } while (!__atomic_compare_exchange(
        place, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return before;
}
}  // namespace wp

#define tile_shared_storage_t emulated_tile_storage
#define atomic_add emulated_atomic_add
