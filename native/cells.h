// The cells: what one step does with its pre-activations, and what its gradient is. One vector of hidden units of N rows at
// a time.
//
// The equations are those of src/unrolled/recurrence/cells.py.
#pragma once

#include "activations.h"
#include "product.h"
#include "unrolled.h"

namespace UNROLLED_ISA {

// A place in the sequence: step t, row b, `count` hidden units from `unit` on.
struct Place {
    int64_t row;    // of (B, H) arrays in the caller's memory: b * H + unit
    int64_t gates;  // of (B, S * H) arrays: b * S * H + unit
    int64_t state;  // of padded arrays in scratch memory
    int64_t count;  // 1 to LANES
    int64_t b, unit;
};

struct ForwardStep {
    int64_t hidden_size;
    const float* before;  // hidden state, in scratch memory
    float* after;
    float* cell;                     // in scratch memory; replaced
    float *output, *cells, *gates;   // of this step, in the caller's memory; the last two may be null
    bool away;                       // whether cells and gates are too large for the caches
    const unrolled_variation& variation;
    int64_t t;
};

struct BackwardStep {
    int64_t hidden_size;
    const float *gates, *cells, *output;  // what the forward kept of this step
    const float *grad_cells, *grad_gates;  // from outside, of this step, or null
    float* grad_cell;                      // carried from step to step, in scratch memory
    float *total_cells, *total_gates;      // wanted results of this step, or null
    const unrolled_variation& variation;
    int64_t t;
};

UNROLLED_INLINE vec optional(const float* p, int64_t at, int64_t count) {
    return p ? load_first(p + at, count) : vec{};
}

template <bool RELU>
struct Rnn {
    static constexpr int GATES = 1;    // blocks of H rows in the weights
    static constexpr int STORED = 0;   // blocks of H kept of each step
    static constexpr int PRE = 1;      // blocks of H in the gradient of the pre-activations
    static constexpr int UNITS = 4;    // vectors of hidden units in a panel
    static constexpr bool HAS_CELL = false;
    static constexpr bool KEEPS_HIDDEN = false;  // whether the old hidden state enters the new one directly
    static constexpr bool VARIED = false;        // whether the variation is looked at
    static constexpr bool WHOLE_ROWS = false;    // whether a step needs all units of a sequence at once
    static constexpr int SUMS = PRE;             // blocks of H that the backward sums over all steps

    template <int N>
    static UNROLLED_INLINE void forward(const ForwardStep& s, const Place (&at)[N], const vec* const (&sums)[N], const vec*) {
        vec hidden[N];
        UNROLLED_EACH hidden[n] = RELU ? (sums[n][0] < 0.0f ? vec{} : sums[n][0]) : sums[n][0];
        if (!RELU) tanh(hidden);
        UNROLLED_EACH store(s.after + at[n].state, hidden[n]);
        UNROLLED_EACH store_first(s.output + at[n].row, hidden[n], at[n].count);
    }

    template <int N>
    static UNROLLED_INLINE void backward(const BackwardStep& s, const Place (&at)[N], vec (&grad_hidden)[N], const vec (&)[N],
                                         vec (&pre)[N][PRE]) {
        UNROLLED_EACH {
            const vec hidden = load_first(s.output + at[n].row, at[n].count);
            pre[n][0] = RELU ? (hidden > 0.0f ? grad_hidden[n] : vec{}) : grad_hidden[n] * (1.0f - hidden * hidden);
            grad_hidden[n] = vec{};
        }
    }
};

struct Gru {
    static constexpr int GATES = 3, STORED = 4, PRE = 4, UNITS = 1;
    static constexpr bool HAS_CELL = false, KEEPS_HIDDEN = true, VARIED = false, WHOLE_ROWS = false;
    static constexpr int SUMS = PRE;

    // The last sum is the candidate's recurrent part; its input part comes apart, for the reset gate stands between.
    template <int N>
    static UNROLLED_INLINE void forward(const ForwardStep& s, const Place (&at)[N], const vec* const (&sums)[N],
                                        const vec* input_parts) {
        vec logistic[2 * N], candidate[N], hidden[N];
        UNROLLED_EACH logistic[2 * n] = sums[n][0], logistic[2 * n + 1] = sums[n][1];
        sigmoid(logistic);
        UNROLLED_EACH candidate[n] = input_parts[n] + logistic[2 * n] * sums[n][2];
        tanh(candidate);
        UNROLLED_EACH hidden[n] = candidate[n] + logistic[2 * n + 1] * (load(s.before + at[n].state) - candidate[n]);
        UNROLLED_EACH store(s.after + at[n].state, hidden[n]);
        UNROLLED_EACH store_first(s.output + at[n].row, hidden[n], at[n].count);
        if (s.gates) UNROLLED_EACH {
            float* gates = s.gates + at[n].gates;
            store_away(gates, logistic[2 * n], at[n].count, s.away);
            store_away(gates + s.hidden_size, logistic[2 * n + 1], at[n].count, s.away);
            store_away(gates + 2 * s.hidden_size, candidate[n], at[n].count, s.away);
            store_away(gates + 3 * s.hidden_size, sums[n][2], at[n].count, s.away);
        }
    }

    // The gradient of the hidden state becomes what flows to the hidden state before, `before`, along the direct path.
    template <int N>
    static UNROLLED_INLINE void backward(const BackwardStep& s, const Place (&at)[N], vec (&grad_hidden)[N],
                                         const vec (&before)[N], vec (&pre)[N][PRE]) {
        const int64_t H = s.hidden_size;
        UNROLLED_EACH {
            const int64_t count = at[n].count;
            const float* gates = s.gates + at[n].gates;
            const vec reset = load_first(gates, count), update = load_first(gates + H, count);
            const vec candidate = load_first(gates + 2 * H, count), recurrent = load_first(gates + 3 * H, count);
            vec grad_candidate = grad_hidden[n] * (1.0f - update), grad_update = grad_hidden[n] * (before[n] - candidate);
            if (s.grad_gates) {
                grad_candidate += load_first(s.grad_gates + at[n].gates + 2 * H, count);
                grad_update += load_first(s.grad_gates + at[n].gates + H, count);
            }
            const vec grad_input = grad_candidate * (1.0f - candidate * candidate);
            vec grad_reset = grad_input * recurrent, grad_recurrent = grad_input * reset;
            if (s.grad_gates) {
                grad_reset += load_first(s.grad_gates + at[n].gates, count);
                grad_recurrent += load_first(s.grad_gates + at[n].gates + 3 * H, count);
            }
            if (s.total_gates) {
                float* total = s.total_gates + at[n].gates;
                store_first(total, grad_reset, count);
                store_first(total + H, grad_update, count);
                store_first(total + 2 * H, grad_candidate, count);
                store_first(total + 3 * H, grad_recurrent, count);
            }
            pre[n][0] = grad_reset * reset * (1.0f - reset);
            pre[n][1] = grad_update * update * (1.0f - update);
            pre[n][2] = grad_recurrent;
            pre[n][3] = grad_input;
            grad_hidden[n] *= update;
        }
    }
};

struct Lstm {
    static constexpr int GATES = 4, STORED = 4, PRE = 4, UNITS = 1;
    static constexpr bool HAS_CELL = true, KEEPS_HIDDEN = false, VARIED = false, WHOLE_ROWS = false;
    static constexpr int SUMS = PRE;

    template <int N>
    static UNROLLED_INLINE void forward(const ForwardStep& s, const Place (&at)[N], const vec* const (&sums)[N], const vec*) {
        vec logistic[3 * N], candidate[N], cell[N], squashed[N];
        UNROLLED_EACH logistic[3 * n] = sums[n][0], logistic[3 * n + 1] = sums[n][1], logistic[3 * n + 2] = sums[n][3];
        UNROLLED_EACH candidate[n] = sums[n][2];
        sigmoid(logistic);
        tanh(candidate);
        UNROLLED_EACH cell[n] = logistic[3 * n + 1] * load(s.cell + at[n].state) + logistic[3 * n] * candidate[n];
        UNROLLED_EACH squashed[n] = cell[n];
        tanh(squashed);
        UNROLLED_EACH {
            const vec hidden = logistic[3 * n + 2] * squashed[n];
            store(s.cell + at[n].state, cell[n]);
            store(s.after + at[n].state, hidden);
            store_first(s.output + at[n].row, hidden, at[n].count);
        }
        if (s.gates) UNROLLED_EACH {
            float* gates = s.gates + at[n].gates;
            store_away(gates, logistic[3 * n], at[n].count, s.away);
            store_away(gates + s.hidden_size, logistic[3 * n + 1], at[n].count, s.away);
            store_away(gates + 2 * s.hidden_size, candidate[n], at[n].count, s.away);
            store_away(gates + 3 * s.hidden_size, logistic[3 * n + 2], at[n].count, s.away);
            store_away(s.cells + at[n].row, cell[n], at[n].count, s.away);
        }
    }

    // `before` is the cell state before the step. Nothing flows to the hidden state before but through the gates.
    template <int N>
    static UNROLLED_INLINE void backward(const BackwardStep& s, const Place (&at)[N], vec (&grad_hidden)[N],
                                         const vec (&before)[N], vec (&pre)[N][PRE]) {
        const int64_t H = s.hidden_size;
        vec squashed[N];
        UNROLLED_EACH squashed[n] = load_first(s.cells + at[n].row, at[n].count);
        tanh(squashed);
        UNROLLED_EACH {
            const int64_t count = at[n].count;
            const float* gates = s.gates + at[n].gates;
            const vec input = load_first(gates, count), forget = load_first(gates + H, count);
            const vec candidate = load_first(gates + 2 * H, count), output = load_first(gates + 3 * H, count);
            vec grad_output = grad_hidden[n] * squashed[n];
            vec grad_cell = load(s.grad_cell + at[n].state) + grad_hidden[n] * output * (1.0f - squashed[n] * squashed[n]);
            if (s.grad_cells) grad_cell += load_first(s.grad_cells + at[n].row, count);
            vec grad_input = grad_cell * candidate, grad_forget = grad_cell * before[n], grad_candidate = grad_cell * input;
            if (s.grad_gates) {
                const float* grad = s.grad_gates + at[n].gates;
                grad_input += load_first(grad, count);
                grad_forget += load_first(grad + H, count);
                grad_candidate += load_first(grad + 2 * H, count);
                grad_output += load_first(grad + 3 * H, count);
            }
            if (s.total_cells) store_first(s.total_cells + at[n].row, grad_cell, count);
            if (s.total_gates) {
                float* total = s.total_gates + at[n].gates;
                store_first(total, grad_input, count);
                store_first(total + H, grad_forget, count);
                store_first(total + 2 * H, grad_candidate, count);
                store_first(total + 3 * H, grad_output, count);
            }
            store(s.grad_cell + at[n].state, grad_cell * forget);
            pre[n][0] = grad_input * input * (1.0f - input);
            pre[n][1] = grad_forget * forget * (1.0f - forget);
            pre[n][2] = grad_candidate * (1.0f - candidate * candidate);
            pre[n][3] = grad_output * output * (1.0f - output);
            grad_hidden[n] = vec{};
        }
    }
};

}  // namespace UNROLLED_ISA
