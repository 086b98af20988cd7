"""What the viewer's server serves: the page, its scripts, and answers about the recordings that are looked at."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unrolled.viewer.asked import Asked
from unrolled.viewer.finding import Finding
from unrolled.viewer.looking import Looking
from unrolled.viewer.recorded import Recorded
from unrolled.viewer.replaying.effects import Change, effect
from unrolled.viewer.replaying.gradients import gradient
from unrolled.viewer.replaying.replay import LONGEST, Replay
from unrolled.views.resources import SCRIPTS, VIEWS, resource, template

if TYPE_CHECKING:
    from unrolled.viewer.opening import StudyFolder

FILES = "unrolled.viewer.files"
PAGE_SCRIPTS = (
    "packing.js",
    "served.js",
    "finding.js",
    "replaying.js",
    "measuring.js",
    "claims.js",
    "tabs.js",
    "viewer.js",
)
STYLES = {"views.css": VIEWS, "style.css": "unrolled.page", "viewer.css": FILES}
# Networks of a study that are kept open.
OPEN_AT_ONCE = 3
MOST_AFTER = 2000

Tell = Callable[[int, int], None]


class Opened:
    """One recording with all that is asked of it."""

    def __init__(self, recorded: Recorded) -> None:
        self.looking = Looking(recorded)
        self.finding = Finding(self.looking)
        self.recorded = recorded
        self._lock = threading.Lock()
        self._replay: Replay | None = None

    @property
    def replay(self) -> Replay:
        """The network with its recording.

        Raises:
            ValueError: there is no network.
        """
        recorded = self.recorded
        if recorded.model is None or recorded.inputs is None:
            raise ValueError(
                "this recording has no network with it; open the folder of its run, or give model= and inputs="
            )
        with self._lock:
            if self._replay is None:
                self._replay = Replay(
                    recorded.model(),
                    recorded.trace,
                    recorded.inputs,
                    lengths=recorded.lengths,
                    reset=recorded.reset,
                    targets=recorded.targets,
                    outputs=recorded.outputs,
                    loss=recorded.loss,
                )
            return self._replay


class Service:
    """One recording, or the networks of a study.

    Args:
        found: what is looked at.
    """

    def __init__(self, found: Recorded | StudyFolder) -> None:
        self._study = None if isinstance(found, Recorded) else found
        self._single = Opened(found) if isinstance(found, Recorded) else None
        self._networks: OrderedDict[int, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, *, path: str = "/") -> str:
        """The page."""
        return template(FILES, "viewer.jinja").render(
            title=self.title,
            fallback="",
            views=self._plots,
            styles=list(STYLES),
            scripts=["bokeh.js", *SCRIPTS, *PAGE_SCRIPTS],
        )

    def resource(self, name: str) -> tuple[bytes, str] | None:
        """A script or a style sheet of the page."""
        if name == "bokeh.js":
            return self._bokeh, "text/javascript"
        if name in SCRIPTS:
            return resource(name, VIEWS).encode(), "text/javascript"
        if name in PAGE_SCRIPTS:
            return resource(name, FILES).encode(), "text/javascript"
        if name in STYLES:
            return resource(name, STYLES[name]).encode(), "text/css"
        return None

    @property
    def title(self) -> str:
        """What is looked at."""
        if self._single is not None:
            return self._single.recorded.title
        assert self._study is not None
        return f"study {self._study.folder.name}"

    @property
    def quick(self) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        """What is answered at once."""
        looks = ("window", "unit", "track", "text", "exact", "find", "follows", "order")
        finds = ("suggested", "units_on", "selected")
        return {
            "overview": lambda arguments: self._overview(),
            **{name: self._of("looking", name) for name in looks},
            **{name: self._of("finding", name) for name in finds},
            "instruments": self._instruments,
        }

    @property
    def slow(self) -> Mapping[str, Callable[[dict[str, Any], Tell], Any]]:
        """What may take its time."""
        searches = ("matches", "agreement", "followers")
        return {
            "about": self._about,
            "claims": self._claims,
            **{name: self._of("finding", name) for name in searches},
            "gradient": self._gradient,
            "effect": self._effect,
            "measure": self._measure,
        }

    def opened(self, asked: Asked) -> Opened:
        """The recording that is asked about."""
        if self._single is not None:
            return self._single
        assert self._study is not None
        number = asked.whole("network", 0, len(self._study.titles()) - 1)
        with self._lock:
            if number not in self._networks:
                self._networks[number] = Opened(self._study.recorded(number))
            self._networks.move_to_end(number)
            while len(self._networks) > OPEN_AT_ONCE:
                # Somebody may be looking at it still: its threads end when nobody holds it any more.
                self._networks.popitem(last=False)
            return self._networks[number]

    def prepare(self) -> None:
        """Make what a page asks for first, while its browser is still starting."""
        self.page()
        self.resource("bokeh.js")
        if self._single is not None:
            self._single.looking.prepare()

    @cached_property
    def _plots(self) -> Markup:
        # Bokeh takes half a second to import, and the server can listen meanwhile.
        from unrolled.views.embedding import item, script_json
        from unrolled.views.figures import views

        return script_json(item(views()))

    @cached_property
    def _bokeh(self) -> bytes:
        from unrolled.views.embedding import bokeh_script

        return str(bokeh_script()).encode()

    def _overview(self) -> dict[str, Any]:
        study = self._study
        return {"title": self.title, "networks": None if study is None else study.titles()}

    def _about(self, arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
        return self.opened(Asked(arguments)).looking.about()

    def _claims(self, arguments: dict[str, Any], tell: Tell) -> list[dict[str, Any]]:
        if self._study is None:
            raise ValueError("claims: this is one recording; claims are judged of a study")
        from unrolled.viewer.measuring.claims import claims

        return claims(self._study.study)

    def _of(self, part: str, name: str) -> Callable[..., Any]:
        """A method of a part of the recording that is asked about."""

        def answer(arguments: dict[str, Any], *tell: Tell) -> Any:
            asked = Asked(arguments)
            return getattr(getattr(self.opened(asked), part), name)(asked, *tell)

        return answer

    def _gradient(self, arguments: dict[str, Any], tell: Tell) -> Any:
        asked = Asked(arguments)
        opened = self.opened(asked)
        sequence = opened.looking.sequence(asked)
        outputs = max(1, len(opened.recorded.outputs))
        found = gradient(
            opened.replay,
            sequence=sequence,
            step=asked.whole("step", 0, opened.looking.lengths[sequence] - 1),
            output=asked.whole("output", 0, outputs - 1) if "output" in asked else None,
            back=asked.whole("back", 0, LONGEST),
        )
        # The gradient of every unit at every step is not drawn, and large.
        return asdict(found) | {"units": None}

    def _effect(self, arguments: dict[str, Any], tell: Tell) -> Any:
        asked = Asked(arguments)
        opened = self.opened(asked)
        sequence = opened.looking.sequence(asked)
        length = opened.looking.lengths[sequence]
        return effect(
            opened.replay,
            [_change(part, opened.looking, length) for part in asked.parts("changes")],
            sequence=sequence,
            after=asked.whole("after", 0, MOST_AFTER),
            at=asked.whole("at", 0, length - 1) if "at" in asked else None,
        )

    def _instruments(self, arguments: dict[str, Any]) -> Any:
        from unrolled.viewer.measuring import available

        return available(self.opened(Asked(arguments)).recorded)

    def _measure(self, arguments: dict[str, Any], tell: Tell) -> Any:
        from unrolled.viewer.measuring import available, measure

        asked = Asked(arguments)
        opened = self.opened(asked)
        looking, recorded = opened.looking, opened.recorded
        sequence = looking.sequence(asked)
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in looking.names))
        return measure(
            recorded,
            asked.one("name", [one.name for one in available(recorded)]),
            layer=asked.one("layer", layers) if "layer" in asked else None,
            label=asked.one("label", list(looking.labels)) if "label" in asked else None,
            sequence=sequence,
            step=asked.whole("step", 0, looking.lengths[sequence] - 1) if "step" in asked else None,
            tell=tell,
        )


def _change(asked: Asked, looking: Looking, length: int) -> Change:
    name = asked.one("name", looking.names)
    width = next(layer["units"] for layer in looking.layers for s in layer["states"] if s["name"] == name)
    kind = asked.one("kind", ("ablate", "mean", "clamp", "patch"))
    source = None
    if kind == "patch":
        sequence = asked.whole("source_sequence", 0, len(looking.lengths) - 1)
        source = (sequence, asked.whole("source_start", 0, looking.lengths[sequence] - 1))
    return Change(
        kind=kind,  # type: ignore[arg-type]
        name=name,
        units=tuple(asked.wholes("units", 0, width - 1)),
        steps=asked.span(length),
        value=asked.figure("value") if kind == "clamp" else None,
        source=source,
    )
