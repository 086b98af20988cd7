// The library's C interface: which builds there are, threads, and scratch memory.
#include "unrolled.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "builds.h"
#include "threads.h"

#if defined(UNROLLED_HAS_AVX512)
namespace avx512 {
extern const unrolled::Build build;
}
#endif
#if defined(UNROLLED_HAS_AVX2)
namespace avx2 {
extern const unrolled::Build build;
}
#endif
namespace portable {
extern const unrolled::Build build;
}

namespace unrolled {

Threads threads{nullptr, false};

namespace {

struct Named {
    const char* name;
    const Build* build;
};

const Named BUILDS[] = {
#if defined(UNROLLED_HAS_AVX512)
    {"avx512", &avx512::build},
#endif
#if defined(UNROLLED_HAS_AVX2)
    {"avx2", &avx2::build},
#endif
    {"portable", &portable::build},
};

bool poison = false;

// Blocks that no call uses at the moment.
struct Block {
    float* memory;
    int64_t floats;
};
constexpr int KEPT = 8;
constexpr int64_t LARGEST_KEPT = int64_t{1} << 24;  // floats: 64 MiB
Block kept[KEPT] = {};
pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

constexpr size_t LARGE_PAGE = size_t{1} << 21;

float* fresh(int64_t floats) {
    const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
    void* memory = nullptr;
    if (posix_memalign(&memory, bytes >= LARGE_PAGE ? LARGE_PAGE : 64, bytes) != 0) return nullptr;
    expect_writes(static_cast<float*>(memory), floats);
    return static_cast<float*>(memory);
}

// The smallest kept block that is large enough; else the place of the smallest of all is set free for a larger one.
Block borrow(int64_t floats) {
    // A process forked while another thread held the lock would wait for it for ever.
    if (pthread_mutex_trylock(&kept_lock) != 0) return {fresh(floats), floats};
    Block* best = nullptr;
    for (Block& block : kept)
        if (block.memory && block.floats >= floats && (!best || block.floats < best->floats)) best = &block;
    Block found = {};
    if (best) {
        found = *best;
        *best = {};
    }
    pthread_mutex_unlock(&kept_lock);
    return found.memory ? found : Block{fresh(floats), floats};
}

void give_back(Block block) {
    if (block.floats <= LARGEST_KEPT && pthread_mutex_trylock(&kept_lock) == 0) {
        Block* smallest = &kept[0];
        for (Block& other : kept)
            if (other.floats < smallest->floats) smallest = &other;
        if (smallest->floats < block.floats) {
            const Block out = *smallest;
            *smallest = block;
            block = out;
        }
        pthread_mutex_unlock(&kept_lock);
    }
    free(block.memory);
}

}  // namespace

Scratch::Scratch(int64_t floats) {
    const Block block = borrow(floats > 0 ? floats : 1);
    memory_ = block.memory;
    size_ = block.floats;
    if (poison && memory_) memset(memory_, 0xff, static_cast<size_t>(size_) * sizeof(float));
}

Scratch::~Scratch() {
    if (memory_) give_back({memory_, size_});
}

void expect_writes(float* start, int64_t floats) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t first = (reinterpret_cast<uintptr_t>(start) + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
    const uintptr_t end = reinterpret_cast<uintptr_t>(start + floats) & ~(LARGE_PAGE - 1);
    if (floats * static_cast<int64_t>(sizeof(float)) >= 2 * static_cast<int64_t>(LARGE_PAGE) && end > first)
        madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
    (void)start, (void)floats;
#endif
}

}  // namespace unrolled

using unrolled::BUILDS;

int64_t unrolled_builds(void) { return static_cast<int64_t>(sizeof(BUILDS) / sizeof(BUILDS[0])); }

const char* unrolled_build_name(int64_t build) { return BUILDS[build].name; }

int64_t unrolled_build_runs_here(int64_t build) {
#if defined(__x86_64__)
    if (strcmp(BUILDS[build].name, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    if (strcmp(BUILDS[build].name, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return 1;
}

void unrolled_set_threads(unrolled_parallel_for parallel_for, int64_t concurrent) {
    unrolled::threads = {parallel_for, concurrent != 0};
}

void unrolled_set_poison(int64_t poison) { unrolled::poison = poison != 0; }

int64_t unrolled_run_forward(int64_t build, const unrolled_forward* call) { return BUILDS[build].build->forward(call); }

int64_t unrolled_run_backward(int64_t build, const unrolled_backward* call) { return BUILDS[build].build->backward(call); }

int64_t unrolled_accumulates(int64_t build, const unrolled_layer* layer) {
    return BUILDS[build].build->accumulates(layer);
}

void unrolled_activate(int64_t build, int64_t which, const float* x, float* y, int64_t count) {
    BUILDS[build].build->activate(which, x, y, count);
}
