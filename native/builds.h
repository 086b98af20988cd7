// What the build for one instruction set offers.
#pragma once

#include "unrolled.h"

namespace unrolled {

struct Build {
    int64_t (*forward)(const unrolled_forward*);
    int64_t (*backward)(const unrolled_backward*);
    int64_t (*accumulates)(const unrolled_layer*);
    void (*activate)(int64_t which, const float* x, float* y, int64_t count);
};

}  // namespace unrolled
