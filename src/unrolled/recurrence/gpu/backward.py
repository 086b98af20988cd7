"""The backward in Triton: the gradients of pre-activations and initial states, from the last step to the first.

Work is shared out among programs as in the forward, and what passes from one to another is the gradient of the
pre-activations. The gradients of weights and inputs are large products over all steps, which are not made here.

The formulas are the derivatives of those of `cells`. What the arguments mean stands in `launch`, which makes them.
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
    store_blocks,
    tanh,
    weights_from,
    written_by_all,
)


@triton.jit
def _through_sigmoid(grad, gate):
    return grad * gate * (1.0 - gate)


@triton.jit
def _through_tanh(grad, value):
    return grad * (1.0 - value * value)


@triton.jit
def gru(grad, gates, old_hidden, given):
    """From the gradient of the hidden state: those of pre-activations and gates, and of the old state past them."""
    reset_gate, update_gate, candidate, recurrent = gates[0], gates[1], gates[2], gates[3]
    grad_update = grad * (old_hidden - candidate) + given[1]
    grad_candidate = grad * (1.0 - update_gate) + given[2]
    of_input = _through_tanh(grad_candidate, candidate)
    grad_reset = of_input * recurrent + given[0]
    of_recurrent = of_input * reset_gate + given[3]
    pre = (_through_sigmoid(grad_reset, reset_gate), _through_sigmoid(grad_update, update_gate), of_recurrent, of_input)
    return pre, (grad_reset, grad_update, grad_candidate, of_recurrent), grad * update_gate


@triton.jit
def lstm(grad, grad_cell, gates, old_cell, cell, sees, factor, given, CELL: tl.constexpr):
    """From the gradients of both states: those of pre-activations, gates, the cell state and the old cell state."""
    if CELL == "LSTM_COUPLED":
        forget_gate, candidate, output_gate = gates[0], gates[1], gates[2]
        input_gate = 1.0 - forget_gate
        given_forget, given_candidate, given_output = given[0], given[1], given[2]
    else:
        input_gate, forget_gate, candidate, output_gate = gates[0], gates[1], gates[2], gates[3]
        given_forget, given_candidate, given_output = given[1], given[2], given[3]
    bent = tanh(cell)
    grad_output = grad * bent + given_output
    pre_output = _through_sigmoid(grad_output, output_gate)
    grad_cell = grad_cell + _through_tanh(grad * output_gate, bent)
    if CELL == "LSTM_PEEPHOLE":
        grad_cell = grad_cell + pre_output * sees[2]
    grad_candidate = grad_cell * input_gate * factor + given_candidate
    pre_candidate = _through_tanh(grad_candidate, candidate)
    grad_old = grad_cell * forget_gate
    if CELL == "LSTM_COUPLED":
        grad_forget = grad_cell * (old_cell - candidate) + given_forget
        pre = (_through_sigmoid(grad_forget, forget_gate), pre_candidate, pre_output)
        return pre, (grad_forget, grad_candidate, grad_output), grad_cell, grad_old
    else:
        grad_input = grad_cell * (candidate * factor) + given[0]
        grad_forget = grad_cell * old_cell + given_forget
        pre_input, pre_forget = _through_sigmoid(grad_input, input_gate), _through_sigmoid(grad_forget, forget_gate)
        if CELL == "LSTM_PEEPHOLE":
            grad_old = grad_old + pre_input * sees[0] + pre_forget * sees[1]
        pre = (pre_input, pre_forget, pre_candidate, pre_output)
        return pre, (grad_input, grad_forget, grad_candidate, grad_output), grad_cell, grad_old


@triton.jit(**not_told_apart("peephole", "initial_hidden", "initial_cell", "grad_output", "grad_cells", "grad_gates"))
def backward(
    weight_hh,
    peephole,
    lengths,
    reset,
    hidden_mask,
    candidate_mask,
    hidden_zone,
    cell_zone,
    initial_hidden,
    initial_cell,
    output,
    cells,
    gates,
    grad_output,
    grad_cells,
    grad_gates,
    grad_hidden,
    grad_cell,
    pre,
    total_hidden,
    total_cells,
    total_gates,
    counters,
    first,
    count,
    steps,
    batch,
    groups,
    grad_output_step,
    grad_output_row,
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
    PRE: tl.constexpr,
    CARRIES: tl.constexpr,
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
    sees = blocks(peephole, unit[None, :], own[None, :], H, 3)
    weights = ()
    for chunk in tl.static_range(RESIDENT):
        weights = weights + (weights_from(weight_hh, chunk * BLOCK_K + tl.arange(0, BLOCK_K), unit, H, BLOCKS),)

    # `later` is the step that was taken after this one, `earlier` the one before it.
    for s in range(first, first + count):
        t, later, earlier = steps - 1 - s, steps - s, steps - 2 - s
        if REVERSE:
            t, later, earlier = s, s - 1, s + 1
        for group in range(tl.program_id(1), groups, tl.num_programs(1)):
            row = (group * ROWS + tl.arange(0, ROWS)).to(tl.int64)
            here = row < batch
            inside = here[:, None] & own[None, :]
            step_row, later_row, earlier_row = t * batch + row, later * batch + row, earlier * batch + row
            state, place = row[:, None] * H + unit[None, :], step_row[:, None] * H + unit[None, :]
            taken, begins = here, here & (s == steps - 1)
            if lengths is not None:
                length = tl.load(lengths + row, mask=here, other=0)
                taken = here & (t < length)
                if REVERSE:
                    begins = here & (t == length - 1)
            stays, flows = taken, here & (s > 0)
            if reset is not None:
                stays = taken & (tl.load(reset + step_row, mask=here, other=0) == 0)
                flows = flows & (tl.load(reset + later_row, mask=flows, other=0) == 0)
            used = taken[:, None] & own[None, :]

            # What the step after this one gives back through its product with the weights.
            through = tl.zeros((ROWS, UNITS), tl.float32)
            for chunk in tl.static_range(RESIDENT):
                k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
                through = _added(through, pre, later_row, k, flows, weights[chunk], H, PRE, BLOCKS, PRECISION)
            if RESIDENT == 0:
                for start in range(0, H, BLOCK_K):
                    k = start + tl.arange(0, BLOCK_K)
                    streamed = weights_from(weight_hh, k, unit, H, BLOCKS)
                    through = _added(through, pre, later_row, k, flows, streamed, H, PRE, BLOCKS, PRECISION)
            dropped = flows[:, None] & own[None, :]
            through *= factors(hidden_mask, later, row, unit, dropped, hidden_mask_step, hidden_mask_row)

            # Of the hidden state after this step, and of what the step computed; `around` is what passes its product.
            grad_state = through
            if CARRIES:
                grad_state += tl.load(grad_hidden + state, mask=inside, other=0.0)
            elif s == 0:
                grad_state += tl.load(grad_hidden + state, mask=inside, other=0.0)
            grad = grad_state
            if grad_output is not None:
                of_step = (tl.zeros_like(row) + t)[:, None] * grad_output_step
                shown = of_step + row[:, None] * grad_output_row + unit[None, :]
                grad += tl.load(grad_output + shown, mask=used, other=0.0).to(tl.float32)
            if total_hidden is not None:
                tl.store(total_hidden + place, tl.where(taken[:, None], grad, 0.0), mask=inside)
            around = tl.zeros((ROWS, UNITS), tl.float32)
            if hidden_zone is not None:
                zone = factors(hidden_zone, t, row, unit, inside, hidden_zone_step, hidden_zone_row)
                around, grad = zone * grad, (1.0 - zone) * grad

            gates_place = step_row[:, None] * (STORED * H) + unit[None, :]
            opened = blocks(gates, gates_place, inside, H, STORED)
            given = blocks(grad_gates, gates_place, used, H, STORED)
            earlier_place = earlier_row[:, None] * H + unit[None, :]
            continues = (stays & ~begins)[:, None] & own[None, :]
            starts = (stays & begins)[:, None] & own[None, :]
            if CELL == "RNN_TANH":
                grad_pre = (_through_tanh(grad, tl.load(output + place, mask=inside, other=0.0).to(tl.float32)),)
            elif CELL == "RNN_RELU":
                grad_pre = (tl.where(tl.load(output + place, mask=inside, other=0.0) > 0, grad, 0.0),)
            elif CELL == "GRU":
                old_hidden = tl.load(output + earlier_place, mask=continues, other=0.0).to(tl.float32)
                old_hidden += tl.load(initial_hidden + state, mask=starts, other=0.0).to(tl.float32)
                grad_pre, grad_opened, around = gru(grad, opened, old_hidden, given)
            else:
                old_cell = tl.load(cells + earlier_place, mask=continues, other=0.0)
                old_cell += tl.load(initial_cell + state, mask=starts, other=0.0).to(tl.float32)
                factor = factors(candidate_mask, t, row, unit, inside, candidate_mask_step, candidate_mask_row)
                grad_state_cell = tl.load(grad_cell + state, mask=inside, other=0.0)
                of_cell = grad_state_cell
                if grad_cells is not None:
                    of_cell += tl.load(grad_cells + place, mask=used, other=0.0)
                if cell_zone is None:
                    new_cell = tl.load(cells + place, mask=inside, other=0.0)
                    grad_pre, grad_opened, of_cell, around_cell = lstm(
                        grad, of_cell, opened, old_cell, new_cell, sees, factor, given, CELL
                    )
                else:
                    # The hidden state was formed from the cell state as it is without zoneout, which was not kept.
                    zone = factors(cell_zone, t, row, unit, inside, cell_zone_step, cell_zone_row)
                    fresh = opened[1] * old_cell + opened[0] * opened[2]
                    grad_pre, grad_opened, _, around_cell = lstm(
                        grad, (1.0 - zone) * of_cell, opened, old_cell, fresh, sees, factor, given, CELL
                    )
                    around_cell += zone * of_cell
                if total_cells is not None:
                    tl.store(total_cells + place, tl.where(taken[:, None], of_cell, 0.0), mask=inside)
                around_cell = tl.where(taken[:, None], around_cell, grad_state_cell)
                tl.store(grad_cell + state, tl.where((stays | ~taken)[:, None], around_cell, 0.0), mask=inside)
            if total_gates is not None:
                store_blocks(total_gates, gates_place, grad_opened, taken, inside, H, STORED)
            store_blocks(pre, step_row[:, None] * (PRE * H) + unit[None, :], grad_pre, taken, inside, H, PRE)
            if CARRIES:
                around = tl.where(taken[:, None], around, grad_state)
                tl.store(grad_hidden + state, tl.where((stays | ~taken)[:, None], around, 0.0), mask=inside)
        if MEETS:
            meet(counters + tl.program_id(1), (s - first + 1) * tl.num_programs(0))
        else:
            tl.debug_barrier()


@triton.jit
def _added(
    total,
    pre,
    row,
    k,
    flows,
    weights,
    H: tl.constexpr,
    PRE: tl.constexpr,
    BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The sum with the product of every gate's pre-activations of the units k added."""
    for block in tl.static_range(BLOCKS):
        of_all = written_by_all(pre + block * H, row, PRE * H, k, flows, H)
        total = multiplied(of_all, weights[block], total, PRECISION)
    return total
