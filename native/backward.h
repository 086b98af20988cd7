// Backward: from the last step taken to the first, the gradient of the pre-activations; from it the weights' gradients, a
// few steps at a time while they are still in the cache, or, where the weights are large, left to the caller.
#pragma once

#include "normalised.h"
#include "sharing.h"
#include "varied.h"

namespace UNROLLED_ISA {

template <class Cell>
class Backward {
    static constexpr int G = Cell::GATES, S = Cell::STORED, PRE = Cell::PRE, SUMS = Cell::SUMS;
    static constexpr int64_t PIECE = 1024;

    const unrolled_backward& call_;
    const unrolled_layer& l_;
    const int64_t B = l_.batch, T = l_.steps, I = l_.input_size, H = l_.hidden_size;
    const Panels units_{H}, inputs_{I};
    const int64_t state_row_ = padded(H) + LANES;
    // Rows whose distance is a power of two would crowd the same lines of the cache.
    const int64_t pre_row_ = call_.grad_pre ? PRE * H : padded(PRE * H) + LANES;
    const int64_t seen_row_ = padded(I) + padded(H) + LANES;
    const int64_t sums_size_ = G * H * seen_row_;
    const Sharing sharing_{l_, padded(H) * G * H, call_.grad_pre && !Cell::WHOLE_ROWS ? units_.count() : 0};
    const bool carries_ = Cell::KEEPS_HIDDEN || l_.lengths || (Cell::VARIED && l_.variation.hidden_zone.at);
    int64_t chunk_ = 1, slots_ = 1, bias_steps_;
    float* bias_sums_;  // of each thread, of all steps and of the last few
    float *weights_, *input_weights_, *grad_hidden_, *grad_cell_, *partial_, *zeros_;
    float* row_grad_;  // of the hidden states of a step
    // Of the last steps, each thread's rows together: gradients of the pre-activations; inputs and hidden states before.
    float *ring_, *seen_;
    float* sums_;  // of the weights' gradients, a thread's own

  public:
    // Up to here the weights' gradients stay in a core's cache while chunks are added to them.
    static bool accumulates(const unrolled_layer& l) {
        return !Cell::VARIED && G * l.hidden_size * (padded(l.input_size) + padded(l.hidden_size)) <= int64_t{3} << 17;
    }

    explicit Backward(const unrolled_backward& call) : call_(call), l_(call.layer) {
        const int64_t rows = sharing_.rows_per_party(B) > 0 ? sharing_.rows_per_party(B) : 1;
        bias_steps_ = rows < 256 ? 256 / rows : 1;
        if (call_.grad_pre) return;
        chunk_ = (128 + rows - 1) / rows;
        if (chunk_ > T) chunk_ = T;
        slots_ = chunk_ > 2 ? chunk_ : 2;  // a step is written while the one after it is read
    }

    int64_t run() {
        using unrolled::Scratch;
        const int64_t parties = sharing_.parties, ring = call_.grad_pre ? 0 : slots_ * B * pre_row_;
        const int64_t seen = ring ? slots_ * B * seen_row_ : 0, sums = ring ? parties * sums_size_ : 0;
        const int64_t rows_at_once = Cell::WHOLE_ROWS ? B * state_row_ : 0;
        const int64_t inputs = ring && call_.grad_x ? inputs_.size(G * H) : 0;
        Scratch scratch(Scratch::rounded(units_.size(G * H)) + Scratch::rounded(inputs) + Scratch::rounded(ring) +
                        Scratch::rounded(seen) + Scratch::rounded(sums) + Scratch::rounded(2 * parties * SUMS * padded(H)) +
                        2 * Scratch::rounded(B * state_row_) + Scratch::rounded(parties * B * PANEL * LANES) +
                        Scratch::rounded(H) + Scratch::rounded(rows_at_once));
        if (scratch.failed()) return 1;
        weights_ = scratch.take(units_.size(G * H));
        input_weights_ = scratch.take(inputs);
        ring_ = scratch.take(ring);
        seen_ = scratch.take(seen);
        sums_ = scratch.take(sums);
        bias_sums_ = scratch.take(2 * parties * SUMS * padded(H));
        grad_hidden_ = scratch.take(B * state_row_);
        grad_cell_ = scratch.take(B * state_row_);
        partial_ = scratch.take(parties * B * PANEL * LANES);
        zeros_ = scratch.take(H);
        row_grad_ = scratch.take(rows_at_once);
        memset(zeros_, 0, size(H));
        if (call_.grad_pre) unrolled::expect_writes(call_.grad_pre, T * B * pre_row_);

        auto prepare = [&](int64_t begin, int64_t end) {
            for (int64_t p = units_.count() * begin / parties; p < units_.count() * end / parties; ++p)
                pack(l_.weight_hh, units_, G * H, p, weights_);
            if (inputs)
                for (int64_t p = inputs_.count() * begin / parties; p < inputs_.count() * end / parties; ++p)
                    pack(l_.weight_ih, inputs_, G * H, p, input_weights_);
            // A thread may stand for several parties and then leaves the others' sums alone.
            memset(bias_sums_ + 2 * begin * SUMS * padded(H), 0, size(2 * (end - begin) * SUMS * padded(H)));
            if (sums) memset(sums_ + begin * sums_size_, 0, size((end - begin) * sums_size_));
        };
        unrolled::share(parties, prepare);
        unrolled::Barrier barrier(parties);
        auto work = [&](int64_t begin, int64_t end) {
            take_part(Part(sharing_, B, units_.count(), begin, end), barrier);
        };
        unrolled::share(parties, work);
        auto finish = [&](int64_t begin, int64_t end) {
            if (sums) join_weights(G * H * begin / parties, G * H * end / parties);
            if (begin == 0) join_biases();
        };
        unrolled::share(sums ? parties : 1, finish);
        return 0;
    }

  private:
    static size_t size(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }
    int64_t time(int64_t n) const { return l_.reverse ? T - 1 - n : n; }

    // The gradient of the pre-activations of step n, row b.
    float* pre(const Part& part, int64_t n, int64_t b) const {
        return call_.grad_pre ? call_.grad_pre + (time(n) * B + b) * pre_row_ : ring_ + slot(part, n, b) * pre_row_;
    }

    int64_t slot(const Part& part, int64_t n, int64_t b) const {
        return part.row * slots_ + n % slots_ * part.rows() + b - part.row;
    }

    // A state of row b before step n, as the forward left it in `states` (T, B, H).
    const float* before(const float* states, const float* initial, int64_t n, int64_t b) const {
        const int64_t t = time(n), earlier = l_.reverse ? t + 1 : t - 1;
        if (begins_anew(l_, t, b)) return zeros_;
        if (n == 0 || (l_.reverse && l_.lengths && earlier >= l_.lengths[b])) return initial + b * H;
        return states + (earlier * B + b) * H;
    }

    void take_part(const Part& part, unrolled::Barrier& barrier) {
        const FlushDenormals flush;
        const int64_t first = part.panel * PANEL * LANES;
        const int64_t end = part.panel_end * PANEL * LANES < H ? part.panel_end * PANEL * LANES : H;
        for (int64_t b = part.row; b < part.row_end; ++b) {
            begin_with(grad_hidden_, call_.grad_final_hidden, b, first, end);
            if (Cell::HAS_CELL) begin_with(grad_cell_, call_.grad_final_cell, b, first, end);
        }
        int64_t waiting = 0;  // steps whose weights' gradients are still to be added
        for (int64_t n = T - 1; n >= 0; --n) {
            step(part, n);
            forget(part, n, first, end);
            if (sharing_.by_units) barrier.wait(part.standing_for);
            if (n % bias_steps_ == 0) add_biases(part);
            if (!call_.grad_pre && (++waiting == chunk_ || n == 0)) {
                add_chunk(part, n, waiting);
                waiting = 0;
            }
        }
        if (call_.grad_initial_hidden) step(part, -1);
        if (Cell::HAS_CELL && call_.grad_initial_cell)
            for (int64_t b = part.row; b < part.row_end; ++b)
                memcpy(call_.grad_initial_cell + b * H + first, grad_cell_ + b * state_row_ + first, size(end - first));
    }

    // Nothing flows from step n to the states before it where it begins anew. What its pre-activations would let through is
    // left out where their product with the weights is used.
    void forget(const Part& part, int64_t n, int64_t first, int64_t end) {
        if (!l_.reset) return;
        for (int64_t b = part.row; b < part.row_end; ++b)
            if (begins_anew(l_, time(n), b)) {
                if (carries_) memset(grad_hidden_ + b * state_row_ + first, 0, size(end - first));
                if (Cell::HAS_CELL) memset(grad_cell_ + b * state_row_ + first, 0, size(end - first));
            }
    }

    // The gradient of the hidden state of row b after step n from the product of the later step's pre-activations.
    UNROLLED_INLINE vec passed(vec grad, int64_t n, int64_t b, int64_t unit, int64_t count) const {
        if (n + 1 < T && begins_anew(l_, time(n + 1), b)) return vec{};
        if constexpr (Cell::VARIED)
            if (const unrolled_mask& mask = l_.variation.hidden_mask; mask.at)
                return grad * load_first(mask.at + b * mask.row + unit, count);
        return grad;
    }

    // The biases' sums of a few steps into those of all, over the part's own units.
    void add_biases(const Part& part) const {
        const int64_t first = part.panel * PANEL * LANES, end = part.panel_end * PANEL * LANES;
        for (int64_t g = 0; g < SUMS; ++g)
            for (int64_t k = first; k < end && k < padded(H); k += LANES) {
                float* few = bias_sums_ + ((bias_owner(part) * 2 + 1) * SUMS + g) * padded(H) + k;
                float* all = bias_sums_ + (bias_owner(part) * 2 * SUMS + g) * padded(H) + k;
                store(all, load(all) + load(few));
                store(few, vec{});
            }
    }

    int64_t bias_owner(const Part& part) const { return sharing_.by_units ? 0 : part.party; }

    void begin_with(float* states, const float* grad, int64_t b, int64_t first, int64_t end) const {
        if (grad)
            memcpy(states + b * state_row_ + first, grad + b * H + first, size(end - first));
        else
            memset(states + b * state_row_ + first, 0, size(end - first));
    }

    // Step n; step -1 is the initial state, of which only the gradient is left to be formed.
    void step(const Part& part, int64_t n) {
        const int64_t depth = n < T - 1 ? G * H : 0;
        for (int64_t panel = part.panel; panel < part.panel_end; ++panel)
            with_vectors<PANEL>(units_.vectors(panel), [&]<int V>() {
                // Long rows are taken in pieces, so that a group's piece stays in the nearest cache.
                int64_t from = 0;
                do {
                    const int64_t piece = depth - from < PIECE ? depth - from : PIECE;
                    in_groups<rows_in_registers<V>()>(part.row, part.row_end, [&]<int R>(int64_t first) {
                        Sums<R, V> sums = {};
                        float* partial = partial_ + (part.party * B + first) * PANEL * LANES;
                        if (from > 0) move<R, V>(sums, partial, false);
                        const float* numbers[R];
#pragma GCC unroll 8
                        for (int r = 0; r < R; ++r) numbers[r] = piece ? pre(part, n + 1, first + r) + from : nullptr;
                        const float* weights = weights_ + units_.start(panel, G * H) + from * V * LANES;
                        accumulate<R, V>(sums, numbers, weights, piece, G * H * padded(H) > FAR);
                        if (from + piece < depth)
                            move<R, V>(sums, partial, true);
                        else
                            step_group<R, V>(part, n, panel, first, sums);
                    });
                    from += piece;
                } while (from < depth);
            });
        if constexpr (Cell::WHOLE_ROWS)
            if (n >= 0)
                for (int64_t b = part.row; b < part.row_end; ++b) take_row(part, n, b);
    }

    // Step n of row b, whose gradient of the hidden state is complete.
    void take_row(const Part& part, int64_t n, int64_t b) const {
        const int64_t t = time(n);
        const Place at{b * H, b * S * H, b * state_row_, H, b, 0};
        float *grad = row_grad_ + at.state, *to = pre(part, n, b);
        if (l_.lengths && t >= l_.lengths[b]) {
            memcpy(grad_hidden_ + at.state, grad, size(padded(H)));
            memset(to, 0, size(PRE * H));
            if (call_.total_hidden) memset(call_.total_hidden + t * B * H + at.row, 0, size(H));
            if (call_.total_cells) memset(call_.total_cells + t * B * H + at.row, 0, size(H));
            if (call_.total_gates) memset(call_.total_gates + t * B * S * H + at.gates, 0, size(S * H));
            return;
        }
        for (int64_t unit = 0; unit < H; unit += LANES) {
            const int64_t count = H - unit < LANES ? H - unit : LANES;
            vec sum = load(grad + unit);
            if (call_.grad_output)
                sum += load_first(call_.grad_output + t * call_.grad_output_step + b * call_.grad_output_row + unit, count);
            if (call_.total_hidden) store_first(call_.total_hidden + t * B * H + at.row + unit, sum, count);
            store(grad + unit, sum);
            if (carries_) store(grad_hidden_ + at.state + unit, vec{});
        }
        float* sums = bias_sums_ + (bias_owner(part) * 2 + 1) * SUMS * padded(H);
        const BackwardStep s = step_of(t);
        Cell::backward_row({s, before(l_.cells, l_.initial_cell, n, b), l_.bias_hh, grad, to, sums, at});
    }

    BackwardStep step_of(int64_t t) const {
        const int64_t states = t * B * H, gates = t * B * S * H;
        return {H, moved(l_.gates, gates), moved(l_.cells, states), l_.output + states, moved(call_.grad_cells, states),
                moved(call_.grad_gates, gates), grad_cell_, moved(call_.total_cells, states),
                moved(call_.total_gates, gates), l_.variation, t};
    }

    // Between registers and memory.
    template <int R, int V>
    static UNROLLED_INLINE void move(Sums<R, V>& sums, float* memory, bool out) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                float* at = memory + (r * PANEL + v) * LANES;
                if (out)
                    store(at, sums[r][v]);
                else
                    sums[r][v] = load(at);
            }
    }

    template <int R, int V>
    UNROLLED_INLINE void step_group(const Part& part, int64_t step, int64_t panel, int64_t first, const Sums<R, V>& sums) {
        vec done[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) done[r][v] = sums[r][v];
        for (int v = 0; v < V; ++v) {
            const int64_t unit = (panel * PANEL + v) * LANES, count = H - unit < LANES ? H - unit : LANES;
            if (step < 0) {
                for (int r = 0; r < R; ++r) {
                    const int64_t b = first + r;
                    vec grad = passed(done[r][v], step, b, unit, count);
                    if (carries_ || T == 0) grad += load(grad_hidden_ + b * state_row_ + unit);
                    store_first(call_.grad_initial_hidden + b * H + unit, grad, count);
                }
                continue;
            }
            if constexpr (Cell::WHOLE_ROWS) {
                for (int r = 0; r < R; ++r) {
                    const int64_t at = (first + r) * state_row_ + unit;
                    vec grad = passed(done[r][v], step, first + r, unit, count);
                    if (carries_ || step == T - 1) grad += load(grad_hidden_ + at);
                    store(row_grad_ + at, grad);
                }
            } else {
                vec bias[PRE] = {};
                in_groups<SIDE_BY_SIDE>(0, R, [&]<int N>(int64_t r) {
                    vec grads[N];
                    UNROLLED_EACH grads[n] = done[r + n][v];
                    step_units(part, step, first + r, unit, count, grads, bias);
                });
                float* to = bias_sums_ + (bias_owner(part) * 2 + 1) * SUMS * padded(H) + unit;
                for (int g = 0; g < PRE; ++g, to += padded(H)) store(to, load(to) + bias[g]);
            }
        }
    }

    // Step `step` of N rows from row on: from the gradient of the hidden state after it to that of the pre-activations.
    template <int N>
    UNROLLED_INLINE void step_units(const Part& part, int64_t step, int64_t row, int64_t unit, int64_t count,
                                    vec (&grad_hidden)[N], vec (&bias)[PRE]) {
        const int64_t t = time(step);
        const BackwardStep s = step_of(t);
        Place at[N];
        vec pre_grads[N][PRE];
        bool taken = true;
        UNROLLED_EACH {
            const int64_t b = row + n;
            at[n] = {b * H + unit, b * S * H + unit, b * state_row_ + unit, count, b, unit};
            grad_hidden[n] = passed(grad_hidden[n], step, b, unit, count);
            if (carries_ || step == T - 1) grad_hidden[n] += load(grad_hidden_ + at[n].state);
            taken = taken && !(l_.lengths && t >= l_.lengths[b]);
            prefetch_saved(s, at[n], t, b, unit);
        }
        if (taken)
            take_units(s, t, step, row, unit, at, grad_hidden, pre_grads);
        else
            for (int n = 0; n < N; ++n) {
                vec grad[1] = {grad_hidden[n]}, one[1][PRE] = {};
                const Place place[1] = {at[n]};
                if (t < l_.lengths[row + n])
                    take_units(s, t, step, row + n, unit, place, grad, one);
                else
                    clear_totals(t, at[n]);
                grad_hidden[n] = grad[0];
                for (int g = 0; g < PRE; ++g) pre_grads[n][g] = one[0][g];
            }
        UNROLLED_EACH {
            if (carries_) store(grad_hidden_ + at[n].state, grad_hidden[n]);
            float* to = pre(part, step, row + n) + unit;
#pragma GCC unroll 4
            for (int g = 0; g < PRE; ++g) {
                store_first(to + g * H, pre_grads[n][g], count);
                bias[g] += pre_grads[n][g];
            }
        }
    }

    template <int N>
    UNROLLED_INLINE void take_units(const BackwardStep& s, int64_t t, int64_t step, int64_t row, int64_t unit,
                                    const Place (&at)[N], vec (&grad_hidden)[N], vec (&pre_grads)[N][PRE]) {
        vec old[N] = {};
        UNROLLED_EACH {
            const int64_t b = row + n;
            if (call_.grad_output)
                grad_hidden[n] += load_first(
                    call_.grad_output + t * call_.grad_output_step + b * call_.grad_output_row + unit, at[n].count);
            if (call_.total_hidden) store_first(call_.total_hidden + t * B * H + at[n].row, grad_hidden[n], at[n].count);
            if (Cell::HAS_CELL) old[n] = load_first(before(l_.cells, l_.initial_cell, step, b) + unit, at[n].count);
            if (Cell::KEEPS_HIDDEN) old[n] = load_first(before(l_.output, l_.initial_hidden, step, b) + unit, at[n].count);
        }
        Cell::backward(s, at, grad_hidden, old, pre_grads);
    }

    // The lines of the caller's memory that the next step will read and write: by then they have come.
    UNROLLED_INLINE void prefetch_saved(const BackwardStep& s, const Place& at, int64_t t, int64_t b, int64_t unit) const {
        const int64_t way = l_.reverse ? 1 : -1;
#pragma GCC unroll 4
        for (int g = 0; g < S; ++g) __builtin_prefetch(s.gates + at.gates + g * H + way * B * S * H);
        if (!S) __builtin_prefetch(s.output + at.row + way * B * H);
        if (call_.grad_output)
            __builtin_prefetch(call_.grad_output + (t + way) * call_.grad_output_step + b * call_.grad_output_row + unit);
        if (call_.grad_pre)
#pragma GCC unroll 4
            for (int g = 0; g < PRE; ++g) prefetch_write(call_.grad_pre + ((t + way) * B + b) * pre_row_ + g * H + unit);
    }

    template <class Pointer>
    static Pointer moved(Pointer p, int64_t by) {
        return p ? p + by : p;
    }

    // Nothing depends on a step that was not taken.
    void clear_totals(int64_t t, const Place& at) const {
        if (call_.total_hidden) store_first(call_.total_hidden + t * B * H + at.row, vec{}, at.count);
        if (call_.total_cells) store_first(call_.total_cells + t * B * H + at.row, vec{}, at.count);
        if (call_.total_gates)
            for (int g = 0; g < S; ++g) store_first(call_.total_gates + t * B * S * H + at.gates + g * H, vec{}, at.count);
    }

    // The steps n to n + steps into the weights' sums and the input's gradient.
    void add_chunk(const Part& part, int64_t n, int64_t steps) {
        const int64_t rows = part.rows();
        if (rows == 0) return;
        if (call_.grad_weight_ih) {
            for (int64_t i = n; i < n + steps; ++i)
                for (int64_t b = part.row; b < part.row_end; ++b) {
                    float* to = seen_ + slot(part, i, b) * seen_row_;
                    copy_padded(l_.x + time(i) * l_.x_step + b * l_.x_row, I, to);
                    copy_padded(before(l_.output, l_.initial_hidden, i, b), H, to + padded(I));
                }
            // The order of a sum's terms is free: these steps fill the ring, or stand in it without a break.
            const int64_t from = steps == slots_ ? part.row * slots_ : slot(part, n, part.row);
            add_products(part, ring_ + from * pre_row_, seen_ + from * seen_row_, steps * rows);
        }
        if (call_.grad_x) input_gradient(part, n, steps);
    }

    static void copy_padded(const float* from, int64_t count, float* to) {
        int64_t k = 0;
        for (; k + LANES <= count; k += LANES) store(to + k, load(from + k));
        if (k < count) store(to + k, load_first(from + k, count - k));
    }

    void add_products(const Part& part, const float* grads, const float* seen, int64_t depth) {
        float* sums = sums_ + part.party * sums_size_;
        if (PRE == G) {
            outer(grads, seen, depth, 0, G * H, sums, 0, in_vectors(I) + in_vectors(H));
        } else {
            // Of a GRU's candidate the input and the recurrent part have gradients of their own.
            outer(grads, seen, depth, 0, (G - 1) * H, sums, 0, in_vectors(I));
            outer(grads + H, seen, depth, (G - 1) * H, G * H, sums, 0, in_vectors(I));
            outer(grads, seen, depth, 0, G * H, sums, in_vectors(I), in_vectors(I) + in_vectors(H));
        }
    }

    // sums[row][column] += sum over k of grads[k][row] * seen[k][column]
    void outer(const float* grads, const float* seen, int64_t depth, int64_t row, int64_t row_end, float* sums,
               int64_t vector, int64_t vector_end) const {
        for (; vector < vector_end; vector += PANEL) {
            const int64_t vectors = vector_end - vector < PANEL ? vector_end - vector : PANEL;
            with_vectors<PANEL>(vectors, [&]<int V>() {
                in_groups<rows_in_registers<V>()>(row, row_end, [&]<int R>(int64_t first) {
                    float* to = sums + first * seen_row_ + vector * LANES;
                    // From zero, for a sum of all steps one after the other would lose digits.
                    Sums<R, V> part = {};
                    accumulate_outer<R, V>(part, grads + first, pre_row_, seen + vector * LANES, seen_row_, depth);
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                        for (int v = 0; v < V; ++v) {
                            float* sum = to + r * seen_row_ + v * LANES;
                            store(sum, load(sum) + part[r][v]);
                        }
                });
            });
        }
    }

    void input_gradient(const Part& part, int64_t n, int64_t steps) {
        const int64_t rows = part.rows();
        for (int64_t panel = 0; panel < inputs_.count(); ++panel)
            with_vectors<PANEL>(inputs_.vectors(panel), [&]<int V>() {
                in_groups<rows_in_registers<V>()>(0, steps * rows, [&]<int R>(int64_t first) {
                    const float *numbers[R], *candidate[R];
                    float* to[R];
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) {
                        const int64_t i = n + (first + r) / rows, b = part.row + (first + r) % rows;
                        numbers[r] = pre(part, i, b);
                        candidate[r] = numbers[r] + (PRE - 1) * H;
                        to[r] = call_.grad_x + (time(i) * B + b) * I;
                    }
                    const float* weights = input_weights_ + inputs_.start(panel, G * H);
                    Sums<R, V> sums = {};
                    accumulate<R, V>(sums, numbers, weights, (PRE == G ? G : G - 1) * H, false);
                    if (PRE != G) accumulate<R, V>(sums, candidate, weights + (G - 1) * H * V * LANES, H, false);
                    for (int v = 0; v < V; ++v) {
                        const int64_t column = (panel * PANEL + v) * LANES, count = I - column < LANES ? I - column : LANES;
                        for (int r = 0; r < R; ++r) store_first(to[r] + column, sums[r][v], count);
                    }
                });
            });
    }

    // What the threads summed apart, for rows of the weights.
    void join_weights(int64_t row, int64_t row_end) const {
        const FlushDenormals flush;
        if (!call_.grad_weight_ih) return;
        for (; row < row_end; ++row) {
            join_row(row * seen_row_, I, call_.grad_weight_ih + row * I);
            join_row(row * seen_row_ + padded(I), H, call_.grad_weight_hh + row * H);
        }
    }

    void join_row(int64_t from, int64_t count, float* to) const {
        for (int64_t k = 0; k < count; k += LANES) {
            vec sum = {};
            for (int64_t p = 0; p < sharing_.parties; ++p) sum += load(sums_ + p * sums_size_ + from + k);
            store_first(to + k, sum, count - k < LANES ? count - k : LANES);
        }
    }

    void join_biases() const {
        const FlushDenormals flush;
        if (!Cell::WHOLE_ROWS && !call_.grad_bias_ih) return;
        for (int64_t g = 0; g < SUMS; ++g)
            for (int64_t k = 0; k < H; k += LANES) {
                vec sum = {};
                for (int64_t p = 0; p < sharing_.parties; ++p)
                    sum += load(bias_sums_ + (2 * p * SUMS + g) * padded(H) + k);
                const int64_t count = H - k < LANES ? H - k : LANES;
                if constexpr (Cell::WHOLE_ROWS) {
                    float* to = g < Cell::GAINS         ? moved(call_.grad_bias_hh, g * H)
                                : g < Cell::CELL_GAINS  ? moved(call_.grad_norm_hh, (g - Cell::GAINS) * H)
                                : g == Cell::CELL_GAINS ? call_.grad_norm_cell
                                                        : call_.grad_norm_bias;
                    if (to) store_first(to + k, sum, count);
                    continue;
                }
                // The last two of a GRU's are those of the candidate's recurrent part and of its input part.
                if (g < G) store_first(call_.grad_bias_hh + g * H + k, sum, count);
                if (g < (PRE == G ? G : G - 1)) store_first(call_.grad_bias_ih + g * H + k, sum, count);
                if (g >= G) store_first(call_.grad_bias_ih + (G - 1) * H + k, sum, count);
            }
    }
};

}  // namespace UNROLLED_ISA
