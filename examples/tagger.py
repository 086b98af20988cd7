"""A tagger of sequences of unequal length: for each character of a line of Python, the kind of token it is part of.

Batches are padded tensors with `lengths=`, unsorted and unpacked: each direction of the LSTM starts at its own end of
a line, not in the padding. Data is the standard library of the running Python, truth is its tokenizer. A line is tagged
by itself, so that one from the middle of a docstring is not always to be told from code.

    python examples/tagger.py
"""

import io
import keyword
import sysconfig
import tokenize
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import unrolled

KINDS = ["space", "keyword", "name", "number", "string", "comment", "operator"]
CHARACTERS = 128  # ASCII; the last stands for all others
PADDING = -1
UPDATES, B = 600, 64

Line = tuple[Tensor, Tensor]  # characters (T,), kinds (T,)


def kind_of(token: tokenize.TokenInfo) -> str | None:
    name = tokenize.tok_name[token.type]
    if "STRING" in name:  # from Python 3.12 on, an f-string is FSTRING_START, FSTRING_MIDDLE, ...
        return "string"
    if name == "NAME":
        return "keyword" if keyword.iskeyword(token.string) else "name"
    return {"NUMBER": "number", "COMMENT": "comment", "OP": "operator"}.get(name)


def lines_of(path: Path) -> list[Line]:
    with tokenize.open(path) as file:
        text = file.read()
    lines = text.split("\n")
    kinds = [np.zeros(len(line), dtype=np.int64) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind := kind_of(token):
            (first, start), (last, end) = token.start, token.end
            for row in range(first, last + 1):
                kinds[row - 1][start if row == first else 0 : end if row == last else None] = KINDS.index(kind)
    characters = [np.array([min(ord(c), CHARACTERS - 1) for c in line]) for line in lines]
    return [(torch.from_numpy(c), torch.from_numpy(k)) for c, k in zip(characters, kinds, strict=True) if len(c)]


def batch_of(lines: list[Line]) -> tuple[Tensor, Tensor, Tensor]:
    """Characters (B, T), kinds (B, T) with PADDING after the end of a line, lengths (B,)."""
    characters, kinds = zip(*lines, strict=True)
    lengths = torch.tensor([len(line) for line in characters])
    return pad_sequence(characters, True), pad_sequence(kinds, True, PADDING), lengths


class Tagger(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, 32)
        self.lstm = unrolled.LSTM(32, width, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, len(KINDS))

    def forward(self, characters: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) -> logits (B, T, kinds)."""
        output, _ = self.lstm(self.embedding(characters), lengths=lengths)
        return self.head(output)


def train(tagger: Tagger, lines: list[Line]) -> None:
    optimizer = torch.optim.Adam(tagger.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        characters, kinds, lengths = batch_of([lines[i] for i in torch.randint(len(lines), (B,))])
        logits = tagger(characters, lengths)
        loss = F.cross_entropy(logits.flatten(0, 1), kinds.flatten(), ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def tags_of(tagger: Tagger, lines: list[Line]) -> Tensor:
    """The kinds that the tagger gives to all characters of all lines, one line after the other."""
    tags = []
    for start in range(0, len(lines), 4 * B):
        characters, kinds, lengths = batch_of(lines[start : start + 4 * B])
        tags.append(tagger(characters, lengths).argmax(-1)[kinds != PADDING])
    return torch.cat(tags)


def main() -> None:
    torch.set_num_threads(1)  # so that the figures are the same on any number of cores
    torch.manual_seed(0)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    held_out = [line for file in files[::5] for line in lines_of(file)]
    training = [line for number, file in enumerate(files) if number % 5 for line in lines_of(file)]
    tagger = Tagger()
    train(tagger, training)

    counts = torch.zeros(CHARACTERS, len(KINDS), dtype=torch.long)
    counts.index_put_(tuple(map(torch.cat, zip(*training, strict=True))), torch.tensor(1), accumulate=True)
    characters, truth = map(torch.cat, zip(*held_out, strict=True))
    answers = {
        "LSTM": tags_of(tagger, held_out),
        "character alone": counts.argmax(1)[characters],
        "most frequent kind": counts.sum(0).argmax().expand_as(truth),
    }
    right = {name: (tags == truth).double() for name, tags in answers.items()}
    print(f"{len(truth):,} characters of {len(files[::5])} files held out, share tagged right")
    print(" " * 18 + "".join(f"{name:>20}" for name in right))
    for number, kind in enumerate(KINDS):
        print(f"{kind:18}" + "".join(f"{r[truth == number].mean():20.3f}" for r in right.values()))
    print(f"{'all':18}" + "".join(f"{r.mean():20.3f}" for r in right.values()))

    # A line is tagged alike alone and among longer ones.
    characters, _, lengths = batch_of(held_out[:B])
    short = int(lengths.argmin())
    alone = tagger(characters[short : short + 1, : lengths[short]], lengths[short : short + 1])
    torch.testing.assert_close(alone[0], tagger(characters, lengths)[short, : lengths[short]])


if __name__ == "__main__":
    main()
