// Logistic sigmoid and tanh to within 2 units in the last place. Results below the smallest normal float are zero.
//
// Both go through exp of a number that is never positive, which cannot overflow: exp(y) = 2^n (1 + p(r)) with n the
// nearest integer to y / ln 2, r = y - n ln 2, and p a minimax polynomial for exp(r) - 1 on |r| <= ln 2 / 2.
#pragma once

#include "simd.h"

namespace UNROLLED_ISA {

//
// Every function takes N vectors and goes through its steps with all of them side by side: one alone would mostly wait for
// its own last result.
#define UNROLLED_EACH _Pragma("GCC unroll 16") for (int n = 0; n < N; ++n)

// y[n] = 2^power[n] (1 + rest[n]) for y from -88 on; below its smallest normal float a power of two counts as zero.
template <int N>
UNROLLED_INLINE void exponential(const vec (&y)[N], vec (&power)[N], vec (&rest)[N]) {
    const vec ROUND = splat(12582912.0f);  // 1.5 * 2^23: a float of this size has no digits behind the point
    vec r[N], q[N];
    UNROLLED_EACH power[n] = (y[n] * 1.44269504f + ROUND) - ROUND;
    // ln 2 in two parts, the first with so few bits that its product with n is exact.
    UNROLLED_EACH r[n] = (y[n] - power[n] * 0.693359375f) - power[n] * -2.12194440e-4f;
    UNROLLED_EACH q[n] = r[n] * 0x1.a032d4p-13f + 0x1.6d7348p-10f;
    UNROLLED_EACH q[n] = q[n] * r[n] + 0x1.11118ap-7f;
    UNROLLED_EACH q[n] = q[n] * r[n] + 0x1.5554b0p-5f;
    UNROLLED_EACH q[n] = q[n] * r[n] + 0x1.555554p-3f;
    UNROLLED_EACH q[n] = q[n] * r[n] + 0.5f;
    UNROLLED_EACH rest[n] = r[n] + r[n] * r[n] * q[n];
}

// numerator / (one + x) for one + x in [1, 2], where the sum is formed without loss: its rounding would cost the last bit.
// One step of Newton's method from a rough quotient; the numerator less the quotient times `one` is exact, since they are
// within a factor of two.
template <int N>
UNROLLED_INLINE void divide_by_sum(const vec (&numerator)[N], float one, const vec (&x)[N], vec (&result)[N]) {
    vec inverse[N], quotient[N], left[N];
    UNROLLED_EACH inverse[n] = rough_reciprocal(one + x[n]);
    UNROLLED_EACH quotient[n] = numerator[n] * inverse[n];
    UNROLLED_EACH left[n] = (numerator[n] - quotient[n] * one) - quotient[n] * x[n];
    UNROLLED_EACH result[n] = quotient[n] + left[n] * inverse[n];
}

// 1 / (1 + exp(-x)) from exp(-|x|), so that neither tail loses digits. In place.
template <int N>
UNROLLED_INLINE void sigmoid(vec (&x)[N]) {
    vec y[N], power[N], rest[N], numerator[N];
    UNROLLED_EACH y[n] = at_least(-88.0f, floats(bits(x[n]) | INT32_MIN));
    exponential(y, power, rest);
    UNROLLED_EACH y[n] = scaled(1.0f + rest[n], power[n]);  // exp(-|x|)
    UNROLLED_EACH numerator[n] = x[n] < 0.0f ? y[n] : splat(1.0f);
    divide_by_sum(numerator, 1.0f, y, x);
}

// (1 - e) / (1 + e) with e = exp(-2|x|), and the sign of x. Where that is less than a half, e - 1 is formed as a whole, so
// that small x keep their digits; where it is more, it is 1 - 2e / (1 + e), so that rounding errors stay small beside 1.
// In place.
template <int N>
UNROLLED_INLINE void tanh(vec (&x)[N]) {
    constexpr float LARGE = -1.0986123f;  // ln(1 / 3), where both forms give a half
    vec y[N], power[N], rest[N], scale[N], less[N], numerator[N], part[N];
    UNROLLED_EACH y[n] = at_least(-88.0f, floats(bits(x[n]) | INT32_MIN) * 2.0f);
    exponential(y, power, rest);
    UNROLLED_EACH scale[n] = scaled(splat(1.0f), power[n]);
    UNROLLED_EACH less[n] = scale[n] * rest[n] + (scale[n] - 1.0f);  // e - 1
    UNROLLED_EACH numerator[n] = y[n] < LARGE ? -2.0f * scale[n] - 2.0f * scale[n] * rest[n] : less[n];
    divide_by_sum(numerator, 2.0f, less, part);  // not positive
    if constexpr (!FUSED) {  // one rounding more above: what e - 1 lost is made good to first order
        vec lost[N];
        UNROLLED_EACH lost[n] = ((scale[n] - 1.0f) - less[n]) + scale[n] * rest[n];
        UNROLLED_EACH part[n] += y[n] < LARGE ? vec{} : lost[n] * (1.0f - part[n]) * (1.0f - part[n]) * 0.5f;
    }
    UNROLLED_EACH part[n] = y[n] < LARGE ? 1.0f + part[n] : part[n];
    UNROLLED_EACH x[n] = floats((bits(part[n]) & INT32_MAX) | (bits(x[n]) & INT32_MIN));
}

}  // namespace UNROLLED_ISA
