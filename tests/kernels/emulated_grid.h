// A CUDA device for one kernel, emulated on a CPU: the grid's variables, and atomic additions.
//
// It comes between Warp's headers and the source that Warp generates for CUDA. Every thread of the
// grid runs by itself, so that kernels with barriers, shuffles or shared memory do not compile.
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
