"""record() and Trace: every state and gate of any model's recurrent layers, by name, in the autograd graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from unrolled.calls import Calls
from unrolled.conversion import counterpart, is_recurrent
from unrolled.observation import Opened, observing
from unrolled.recording import Appending, Stored, save
from unrolled.selection import Choice, Region, chosen, matching
from unrolled.source import Selected, Source, layer_of
from unrolled.structure import cell_of, layer_suffixes

if TYPE_CHECKING:
    import xarray

    from unrolled.viewer.notebook import View


class Trace(Mapping[str, Tensor]):
    """What a model's recurrent layers did: name -> tensor (B, T, ·), batch first.

    A name is the module's path, PyTorch's layer suffix and the state or gate: "encoder.lstm.l0.cell",
    "encoder.lstm.l1_reverse.forget_gate", "decoder.hidden" for an LSTMCell; for a bare layer "l0.cell". Layers that
    were called several times have their calls joined along time, in the order of the calls. Sequences of unequal
    length are zero after their end.

    A trace that was loaded reads a tensor from disk whenever it is asked for it, and keeps none.
    """

    def __init__(self, possible: Sequence[str], source: Source) -> None:
        self._possible = tuple(possible)
        self._source = source

    @classmethod
    def load(cls, path: str | Path, *, unfinished: bool = False) -> Trace:
        """A trace that was saved, or recorded with `to=`; nothing of it is read before it is asked for.

        Args:
            path: the recording's directory.
            unfinished: of a recording that was cut off, take the steps that were written wholly.

        Raises:
            ModuleNotFoundError: zarr is not installed.
            FileNotFoundError: there is nothing at `path`.
            unrolled.recording.UnfinishedRecording: a ValueError: the recording was cut off, and `unfinished` is False.
            ValueError: what is at `path` is no recording, one of another format, or damaged. Damage inside of a state
                is met when the state is read.
        """
        source = Stored(path, unfinished=unfinished)
        return cls(source.names, source)

    def save(self, path: str | Path) -> Path:
        """Write everything in this trace to a zarr directory, which `Trace.load` and xarray read.

        Values are written as they are, without their graph, a piece of a few MiB at a time.

        Raises:
            ModuleNotFoundError: zarr is not installed.
            FileExistsError: there is something at `path` already; it stays as it is.
            ValueError: a layer was called with batches of several sizes.
        """
        return save(self._source, path)

    def to_xarray(self) -> xarray.DataTree:
        """Everything in this trace as labelled arrays in memory, without their graph.

        A node for each layer ("encoder.lstm.l0"; the root for a bare cell) holds its states and gates over the
        dimensions sequence, step and unit, `initial_hidden` and its like over sequence and unit, and where there are
        any `lengths` (sequence), `taken` and `reset` (sequence, step). The hidden state of a layer that projects it
        has output_unit for unit. Coordinates are the numbers that sequences, steps and units had when recorded.

        Raises:
            ModuleNotFoundError: xarray is not installed.
            ValueError: a layer was called with batches of several sizes.
        """
        from unrolled.labelled import tree

        return tree(self._source)

    def select(
        self,
        names: str | Sequence[str] = "*",
        *,
        layers: str | Sequence[str] | None = None,
        sequences: Choice | None = None,
        steps: Choice | None = None,
        units: Choice | None = None,
    ) -> Trace:
        """A part of this trace, as a trace. Of one that was loaded nothing is read before a tensor is asked for.

        Args:
            names: which states and gates, as patterns in which * stands for anything.
            layers: which layers ("encoder.lstm.l0", "" for a bare cell), as patterns.
            sequences: which of the B sequences: an int, which keeps the dimension, a slice, a range or several ints.
            steps: which of the T steps, likewise.
            units: which units, likewise.

        Returns:
            The selection as it is now, in the autograd graph if this trace is. `lengths` counts the chosen steps;
            `initial` still holds the states before the first step of all, of the names that are chosen.

        Raises:
            ValueError: a pattern matches nothing, or nothing is chosen.
            IndexError: a number is out of range for a name that is chosen.
            TypeError: what is chosen is none of the above.
        """
        source, everything = self._source, tuple(self)
        found = matching(names, everything, argument="select: names", place="the trace")
        if layers is not None:
            there = list(dict.fromkeys(map(layer_of, everything)))
            kept = matching(layers, there, argument="select: layers", place="the trace")
            found = [name for name in found if layer_of(name) in kept]
        if not found:
            raise ValueError(f"select: no name is matched by names={names!r} in layers={layers!r}")
        regions = {}
        for name in found:
            whole = source.form(name).whole(name)
            regions[name] = Region(
                chosen(sequences, len(whole.sequences), argument="sequences", name=name),
                chosen(steps, len(whole.steps), argument="steps", name=name),
                chosen(units, len(whole.units), argument="units", name=name),
            )
        chosen_layers = {layer_of(name) for name in found}
        initial = [
            name
            for name in source.initial_names
            # A state that was not recorded need not have the units that are chosen.
            if (name in regions or (name not in everything and units is None)) and layer_of(name) in chosen_layers
        ]
        return Trace(found, Selected(source, regions, initial))

    def view(
        self,
        *,
        text: str | Sequence[str] | None = None,
        inputs: Tensor | None = None,
        labels: Mapping[str, Tensor] | None = None,
        model: nn.Module | None = None,
    ) -> View:
        """Look at this trace in a notebook, or in the browser.

        In a notebook the last value of a cell shows itself: the viewer in a frame, served from this machine. Elsewhere
        `.url` is the page's address, and `.close()` ends its server.

        Args:
            text: what was read, a character a step: of each sequence one, or a single one.
            inputs: what the network was given, (B, T, I), or (B, T) whole numbers.
            labels: what is true at each step, name -> (B, T) whole numbers, -1 where it is not defined.
            model: the network; with it and `inputs` gradients and changes can be run.

        Raises:
            ModuleNotFoundError: bokeh is not installed.
            ValueError: something given does not fit the trace; names it.
        """
        from unrolled.viewer.notebook import View

        return View(self, text=text, inputs=inputs, labels=labels, model=model)

    def __getitem__(self, name: str) -> Tensor:
        self._require(name)
        return self._source.values(name)

    def __contains__(self, name: object) -> bool:
        return name in self._source.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names)

    def __len__(self) -> int:
        return len(self._source.names)

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """The states before the first step of the first call: name -> (B, ·)."""
        return {name: self._source.initial(name) for name in self._source.initial_names}

    def lengths(self, name: str) -> Tensor | None:
        """(B,) the steps taken by each sequence where they are of unequal length, else None."""
        self._require(name)
        taken = self._source.taken(name)
        return None if taken is None else taken.sum(1)

    def resets(self, name: str) -> Tensor | None:
        """(B, T) bool, True at the steps before which the states were zeroed, None if they never were."""
        self._require(name)
        return self._source.resets(name)

    def _require(self, name: str) -> None:
        if name not in self._source.names:
            if name in self._possible:
                raise KeyError(f"{name!r} was not recorded: its layer was not called in the context of record()")
            raise KeyError(f"{name!r} is not in this trace; it has {', '.join(self._possible) or 'nothing'}")

    def __repr__(self) -> str:
        rows = [f"  {name}: {self._source.form(name)}" for name in self]
        return "Trace of " + (f"{len(rows)} sequences\n" + "\n".join(rows) if rows else "nothing yet")


class _Recorder:
    """The observer behind one record() context."""

    def __init__(
        self,
        prefixes: dict[int, str],
        into: Calls | Appending,
        names: Mapping[tuple[int, str], frozenset[str]],
    ) -> None:
        self._prefixes = prefixes
        self._into = into
        self._names = names

    def wants(self, module: nn.Module, suffix: str) -> frozenset[str]:
        return self._names.get((id(module), suffix), frozenset())

    def observe(self, module: nn.Module, suffix: str, opened: Opened) -> None:
        names = self.wants(module, suffix)
        if names:
            self._into.add(_joined(self._prefixes[id(module)], suffix, ""), opened, names)


def _joined(*parts: str) -> str:
    """Parts of a name joined with dots; a last empty part leaves the dot at the end."""
    return ".".join(part for part in parts[:-1] if part) + ("." if any(parts[:-1]) else "") + parts[-1]


# Modules whose class is changed at the moment: how many contexts hold it so, and the class to go back to.
_opened: dict[int, tuple[int, type[nn.Module]]] = {}
_opened_lock = threading.Lock()


@contextmanager
def _classes_opened(modules: Sequence[nn.Module]) -> Iterator[None]:
    """torch.nn layers take their steps in view inside the context; several contexts and threads may hold one model."""
    changed: list[nn.Module] = []
    try:
        with _opened_lock:
            for module in modules:
                count, original = _opened.get(id(module), (0, type(module)))
                if counterpart(original) is not original:
                    module.__class__ = counterpart(original)
                    _opened[id(module)] = (count + 1, original)
                    changed.append(module)
        yield
    finally:
        with _opened_lock:
            for module in changed:
                count, original = _opened.pop(id(module))
                if count > 1:
                    _opened[id(module)] = (count - 1, original)
                else:
                    module.__class__ = original


def recordable(model: nn.Module) -> dict[str, tuple[nn.Module, str, str]]:
    """Everything record() can see of a model: name -> (module, layer suffix, state or gate)."""
    found: dict[str, tuple[nn.Module, str, str]] = {}
    for path, module in model.named_modules():
        if is_recurrent(module):
            for suffix in layer_suffixes(module):
                for name in cell_of(module).names:
                    found[_joined(path, suffix, name)] = (module, suffix, name)
    return found


@contextmanager
def record(
    model: nn.Module, *, names: str | Sequence[str] = "*", detach: bool = False, to: str | Path | None = None
) -> Iterator[Trace]:
    """Record what the recurrent layers of `model` do inside the context.

    Args:
        model: any module that holds torch.nn or unrolled recurrent layers or cells; a bare layer too.
        names: which states and gates, as patterns in which * stands for anything; everything by default.
        detach: keep values only, outside the autograd graph.
        to: a zarr directory to write the values to instead of keeping them, for recordings that memory does not hold.
            One that is cut off, by an exception too, is recognised as unfinished by `Trace.load`.

    Yields:
        The Trace, which fills as the model is called and stays usable after the context. With `to` it reads from disk,
        and only after the context.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model` has no recurrent layer, or a pattern matches nothing in it; with `to`, at a call of the
            model: a layer is called with a batch of another size, or in another dtype, than before.
        FileExistsError: there is something at `to` already; it stays as it is.
        ModuleNotFoundError: `to` is given and zarr is not installed.

    >>> import torch, unrolled
    >>> model = torch.nn.LSTM(3, 4, batch_first=True)
    >>> with unrolled.record(model, names="*.cell") as trace:
    ...     output, _ = model(torch.zeros(2, 5, 3))
    >>> trace["l0.cell"].shape
    torch.Size([2, 5, 4])
    >>> (gradient,) = torch.autograd.grad(output[:, -1].sum(), trace["l0.cell"])
    >>> gradient.shape
    torch.Size([2, 5, 4])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"record: model must be a torch.nn.Module, given {type(model).__name__}")
    possible = recordable(model)
    if not possible:
        kind = type(model).__name__
        raise ValueError(f"record: model {kind} has no recurrent layer (RNN, GRU, LSTM or a cell of one)")
    matched = matching(names, list(possible), argument="record: names", place="the model")
    wanted: dict[tuple[int, str], frozenset[str]] = {}
    for module, suffix, name in map(possible.__getitem__, matched):
        wanted[id(module), suffix] = wanted.get((id(module), suffix), frozenset()) | {name}
    modules = list({id(possible[name][0]): possible[name][0] for name in matched}.values())
    prefixes = {id(module): path for path, module in model.named_modules()}
    with ExitStack() as opened:
        into = Calls(matched, detach=detach) if to is None else opened.enter_context(Appending(to, matched))
        opened.enter_context(_classes_opened(modules))
        opened.enter_context(observing(_Recorder(prefixes, into, wanted)))
        trace = Trace(matched, into)
        yield trace
    if isinstance(into, Appending) and to is not None and into.complete:
        trace._source = Stored(to)
