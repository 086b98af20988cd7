"""explain(): which backend computes a call, and why each better one does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.conversion import counterpart, is_recurrent
from unrolled.layers import Layer
from unrolled.recurrence import cpu, dispatch
from unrolled.recurrence.gpu import available
from unrolled.structure import layer_suffixes, mode_of, weights_of


def explain(
    module: nn.Module | None = None, x: Tensor | PackedSequence | None = None, *, recorded: bool = False
) -> None:
    """Print which backend would compute a call of a layer, and why the others would not.

    Args:
        module: a layer of unrolled, or of torch.nn, whose unrolled counterpart is then explained. Without it, what this
            installation can do at all is printed.
        x: the input of the call, as the layer takes it.
        recorded: explain the call as it is inside `record`.

    Raises:
        TypeError: `module` is not a recurrent layer, or comes without an input.

    >>> import torch, unrolled
    >>> unrolled.explain(unrolled.LSTM(3, 4, proj_size=2), torch.zeros(5, 2, 3))
    LSTM(3, 4, proj_size=2), input (5, 2, 3), float32 on cpu
      cpu        no: the layer projects its hidden state (proj_size)
      triton     no: the layer projects its hidden state (proj_size)
      torch      no: on the CPU the kernels and the reference compute
    > reference  plain PyTorch, one step after another; every dtype, device and derivative
    """
    if module is None:
        print(_installation())
        return
    if not is_recurrent(module):
        raise TypeError(
            f"explain: module must be an RNN, GRU or LSTM of unrolled or torch.nn, given {type(module).__name__}"
        )
    if x is None:
        raise TypeError(f"explain: x must be the input of the call of {type(module).__name__}, given None")
    data = x.data if isinstance(x, PackedSequence) else x
    kind = str(data.dtype).removeprefix("torch.")
    packed = "packed " if isinstance(x, PackedSequence) else ""
    lines = [f"{module}, {packed}input {tuple(data.shape)}, {kind} on {data.device}"]
    if counterpart(type(module)) is not type(module):
        lines.append("a layer of torch.nn computes by itself; after unrolled.convert, or while it is recorded:")
    if not isinstance(module, nn.RNNBase):
        lines.append("> reference  a cell takes one step at a time, for which there is no kernel")
    else:
        weights = [weights_of(module, suffix) for suffix in layer_suffixes(module)]
        beyond = module._beyond_torch(None, None) if isinstance(module, Layer) else None
        call = dispatch.Call(data, weights, recorded, mode_of(module), beyond)
        for name, said, chosen in dispatch.reasons(call):
            lines.append(f"{'>' if chosen else ' '} {name:10} {said}")
    print("\n".join(lines))


def _installation() -> str:
    reason, forced = cpu.missing(), dispatch.forced()
    if reason is None:
        kernels = cpu.kernels()
        said = f"{dispatch.described('cpu')}; builds that run here: {', '.join(kernels.builds)}"
    else:
        said = f"no: {reason}"
    lines = [f"unrolled with torch {torch.__version__}", f"  cpu        {said}"]
    lacking = available.missing()
    said = f"no: {lacking}" if lacking else f"{available.described()}, on a GPU where it is asked for"
    lines.append(f"  triton     {said}")
    for name in ("torch", "reference"):
        lines.append(
            f"  {name:10} {dispatch.described(name)}{', on a GPU while nothing is opened' * (name == 'torch')}"
        )
    if forced:
        lines.append(f"UNROLLED_BACKEND or unrolled.backend asks for {forced!r}")
    return "\n".join(lines)
