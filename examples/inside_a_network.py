"""Every instrument on one network that reads source code: what each state carries, how long, and whether it is used.

An LSTM learns to predict the next character of the running Python's own standard library. Then each instrument says
what it found in a sentence, and its plot goes to a page of its own.

    python examples/inside_a_network.py --steps 3000 --out runs/inside
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled import instruments
from unrolled.instruments import Result
from unrolled.model import SequenceModel
from unrolled.tasks import Batch, parse
from unrolled.tasks.code import encode
from unrolled.training import Budget, Progress, deterministic, evaluate, fit

LENGTH, HIDDEN = 200, 128


def trained(steps: int) -> SequenceModel:
    task = parse(f"code:length={LENGTH // 2}")
    with deterministic(0):
        model = SequenceModel("lstm", task.input_size, HIDDEN, task.output_size)

    def tell(progress: Progress) -> None:
        print(f"  step {progress.step}: {progress.value:.2f} bits a character, {progress.seconds:.0f} s")

    every = max(1, steps // 5)
    budget = Budget(steps=steps, batch_size=32, learning_rate=5e-3, validate_every=every)
    fit(model, task, budget, seed=0, on_progress=tell)
    print(f"trained                {evaluate(model, task, size=256):.2f} bits a character on files held out")
    return model.eval()


def last_loss(targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss at the last step, whatever the step is."""
    return lambda answers: F.cross_entropy(answers[:, -1], targets[:, -1], reduction="none")


def measured(model: SequenceModel, batch: Batch) -> Iterator[tuple[str, Result]]:
    """Each instrument's name and what it found."""
    inputs, loss = batch.inputs, last_loss(batch.targets)
    in_string = batch.labels["in_string"]
    yield "gradient_flow", instruments.gradient_flow(model, inputs, loss, max_lag=100)
    yield "jacobian", instruments.jacobian(model, inputs[:4], steps=range(0, LENGTH, 5))
    yield "lyapunov", instruments.lyapunov(model, inputs[:8], count=10, warm_up=20)
    yield "timescales", instruments.timescales(model, inputs)
    yield "saturation", instruments.saturation(model, inputs)
    yield "decompose_cell", instruments.decompose_cell(model, inputs[:16], steps=[50, 100, LENGTH - 1])
    yield "memory_curve", instruments.memory_curve(model, inputs, [0, 1, 2, 3, 5, 8, 12, 20])
    yield "probe", instruments.probe(model, inputs, in_string)
    yield "push_response", instruments.push_response(model, inputs[:32], state="cell", at=50)
    contexts = [1, 2, 3, 5, 10, 20, 50, 100, LENGTH]
    yield "context_use", instruments.context_use(model, inputs, loss, contexts)
    bracket = torch.zeros(inputs.size(-1))
    bracket[symbol("(")] = 1
    yield "fixed_points", instruments.fixed_points(model, inputs[:16], bracket, starts=64)
    # The same text, but for the quote that opens a string: which state at which step tells that a string is open?
    text, changed, at = opened_string(batch)

    def closes(answers: Tensor) -> Tensor:
        return answers[:, -1].log_softmax(-1)[:, symbol('"')]

    grid = range(at - 1, text.size(1))
    yield "patching", instruments.patching(model, text, changed, closes, steps=grid, groups=16)
    for state in ("cell", "hidden"):
        found = instruments.carries(model, inputs, in_string, state=state)
        yield f"carries_{state}", found


def opened_string(batch: Batch) -> tuple[Tensor, Tensor, int]:
    """Code that opens a string (1, T, I), the same with a bracket in the quote's place, and the step of the quote."""
    before, quoted, plain, after = "def title(self):\n    return ", '"', "(", "the name of this"
    texts = [before + opening + after for opening in (quoted, plain)]
    kinds = batch.inputs.size(-1)
    one_hot = [F.one_hot(torch.from_numpy(encode(t)).long(), kinds).float()[None] for t in texts]
    return one_hot[0], one_hot[1], len(before)


def symbol(character: str) -> int:
    return int(encode(character)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="of training; 3000 take some minutes (default: 300)")
    parser.add_argument("--sequences", type=int, default=480, help="that are looked into (default: 480)")
    parser.add_argument("--out", type=Path, help="folder for a page with the plot of each instrument")
    options = parser.parse_args()
    model = trained(options.steps)
    batch = parse(f"code:length={LENGTH}").batch(options.sequences, seed=1, split="test")
    for name, result in measured(model, batch):
        print(f"\n{name}\n  {result.summary()}")
        if options.out:
            from bokeh.plotting import output_file, save

            options.out.mkdir(parents=True, exist_ok=True)
            output_file(options.out / f"{name}.html", title=name, mode="inline")
            save(result.plot())


if __name__ == "__main__":
    main()
