"""One panel as a Bokeh plot: colour tells the cell type, dash the state, a band the interval over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Node, PlainText, Range1d
from bokeh.models.annotations.geometry import Span
from bokeh.models.annotations.labels import Label
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure

from unrolled.drawing.panels import Curve, Panel
from unrolled.intervals import number, with_interval

# Blue, orange and grey stay apart in every common form of colour blindness, and differ in lightness when printed.
CELL_COLOURS = {"lstm": "#0067a5", "gru": "#d97706", "rnn": "#6b7280"}
SPARE_COLOURS = ("#111827", "#7c5ba6", "#8a5a2b")
STATE_DASHES = {"cell": "solid", "hidden": "dashed"}
OTHER_DASHES = ("dotted", "dashdot", "longdash")
DASH_LENGTHS = {"solid": "", "dashed": "7 4", "dotted": "2 3", "dashdot": "9 3 2 3", "longdash": "14 5"}
LINE_DASHES = ("1 3", "5 3", "10 3", "10 3 2 3")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
MARKERS = {"lstm": "circle", "gru": "square", "rnn": "triangle"}
MARK_UP_TO = 30
TOOLTIP = '<div class="curve-tip"><b>@curve</b><br><span>@at</span><br><span>@figure</span></div>'


@dataclass(frozen=True)
class Look:
    """How one curve is drawn, shared by the plot and its legend."""

    colour: str
    dash: str
    alpha: float
    width: float
    marker: str

    @property
    def svg_dash(self) -> str:
        """The dash as SVG writes it."""
        return DASH_LENGTHS[self.dash]


@dataclass(frozen=True)
class Point:
    """One point of a curve that can be drawn."""

    x: float
    mean: float
    low: float
    high: float

    @property
    def banded(self) -> bool:
        """Whether it has an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def looks(curves: Sequence[Curve]) -> list[Look]:
    """A look for each curve; where cell and state repeat, the later curve is drawn fainter and thinner."""
    spare = dict(
        zip(dict.fromkeys(c.cell for c in curves if c.cell.lower() not in CELL_COLOURS), itertools.cycle(SPARE_COLOURS))
    )
    dashes = dashes_of(curves)
    seen: dict[tuple[str, str], int] = {}
    found = []
    for curve in curves:
        cell = curve.cell.lower()
        colour = CELL_COLOURS.get(cell) or spare[curve.cell]
        dash = dashes[curve.state.lower()]
        repeat = seen.get((colour, dash), 0)
        seen[colour, dash] = repeat + 1
        found.append(
            Look(
                colour=colour,
                dash=dash,
                alpha=(1.0, 0.5, 0.3)[min(repeat, 2)],
                width=2.2 if repeat == 0 else 1.3,
                marker=MARKERS.get(cell, "diamond"),
            )
        )
    return found


def dashes_of(curves: Sequence[Curve]) -> dict[str, str]:
    """The dash of each state; in a panel without cell and hidden state the first of the others gets the solid line."""
    states = list(dict.fromkeys(c.state.lower() for c in curves))
    others = [s for s in states if s not in STATE_DASHES]
    free = OTHER_DASHES if len(others) < len(states) else ("solid", "dashed", *OTHER_DASHES)
    return {**STATE_DASHES, **dict(zip(others, itertools.cycle(free), strict=False))}


def drawable(curve: Curve, *, log_x: bool, log_y: bool) -> list[Point | None]:
    """The points of a curve that its axes can show; None where one is missing, so that the line breaks there."""
    points: list[Point | None] = []
    for x, mean, low, high in zip(curve.x, curve.mean, curve.low, curve.high, strict=True):
        shown = math.isfinite(x) and math.isfinite(mean) and not (log_x and x <= 0) and not (log_y and mean <= 0)
        points.append(Point(float(x), float(mean), float(low), float(high)) if shown else None)
    return points


def left_out(panel: Panel) -> int:
    """How many measured points a logarithmic axis cannot show."""
    count = 0
    for curve in panel.curves:
        measured = sum(math.isfinite(x) and math.isfinite(m) for x, m in zip(curve.x, curve.mean, strict=True))
        count += measured - sum(p is not None for p in drawable(curve, log_x=panel.log_x, log_y=panel.log_y))
    return count


def bottomless(panel: Panel) -> bool:
    """Whether an interval includes zero where the axis has none."""
    curves = [drawable(c, log_x=panel.log_x, log_y=panel.log_y) for c in panel.curves]
    return panel.log_y and any(p.banded and p.low <= 0 for curve in curves for p in curve if p is not None)


def stretches(points: Sequence[Point | None]) -> Iterator[list[Point]]:
    """The runs of neighbouring points that have an interval, each to be drawn as one band."""
    run: list[Point] = []
    for point in points:
        if point is not None and point.banded:
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def y_limits(panel: Panel, curves: Sequence[Sequence[Point | None]]) -> tuple[float, float]:
    """Where the y axis starts and ends: every mean and line is in view, and a wide interval cannot flatten them."""
    points = [p for curve in curves for p in curve if p is not None]
    lines = [v for _, v in panel.lines if math.isfinite(v) and (v > 0 or not panel.log_y)]
    if panel.log_y:
        centres = [math.log10(v) for v in [p.mean for p in points] + lines]
        ends = [math.log10(v) for p in points if p.banded for v in (p.low, p.high) if v > 0]
        # An interval that reaches zero has no bottom on a logarithmic axis: let it run out of the frame.
        ends += [min(centres) - 0.5 for p in points if p.banded and p.low <= 0]
    else:
        centres = [p.mean for p in points] + lines
        ends = [v for p in points if p.banded for v in (p.low, p.high)]
    if not centres:
        return (0.1, 1.0) if panel.log_y else (0.0, 1.0)
    bottom, top = min(centres), max(centres)
    span = (top - bottom) or (abs(top) * 0.1 if top and not panel.log_y else 1.0)
    low = max(min([bottom, *ends]), bottom - 0.6 * span) - 0.06 * span
    high = min(max([top, *ends]), top + 0.6 * span) + 0.08 * span
    # A share or a norm has no values below zero: an axis that goes there only wastes room.
    if not panel.log_y and bottom >= 0 > low:
        low = min(0.0, -0.03 * (high - bottom)) if bottom < 0.1 * high else 0.0
    return (10**low, 10**high) if panel.log_y else (low, high)


def plot(panel: Panel, name: str) -> figure:
    """The panel as a figure; curve i has the renderers "{name}-{i}-...", by which its legend entry finds them."""
    curves = [drawable(c, log_x=panel.log_x, log_y=panel.log_y) for c in panel.curves]
    low, high = y_limits(panel, curves)
    fig = figure(
        name=name,
        height=300,
        sizing_mode="stretch_width",
        x_axis_type="log" if panel.log_x else "linear",
        y_axis_type="log" if panel.log_y else "linear",
        y_range=Range1d(start=low, end=high),
        tools="pan,box_zoom,reset,save",
        active_drag=None,
        toolbar_location="above",
        toolbar_inner=True,
        background_fill_color="#ffffff",
        border_fill_color="#ffffff",
        outline_line_color=None,
        min_border_right=14,
    )
    fig.toolbar.logo = None
    fig.toolbar.autohide = True
    # As plain text: Bokeh would fetch a typesetter for anything that looks like TeX.
    fig.xaxis.axis_label = PlainText(text=panel.x_label)
    for axis in (*fig.xaxis, *fig.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "13px"
        axis.axis_label_text_color = "#374151"
        axis.major_label_text_font_size = "12px"
        axis.major_label_text_color = "#4b5563"
        axis.axis_line_color = "#9ca3af"
        axis.major_tick_line_color = "#9ca3af"
        axis.minor_tick_line_color = None
        axis.axis_label_text_font = axis.major_label_text_font = FONT
    fig.xgrid.grid_line_color = None
    fig.ygrid.grid_line_color = "#eceff3"
    if panel.log_x:
        ticks = measured_ticks([p.x for curve in curves for p in curve if p is not None])
        if ticks:
            fig.xaxis.ticker = FixedTicker(ticks=ticks)
            fig.xaxis.major_label_overrides = {tick: number(tick) for tick in ticks}

    targets: list[DataRenderer] = []
    for index, (curve, points, look) in enumerate(zip(panel.curves, curves, looks(panel.curves), strict=True)):
        for part, run in enumerate(stretches(points)):
            fig.varea(
                x=[p.x for p in run],
                y1=[max(p.low, low / 10) if panel.log_y else p.low for p in run],
                y2=[p.high for p in run],
                color=look.colour,
                fill_alpha=0.14 * look.alpha,
                name=f"{name}-{index}-band-{part}",
            )
        source = ColumnDataSource(
            {
                "x": [math.nan if p is None else p.x for p in points],
                "mean": [math.nan if p is None else p.mean for p in points],
                "curve": [curve.label] * len(points),
                "at": ["" if p is None else f"{panel.x_label}: {number(p.x)}" for p in points],
                "figure": ["" if p is None else with_interval(p.mean, p.low, p.high) for p in points],
            }
        )
        fig.line(
            "x",
            "mean",
            source=source,
            color=look.colour,
            alpha=look.alpha,
            line_width=look.width,
            line_dash=[int(d) for d in look.svg_dash.split()] if look.svg_dash else "solid",
            name=f"{name}-{index}-line",
        )
        few = sum(p is not None for p in points) <= MARK_UP_TO
        targets.append(
            fig.scatter(
                "x",
                "mean",
                source=source,
                marker=look.marker,
                size=6 if few else 9,
                color=look.colour,
                fill_color=look.colour if look.dash == "solid" else "#ffffff",
                alpha=look.alpha if few else 0.0,
                hover_alpha=1.0,
                name=f"{name}-{index}-points",
            )
        )
    fig.add_tools(HoverTool(renderers=targets, tooltips=TOOLTIP, mode="mouse", point_policy="snap_to_data"))
    draw_lines(fig, panel, curves, low, high)
    return fig


def measured_ticks(places: Sequence[float]) -> list[float]:
    """Ticks of a logarithmic axis at the few values that were measured; none where there are too many to name."""
    values = sorted(set(places))
    if not 2 <= len(values) <= 12:
        return []
    room = math.log(values[-1] / values[0]) / 14
    ticks: list[float] = []
    for value in values:
        if not ticks or math.log(value / ticks[-1]) >= room:
            ticks.append(value)
    return ticks


def draw_lines(fig: figure, panel: Panel, curves: Sequence[Sequence[Point | None]], low: float, high: float) -> None:
    """The lines the curves are compared with. Named in the plot where there is room, in the legend always."""
    points = [p for curve in curves for p in curve if p is not None]
    shown = comparison_lines(panel)
    heights = [share(value, low, high, log=panel.log_y) for _, value, _ in shown]
    places = [math.log(p.x) if panel.log_x else p.x for p in points]
    first, last = min(places, default=0.0), max(places, default=1.0)
    for (text, value, dash), height in zip(shown, heights, strict=True):
        lengths = [int(n) for n in dash.split()]
        fig.add_layout(Span(location=value, dimension="width", line_color="#374151", line_width=1, line_dash=lengths))
        above = height < 0.9
        room = (height, height + 0.1) if above else (height - 0.1, height)
        if sum(room[0] - 0.01 <= other <= room[1] for other in heights) > 1:
            continue
        crowd = [
            (place - first) / (last - first or 1.0)
            for place, p in zip(places, points, strict=True)
            if room[0] - 0.02 <= share(p.mean, low, high, log=panel.log_y) <= room[1] + 0.02
        ]
        wide = min(0.45, 0.06 + 0.017 * len(text))
        right = not any(c > 1 - wide for c in crowd)
        if not right and any(c < wide for c in crowd):
            continue
        fig.add_layout(
            Label(
                x=Node(target="frame", symbol="right" if right else "left"),
                x_offset=-4 if right else 4,
                y=value,
                y_offset=2 if above else -2,
                text=PlainText(text=text),
                text_align="right" if right else "left",
                text_baseline="bottom" if above else "top",
                text_font=FONT,
                text_font_size="12px",
                text_color="#374151",
            )
        )


def comparison_lines(panel: Panel) -> list[tuple[str, float, str]]:
    """The horizontal lines an axis can show: label, value and dash."""
    values = [(text, value) for text, value in panel.lines if math.isfinite(value) and (value > 0 or not panel.log_y)]
    return [(text, value, dash) for (text, value), dash in zip(values, itertools.cycle(LINE_DASHES), strict=False)]


def share(value: float, low: float, high: float, *, log: bool) -> float:
    """How far up an axis from `low` to `high` a value stands, from 0 to 1."""
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
