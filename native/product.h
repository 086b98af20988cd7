// The inner products: a few rows times a panel of columns, all sums held in registers.
//
// A panel is a strip of the right-hand matrix, `VECTORS` vectors wide, packed so that it is read from its first to its last
// number in order: [depth][VECTORS][LANES].
#pragma once

#include "simd.h"

namespace UNROLLED_ISA {

// As many rows as fit: each needs VECTORS registers, beside them stand the panel's vectors and one number of a row.
template <int VECTORS>
constexpr int rows_in_registers() {
    constexpr int free = REGISTERS - (REGISTERS == 32 ? VECTORS + 1 : 2);
    return free / VECTORS < 8 ? free / VECTORS : 8;
}

template <int R, int V>
using Sums = vec[R][V];

// Weights of more floats than this do not stay in a core's nearest cache from step to step: they are asked for ahead of use.
constexpr int64_t FAR = int64_t{1} << 17;
constexpr int64_t AHEAD = 64 * LANES;

// sums[r][v] += sum over k of rows[r][k] * panel[k][v]
template <int R, int V, bool PREFETCH>
UNROLLED_INLINE void accumulate_near(Sums<R, V>& sums, const float* const (&rows)[R], const float* panel, int64_t depth) {
    // With few sums an addition would wait for the one before it, so several chains are summed side by side.
    constexpr int CHAINS = R * V >= 8 ? 1 : R * V >= 4 ? 2 : R * V >= 2 ? 4 : 8;
    vec part[CHAINS][R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            part[0][r][v] = sums[r][v];
#pragma GCC unroll 8
            for (int c = 1; c < CHAINS; ++c) part[c][r][v] = vec{};
        }
    int64_t k = 0;
    for (; k + CHAINS <= depth; k += CHAINS) {
#pragma GCC unroll 8
        for (int c = 0; c < CHAINS; ++c) {
            vec columns[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                columns[v] = load(panel + ((k + c) * V + v) * LANES);
                if constexpr (PREFETCH) __builtin_prefetch(panel + ((k + c) * V + v) * LANES + AHEAD);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const vec number = splat(rows[r][k + c]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) part[c][r][v] += number * columns[v];
            }
        }
    }
    if constexpr (CHAINS > 1)
        for (; k < depth; ++k)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) part[0][r][v] += splat(rows[r][k]) * load(panel + (k * V + v) * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            sums[r][v] = part[0][r][v];
#pragma GCC unroll 8
            for (int c = 1; c < CHAINS; ++c) sums[r][v] += part[c][r][v];
        }
}

template <int R, int V>
UNROLLED_INLINE void accumulate_piece(Sums<R, V>& sums, const float* const (&rows)[R], const float* panel, int64_t depth,
                                      bool far) {
    // With few rows the cost of asking is not made up for.
    if constexpr (R * V >= 12)
        if (far) return accumulate_near<R, V, true>(sums, rows, panel, depth);
    accumulate_near<R, V, false>(sums, rows, panel, depth);
}

constexpr int64_t SUMMED_AT_ONCE = 128;

template <int R, int V>
UNROLLED_INLINE void accumulate(Sums<R, V>& sums, const float* const (&rows)[R], const float* panel, int64_t depth, bool far) {
    const float* at[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) at[r] = rows[r];
    // A sum of many terms one after the other loses digits: it is formed of sums of a few each.
    for (; depth > SUMMED_AT_ONCE; depth -= SUMMED_AT_ONCE, panel += SUMMED_AT_ONCE * V * LANES) {
        Sums<R, V> part = {};
        accumulate_piece<R, V>(part, at, panel, SUMMED_AT_ONCE, far);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            at[r] += SUMMED_AT_ONCE;
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sums[r][v] += part[r][v];
        }
    }
    accumulate_piece<R, V>(sums, at, panel, depth, far);
}

// sums[r][v] += sum over k of left[k][r] * right[k][v], both read where they stand
template <int R, int V>
UNROLLED_INLINE void accumulate_outer(Sums<R, V>& sums, const float* left, int64_t left_row, const float* right,
                                      int64_t right_row, int64_t depth) {
    vec part[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) part[r][v] = sums[r][v];
    for (int64_t k = 0; k < depth; ++k) {
        vec columns[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) columns[v] = load(right + k * right_row + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const vec number = splat(left[k * left_row + r]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) part[r][v] += number * columns[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = part[r][v];
}

// The products of `count` rows (at most LANES) with one vector of numbers, a lane for each row.
inline vec dot_rows(const float* rows, int64_t count, const float* numbers, int64_t depth) {
    vec parts[LANES] = {};
    for (int64_t k = 0; k < depth; k += LANES) {
        const int64_t left = depth - k < LANES ? depth - k : LANES;
        const vec number = load_first(numbers + k, left);
        if (count == LANES && left == LANES) {
#pragma GCC unroll 16
            for (int lane = 0; lane < LANES; ++lane) parts[lane] += load(rows + lane * depth + k) * number;
        } else {
            for (int lane = 0; lane < count; ++lane) parts[lane] += load_first(rows + lane * depth + k, left) * number;
        }
    }
    transpose(parts);
    // In pairs, so that no sum waits for all the others.
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) parts[lane] += parts[lane + half];
    return parts[0];
}

// Calls work.template operator()<R>(first) over rows [begin, end) in groups of nearly equal size, none above LIMIT.
template <int LIMIT, int R = LIMIT, class Work>
UNROLLED_INLINE void one_group(int64_t size, int64_t first, Work& work) {
    if constexpr (R > 0) {
        if (size == R) return work.template operator()<R>(first);
        return one_group<LIMIT, R - 1>(size, first, work);
    }
}

template <int LIMIT, class Work>
UNROLLED_INLINE void in_groups(int64_t begin, int64_t end, Work work) {
    for (int64_t groups = (end - begin + LIMIT - 1) / LIMIT; groups > 0; --groups) {
        const int64_t size = (end - begin + groups - 1) / groups;
        one_group<LIMIT>(size, begin, work);
        begin += size;
    }
}

// Calls work.template operator()<V>() for a panel of `vectors` vectors, 1 to LIMIT.
template <int LIMIT, int V = LIMIT, class Work>
UNROLLED_INLINE void with_vectors(int64_t vectors, Work work) {
    if constexpr (V > 0) {
        if (vectors == V) return work.template operator()<V>();
        return with_vectors<LIMIT, V - 1>(vectors, work);
    }
}

constexpr int SIDE_BY_SIDE = 2;  // rows that go through a cell's own work together
constexpr int PANEL = 4;  // vectors of a panel in a plain product

constexpr int64_t in_vectors(int64_t count) { return (count + LANES - 1) / LANES; }
constexpr int64_t padded(int64_t count) { return in_vectors(count) * LANES; }

// How a matrix of `columns` columns is cut into panels.
struct Panels {
    int64_t columns;
    int64_t count() const { return (in_vectors(columns) + PANEL - 1) / PANEL; }
    int64_t vectors(int64_t panel) const {
        const int64_t left = in_vectors(columns) - panel * PANEL;
        return left < PANEL ? left : PANEL;
    }
    int64_t start(int64_t panel, int64_t depth) const { return panel * PANEL * LANES * depth; }
    int64_t size(int64_t depth) const { return padded(columns) * depth; }
};

// Packs columns [panel] of matrix (depth, columns).
inline void pack(const float* matrix, Panels panels, int64_t depth, int64_t panel, float* packed) {
    const int64_t vectors = panels.vectors(panel), first = panel * PANEL * LANES;
    float* to = packed + panels.start(panel, depth);
    for (int64_t k = 0; k < depth; ++k)
        for (int64_t v = 0; v < vectors; ++v, to += LANES) {
            const int64_t column = first + v * LANES, left = panels.columns - column;
            store(to, load_first(matrix + k * panels.columns + column, left < LANES ? left : LANES));
        }
}

// Packs `count` rows (at most LANES) of matrix (rows, depth) as one vector of a panel: packed[k * stride + lane].
inline void pack_transposed(const float* matrix, int64_t count, int64_t depth, float* packed, int64_t stride) {
    for (int64_t k = 0; k < depth; k += LANES) {
        const int64_t left = depth - k < LANES ? depth - k : LANES;
        vec block[LANES];
        for (int lane = 0; lane < LANES; ++lane)
            block[lane] = lane < count ? load_first(matrix + lane * depth + k, left) : vec{};
        transpose(block);
        for (int64_t i = 0; i < left; ++i) store(packed + (k + i) * stride, block[i]);
    }
}

}  // namespace UNROLLED_ISA
