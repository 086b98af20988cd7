// The kernels of one instruction set. This file is built once for each, with UNROLLED_ISA as its name.
#include "backward.h"
#include "builds.h"
#include "forward.h"

namespace UNROLLED_ISA {

template <template <class> class Pass, class Call>
int64_t run(const Call* call) {
    switch (call->layer.cell) {
        case UNROLLED_RNN_TANH: return Pass<Rnn<false>>(*call).run();
        case UNROLLED_RNN_RELU: return Pass<Rnn<true>>(*call).run();
        case UNROLLED_GRU: return Pass<Gru>(*call).run();
        case UNROLLED_VARIED_LSTM: return Pass<VariedLstm<false>>(*call).run();
        case UNROLLED_COUPLED_LSTM: return Pass<VariedLstm<true>>(*call).run();
        case UNROLLED_NORMALISED_LSTM: return Pass<NormalisedLstm>(*call).run();
        default: return Pass<Lstm>(*call).run();
    }
}

static int64_t accumulates(const unrolled_layer* layer) {
    switch (layer->cell) {
        case UNROLLED_RNN_TANH:
        case UNROLLED_RNN_RELU: return Backward<Rnn<false>>::accumulates(*layer);
        case UNROLLED_GRU: return Backward<Gru>::accumulates(*layer);
        case UNROLLED_VARIED_LSTM: return Backward<VariedLstm<false>>::accumulates(*layer);
        case UNROLLED_COUPLED_LSTM: return Backward<VariedLstm<true>>::accumulates(*layer);
        case UNROLLED_NORMALISED_LSTM: return Backward<NormalisedLstm>::accumulates(*layer);
        default: return Backward<Lstm>::accumulates(*layer);
    }
}

static void activate(int64_t which, const float* x, float* y, int64_t count) {
    const FlushDenormals flush;
    for (int64_t k = 0; k < count; k += LANES) {
        const int64_t left = count - k < LANES ? count - k : LANES;
        vec value[1] = {load_first(x + k, left)};
        if (which == 0)
            sigmoid(value);
        else
            tanh(value);
        store_first(y + k, value[0], left);
    }
}

extern const unrolled::Build build;
const unrolled::Build build{run<Forward, unrolled_forward>, run<Backward, unrolled_backward>, accumulates, activate};

}  // namespace UNROLLED_ISA
