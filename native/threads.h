// Threads lent by the caller, a barrier for them, and scratch memory kept from call to call.
#pragma once

#include <stdint.h>

#include <atomic>

#include "unrolled.h"

namespace unrolled {

struct Threads {
    unrolled_parallel_for parallel_for;
    bool concurrent;
};
extern Threads threads;

// Calls work(begin, end) so that [0, count) is covered. One call may be given several numbers.
template <class Work>
void share(int64_t count, Work& work) {
    if (count <= 1 || !threads.parallel_for) return work(int64_t{0}, count);
    threads.parallel_for(
        0, count, 1, [](int64_t begin, int64_t end, void* context) { (*static_cast<Work*>(context))(begin, end); }, &work);
}

// Lets `parties` go on together. One thread may stand for several parties.
class Barrier {
    const int64_t parties_;
    std::atomic<int64_t> waiting_{0};
    std::atomic<int32_t> round_{0};

  public:
    explicit Barrier(int64_t parties) : parties_(parties) {}

    void wait(int64_t standing_for) {
        if (standing_for == parties_) return;
        const int32_t round = round_.load(std::memory_order_acquire);
        if (waiting_.fetch_add(standing_for, std::memory_order_acq_rel) + standing_for == parties_) {
            waiting_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            round_.notify_all();
            return;
        }
        // A step is a few microseconds, so looking again costs less than sleeping; unless another program has taken the
        // processor of a thread that is waited for.
        for (int spins = 0; spins < 1024; ++spins) {
            if (round_.load(std::memory_order_acquire) != round) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        while (round_.load(std::memory_order_acquire) == round) round_.wait(round, std::memory_order_acquire);
    }
};

// Memory of one call. It comes from blocks kept from earlier calls, because fresh pages cost more than they hold.
class Scratch {
    float* memory_;
    int64_t size_, used_ = 0;

  public:
    explicit Scratch(int64_t floats);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    bool failed() const { return memory_ == nullptr; }
    // Starts at a cache line. Sizes are rounded up to whole cache lines.
    float* take(int64_t floats) {
        float* start = memory_ + used_;
        used_ += rounded(floats);
        return start;
    }
    static int64_t rounded(int64_t floats) { return (floats + 15) / 16 * 16; }
};

// Asks for large pages where a large result is about to be written for the first time.
void expect_writes(float* start, int64_t floats);

}  // namespace unrolled
