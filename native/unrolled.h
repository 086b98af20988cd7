// The C interface of the native library. Everything is float32, row-major and counted in elements, never in bytes.
//
// Sizes: T steps, B sequences, I inputs, H hidden units. A cell stores S gates of H units for each step and sequence:
//   RNN   S = 0
//   GRU   S = 4: reset, update, candidate, and the candidate's recurrent part before the reset gate is applied
//   LSTM  S = 4: input, forget, candidate, output; coupled, S = 3: forget, candidate, output;
//         normalised, S = 8: the same four, and their recurrent products
// A pointer that may be null says so.
#ifndef UNROLLED_H
#define UNROLLED_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UNROLLED_API __attribute__((visibility("default")))

enum {
    UNROLLED_RNN_TANH = 0,
    UNROLLED_RNN_RELU = 1,
    UNROLLED_GRU = 2,
    UNROLLED_LSTM = 3,
    UNROLLED_VARIED_LSTM = 4,   // an LSTM with any of what `unrolled_variation` holds
    UNROLLED_COUPLED_LSTM = 5,  // the same, with an input gate of one less the forget gate
    UNROLLED_NORMALISED_LSTM = 6,  // x is the projected and normalised input, (T, B, 4 * H); the weights of the input are null
};

// A factor for each hidden unit at each step, with any distance between steps and between rows; nothing where `at` is null.
typedef struct {
    const float* at;  // (T, B, H)
    int64_t step, row;
} unrolled_mask;

// What only some cells have. The equations are those of src/unrolled/recurrence/cells.py.
typedef struct {
    const float* peephole;         // (3 * H,): of the input, the forget and the output gate, or null
    const float *norm_hh, *norm_cell, *norm_bias;  // (4 * H,), (H,), (H,): gains and shifts; the shifts may be null
    unrolled_mask hidden_mask;     // of the hidden state before its product with the weights; the same at every step
    unrolled_mask candidate_mask;  // of the candidate
    unrolled_mask hidden_zone, cell_zone;  // the part of a state that stays as it was; not beside a hidden_mask
} unrolled_variation;

// What a call of a layer in one direction is given; forward and backward share it.
typedef struct {
    int64_t cell, steps, batch, input_size, hidden_size, reverse, threads;
    const int64_t* lengths;  // (B,) or null; a state does not change at steps beyond a sequence's length
    const uint8_t* reset;    // (T, B) or null; where it is not zero, the states are zero before the step is taken
    const float* x;          // (T, B, I) with any distance between steps and between rows
    int64_t x_step, x_row;
    const float *weight_ih, *weight_hh;              // (G * H, I), (G * H, H)
    const float *bias_ih, *bias_hh;                  // (G * H,) or null
    const float *initial_hidden, *initial_cell;      // (B, H); the cell is null except for an LSTM
    float* output;                                   // (T, B, H)
    float *cells, *gates;                            // (T, B, H), (T, B, S * H), or null: not kept
    unrolled_variation variation;
} unrolled_layer;

typedef struct {
    unrolled_layer layer;
    float *final_hidden, *final_cell;  // (B, H); the cell is null except for an LSTM
} unrolled_forward;

typedef struct {
    unrolled_layer layer;      // after a forward that kept cells and gates
    const float* grad_output;  // (T, B, H) with any distance between steps and rows, or null
    int64_t grad_output_step, grad_output_row;
    const float *grad_final_hidden, *grad_final_cell;  // (B, H) or null
    const float *grad_cells, *grad_gates;              // (T, B, H), (T, B, S * H), or null
    float *grad_initial_hidden, *grad_initial_cell;    // (B, H); the cell is null except for an LSTM
    float *grad_bias_ih, *grad_bias_hh;                // (G * H,) or null
    // Either the weights' gradients (and the input's, or null) ...
    float *grad_weight_ih, *grad_weight_hh, *grad_x;  // (G * H, I), (G * H, H), (T, B, I)
    // ... or, where this is not null, the gradient of the pre-activations, from which large products give the others:
    // RNN (T, B, H); LSTM (T, B, S * H); GRU (T, B, 4 * H): reset, update, the candidate's recurrent part, its input part;
    // normalised LSTM (T, B, 8 * H): of the recurrent products, of the input's part.
    float* grad_pre;
    float *total_hidden, *total_cells, *total_gates;  // gradient of every state and gate along all paths, or null
    float *grad_norm_hh, *grad_norm_cell, *grad_norm_bias;  // of a normalised LSTM, or null
} unrolled_backward;

// Builds of the kernels, best first; an index into them chooses one.
UNROLLED_API int64_t unrolled_builds(void);
UNROLLED_API const char* unrolled_build_name(int64_t build);
UNROLLED_API int64_t unrolled_build_runs_here(int64_t build);

// torch_parallel_for; without it everything runs on the calling thread. `concurrent` says that the ranges of one call run
// at the same time, as OpenMP's do, so that they may wait for each other.
typedef void (*unrolled_range)(int64_t begin, int64_t end, void* context);
typedef int32_t (*unrolled_parallel_for)(int64_t begin, int64_t end, int64_t grain, unrolled_range, void* context);
UNROLLED_API void unrolled_set_threads(unrolled_parallel_for parallel_for, int64_t concurrent);

// For tests: fills every scratch buffer with NaN before use.
UNROLLED_API void unrolled_set_poison(int64_t poison);

// These return 0, or 1 where memory ran out: then nothing was computed.
UNROLLED_API int64_t unrolled_run_forward(int64_t build, const unrolled_forward* call);
UNROLLED_API int64_t unrolled_run_backward(int64_t build, const unrolled_backward* call);

// Whether a backward of this size gives the weights' gradients itself; otherwise it needs `grad_pre`.
UNROLLED_API int64_t unrolled_accumulates(int64_t build, const unrolled_layer* layer);

// The activations as the kernels compute them: 0 sigmoid, 1 tanh.
UNROLLED_API void unrolled_activate(int64_t build, int64_t which, const float* x, float* y, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
