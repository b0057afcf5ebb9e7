// Count the bytes that a kernel reads from tensors and writes to them.
//
// The compiler calls these functions at every access to memory, if it compiles for ThreadSanitizer,
// whose library is not linked. An access counts if its address lies in a tensor.
#include <unordered_set>

namespace emulated {

struct Tensor {
    size_t begin, end;
    // Bytes read and written by threads; bytes of different words that a warp and that a block
    // reads.
    long long read, written, read_by_warps, read_by_blocks;
};
static Tensor tensors[64];
static int number_of_tensors = 0;
static std::unordered_set<size_t> words[2];  // of the warps and of the block
static unsigned block_of_words = ~0u;
static bool counting = false;

UNSEEN static void count(const void* place, size_t size, bool write) {
    if (counting) return;  // the accesses of this function
    counting = true;
    const size_t address = (size_t)place;
    for (int k = 0; k < number_of_tensors; ++k) {
        Tensor& tensor = tensors[k];
        if (address < tensor.begin || address >= tensor.end) continue;
        (write ? tensor.written : tensor.read) += (long long)size;
        if (write) continue;
        if (blockIdx.x != block_of_words) {
            words[0].clear();
            words[1].clear();
            block_of_words = blockIdx.x;
        }
        const size_t warp = (size_t)(threadIdx.x / 32) << 58;
        for (size_t word = address / 4; word < (address + size + 3) / 4; ++word) {
            tensor.read_by_warps += 4 * words[0].insert(warp | word).second;
            tensor.read_by_blocks += 4 * words[1].insert(word).second;
        }
    }
    counting = false;
}

}  // namespace emulated

extern "C" {
UNSEEN void watch(int number, const unsigned long long* begins, const unsigned long long* ends) {
    emulated::number_of_tensors = number;
    emulated::block_of_words = ~0u;
    for (int k = 0; k < number; ++k)
        emulated::tensors[k] = {(size_t)begins[k], (size_t)ends[k], 0, 0, 0, 0};
}
UNSEEN void counted(long long* numbers) {
    for (int k = 0; k < emulated::number_of_tensors; ++k, numbers += 4) {
        const emulated::Tensor& tensor = emulated::tensors[k];
        numbers[0] = tensor.read;
        numbers[1] = tensor.written;
        numbers[2] = tensor.read_by_warps;
        numbers[3] = tensor.read_by_blocks;
    }
}

UNSEEN void __tsan_init() {}
UNSEEN void __tsan_func_entry(void*) {}
UNSEEN void __tsan_func_exit() {}
UNSEEN void __tsan_vptr_update(void**, void*) {}
UNSEEN void __tsan_vptr_read(void**) {}
UNSEEN void __tsan_read_range(void* place, size_t size) { emulated::count(place, size, false); }
UNSEEN void __tsan_write_range(void* place, size_t size) { emulated::count(place, size, true); }
#define COUNT(SIZE)                                                                        \
    UNSEEN void __tsan_read##SIZE(void* place) { emulated::count(place, SIZE, false); }    \
    UNSEEN void __tsan_write##SIZE(void* place) { emulated::count(place, SIZE, true); }    \
    UNSEEN void __tsan_unaligned_read##SIZE(void* p) { emulated::count(p, SIZE, false); }  \
    UNSEEN void __tsan_unaligned_write##SIZE(void* p) { emulated::count(p, SIZE, true); }
COUNT(1)
COUNT(2)
COUNT(4)
COUNT(8)
COUNT(16)
// An atomic addition reads and writes.
#define ATOMIC(BITS, TYPE)                                                                       \
    UNSEEN TYPE __tsan_atomic##BITS##_load(const volatile TYPE* place, int) {                    \
        return __atomic_load_n(place, __ATOMIC_SEQ_CST);                                         \
    }                                                                                            \
    UNSEEN void __tsan_atomic##BITS##_store(volatile TYPE* place, TYPE value, int) {             \
        __atomic_store_n(place, value, __ATOMIC_SEQ_CST);                                        \
    }                                                                                            \
    UNSEEN TYPE __tsan_atomic##BITS##_exchange(volatile TYPE* place, TYPE value, int) {          \
        return __atomic_exchange_n(place, value, __ATOMIC_SEQ_CST);                              \
    }                                                                                            \
    UNSEEN TYPE __tsan_atomic##BITS##_fetch_add(volatile TYPE* place, TYPE value, int) {         \
        return __atomic_fetch_add(place, value, __ATOMIC_SEQ_CST);                               \
    }                                                                                            \
    UNSEEN int __tsan_atomic##BITS##_compare_exchange_weak(                                      \
        volatile TYPE* place, TYPE* expected, TYPE value, int, int) {                            \
        emulated::count((const void*)place, BITS / 8, false);                                    \
        emulated::count((const void*)place, BITS / 8, true);                                     \
        return __atomic_compare_exchange_n(                                                      \
            place, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
    }                                                                                            \
    UNSEEN int __tsan_atomic##BITS##_compare_exchange_strong(                                    \
        volatile TYPE* place, TYPE* expected, TYPE value, int, int) {                            \
        return __tsan_atomic##BITS##_compare_exchange_weak(place, expected, value, 0, 0);        \
    }
ATOMIC(8, unsigned char)
ATOMIC(32, unsigned int)
ATOMIC(64, unsigned long long)
}
