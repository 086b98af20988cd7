// The layer-normalised LSTM. A normalisation needs all units of a sequence at once, so that after the product a whole row of
// the step is taken at a time; the input's part comes projected and normalised.
#pragma once

#include "cells.h"

namespace UNROLLED_ISA {

// One row in the layout of the packed weights: for each vector of units the gates side by side.
struct RowForward {
    const ForwardStep& step;
    const float* input;  // (4 * H,): the input's part
    float* recurrent;    // the recurrent product, in scratch memory
    const float* bias;   // (4 * H,) or null
    Place at;            // of the row's first unit
};

struct RowBackward {
    const BackwardStep& step;
    const float *before, *bias;  // (H,) the cell state before the step
    float* grad_hidden;          // (H,) padded, in scratch memory; replaced
    float* pre;                  // (8 * H,): gradients of the recurrent product and of the input's part
    float* sums;                 // 10 blocks of padded H, to which is added: see `Sum`
    Place at;
};

// mean and 1 / deviation of `count` numbers, given by vectors: value(v) and how many lanes of it count.
struct Moments {
    float mean, scale;
};

UNROLLED_INLINE float total(vec v) {
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) sum += v[lane];
    return sum;
}

// The first n lanes of v, the others zero.
UNROLLED_INLINE vec first_lanes(vec v, int64_t n) {
    if (n == LANES) return v;
    alignas(sizeof(vec)) float lanes[LANES];
    store(lanes, v);
    return load_first(lanes, n);
}

template <class Value>
UNROLLED_INLINE Moments moments(int64_t vectors, int64_t hidden_size, int64_t blocks, Value value) {
    const float share = 1.0f / static_cast<float>(blocks * hidden_size);
    auto lanes = [&](int64_t unit) { return hidden_size - unit < LANES ? hidden_size - unit : LANES; };
    vec sum{};
    for (int64_t v = 0; v < vectors; ++v)
        for (int64_t g = 0; g < blocks; ++g) sum += first_lanes(value(v, g), lanes(v * LANES));
    const float mean = total(sum) * share;
    vec squares{};
    for (int64_t v = 0; v < vectors; ++v)
        for (int64_t g = 0; g < blocks; ++g) {
            const vec distance = first_lanes(value(v, g) - mean, lanes(v * LANES));
            squares += distance * distance;
        }
    constexpr float EPSILON = 1e-5f;
    return {mean, 1.0f / __builtin_sqrtf(total(squares) * share + EPSILON)};
}

struct NormalisedLstm {
    static constexpr int GATES = 4, STORED = 8, PRE = 8, UNITS = 1;
    static constexpr bool HAS_CELL = true, KEEPS_HIDDEN = false, VARIED = true, WHOLE_ROWS = true;
    // Gradients that are summed over all steps: of the bias, of the gains of each gate, of the cell's gains and shifts.
    enum Sum { BIAS = 0, GAINS = 4, CELL_GAINS = 8, CELL_SHIFTS = 9, SUMS = 10 };

    static UNROLLED_INLINE void forward_row(const RowForward& row) {
        const ForwardStep& s = row.step;
        const unrolled_variation& variation = s.variation;
        const int64_t H = s.hidden_size, vectors = in_vectors(H);
        const Moments recurrent = moments(vectors, H, GATES, [&](int64_t v, int64_t g) {
            return load(row.recurrent + (v * GATES + g) * LANES);
        });
        auto lanes = [&](int64_t unit) { return H - unit < LANES ? H - unit : LANES; };
        in_groups<SIDE_BY_SIDE>(0, vectors, [&]<int N>(int64_t first) {
            vec sums[N][GATES], logistic[3 * N], candidate[N], cell[N];
            UNROLLED_EACH for (int g = 0; g < GATES; ++g) {
                const int64_t unit = (first + n) * LANES, of_gate = g * H + unit;
                const vec product = load(row.recurrent + unit * GATES + g * LANES);
                sums[n][g] = load_first(row.input + of_gate, lanes(unit)) + optional(row.bias, of_gate, lanes(unit)) +
                             (product - recurrent.mean) * recurrent.scale *
                                 load_first(variation.norm_hh + of_gate, lanes(unit));
                if (s.gates) store_away(s.gates + row.at.gates + GATES * H + of_gate, product, lanes(unit), s.away);
            }
            UNROLLED_EACH {
                logistic[3 * n] = sums[n][0], logistic[3 * n + 1] = sums[n][1], logistic[3 * n + 2] = sums[n][3];
                candidate[n] = sums[n][2];
            }
            sigmoid(logistic);
            tanh(candidate);
            UNROLLED_EACH {
                const int64_t unit = (first + n) * LANES;
                float* state = s.cell + row.at.state + unit;
                cell[n] = logistic[3 * n + 1] * load(state) + logistic[3 * n] * candidate[n];
                store(state, cell[n]);
                store(row.recurrent + unit * GATES, logistic[3 * n + 2]);  // the product has been used
            }
            if (s.gates) UNROLLED_EACH {
                const int64_t unit = (first + n) * LANES;
                float* gates = s.gates + row.at.gates + unit;
                store_away(gates, logistic[3 * n], lanes(unit), s.away);
                store_away(gates + H, logistic[3 * n + 1], lanes(unit), s.away);
                store_away(gates + 2 * H, candidate[n], lanes(unit), s.away);
                store_away(gates + 3 * H, logistic[3 * n + 2], lanes(unit), s.away);
                store_away(s.cells + row.at.row + unit, cell[n], lanes(unit), s.away);
            }
        });
        const Moments cell =
            moments(vectors, H, 1, [&](int64_t v, int64_t) { return load(s.cell + row.at.state + v * LANES); });
        in_groups<2 * SIDE_BY_SIDE>(0, vectors, [&]<int N>(int64_t first) {
            vec squashed[N];
            UNROLLED_EACH {
                const int64_t unit = (first + n) * LANES;
                squashed[n] = (load(s.cell + row.at.state + unit) - cell.mean) * cell.scale *
                                  load_first(variation.norm_cell + unit, lanes(unit)) +
                              optional(variation.norm_bias, unit, lanes(unit));
            }
            tanh(squashed);
            UNROLLED_EACH {
                const int64_t unit = (first + n) * LANES;
                const vec hidden = load(row.recurrent + unit * GATES) * squashed[n];
                store(s.after + row.at.state + unit, hidden);
                store_first(s.output + row.at.row + unit, hidden, lanes(unit));
            }
        });
    }

    static UNROLLED_INLINE void add(float* sums, int sum, int64_t hidden_size, int64_t unit, vec value) {
        float* to = sums + sum * padded(hidden_size) + unit;
        store(to, load(to) + value);
    }

    static UNROLLED_INLINE void backward_row(const RowBackward& row) {
        const BackwardStep& s = row.step;
        const unrolled_variation& variation = s.variation;
        const int64_t H = s.hidden_size, vectors = in_vectors(H);
        auto lanes = [&](int64_t unit) { return H - unit < LANES ? H - unit : LANES; };
        const float *gates = s.gates + row.at.gates, *cells = s.cells + row.at.row;
        const Moments cell = moments(vectors, H, 1, [&](int64_t v, int64_t) {
            return load_first(cells + v * LANES, lanes(v * LANES));
        });
        const Moments recurrent = moments(vectors, H, GATES, [&](int64_t v, int64_t g) {
            return load_first(gates + (GATES + g) * H + v * LANES, lanes(v * LANES));
        });
        auto normalised_cell = [&](int64_t unit) {
            return first_lanes((load_first(cells + unit, lanes(unit)) - cell.mean) * cell.scale, lanes(unit));
        };

        // Through the output gate and tanh to the normalised cell state; the gradient of that takes the hidden state's place.
        vec sum{}, along{};
        in_groups<2 * SIDE_BY_SIDE>(0, vectors, [&]<int N>(int64_t first) {
            vec normal[N], gains[N], squashed[N];
            UNROLLED_EACH {
                const int64_t unit = (first + n) * LANES;
                normal[n] = normalised_cell(unit);
                gains[n] = load_first(variation.norm_cell + unit, lanes(unit));
                squashed[n] = normal[n] * gains[n] + optional(variation.norm_bias, unit, lanes(unit));
            }
            tanh(squashed);
            UNROLLED_EACH {
                const int64_t unit = (first + n) * LANES, count = lanes(unit), gate = 3 * H + unit;
                const vec output = load_first(gates + gate, count), grad = load(row.grad_hidden + unit);
                vec grad_output = grad * squashed[n];
                if (s.grad_gates) grad_output += load_first(s.grad_gates + row.at.gates + gate, count);
                if (s.total_gates) store_first(s.total_gates + row.at.gates + gate, grad_output, count);
                store_first(row.pre + GATES * H + gate, grad_output * output * (1.0f - output), count);
                const vec grad_shifted = first_lanes(grad * output * (1.0f - squashed[n] * squashed[n]), count);
                add(row.sums, CELL_GAINS, H, unit, grad_shifted * normal[n]);
                add(row.sums, CELL_SHIFTS, H, unit, grad_shifted);
                const vec grad_normal = grad_shifted * gains[n];
                store(row.grad_hidden + unit, grad_normal);
                sum += grad_normal;
                along += grad_normal * normal[n];
            }
        });
        const float mean_grad = total(sum) / static_cast<float>(H), mean_along = total(along) / static_cast<float>(H);

        // Through the normalisation to the cell state, and on to the gates and what was normalised in them.
        sum = along = vec{};
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t unit = v * LANES, count = lanes(unit);
            const vec input = load_first(gates + unit, count), forget = load_first(gates + H + unit, count);
            const vec candidate = load_first(gates + 2 * H + unit, count);
            vec grad_cell = cell.scale * (load(row.grad_hidden + unit) - mean_grad - normalised_cell(unit) * mean_along);
            grad_cell += load(s.grad_cell + row.at.state + unit);
            if (s.grad_cells) grad_cell += load_first(s.grad_cells + row.at.row + unit, count);
            if (s.total_cells) store_first(s.total_cells + row.at.row + unit, grad_cell, count);
            vec grads[3] = {grad_cell * candidate, grad_cell * load_first(row.before + unit, count), grad_cell * input};
            for (int g = 0; g < 3; ++g) {
                if (s.grad_gates) grads[g] += load_first(s.grad_gates + row.at.gates + g * H + unit, count);
                if (s.total_gates) store_first(s.total_gates + row.at.gates + g * H + unit, grads[g], count);
            }
            if (s.total_gates)  // nothing outside depends on the products
                for (int g = GATES; g < STORED; ++g)
                    store_first(s.total_gates + row.at.gates + g * H + unit, vec{}, count);
            store(s.grad_cell + row.at.state + unit, grad_cell * forget);
            store_first(row.pre + GATES * H + unit, grads[0] * input * (1.0f - input), count);
            store_first(row.pre + (GATES + 1) * H + unit, grads[1] * forget * (1.0f - forget), count);
            store_first(row.pre + (GATES + 2) * H + unit, grads[2] * (1.0f - candidate * candidate), count);
            for (int g = 0; g < GATES; ++g) {
                const vec grad = load_first(row.pre + (GATES + g) * H + unit, count);
                const vec normal = first_lanes(
                    (load_first(gates + (GATES + g) * H + unit, count) - recurrent.mean) * recurrent.scale, count);
                add(row.sums, BIAS + g, H, unit, grad);
                add(row.sums, GAINS + g, H, unit, grad * normal);
                const vec grad_normal = grad * load_first(variation.norm_hh + g * H + unit, count);
                store_first(row.pre + g * H + unit, grad_normal, count);
                sum += grad_normal;
                along += grad_normal * normal;
            }
        }
        const float share = 1.0f / static_cast<float>(GATES * H);
        const float mean_product = total(sum) * share, mean_along_product = total(along) * share;
        for (int g = 0; g < GATES; ++g)
            for (int64_t v = 0; v < vectors; ++v) {
                const int64_t unit = v * LANES, count = lanes(unit);
                float* to = row.pre + g * H + unit;
                const vec normal = (load_first(gates + (GATES + g) * H + unit, count) - recurrent.mean) * recurrent.scale;
                const vec grad = load_first(to, count) - mean_product - normal * mean_along_product;
                store_first(to, recurrent.scale * grad, count);
            }
    }
};

}  // namespace UNROLLED_ISA
