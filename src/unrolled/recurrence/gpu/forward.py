"""The forward in Triton: one layer in one direction over all steps.

A program has some units of some sequences. It computes all gates of its units, so that nothing but the hidden state
passes from one program to another, once for each step. Programs with other units of the same sequences therefore meet
after each step where one launch takes several; those with other sequences never do. All sizes but H are known only when
a kernel runs.

States, gates and sums are float32; what is multiplied has the dtype of the call. What the arguments mean stands in
`launch`, which makes them. The formulas are those of `cells`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from unrolled.recurrence.gpu.arithmetic import (
    blocks,
    factors,
    meet,
    multiplied,
    not_told_apart,
    sigmoid,
    store_blocks,
    tanh,
    weights_to,
    written_by_all,
)


@triton.jit
def gru(x, recurrent, old_hidden):
    """The hidden state, and what is kept: the gates, and the candidate's recurrent part before it is reset."""
    reset_gate, update_gate = sigmoid(x[0] + recurrent[0]), sigmoid(x[1] + recurrent[1])
    candidate = tanh(x[2] + reset_gate * recurrent[2])
    hidden = (1.0 - update_gate) * candidate + update_gate * old_hidden
    return hidden, (reset_gate, update_gate, candidate, recurrent[2])


@triton.jit
def lstm(x, recurrent, old_cell, sees, factor, CELL: tl.constexpr):
    """The hidden state, the cell state, and the gates in the order of the table."""
    if CELL == "LSTM_COUPLED":
        forget_gate, candidate = sigmoid(x[0] + recurrent[0]), tanh(x[1] + recurrent[1])
        cell = forget_gate * old_cell + (1.0 - forget_gate) * candidate
        output_gate = sigmoid(x[2] + recurrent[2])
        return output_gate * tanh(cell), cell, (forget_gate, candidate, output_gate)
    else:
        into, forget = x[0] + recurrent[0], x[1] + recurrent[1]
        candidate, out = tanh(x[2] + recurrent[2]), x[3] + recurrent[3]
        if CELL == "LSTM_PEEPHOLE":
            into, forget = into + sees[0] * old_cell, forget + sees[1] * old_cell
        input_gate, forget_gate = sigmoid(into), sigmoid(forget)
        cell = forget_gate * old_cell + input_gate * (candidate * factor)
        if CELL == "LSTM_PEEPHOLE":
            out = out + sees[2] * cell
        output_gate = sigmoid(out)
        return output_gate * tanh(cell), cell, (input_gate, forget_gate, candidate, output_gate)


@triton.jit(**not_told_apart("bias_hh", "peephole"))
def forward(
    gates_x,
    weight_hh,
    bias_hh,
    peephole,
    lengths,
    reset,
    hidden_mask,
    candidate_mask,
    hidden_zone,
    cell_zone,
    hidden,
    cell,
    exchange,
    output,
    cells,
    gates,
    counters,
    first,
    count,
    steps,
    batch,
    groups,
    hidden_mask_step,
    hidden_mask_row,
    candidate_mask_step,
    candidate_mask_row,
    hidden_zone_step,
    hidden_zone_row,
    cell_zone_step,
    cell_zone_row,
    CELL: tl.constexpr,
    BLOCKS: tl.constexpr,
    STORED: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    MEETS: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    own = unit < H
    bias = blocks(bias_hh, unit[None, :], own[None, :], H, BLOCKS)
    sees = blocks(peephole, unit[None, :], own[None, :], H, 3)
    weights = ()
    for chunk in tl.static_range(RESIDENT):
        weights = weights + (weights_to(weight_hh, chunk * BLOCK_K + tl.arange(0, BLOCK_K), unit, H, BLOCKS),)

    for s in range(first, first + count):
        t = s
        if REVERSE:
            t = steps - 1 - s
        before = exchange + (s % 2) * batch * H
        after = exchange + ((s + 1) % 2) * batch * H
        for group in range(tl.program_id(1), groups, tl.num_programs(1)):
            row = (group * ROWS + tl.arange(0, ROWS)).to(tl.int64)
            here = row < batch
            inside = here[:, None] & own[None, :]
            step_row = t * batch + row
            state, place = row[:, None] * H + unit[None, :], step_row[:, None] * H + unit[None, :]
            taken = here
            if lengths is not None:
                taken = here & (t < tl.load(lengths + row, mask=here, other=0))
            stays = here
            if reset is not None:
                stays = here & ((tl.load(reset + step_row, mask=here, other=0) == 0) | ~taken)
            kept = stays[:, None] & own[None, :]
            if hidden is not None:
                old_hidden = tl.load(hidden + state, mask=kept, other=0.0)
            elif lengths is not None:
                old_hidden = tl.load(before + state, mask=kept, other=0.0, cache_modifier=".cg").to(tl.float32)
            x = blocks(gates_x, step_row[:, None] * (BLOCKS * H) + unit[None, :], inside, H, BLOCKS)

            recurrent = ()
            for _ in tl.static_range(BLOCKS):
                recurrent = recurrent + (tl.zeros((ROWS, UNITS), tl.float32),)
            for chunk in tl.static_range(RESIDENT):
                k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
                of_all = written_by_all(before, row, H, k, stays, H)
                of_all = _dropped(of_all, hidden_mask, t, row, k, here, hidden_mask_step, hidden_mask_row, H)
                recurrent = _added(recurrent, of_all, weights[chunk], BLOCKS, PRECISION)
            if RESIDENT == 0:
                for start in range(0, H, BLOCK_K):
                    k = start + tl.arange(0, BLOCK_K)
                    of_all = written_by_all(before, row, H, k, stays, H)
                    of_all = _dropped(of_all, hidden_mask, t, row, k, here, hidden_mask_step, hidden_mask_row, H)
                    streamed = weights_to(weight_hh, k, unit, H, BLOCKS)
                    recurrent = _added(recurrent, of_all, streamed, BLOCKS, PRECISION)

            if CELL == "RNN_TANH":
                new_hidden = tanh(x[0] + recurrent[0])
            elif CELL == "RNN_RELU":
                new_hidden = tl.maximum(x[0] + recurrent[0], 0.0)
            elif CELL == "GRU":
                with_bias = (recurrent[0] + bias[0], recurrent[1] + bias[1], recurrent[2] + bias[2])
                new_hidden, opened = gru(x, with_bias, old_hidden)
            else:
                old_cell = tl.load(cell + state, mask=kept, other=0.0)
                factor = factors(candidate_mask, t, row, unit, inside, candidate_mask_step, candidate_mask_row)
                new_hidden, new_cell, opened = lstm(x, recurrent, old_cell, sees, factor, CELL)
                if cell_zone is not None:
                    zone = factors(cell_zone, t, row, unit, inside, cell_zone_step, cell_zone_row)
                    new_cell = zone * old_cell + (1.0 - zone) * new_cell
                new_cell = tl.where(taken[:, None], new_cell, old_cell)
                tl.store(cell + state, new_cell, mask=inside)
                if cells is not None:
                    tl.store(cells + place, new_cell, mask=inside)
            if STORED > 0:
                gates_place = step_row[:, None] * (STORED * H) + unit[None, :]
                store_blocks(gates, gates_place, opened, here, inside, H, STORED)
            if hidden_zone is not None:
                zone = factors(hidden_zone, t, row, unit, inside, hidden_zone_step, hidden_zone_row)
                new_hidden = zone * old_hidden + (1.0 - zone) * new_hidden
            kind = output.dtype.element_ty
            tl.store(output + place, tl.where(taken[:, None], new_hidden, 0.0).to(kind), mask=inside)
            if lengths is not None:
                new_hidden = tl.where(taken[:, None], new_hidden, old_hidden)
            if hidden is not None:
                tl.store(hidden + state, new_hidden, mask=inside)
            tl.store(after + state, new_hidden.to(kind), mask=inside)
        if MEETS:
            meet(counters + tl.program_id(1), (s - first + 1) * tl.num_programs(0))
        else:
            tl.debug_barrier()


@triton.jit
def _dropped(of_all, mask, t, row, k, here, step, distance, H: tl.constexpr):
    """(ROWS, K) hidden states with the mask that is put on them before their product; themselves if there is none."""
    if mask is None:
        return of_all
    else:
        factor = factors(mask, t, row, k, here[:, None] & (k < H)[None, :], step, distance)
        return (of_all.to(tl.float32) * factor).to(of_all.dtype)


@triton.jit
def _added(sums, of_all, weights, BLOCKS: tl.constexpr, PRECISION: tl.constexpr):
    """The sums of all gates with one more product each."""
    found = ()
    for block in tl.static_range(BLOCKS):
        found = found + (multiplied(of_all, weights[block], sums[block], PRECISION),)
    return found
