// The LSTM with peepholes, coupled gates, zoneout or recurrent dropout: which of them, the call's variation says.
#pragma once

#include "cells.h"

namespace UNROLLED_ISA {

// The factors of one vector of units.
UNROLLED_INLINE vec factors(const unrolled_mask& mask, int64_t t, const Place& at) {
    return load_first(mask.at + t * mask.step + at.b * mask.row + at.unit, at.count);
}

// The peephole weights of one gate (0 input, 1 forget, 2 output); zero where there are none.
UNROLLED_INLINE vec peephole(const unrolled_variation& variation, int64_t gate, int64_t hidden_size, const Place& at) {
    return optional(variation.peephole, gate * hidden_size + at.unit, at.count);
}

template <bool COUPLED>
struct VariedLstm {
    static constexpr int GATES = COUPLED ? 3 : 4, STORED = GATES, PRE = GATES, UNITS = 1;
    static constexpr bool HAS_CELL = true, KEEPS_HIDDEN = false, VARIED = true, WHOLE_ROWS = false;
    static constexpr int SUMS = PRE;
    static constexpr int FORGET = GATES - 3, CANDIDATE = GATES - 2, OUTPUT = GATES - 1;  // blocks; the input gate is the first

    template <int N>
    static UNROLLED_INLINE void forward(const ForwardStep& s, const Place (&at)[N], const vec* const (&sums)[N], const vec*) {
        const unrolled_variation& variation = s.variation;
        vec old[N], logistic[2 * N], candidate[N], added[N], cell[N], output[N], squashed[N];
        UNROLLED_EACH {
            old[n] = load(s.cell + at[n].state);
            logistic[2 * n] = sums[n][0] + peephole(variation, 0, s.hidden_size, at[n]) * old[n];
            logistic[2 * n + 1] = sums[n][FORGET] + peephole(variation, 1, s.hidden_size, at[n]) * old[n];
            candidate[n] = sums[n][CANDIDATE];
        }
        sigmoid(logistic);
        tanh(candidate);
        UNROLLED_EACH {
            if (COUPLED) logistic[2 * n] = 1.0f - logistic[2 * n + 1];
            added[n] = candidate[n];
            if (variation.candidate_mask.at) added[n] *= factors(variation.candidate_mask, s.t, at[n]);
            cell[n] = logistic[2 * n + 1] * old[n] + logistic[2 * n] * added[n];
            output[n] = sums[n][OUTPUT] + peephole(variation, 2, s.hidden_size, at[n]) * cell[n];
            squashed[n] = cell[n];
        }
        sigmoid(output);
        tanh(squashed);
        UNROLLED_EACH {
            vec hidden = output[n] * squashed[n];
            if (variation.cell_zone.at) {
                const vec stays = factors(variation.cell_zone, s.t, at[n]);
                cell[n] = stays * old[n] + (1.0f - stays) * cell[n];
            }
            if (variation.hidden_zone.at) {
                const vec stays = factors(variation.hidden_zone, s.t, at[n]);
                hidden = stays * load(s.before + at[n].state) + (1.0f - stays) * hidden;
            }
            store(s.cell + at[n].state, cell[n]);
            store_first(s.output + at[n].row, hidden, at[n].count);
            if (variation.hidden_mask.at) hidden *= factors(variation.hidden_mask, s.t, at[n]);
            store(s.after + at[n].state, hidden);
        }
        if (s.gates) UNROLLED_EACH {
            float* gates = s.gates + at[n].gates;
            if (!COUPLED) store_away(gates, logistic[2 * n], at[n].count, s.away);
            store_away(gates + FORGET * s.hidden_size, logistic[2 * n + 1], at[n].count, s.away);
            store_away(gates + CANDIDATE * s.hidden_size, candidate[n], at[n].count, s.away);
            store_away(gates + OUTPUT * s.hidden_size, output[n], at[n].count, s.away);
            store_away(s.cells + at[n].row, cell[n], at[n].count, s.away);
        }
    }

    // `before` is the cell state before the step. What stays in `grad_hidden` flows to the hidden state before directly.
    template <int N>
    static UNROLLED_INLINE void backward(const BackwardStep& s, const Place (&at)[N], vec (&grad_hidden)[N],
                                         const vec (&before)[N], vec (&pre)[N][PRE]) {
        const unrolled_variation& variation = s.variation;
        const int64_t H = s.hidden_size;
        vec input[N], forget[N], candidate[N], output[N], mask[N], squashed[N];
        UNROLLED_EACH {
            const float* gates = s.gates + at[n].gates;
            forget[n] = load_first(gates + FORGET * H, at[n].count);
            input[n] = COUPLED ? 1.0f - forget[n] : load_first(gates, at[n].count);
            candidate[n] = load_first(gates + CANDIDATE * H, at[n].count);
            output[n] = load_first(gates + OUTPUT * H, at[n].count);
            mask[n] = variation.candidate_mask.at ? factors(variation.candidate_mask, s.t, at[n]) : splat(1.0f);
            squashed[n] = forget[n] * before[n] + input[n] * (candidate[n] * mask[n]);
        }
        tanh(squashed);
        UNROLLED_EACH {
            const int64_t count = at[n].count;
            vec kept_hidden = {}, kept_cell = {};
            if (variation.hidden_zone.at) {
                kept_hidden = factors(variation.hidden_zone, s.t, at[n]) * grad_hidden[n];
                grad_hidden[n] -= kept_hidden;
            }
            vec grad_output = grad_hidden[n] * squashed[n];
            if (s.grad_gates) grad_output += load_first(s.grad_gates + at[n].gates + OUTPUT * H, count);
            pre[n][OUTPUT] = grad_output * output[n] * (1.0f - output[n]);
            vec grad_cell = grad_hidden[n] * output[n] * (1.0f - squashed[n] * squashed[n]) +
                            pre[n][OUTPUT] * peephole(variation, 2, H, at[n]);
            vec grad_kept = load(s.grad_cell + at[n].state);
            if (s.grad_cells) grad_kept += load_first(s.grad_cells + at[n].row, count);
            if (variation.cell_zone.at) {
                kept_cell = factors(variation.cell_zone, s.t, at[n]) * grad_kept;
                grad_cell += grad_kept - kept_cell;
                if (s.total_cells) store_first(s.total_cells + at[n].row, grad_kept, count);
            } else {
                grad_cell += grad_kept;
                if (s.total_cells) store_first(s.total_cells + at[n].row, grad_cell, count);
            }
            vec grad_input = grad_cell * (candidate[n] * mask[n]), grad_forget = grad_cell * before[n];
            vec grad_candidate = grad_cell * input[n] * mask[n];
            if (COUPLED) grad_forget -= grad_input;
            if (s.grad_gates) {
                const float* grad = s.grad_gates + at[n].gates;
                if (!COUPLED) grad_input += load_first(grad, count);
                grad_forget += load_first(grad + FORGET * H, count);
                grad_candidate += load_first(grad + CANDIDATE * H, count);
            }
            if (s.total_gates) {
                float* total = s.total_gates + at[n].gates;
                if (!COUPLED) store_first(total, grad_input, count);
                store_first(total + FORGET * H, grad_forget, count);
                store_first(total + CANDIDATE * H, grad_candidate, count);
                store_first(total + OUTPUT * H, grad_output, count);
            }
            vec grad_before = grad_cell * forget[n] + kept_cell;
            if (!COUPLED) {
                pre[n][0] = grad_input * input[n] * (1.0f - input[n]);
                grad_before += pre[n][0] * peephole(variation, 0, H, at[n]);
            }
            pre[n][FORGET] = grad_forget * forget[n] * (1.0f - forget[n]);
            grad_before += pre[n][FORGET] * peephole(variation, 1, H, at[n]);
            pre[n][CANDIDATE] = grad_candidate * (1.0f - candidate[n] * candidate[n]);
            store(s.grad_cell + at[n].state, grad_before);
            grad_hidden[n] = kept_hidden;
        }
    }
};

}  // namespace UNROLLED_ISA
