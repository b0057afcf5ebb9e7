// A block of threads that cooperate, emulated by fibers that take turns on one thread of the CPU.
//
// A fiber runs until it waits for others. Warps and the block go on when all of their fibers wait
// at the same line. Fibers of one block do not run at the same time, but ThreadSanitizer takes them
// for threads that only a barrier of the block orders: it reports what is written before and read
// after a place where a barrier is missing. In a random order of the fibers, the result differs as
// well.
#include <sanitizer/common_interface_defs.h>
#if defined(__SANITIZE_THREAD__) && !defined(COUNTS)
#define FIBERS_OF_TSAN 1
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#else
#define FIBERS_OF_TSAN 0
#endif
// The scheduler is not part of what the sanitizer watches.
#define UNSEEN __attribute__((no_sanitize("thread"), noinline))

// Store the place on the stack in *from, and go on at the place `to` on another stack.
extern "C" __attribute__((visibility("hidden"))) void emulated_switch(void** from, void* to);
asm(R"(
.text
.hidden emulated_switch
.globl emulated_switch
.type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulated_switch, .-emulated_switch
)");

namespace emulated {

constexpr unsigned LARGEST = 1024, WARP_SIZE = 32, STACK = 1 << 17;

struct Fiber {
    void* place;
    char* stack;
    void* of_tsan;
    void* of_asan;
    enum State { READY, AT_BLOCK, AT_WARP, DONE } state;
    int line;
    unsigned char turns[2];  // number of waits, modulo 2, for the block and for the warp
};

struct Block {
    Fiber fibers[LARGEST];
    unsigned long long given[2][2][LARGEST];  // by the group, the turn and the thread
    char barriers[2];                         // by the turn; their addresses stand for them in TSan
    char begin, end;
    unsigned size, running;
    void (*entry)(void*);
    void* argument;
    void *place, *of_tsan, *of_asan;
    const void* stack;
    size_t stack_size;
};
static thread_local Block* current = nullptr;
// Why the last launch failed, or null.
static std::atomic<const char*> failure{nullptr};

UNSEEN static void leave(bool done) {
    Block& block = *current;
    Fiber& fiber = block.fibers[block.running];
#if FIBERS_OF_TSAN
    __tsan_switch_to_fiber(block.of_tsan, 1);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(done ? nullptr : &fiber.of_asan, block.stack, block.stack_size);
#endif
    emulated_switch(&fiber.place, block.place);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fiber.of_asan, nullptr, nullptr);
#endif
}

UNSEEN static void begin_fiber() {
    Block& block = *current;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &block.stack, &block.stack_size);
#endif
#if FIBERS_OF_TSAN
    __tsan_acquire(&block.begin);
#endif
    block.entry(block.argument);
#if FIBERS_OF_TSAN
    __tsan_release(&block.end);
#endif
    block.fibers[block.running].state = Fiber::DONE;
    leave(true);
}

UNSEEN static void resume(unsigned thread) {
    Block& block = *current;
    Fiber& fiber = block.fibers[thread];
    block.running = threadIdx.x = thread;
#if FIBERS_OF_TSAN
    __tsan_switch_to_fiber(fiber.of_tsan, 1);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&block.of_asan, fiber.stack, STACK);
#endif
    emulated_switch(&block.place, fiber.place);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(block.of_asan, nullptr, nullptr);
#endif
}

UNSEEN unsigned lane() { return current->running % WARP_SIZE; }

UNSEEN void wait(Group group, int line) {
    Block& block = *current;
    Fiber& fiber = block.fibers[block.running];
    fiber.state = group == BLOCK_OF_THREADS ? Fiber::AT_BLOCK : Fiber::AT_WARP;
    fiber.line = line;
    const unsigned turn = fiber.turns[group] ^= 1;
#if FIBERS_OF_TSAN
    // An exchange inside of a warp orders nothing.
    if (group == BLOCK_OF_THREADS) __tsan_release(&block.barriers[turn]);
#endif
    leave(false);
#if FIBERS_OF_TSAN
    if (group == BLOCK_OF_THREADS) __tsan_acquire(&block.barriers[turn]);
#endif
}

UNSEEN void give(Group group, unsigned long long number, int line) {
    Block& block = *current;
    block.given[group][block.fibers[block.running].turns[group] ^ 1][block.running] = number;
    wait(group, line);
}

UNSEEN unsigned long long take(Group group, unsigned thread) {
    const Block& block = *current;
    const unsigned first = group == BLOCK_OF_THREADS ? 0 : block.running / WARP_SIZE * WARP_SIZE;
    return block.given[group][block.fibers[block.running].turns[group]][first + thread];
}

UNSEEN bool any_given(Group group) {
    const unsigned size = group == BLOCK_OF_THREADS ? current->size : WARP_SIZE;
    for (unsigned thread = 0; thread < size; ++thread)
        if (take(group, thread)) return true;
    return false;
}

// Let the fibers from `first` to `last` go on if each of them waits in `state` or has ended, and
// return whether there was one.
UNSEEN static bool release(unsigned first, unsigned last, Fiber::State state) {
    Fiber* fibers = current->fibers;
    int line = 0;
    for (unsigned k = first; k < last; ++k) {
        if (fibers[k].state == Fiber::DONE) continue;
        if (fibers[k].state != state) return false;
        if (line && line != fibers[k].line) {
            failure = "threads of a block wait at different barriers";
            return false;
        }
        line = fibers[k].line;
    }
    for (unsigned k = first; k < last; ++k)
        if (fibers[k].state == state) fibers[k].state = Fiber::READY;
    return line != 0;
}

// Run entry(argument) on every thread of a block, each time in the given order.
UNSEEN static void run_block(
    const unsigned* order, unsigned size, void (*entry)(void*), void* argument) {
    if (!current) {
        current = (Block*)std::calloc(1, sizeof(Block));
        for (auto& fiber : current->fibers)
            fiber.stack = nullptr;
    }
    Block& block = *current;
    block.size = size;
    block.entry = entry;
    block.argument = argument;
#if FIBERS_OF_TSAN
    block.of_tsan = __tsan_get_current_fiber();
    __tsan_release(&block.begin);
#endif
    for (unsigned k = 0; k < size; ++k) {
        Fiber& fiber = block.fibers[k];
        if (!fiber.stack) {
            fiber.stack = (char*)std::aligned_alloc(64, STACK);
#if FIBERS_OF_TSAN
            fiber.of_tsan = __tsan_create_fiber(0);
#endif
        }
        // Six registers, where begin_fiber() returns to, and the alignment that a call has.
        void** top = (void**)(fiber.stack + STACK) - 8;
        top[6] = (void*)begin_fiber;
        top[7] = nullptr;
        fiber.place = top;
        fiber.state = Fiber::READY;
        fiber.turns[0] = fiber.turns[1] = 0;
    }
    for (bool some = true; some && !failure;) {
        for (unsigned k = 0; k < size; ++k)
            if (block.fibers[order[k]].state == Fiber::READY) resume(order[k]);
        some = release(0, size, Fiber::AT_BLOCK);
        for (unsigned first = 0; first < size; first += WARP_SIZE)
            some |= release(first, std::min(first + WARP_SIZE, size), Fiber::AT_WARP);
    }
    for (unsigned k = 0; k < size && !failure; ++k)
        if (block.fibers[k].state != Fiber::DONE)
            failure = "a barrier is not reached by every thread of a block";
#if FIBERS_OF_TSAN
    __tsan_acquire(&block.end);
#endif
}

}  // namespace emulated
