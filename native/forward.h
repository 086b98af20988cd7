// Forward: input projection of a few steps at a time, then these steps one by one.
#pragma once

#include "normalised.h"
#include "sharing.h"
#include "varied.h"

namespace UNROLLED_ISA {

template <class Cell>
class Forward {
    static constexpr int G = Cell::GATES, U = Cell::UNITS, V = U * G;

    static constexpr int64_t LARGE = int64_t{1} << 22;  // floats: 16 MiB
    static constexpr int64_t FEW = 4;

    const unrolled_forward& call_;
    const unrolled_layer& l_;
    const int64_t B = l_.batch, T = l_.steps, I = l_.input_size, H = l_.hidden_size;
    const int64_t panels_ = (in_vectors(H) + U - 1) / U;
    const int64_t width_ = padded(H) * G;         // of the packed weights and pre-activations, in floats
    const int64_t state_row_ = padded(H) + LANES;  // rows of a power of two would crowd the same lines of the cache
    const Sharing sharing_{l_, width_ * H, Cell::WHOLE_ROWS ? 0 : panels_};
    // Of few products the packing costs more than all else.
    const bool unpacked_ = T * B <= FEW;
    int64_t chunk_;
    float *input_weights_, *weights_, *bias_, *recurrent_bias_, *pre_, *cell_, *hidden_[2];

  public:
    explicit Forward(const unrolled_forward& call) : call_(call), l_(call.layer) {
        // So many steps that the input's weights are read for many rows at once, and the result stays in the cache.
        const int64_t rows = sharing_.rows_per_party(B) > 0 ? sharing_.rows_per_party(B) : 1;
        const int64_t enough = (96 + rows - 1) / rows, fits = (int64_t{1} << 17) / (rows * width_);
        chunk_ = enough > fits ? enough : fits;
        if (Cell::WHOLE_ROWS) chunk_ = 1;  // a step's recurrent products
        if (chunk_ > T) chunk_ = T;
    }

    int64_t run() {
        using unrolled::Scratch;
        const int64_t packed = unpacked_ ? 0 : width_, packed_inputs = Cell::WHOLE_ROWS ? 0 : packed;
        Scratch scratch(Scratch::rounded(packed_inputs * I) + Scratch::rounded(packed * H) + 2 * Scratch::rounded(width_) +
                        Scratch::rounded(chunk_ * B * width_) + 3 * Scratch::rounded(B * state_row_));
        if (scratch.failed()) return 1;
        input_weights_ = scratch.take(packed_inputs * I);
        weights_ = scratch.take(packed * H);
        bias_ = scratch.take(width_);
        recurrent_bias_ = scratch.take(width_);
        pre_ = scratch.take(chunk_ * B * width_);
        hidden_[0] = scratch.take(B * state_row_);
        hidden_[1] = scratch.take(B * state_row_);
        cell_ = scratch.take(B * state_row_);
        unrolled::expect_writes(l_.output, T * B * H);
        if (l_.gates) unrolled::expect_writes(l_.gates, T * B * Cell::STORED * H);
        if (l_.cells) unrolled::expect_writes(l_.cells, T * B * H);

        auto prepare = [&](int64_t begin, int64_t end) {
            for (int64_t p = panels_ * begin / sharing_.parties; p < panels_ * end / sharing_.parties; ++p) pack_panel(p);
        };
        unrolled::share(sharing_.parties, prepare);
        unrolled::Barrier barrier(sharing_.parties);
        auto work = [&](int64_t begin, int64_t end) { take_part(Part(sharing_, B, panels_, begin, end), barrier); };
        unrolled::share(sharing_.parties, work);
        return 0;
    }

  private:
    int64_t units(int64_t panel) const {
        const int64_t left = in_vectors(H) - panel * U;
        return left < U ? left : U;
    }

    // Weights and biases of all gates of a panel's units, side by side.
    void pack_panel(int64_t panel) {
        const int64_t stride = units(panel) * G * LANES;
        for (int64_t u = 0; u < units(panel); ++u)
            for (int64_t g = 0; g < G; ++g) {
                const int64_t unit = (panel * U + u) * LANES, row = g * H + unit, at = panel * V * LANES, v = u * G + g;
                const int64_t count = H - unit < LANES ? H - unit : LANES;
                if (!unpacked_) {
                    if (!Cell::WHOLE_ROWS)
                        pack_transposed(l_.weight_ih + row * I, count, I, input_weights_ + at * I + v * LANES, stride);
                    pack_transposed(l_.weight_hh + row * H, count, H, weights_ + at * H + v * LANES, stride);
                }
                vec input = optional(l_.bias_ih, row, count), recurrent = optional(l_.bias_hh, row, count);
                // The last gate of a GRU multiplies its recurrent part, bias included, with the reset gate.
                if (Cell::KEEPS_HIDDEN && g == G - 1) {
                    store(recurrent_bias_ + unit, recurrent);
                    recurrent = vec{};
                }
                store(bias_ + at + v * LANES, input + recurrent);
            }
    }

    void take_part(const Part& part, unrolled::Barrier& barrier) {
        const FlushDenormals flush;
        const int64_t first = part.panel * U * LANES, end = part.panel_end * U * LANES < H ? part.panel_end * U * LANES : H;
        for (int64_t b = part.row; b < part.row_end; ++b) {
            begin_with_hidden(b, first, end);
            if (Cell::HAS_CELL) memcpy(cell_ + b * state_row_ + first, l_.initial_cell + b * H + first, size(end - first));
        }
        reset_states(part, 0, first, end);
        barrier_if_shared(barrier, part);
        for (int64_t n = 0; n < T; ++n) {
            if (!Cell::WHOLE_ROWS && n % chunk_ == 0) {
                const int64_t steps = n + chunk_ < T ? chunk_ : T - n;
                if (unpacked_)
                    project_few(part, n, steps);
                else
                    project(part, n, steps);
            }
            step(part, n);
            reset_states(part, n + 1, first, end);
            barrier_if_shared(barrier, part);
        }
        finish_stores();
        for (int64_t b = part.row; b < part.row_end; ++b) {
            memcpy(call_.final_hidden + b * H + first, final_hidden(b) + first, size(end - first));
            if (Cell::HAS_CELL) memcpy(call_.final_cell + b * H + first, cell_ + b * state_row_ + first, size(end - first));
        }
    }

    void begin_with_hidden(int64_t b, int64_t first, int64_t end) {
        const float* from = l_.initial_hidden + b * H;
        float* to = hidden_[0] + b * state_row_;
        memcpy(to + first, from + first, size(end - first));
        if constexpr (Cell::VARIED)
            if (const unrolled_mask& mask = l_.variation.hidden_mask; mask.at)
                for (int64_t k = first; k < end; ++k) to[k] *= mask.at[b * mask.row + k];
    }

    // The states that enter step n become zero where it begins anew.
    void reset_states(const Part& part, int64_t n, int64_t first, int64_t end) {
        if (!l_.reset || n == T) return;
        for (int64_t b = part.row; b < part.row_end; ++b)
            if (begins_anew(l_, time(n), b)) {
                memset(hidden_[n & 1] + b * state_row_ + first, 0, size(end - first));
                if (Cell::HAS_CELL) memset(cell_ + b * state_row_ + first, 0, size(end - first));
            }
    }

    // Of row b after the last step; where a mask lies on what goes from step to step, it is in the output only.
    const float* final_hidden(int64_t b) const {
        if (!Cell::VARIED || !l_.variation.hidden_mask.at) return hidden_[T & 1] + b * state_row_;
        const int64_t steps = l_.lengths ? l_.lengths[b] : T;
        return steps == 0 ? l_.initial_hidden + b * H : l_.output + ((l_.reverse ? 0 : steps - 1) * B + b) * H;
    }

    static size_t size(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }

    void barrier_if_shared(unrolled::Barrier& barrier, const Part& part) {
        if (sharing_.by_units) barrier.wait(part.standing_for);
    }

    int64_t time(int64_t n) const { return l_.reverse ? T - 1 - n : n; }

    // pre[slot][b] = W_ih x + b for the steps n to n + steps.
    void project(const Part& part, int64_t n, int64_t steps) {
        const int64_t rows = part.rows();
        for (int64_t panel = part.panel; panel < part.panel_end; ++panel)
            with_vectors<V>(units(panel) * G, [&]<int VECTORS>() {
                if constexpr (VECTORS % G == 0)
                    in_groups<rows_in_registers<VECTORS>()>(0, steps * rows, [&]<int R>(int64_t first) {
                        const int64_t at = panel * V * LANES;
                        const float* numbers[R];
                        float* to[R];
                        Sums<R, VECTORS> sums;
#pragma GCC unroll 8
                        for (int r = 0; r < R; ++r) {
                            const int64_t slot = (first + r) / rows, b = part.row + (first + r) % rows;
                            numbers[r] = l_.x + time(n + slot) * l_.x_step + b * l_.x_row;
                            to[r] = pre_ + (slot * B + b) * width_ + at;
#pragma GCC unroll 8
                            for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(bias_ + at + v * LANES);
                        }
                        accumulate<R, VECTORS>(sums, numbers, input_weights_ + at * I, I, width_ * I > FAR);
#pragma GCC unroll 8
                        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                            for (int v = 0; v < VECTORS; ++v) store(to[r] + v * LANES, sums[r][v]);
                    });
            });
    }

    // `project` where the weights are not packed. Apart from it, so that its sums stay in registers.
    void project_few(const Part& part, int64_t n, int64_t steps) {
        for_each_vector(part, [&](int64_t at, int64_t unit, int64_t count) {
            for (int64_t slot = 0; slot < steps; ++slot)
                for (int64_t b = part.row; b < part.row_end; ++b)
                    for (int64_t g = 0; g < G; ++g) {
                        const float* numbers = l_.x + time(n + slot) * l_.x_step + b * l_.x_row;
                        const int64_t to = at + g * LANES;
                        store(pre_ + (slot * B + b) * width_ + to,
                              load(bias_ + to) + dot_rows(l_.weight_ih + (g * H + unit) * I, count, numbers, I));
                    }
        });
    }

    // The products of a step and the cell's own work, where the weights are not packed.
    void step_few(const Part& part, const ForwardStep& s, int64_t t, int64_t slot) {
        for_each_vector(part, [&](int64_t at, int64_t unit, int64_t count) {
            for (int64_t b = part.row; b < part.row_end; ++b) {
                vec sums[G];
                float* pre = pre_ + (slot * B + b) * width_ + at;
                for (int g = 0; g < G; ++g) {
                    const vec product =
                        dot_rows(l_.weight_hh + (g * H + unit) * H, count, s.before + b * state_row_, H);
                    if (Cell::WHOLE_ROWS)
                        store(pre + g * LANES, product);
                    else
                        sums[g] = product + load(Cell::KEEPS_HIDDEN && g == G - 1 ? recurrent_bias_ + unit : pre + g * LANES);
                }
                const int64_t vector = unit / LANES;
                if constexpr (!Cell::WHOLE_ROWS)
                    finish<1>(s, t, slot, vector / U, vector % U, b, [&](int64_t) { return sums; });
            }
        });
    }

    // Calls work(place in a packed row, first unit, how many) for each vector of a part's units.
    template <class Work>
    void for_each_vector(const Part& part, Work work) const {
        for (int64_t panel = part.panel; panel < part.panel_end; ++panel)
            for (int64_t u = 0; u < units(panel); ++u) {
                const int64_t unit = (panel * U + u) * LANES;
                work((panel * V + u * G) * LANES, unit, H - unit < LANES ? H - unit : LANES);
            }
    }

    void step(const Part& part, int64_t n) {
        const int64_t t = time(n), slot = n % chunk_;
        ForwardStep s{H, hidden_[n & 1], hidden_[(n + 1) & 1], cell_, l_.output + t * B * H,
                      l_.cells ? l_.cells + t * B * H : nullptr, l_.gates ? l_.gates + t * B * Cell::STORED * H : nullptr,
                      T * B * Cell::STORED * H > LARGE, l_.variation, t};
        if (unpacked_)
            step_few(part, s, t, slot);
        else
            for (int64_t panel = part.panel; panel < part.panel_end; ++panel)
                with_vectors<V>(units(panel) * G, [&]<int VECTORS>() {
                    if constexpr (VECTORS % G == 0)
                        in_groups<rows_in_registers<VECTORS>()>(part.row, part.row_end, [&]<int R>(int64_t first) {
                            step_group<R, VECTORS>(s, t, slot, panel, first);
                        });
                });
        if constexpr (Cell::WHOLE_ROWS)
            for (int64_t b = part.row; b < part.row_end; ++b) {
                const Place at{b * H, b * Cell::STORED * H, b * state_row_, H, b, 0};
                if (l_.lengths && t >= l_.lengths[b])
                    for (int64_t unit = 0; unit < H; unit += LANES) hold(s, moved(at, unit));
                else
                    Cell::forward_row({s, l_.x + t * l_.x_step + b * l_.x_row, pre_ + b * width_, l_.bias_hh, at});
            }
    }

    Place moved(const Place& at, int64_t unit) const {
        const int64_t left = H - unit;
        return {at.row + unit, at.gates + unit, at.state + unit, left < LANES ? left : LANES, at.b, unit};
    }

    template <int R, int VECTORS>
    UNROLLED_INLINE void step_group(const ForwardStep& s, int64_t t, int64_t slot, int64_t panel, int64_t first) {
        const int64_t at = panel * V * LANES;
        const float* numbers[R];
        Sums<R, VECTORS> sums;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            numbers[r] = s.before + (first + r) * state_row_;
            const float* pre = pre_ + (slot * B + first + r) * width_ + at;
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v)
                sums[r][v] = Cell::WHOLE_ROWS                       ? vec{}
                             : Cell::KEEPS_HIDDEN && v == G - 1 ? load(recurrent_bias_ + panel * LANES)
                                                                : load(pre + v * LANES);
        }
        accumulate<R, VECTORS>(sums, numbers, weights_ + at * H, H, width_ * H > FAR);
        if constexpr (Cell::WHOLE_ROWS) {
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v) store(pre_ + (first + r) * width_ + at + v * LANES, sums[r][v]);
        } else {
            vec done[R][VECTORS];
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v) done[r][v] = sums[r][v];
            for (int u = 0; u < VECTORS / G; ++u)
                in_groups<SIDE_BY_SIDE>(0, R, [&]<int N>(int64_t r) {
                    finish<N>(s, t, slot, panel, u, first + r, [&](int64_t n) { return &done[r + n][u * G]; });
                });
        }
    }

    // The cell's own work for one vector of units of N rows.
    template <int N, class SumsOf>
    UNROLLED_INLINE void finish(const ForwardStep& s, int64_t t, int64_t slot, int64_t panel, int64_t u, int64_t first,
                                SumsOf sums_of) {
        const int64_t unit = (panel * U + u) * LANES, count = H - unit < LANES ? H - unit : LANES;
        Place places[N];
        const vec* sums[N];
        vec input_parts[N];
        bool taken = true;
        UNROLLED_EACH {
            const int64_t b = first + n;
            places[n] = {b * H + unit, b * Cell::STORED * H + unit, b * state_row_ + unit, count, b, unit};
            sums[n] = sums_of(n);
            input_parts[n] = load(pre_ + (slot * B + b) * width_ + panel * V * LANES + (u * G + G - 1) * LANES);
            taken = taken && !(l_.lengths && t >= l_.lengths[b]);
        }
        if (taken) return Cell::forward(s, places, sums, input_parts);
        for (int n = 0; n < N; ++n)
            if (t >= l_.lengths[first + n]) {
                hold(s, places[n]);
            } else {
                const Place place[1] = {places[n]};
                const vec* const sum[1] = {sums[n]};
                Cell::forward(s, place, sum, &input_parts[n]);
            }
    }

    // After a sequence's end: states stay, the output is zero.
    static void hold(const ForwardStep& s, const Place& at) {
        store(s.after + at.state, load(s.before + at.state));
        store_first(s.output + at.row, vec{}, at.count);
        if (s.gates)
            for (int g = 0; g < Cell::STORED; ++g) store_first(s.gates + at.gates + g * s.hidden_size, vec{}, at.count);
        if (s.cells) store_first(s.cells + at.row, load(s.cell + at.state), at.count);
    }
};

}  // namespace UNROLLED_ISA
