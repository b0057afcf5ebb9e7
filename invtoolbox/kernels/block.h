// A block of BLOCK threads that cooperate: on CUDA, and on Warp's blocks for the CPU, whose threads
// are fibers. The number of the thread is `thread`.
//
// SHARED(TYPE, NAME, COUNT) declares an array in the memory of the block. SYNC waits until every
// thread of the block is there; what they wrote to the memory of the block is visible then.
// any_of_block(flag) waits as well, and returns whether the flag of any thread is set. The threads
// of a warp run in step; any_of_warp(flag) returns whether one of their flags is set. On a CPU a
// warp is one thread.
const int thread = task % BLOCK;
#ifdef __CUDA_ARCH__
#define WARP 32
#define SHARED(TYPE, NAME, COUNT) alignas(16) __shared__ TYPE NAME[COUNT]
#define SYNC __syncthreads()
auto any_of_block = [](bool flag) { return __syncthreads_or(flag) != 0; };
auto any_of_warp = [](bool flag) { return __any_sync(0xffffffffu, flag) != 0; };
#else
#define WARP 1
#define SHARED(TYPE, NAME, COUNT)                 \
    wp::wp_block_shared<TYPE[COUNT]> NAME##_held; \
    TYPE* NAME = *NAME##_held
#define SYNC WP_TILE_SYNC()
SHARED(int, votes, 1);
auto any_of_block = [&](bool flag) {
    SYNC;
    if (thread == 0) votes[0] = 0;
    SYNC;
    if (flag) votes[0] = 1;
    SYNC;
    return votes[0] != 0;
};
auto any_of_warp = [](bool flag) { return flag; };
#endif
// The largest power of two up to `limit` of entries that fit into the memory of the block. 16 KiB per
// block leave room for eight blocks of 256 threads on an A100 and an H100; registers allow fewer of
// them. Warp's blocks for the CPU have 256 KiB.
constexpr auto entries_in_block = [](int bytes, int limit) {
    constexpr int room = WARP == 32 ? SHARED_BYTES : 12 * SHARED_BYTES;
    int count = limit;
    while (count > 1 && count * bytes > room)
        count /= 2;
    return count;
};
