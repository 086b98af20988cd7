// One vector of floats, as wide as the instruction set this file is built for.
//
// The compiler's vector types carry the arithmetic, so one source serves every instruction set; intrinsics stand only
// where the types have no word: an approximate reciprocal and partial loads and stores.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define UNROLLED_INLINE inline __attribute__((always_inline))

namespace UNROLLED_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool FUSED = true;  // a * b + c is rounded once
#else
constexpr bool FUSED = false;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

UNROLLED_INLINE vec load(const float* p) { return *reinterpret_cast<const vec_anywhere*>(p); }
UNROLLED_INLINE void store(float* p, vec v) { *reinterpret_cast<vec_anywhere*>(p) = v; }
UNROLLED_INLINE vec splat(float x) { return x - vec{}; }

// AddressSanitizer does not look at masked loads and stores; with it they are made of plain ones.
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)
#define UNROLLED_MASKED 1
#endif

// The first n lanes, 0 < n <= LANES; the others are zero, and nothing behind them is touched.
UNROLLED_INLINE vec load_first(const float* p, int64_t n) {
#if defined(UNROLLED_MASKED)
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(0xffffu >> (LANES - n)), p);
#else
    if (n == LANES) return load(p);
    alignas(sizeof(vec)) float lanes[LANES] = {};
    memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
    return load(lanes);
#endif
}

UNROLLED_INLINE void store_first(float* p, vec v, int64_t n) {
#if defined(UNROLLED_MASKED)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(0xffffu >> (LANES - n)), v);
#else
    if (n == LANES) return store(p, v);
    alignas(sizeof(vec)) float lanes[LANES];
    store(lanes, v);
    memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
#endif
}

// A hint that p will be written soon; any address will do.
UNROLLED_INLINE void prefetch_write(float* p) { __builtin_prefetch(p, 1); }

// As store_first, but past the caches where `away`: for what is not read again soon and is too large to be kept.
UNROLLED_INLINE void store_away(float* p, vec v, int64_t n, bool away) {
#if defined(__AVX512F__)
    if (away && n == LANES && reinterpret_cast<uintptr_t>(p) % sizeof(vec) == 0) return _mm512_stream_ps(p, v);
#elif defined(__AVX2__)
    if (away && n == LANES && reinterpret_cast<uintptr_t>(p) % sizeof(vec) == 0) return _mm256_stream_ps(p, v);
#else
    (void)away;
#endif
    store_first(p, v, n);
}

// Makes what went past the caches visible to other threads.
UNROLLED_INLINE void finish_stores() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

UNROLLED_INLINE ivec bits(vec v) { return reinterpret_cast<ivec>(v); }
UNROLLED_INLINE vec floats(ivec v) { return reinterpret_cast<vec>(v); }

// The larger of each two lanes; x where it is NaN.
UNROLLED_INLINE vec at_least(float least, vec x) {
#if defined(__AVX512F__)
    return _mm512_maskz_max_ps(0xffff, splat(least), x);
#elif defined(__AVX2__)
    return _mm256_max_ps(splat(least), x);
#elif defined(__x86_64__)
    return _mm_max_ps(splat(least), x);
#else
    return least > x ? splat(least) : x;
#endif
}

// About 1 / x for x in [1, 2]: the error is at most 2^-14 of it.
UNROLLED_INLINE vec rough_reciprocal(vec x) {
#if defined(__AVX512F__)
    return _mm512_maskz_rcp14_ps(0xffff, x);
#else
    return 1.0f / x;
#endif
}

// x * 2^n for whole n from -127 on, where 2^-127 counts as zero.
UNROLLED_INLINE vec scaled(vec x, vec n) {
#if defined(__AVX512F__)
    return _mm512_maskz_scalef_ps(0xffff, x, n);
#else
    return x * floats((__builtin_convertvector(n, ivec) + 127) << 23);
#endif
}

// Rows become columns: LANES vectors of LANES lanes, in place.
UNROLLED_INLINE void transpose(vec (&rows)[LANES]) {
    // At each stage the lanes whose number differs in one bit change places between the rows whose number differs in it.
    for (int bit = 1; bit < LANES; bit *= 2) {
        ivec low{}, high{};
        for (int lane = 0; lane < LANES; ++lane) {
            low[lane] = lane & bit ? LANES + lane - bit : lane;
            high[lane] = lane & bit ? LANES + lane : lane + bit;
        }
        for (int row = 0; row < LANES; ++row) {
            if (row & bit) continue;
            const vec a = rows[row], b = rows[row + bit];
            rows[row] = __builtin_shuffle(a, b, low);
            rows[row + bit] = __builtin_shuffle(a, b, high);
        }
    }
}

// Numbers too small for a normal float are taken and left as zero inside this scope: they are a hundred times slower, and
// gradients that fade over many steps are full of them.
class FlushDenormals {
#if defined(__x86_64__)
    static constexpr unsigned FLUSH_TO_ZERO = 1u << 15, DENORMALS_ARE_ZERO = 1u << 6;
    unsigned before = _mm_getcsr();

  public:
    FlushDenormals() { _mm_setcsr(before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO); }
    ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    static constexpr uint64_t FLUSH_TO_ZERO = uint64_t{1} << 24;
    uint64_t before;

  public:
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | FLUSH_TO_ZERO));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#else
  public:
    FlushDenormals() {}
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace UNROLLED_ISA
