// Launch the kernel KERNEL on the emulated device. It comes behind the generated source.
//
// With HOST, KERNEL is the entry of the source that Warp generates for the CPU: the tasks run in
// their order. With STANDALONE, a program that reads a launch from its first argument, runs it, and
// writes the contents of the tensors into its second one. Each tensor is an allocation of exactly
// its size.

// Conversion of half precision, which lies in Warp's library. It stands before the next lines,
// because the source in float64 declares it as double.
extern "C" float wp_half_bits_to_float(uint16_t bits) {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return (float)value;
}

#undef float
#undef int

#include "emulated_block.h"
#ifdef COUNTS
#include "emulated_counts.h"
#endif

namespace emulated {

// Threads of the grid are drawn in parts by the threads of the CPU.
constexpr size_t PART = 16;

template <class Bounds, class Record>
void run(
    void (*kernel)(Bounds, Record, wp::int32),
    const void* record,
    size_t tasks,
    unsigned block,
    unsigned seed,
    int threads) {
    Record arguments;
    std::memcpy(static_cast<void*>(&arguments), record, sizeof arguments);
    Bounds bounds{};
    bounds.shape[0] = (int)tasks;
    bounds.size = tasks;
    const unsigned blocks = (unsigned)((tasks + block - 1) / block);
    // In the order of blocks and threads, or in a random order. Threads that do not cooperate are
    // drawn from the whole grid: threads of one block may meet on two threads of the CPU, as on a
    // GPU.
    const auto numbers = [&](size_t count) {
        std::vector<unsigned> order(count);
        std::iota(order.begin(), order.end(), 0u);
        if (seed) std::shuffle(order.begin(), order.end(), std::mt19937(seed));
        return order;
    };
    std::atomic<size_t> next{0};
    const auto begin = [&](unsigned number) {
        gridDim = {blocks, 1, 1};
        blockDim = {block, 1, 1};
        blockIdx = {number, 0, 0};
    };
#ifdef COOPERATIVE
    const auto order = numbers(blocks), lanes = numbers(block);
    auto one = [&] { kernel(bounds, arguments, 0); };
    auto work = [&] {
        for (size_t k; (k = next.fetch_add(1)) < order.size() && !failure;) {
            begin(order[k]);
            run_block(lanes.data(), block, [](void* f) { (*(decltype(one)*)f)(); }, &one);
        }
    };
#else
    const auto order = numbers((size_t)blocks * block);
    auto work = [&] {
        for (size_t first; (first = next.fetch_add(PART)) < order.size();) {
            for (size_t k = first; k < std::min(first + PART, order.size()); ++k) {
                begin(order[k] / block);
                threadIdx = {order[k] % block, 0, 0};
                kernel(bounds, arguments, 0);
            }
        }
    };
#endif
    std::vector<std::thread> helpers;
    for (int k = 1; k < threads; ++k)
        helpers.emplace_back(work);
    work();
    for (auto& helper : helpers)
        helper.join();
}

#ifdef HOST
template <class Bounds, class Arguments>
void run(
    void (*entry)(Bounds*, Arguments*),
    const void* record,
    size_t tasks,
    unsigned,
    unsigned,
    int) {
    Arguments arguments{};
    std::memcpy(static_cast<void*>(&arguments.arguments), record, sizeof arguments.arguments);
    Bounds bounds{};
    bounds.shape[0] = (int)tasks;
    bounds.size = tasks;
    entry(&bounds, &arguments);
}
#endif

}  // namespace emulated

#ifdef HOST
// In place of Warp's own library, which runs the tasks of a block as fibers as well.
extern "C" int wp_cpu_run_block(
    int, int active, wp_cpu_block_lane_fn lane, void* bounds, size_t block, void* arguments) {
#ifdef COOPERATIVE
    auto one = [&] { lane(bounds, block, (int)threadIdx.x, arguments); };
    std::vector<unsigned> order(active);
    std::iota(order.begin(), order.end(), 0u);
    emulated::run_block(
        order.data(), active, [](void* f) { (*(decltype(one)*)f)(); }, &one);
#else
    for (int k = 0; k < active; ++k)
        lane(bounds, block, k, arguments);
#endif
    return 1;
}

void _wp_assert(const char* message, const char*, unsigned int) { emulated::failure = message; }
extern "C" int wp_cpu_get_thread_idx() { return (int)threadIdx.x; }
extern "C" void wp_cpu_tile_sync() { emulated::wait(emulated::BLOCK_OF_THREADS, 1); }
#endif

// Run a launch; return the number of atomic additions of floating-point numbers, or -1 if threads
// of a block wait for each other forever, which is written to stderr.
extern "C" long long emulate(
    const void* record,
    unsigned long long tasks,
    unsigned block,
    unsigned seed,
    int threads,
    int additions) {
    const long long before = emulated::float_additions;
    emulated::additions = additions;
    emulated::failure = nullptr;
    emulated::run(KERNEL, record, tasks, block, seed, threads);
    for (const auto& sum : emulated::wide_sums)
        *static_cast<wp::float32*>(sum.first) = static_cast<wp::float32>(sum.second);
    emulated::wide_sums.clear();
    if (emulated::failure) {
        std::fprintf(stderr, "%s\n", emulated::failure.load());
        return -1;
    }
    return emulated::float_additions - before;
}

#ifdef STANDALONE
static long long read_number(FILE* file) {
    long long number = 0;
    if (std::fread(&number, sizeof number, 1, file) != 1) std::exit(3);
    return number;
}

int main(int, char** arguments) {
    FILE* file = std::fopen(arguments[1], "rb");
    if (!file) return 3;
    const long long tasks = read_number(file), block = read_number(file);
    const long long seed = read_number(file), threads = read_number(file);
    const long long additions = read_number(file);
    std::vector<char> record(read_number(file));
    if (std::fread(record.data(), 1, record.size(), file) != record.size()) return 3;
    struct Buffer {
        char* data;
        size_t size;
    };
    std::vector<Buffer> buffers(read_number(file));
    for (auto& buffer : buffers) {
        const long long place = read_number(file);  // of the address in the record
        buffer.size = (size_t)read_number(file);
        buffer.data = (char*)std::malloc(buffer.size);
        if (std::fread(buffer.data, 1, buffer.size, file) != buffer.size) return 3;
        const wp::uint64 address = (wp::uint64)buffer.data;
        std::memcpy(record.data() + place, &address, sizeof address);
    }
    std::fclose(file);
    emulate(record.data(), tasks, (unsigned)block, (unsigned)seed, (int)threads, (int)additions);
    file = std::fopen(arguments[2], "wb");
    if (!file) return 3;
    for (const auto& buffer : buffers) {
        std::fwrite(buffer.data, 1, buffer.size, file);
        std::free(buffer.data);
    }
    return std::fclose(file);
}
#endif
