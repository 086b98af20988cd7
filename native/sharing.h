// How one call is divided among threads, and which of its steps begin anew.
//
// By rows: each thread takes its sequences through all steps and never waits. By units: each takes a part of the hidden
// units of all sequences, and they wait for each other at every step; that pays where there are fewer sequences than
// threads, or where the weights are so large that reading them is most of the work.
#pragma once

#include "product.h"
#include "threads.h"

namespace UNROLLED_ISA {

struct Sharing {
    int64_t parties;
    bool by_units;

    // weights: floats that every step reads; panels: strips into which the units can be divided.
    Sharing(const unrolled_layer& layer, int64_t weights, int64_t panels) {
        const int64_t threads = unrolled::threads.parallel_for ? layer.threads : 1;
        const int64_t rows = (layer.batch + threads - 1) / threads;
        const bool large = weights >= (int64_t{1} << 20), medium = weights >= (int64_t{1} << 16) && rows < 4;
        by_units = threads > 1 && (large || medium) && panels >= threads && unrolled::threads.concurrent;
        const int64_t most = by_units ? panels : layer.batch;
        parties = threads < most ? threads : most;
        // Less work than a thread takes to wake.
        if (layer.steps * layer.batch * weights < 40000) parties = 1;
        if (parties <= 1) by_units = false, parties = 1;
    }

    int64_t rows_per_party(int64_t batch) const { return by_units ? batch : (batch + parties - 1) / parties; }
};

// What one thread does: rows and panels from the first to before the last.
struct Part {
    int64_t row, row_end, panel, panel_end, party, standing_for;

    Part(const Sharing& sharing, int64_t batch, int64_t panels, int64_t begin, int64_t end)
        : row(sharing.by_units ? 0 : batch * begin / sharing.parties),
          row_end(sharing.by_units ? batch : batch * end / sharing.parties),
          panel(sharing.by_units ? panels * begin / sharing.parties : 0),
          panel_end(sharing.by_units ? panels * end / sharing.parties : panels),
          party(begin),
          standing_for(end - begin) {}

    int64_t rows() const { return row_end - row; }
};

// Whether the states of row b are zero before step t, which is taken.
UNROLLED_INLINE bool begins_anew(const unrolled_layer& layer, int64_t t, int64_t b) {
    return layer.reset && layer.reset[t * layer.batch + b] && !(layer.lengths && t >= layer.lengths[b]);
}

}  // namespace UNROLLED_ISA
