"""The plots that states are looked at in, all empty: the page's script fills them with what is asked for.

One axis of steps runs through all of them. Colours of axes, grounds and texts come from the page's style sheet, by the
custom properties that Bokeh reads ("--bk-..."), so that a page can be dark or light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bokeh.core.properties import value as one_value
from bokeh.layouts import column
from bokeh.models import (
    BasicTicker,
    BoxSelectTool,
    Column,
    ColumnDataSource,
    FixedTicker,
    Image,
    LinearColorMapper,
    NumeralTickFormatter,
    PanTool,
    PlainText,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.models.annotations.geometry import BoxAnnotation, Span
from bokeh.models.annotations.labels import Title
from bokeh.models.annotations.legends import ColorBar
from bokeh.plotting import figure

from unrolled.drawing.colours import PALETTES
from unrolled.drawing.plots import FONT

# Left and right of every plot the same room, so that one step stands in one column all the way down.
LEFT, RIGHT = 96, 74
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
MAPS = ("upper", "lower", "third")


@dataclass(frozen=True)
class Lines:
    """A plot of curves over steps, and how it is named.

    Attributes:
        name: by which the page's script finds it.
        title: what it shows, before the script says more.
        height: in pixels.
        logarithmic: whether values are shown on a logarithmic axis.
    """

    name: str
    title: str
    height: int
    logarithmic: bool = False


CURVES = (
    Lines("values", "input, each channel in its own standard deviations", 150),
    Lines("gradient", "gradient", 170, logarithmic=True),
    Lines("effect", "effect of a change", 160),
    Lines("unit", "one unit", 160),
)


def views() -> Column:
    """Track, maps and curves below each other, on one axis of steps."""
    steps = Range1d(start=0, end=1, bounds=(0, 1), min_interval=8, name="steps")
    places = Range1d(start=0, end=1, bounds=(0, 1), min_interval=1, name="places")
    shown = [_track(steps), *(_heat_map(name, steps, places, 178) for name in MAPS)]
    shown += [_curves(lines, steps) for lines in CURVES]
    return column(*shown, sizing_mode="stretch_width", spacing=4)


def _over_steps(name: str, steps: Range1d, y: Range1d, height: int, *, scale: str = "linear") -> figure:
    """A figure over the shared steps, with room at the sides and nothing else."""
    wheel = WheelZoomTool(dimensions="width", modifiers={"ctrl": True})
    pan = PanTool(dimensions="width")
    fig = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        x_range=steps,
        y_range=y,
        y_axis_type=scale,  # type: ignore[arg-type]
        tools=[pan, wheel],
        active_drag=pan,
        active_scroll=wheel,
        toolbar_location=None,
        min_border_left=LEFT,
        min_border_right=RIGHT,
        min_border_top=4,
        min_border_bottom=4,
    )
    fig.grid.grid_line_color = None
    fig.xaxis.visible = False
    fig.xaxis.ticker = BasicTicker(mantissas=[1, 2, 5], min_interval=1, num_minor_ticks=0)
    fig.xaxis.formatter = NumeralTickFormatter(format="0,0")
    for axis in (*fig.xaxis, *fig.yaxis):
        axis.axis_line_color = None
        axis.minor_tick_line_color = None
        axis.major_label_text_font = axis.axis_label_text_font = FONT
        axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "13px"
    fig.add_layout(
        BoxAnnotation(
            left=0,
            right=0,
            fill_color="#e39a45",
            fill_alpha=0.16,
            line_color="#b0620f",
            visible=False,
            name=f"{name}-span",
        )
    )
    fig.add_layout(Span(dimension="height", location=0, line_width=1, visible=False, name=f"{name}-step"))
    return fig


def _titled(fig: figure, text: str) -> figure:
    name = f"{fig.name}-title"
    fig.title = Title(name=name, text=PlainText(text=text), text_font=FONT, text_font_size="13px")
    return fig


def _track(steps: Range1d) -> figure:
    """What was read, and its labels as bands: dragging here chooses a span."""
    fig = _over_steps("track", steps, Range1d(start=0, end=1, name="track-rows"), 110)
    select = BoxSelectTool(dimensions="width", renderers=[], description="choose a span of steps")
    select.overlay.fill_alpha = 0.2
    fig.add_tools(
        select,
        ZoomInTool(dimensions="width", factor=0.35),
        ZoomOutTool(dimensions="width", factor=0.35),
        ResetTool(),
        SaveTool(),
    )
    fig.toolbar.active_drag = select
    fig.toolbar.logo = None
    fig.toolbar_location = "above"
    fig.xaxis.visible = True
    fig.yaxis.ticker = FixedTicker(ticks=[], name="track-ticks")
    fig.yaxis.name = "track-axis"
    fig.rect(
        x="x",
        y="y",
        width="width",
        height=0.82,
        color="colour",
        source=ColumnDataSource({"x": [], "y": [], "width": [], "colour": []}, name="bands"),
    )
    fig.text(
        x="x",
        y="y",
        text="text",
        text_font=one_value(MONO),
        text_font_size="13px",
        text_color="colour",
        text_align="center",
        text_baseline="middle",
        source=ColumnDataSource({"x": [], "y": [], "text": [], "colour": []}, name="characters"),
    )
    return fig


def _heat_map(name: str, steps: Range1d, places: Range1d, height: int) -> figure:
    """One state: units down, steps across, the chosen unit in a frame."""
    fig = _titled(_over_steps(name, steps, places, height), "")
    fig.add_tools(WheelZoomTool(dimensions="height", modifiers={"shift": True}))
    fig.yaxis.ticker = FixedTicker(ticks=[], name=f"{name}-ticks")
    fig.yaxis.name = f"{name}-axis"
    mapper = LinearColorMapper(
        palette=PALETTES["diverging"], low=-1, high=1, nan_color="#9ca3af", name=f"{name}-colours"
    )
    empty = {"image": [np.zeros((1, 1), dtype=np.float32)], "x": [0], "y": [0], "steps": [1], "units": [1]}
    fig.add_glyph(
        ColumnDataSource(empty, name=f"{name}-image"),
        Image(image="image", x="x", y="y", dw="steps", dh="units", color_mapper=mapper),
    )
    fig.quad(
        left="left",
        right="right",
        bottom="bottom",
        top="top",
        fill_alpha=0,
        line_color="colour",
        line_width=1,
        source=ColumnDataSource(
            {"left": [], "right": [], "bottom": [], "top": [], "colour": []}, name=f"{name}-chosen"
        ),
    )
    bar = ColorBar(
        name=f"{name}-bar",
        color_mapper=mapper,
        ticker=BasicTicker(desired_num_ticks=5),
        width=12,
        padding=2,
        margin=4,
        label_standoff=5,
        major_label_text_font=FONT,
        major_label_text_font_size="12px",
        major_tick_line_color=None,
        background_fill_alpha=0,
    )
    fig.add_layout(bar, "right")
    return fig


def _curves(lines: Lines, steps: Range1d) -> figure:
    """Curves over steps, each with a colour and a dash of its own; hidden until there is something to show."""
    name = lines.name
    y = Range1d(start=0.1, end=1, name=f"{name}-rows")
    scale = "log" if lines.logarithmic else "linear"
    fig = _titled(_over_steps(name, steps, y, lines.height, scale=scale), lines.title)
    fig.visible = False
    if lines.logarithmic:
        # The script sets as many powers of ten as there is room for.
        fig.yaxis.ticker = FixedTicker(ticks=[], name=f"{name}-ticks")
    else:
        fig.yaxis.ticker = BasicTicker(desired_num_ticks=4)
    fig.ygrid.grid_line_color = "#e1e5ea"
    source = ColumnDataSource({"xs": [], "ys": [], "colour": [], "dash": [], "width": []}, name=f"{name}-curves")
    fig.multi_line(xs="xs", ys="ys", line_color="colour", line_dash="dash", line_width="width", source=source)
    return fig
