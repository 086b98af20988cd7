"""Look inside: a recorded excerpt as data for the page, and the plots it is shown in.

The plots are empty; the page's script fills them with whichever excerpt, gate and order of units the reader picks.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from bokeh.core.properties import value as one_value
from bokeh.layouts import column
from bokeh.models import (
    BasicTicker,
    Column,
    ColumnDataSource,
    FixedTicker,
    Image,
    LinearColorMapper,
    PanTool,
    PlainText,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.models.annotations.geometry import Span
from bokeh.models.annotations.labels import Title
from bokeh.models.annotations.legends import ColorBar
from bokeh.plotting import figure

from unrolled.drawing.colours import PALETTES, scale_of
from unrolled.page.excerpt import Excerpt
from unrolled.page.following import auc, correlation, is_binary, memory, strongest_first
from unrolled.page.wording import spoken

LEVELS = 65534
MISSING = 65535
FIRST_LABEL = "in_string"
# Left and right of every plot the same room, so that one step stands in one column all the way down.
LEFT, RIGHT = 92, 78


def excerpt_data(excerpt: Excerpt) -> dict[str, Any]:
    """Everything the page's script needs of one excerpt, as JSON."""
    kept = excerpt.states.get("cell", next(iter(excerpt.states.values())))
    times = memory(kept)
    varying = {name: label for name, label in excerpt.labels.items() if len(np.unique(label)) > 1}
    orders = {"timescale": strongest_first(times), "index": np.arange(excerpt.units)}
    for name, label in varying.items():
        orders[f"label:{name}"] = strongest_first(np.abs(correlation(kept, label)))
    follow = {
        state: {name: following(values, label) for name, label in varying.items()}
        for state, values in excerpt.states.items()
    }
    start = "cell" if "cell" in excerpt.states else next(iter(excerpt.states))
    return {
        "title": excerpt.title,
        "characters": list(excerpt.text),
        "units": excerpt.units,
        "states": {name: state_data(name, values) for name, values in excerpt.states.items()},
        "labels": {name: label.astype(int).tolist() for name, label in excerpt.labels.items()},
        "bands": [name for name, label in varying.items() if readable_as_band(label)],
        "orders": {name: order.tolist() for name, order in orders.items()},
        "memory": rounded(times),
        "follow": follow,
        "start": {
            "state": start,
            "unit": follow[start][FIRST_LABEL]["best"] if FIRST_LABEL in varying else int(orders["timescale"][0]),
        },
    }


def state_data(name: str, values: np.ndarray) -> dict[str, Any]:
    """A state (T, H) as 16-bit steps between its extremes, and the colours it is shown in."""
    finite = np.isfinite(values)
    low = float(values[finite].min()) if finite.any() else 0.0
    high = float(values[finite].max()) if finite.any() else 0.0
    step = (high - low) / LEVELS or 1.0
    levels = np.where(finite, np.round((np.where(finite, values, low).astype(np.float64) - low) / step), MISSING)
    palette, bottom, top = scale_of(name, values)
    return {
        "name": spoken(name),
        "low": low,
        "step": step,
        "levels": base64.b64encode(levels.astype("<u2").tobytes()).decode("ascii"),
        "palette": palette,
        "bottom": bottom,
        "top": top,
    }


def following(state: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """How each unit follows a label, and which does best: by AUC where the label is yes or no, else by correlation."""
    correlations = correlation(state, label)
    areas = auc(state, label) if is_binary(label) else None
    strength = np.abs(correlations) if areas is None else np.abs(areas - 0.5)
    return {
        "correlation": rounded(correlations),
        "auc": None if areas is None else rounded(areas),
        "best": int(strongest_first(strength)[0]),
    }


def rounded(figures: np.ndarray) -> list[float | None]:
    """Figures for JSON, which knows no NaN."""
    return [round(float(v), 4) if math.isfinite(v) else None for v in figures]


def readable_as_band(label: np.ndarray) -> bool:
    """Whether a label holds still long enough to be seen as a band; the column of a character never does."""
    return bool(np.count_nonzero(np.diff(label)) < len(label) / 2)


def views() -> Column:
    """The text track and three heat maps on one time axis, all empty."""
    steps = Range1d(start=0, end=1, bounds=(0, 1), min_interval=8, name="steps")
    track = plain_figure("track", steps, 110)
    track.rect(
        x="x",
        y="y",
        width="width",
        height=0.82,
        color="colour",
        source=ColumnDataSource({"x": [], "y": [], "width": [], "colour": []}, name="bands"),
    )
    track.text(
        x="x",
        y="y",
        text="text",
        text_font=one_value("ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"),
        text_font_size="13px",
        text_color="#111827",
        text_align="center",
        text_baseline="middle",
        source=ColumnDataSource({"x": [], "y": [], "text": []}, name="characters"),
    )
    maps = [heat_map(name, steps, height) for name, height in (("upper", 270), ("lower", 270), ("third", 310))]
    maps[-1].xaxis.visible = True
    maps[-1].xaxis.axis_label = PlainText(text="step (characters read)")
    layout = column(track, *maps, sizing_mode="stretch_width", spacing=6)
    return layout


def plain_figure(name: str, steps: Range1d, height: int) -> figure:
    """A figure over the shared steps, with room at the sides and nothing else."""
    wheel = WheelZoomTool(dimensions="width", modifiers={"ctrl": True})
    fig = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        x_range=steps,
        y_range=Range1d(start=0, end=1, name=f"{name}-rows"),
        tools=[
            PanTool(dimensions="width"),
            wheel,
            ZoomInTool(dimensions="width", factor=0.35),
            ZoomOutTool(dimensions="width", factor=0.35),
            ResetTool(),
            SaveTool(),
        ],
        active_scroll=wheel,
        toolbar_location=None if name != "track" else "above",
        min_border_left=LEFT,
        min_border_right=RIGHT,
        min_border_top=4,
        min_border_bottom=4,
        outline_line_color="#d1d5db",
        background_fill_color="#ffffff",
        border_fill_color="#ffffff",
    )
    fig.toolbar.logo = None
    fig.grid.grid_line_color = None
    fig.xaxis.visible = False
    fig.xaxis.ticker = BasicTicker(mantissas=[1, 2, 5], min_interval=1, num_minor_ticks=0)
    fig.yaxis.ticker = FixedTicker(ticks=[], name=f"{name}-ticks")
    fig.yaxis.name = f"{name}-axis"
    for axis in (*fig.xaxis, *fig.yaxis):
        axis.axis_line_color = None
        axis.major_tick_line_color = "#9ca3af"
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "12px"
        axis.major_label_text_color = "#374151"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "13px"
        axis.axis_label_text_color = "#374151"
    fig.add_layout(
        Span(dimension="height", location=0, line_color="#111827", line_width=1, visible=False, name=f"{name}-step")
    )
    return fig


def heat_map(name: str, steps: Range1d, height: int) -> figure:
    """One state: units down, steps across, the chosen unit in a frame."""
    fig = plain_figure(name, steps, height)
    mapper = LinearColorMapper(
        palette=PALETTES["diverging"], low=-1, high=1, nan_color="#d1d5db", name=f"{name}-colours"
    )
    empty = {"image": [np.zeros((1, 1), dtype=np.float32)], "steps": [1], "units": [1]}
    fig.add_glyph(
        ColumnDataSource(empty, name=f"{name}-image"),
        Image(image="image", x=0, y=0, dw="steps", dh="units", color_mapper=mapper),
    )
    fig.quad(
        left=0,
        right="right",
        bottom="bottom",
        top="top",
        fill_alpha=0,
        line_color="#111827",
        line_width=1,
        source=ColumnDataSource({"right": [], "bottom": [], "top": []}, name=f"{name}-chosen"),
    )
    fig.title = Title(name=f"{name}-title", text=PlainText(text=""), text_font_size="14px", text_color="#111827")
    bar = ColorBar(
        color_mapper=mapper,
        ticker=BasicTicker(desired_num_ticks=5),
        width=12,
        padding=2,
        margin=4,
        label_standoff=5,
        major_label_text_font_size="12px",
        major_label_text_color="#374151",
        major_tick_line_color=None,
        bar_line_color="#d1d5db",
        background_fill_alpha=0,
    )
    fig.add_layout(bar, "right")
    return fig
