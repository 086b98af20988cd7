"""What both Triton kernels do: activations, products, and passing values from one program to another."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) by exp(-|x|), which cannot overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def tanh(x):
    """(1 - e) / (1 + e) with e = exp(-2 |x|); below a half, where that loses digits, an odd minimax polynomial."""
    size = tl.abs(x)
    small = tl.exp(-2.0 * size)
    square = size * size
    rest = (((-0.00694699 * square + 0.02147273) * square - 0.0539338) * square + 0.13333227) * square - 0.33333333
    found = tl.where(size < 0.5, size + size * square * rest, (1.0 - small) / (1.0 + small))
    return tl.where(x < 0, -found, found)


@triton.jit
def multiplied(a, b, total, PRECISION: tl.constexpr):
    """total + a b. Triton's interpreter multiplies the bits of bfloat16: it is given the same values in float32."""
    if PRECISION == "interpreted":
        a, b = a.to(tl.float32), b.to(tl.float32)
        return tl.dot(a, b, total, input_precision="ieee")
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def weights_to(weight, k, unit, H: tl.constexpr, BLOCKS: tl.constexpr):
    """BLOCKS of (K, UNITS): what the hidden units k give to each gate of the program's own units."""
    parts = ()
    for block in tl.static_range(BLOCKS):
        place = (block * H + unit)[None, :] * H + k[:, None]
        parts = parts + (tl.load(weight + place, mask=(unit < H)[None, :] & (k < H)[:, None], other=0.0),)
    return parts


@triton.jit
def weights_from(weight, k, unit, H: tl.constexpr, BLOCKS: tl.constexpr):
    """BLOCKS of (K, UNITS): what each gate of the units k takes from the program's own units."""
    parts = ()
    for block in tl.static_range(BLOCKS):
        place = (block * H + k)[:, None] * H + unit[None, :]
        parts = parts + (tl.load(weight + place, mask=(unit < H)[None, :] & (k < H)[:, None], other=0.0),)
    return parts


@triton.jit
def written_by_all(values, row, width, k, here, H: tl.constexpr):
    """(ROWS, K) of what all programs have written: never what this processor remembers of it (".cg")."""
    place = row[:, None] * width + k[None, :]
    return tl.load(values + place, mask=here[:, None] & (k < H)[None, :], other=0.0, cache_modifier=".cg")


@triton.jit
def factors(mask, t, row, unit, inside, step, distance):
    """(ROWS, UNITS) random factors of a step; 1 where the call has none."""
    if mask is None:
        return 1.0
    else:
        place = (tl.zeros_like(row) + t)[:, None] * step + row[:, None] * distance + unit[None, :]
        return tl.load(mask + place, mask=inside, other=1.0).to(tl.float32)


@triton.jit
def blocks(values, place, inside, H: tl.constexpr, BLOCKS: tl.constexpr):
    """BLOCKS of (ROWS, UNITS) that stand side by side, of a step or of a parameter; zeros where there are none."""
    parts = ()
    for block in tl.static_range(BLOCKS):
        if values is None:
            parts = parts + (0.0,)
        else:
            parts = parts + (tl.load(values + place + block * H, mask=inside, other=0.0).to(tl.float32),)
    return parts


@triton.jit
def store_blocks(to, place, parts, taken, inside, H: tl.constexpr, BLOCKS: tl.constexpr):
    """Write BLOCKS of (ROWS, UNITS) side by side; zeros at steps that are not taken."""
    for block in tl.static_range(BLOCKS):
        value = tl.where(taken[:, None], parts[block], 0.0)
        tl.store(to + place + block * H, value.to(to.dtype.element_ty), mask=inside)


@triton.jit
def meet(counter, arrivals):
    """Wait until all programs with the same sequences have come; what they wrote before can then be read."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")
    while tl.load(counter, volatile=True) < arrivals:
        pass
    # A plain look at the counter makes nothing visible. Its result is used: the compiler would leave it out.
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()


def not_told_apart(*tensors: str) -> dict[str, tuple[str, ...]]:
    """Arguments for whose values no kernel is compiled anew: sizes, and where `tensors` begin in memory."""
    sizes = ("first", "count", "steps", "batch", "groups", "grad_output_step", "grad_output_row")
    masks = ("hidden_mask", "candidate_mask", "hidden_zone", "cell_zone")
    distances = tuple(f"{mask}_{part}" for mask in masks for part in ("step", "row"))
    return {
        "do_not_specialize": (*sizes, *distances),
        "do_not_specialize_on_alignment": ("lengths", "reset", *masks, *tensors),
    }
