"""Panels as Bokeh figures that stand alone, in a notebook or a file: with title and legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FactorRange, Image, LinearColorMapper, PlainText, Range1d
from bokeh.models.annotations.geometry import Span
from bokeh.models.annotations.labels import Label, Title
from bokeh.models.annotations.legends import ColorBar, Legend, LegendItem
from bokeh.models.renderers import GlyphRenderer
from bokeh.models.ui.ui_element import UIElement
from bokeh.plotting import figure

from unrolled.drawing.colours import PALETTES
from unrolled.drawing.panels import Dots, HeatMap, Panel
from unrolled.drawing.plots import CELL_COLOURS, FONT, plot

WIDTH = 760


def draw(panels: Sequence[Panel | HeatMap | Dots]) -> UIElement:
    """One figure, or several below each other; show it with `bokeh.plotting.show`, keep it with `save`."""
    figures = [_drawn(panel, f"panel-{index}") for index, panel in enumerate(panels)]
    return figures[0] if len(figures) == 1 else column(figures)


def _drawn(panel: Panel | HeatMap | Dots, name: str) -> figure:
    if isinstance(panel, Panel):
        return _lines(panel, name)
    return _heat_map(panel) if isinstance(panel, HeatMap) else _dots(panel)


def _titled(fig: figure, title: str) -> figure:
    fig.title = Title(text=title, text_font=FONT, text_font_style="normal", text_font_size="15px", text_color="#111827")
    return fig


def _lines(panel: Panel, name: str) -> figure:
    fig = _titled(plot(panel, name), panel.title)
    fig.sizing_mode = "fixed"
    fig.width, fig.height = WIDTH, 320
    fig.yaxis.axis_label = panel.y_label
    if len(panel.curves) > 1:
        items = []
        for index, curve in enumerate(panel.curves):
            lines = [r for r in fig.renderers if isinstance(r, GlyphRenderer) and r.name == f"{name}-{index}-line"]
            items.append(LegendItem(label=curve.label, renderers=lines))
        legend = Legend(items=items, border_line_color=None, label_text_font=FONT, label_text_font_size="12px")
        fig.add_layout(legend, "right")
    return fig


def _heat_map(panel: HeatMap) -> figure:
    step = (panel.x[-1] - panel.x[0]) / max(len(panel.x) - 1, 1) or 1.0
    first = panel.x[0] - step / 2
    fig = _titled(
        figure(
            width=WIDTH,
            height=110 + min(360, max(24 * len(panel.rows), 60)),
            x_axis_label=panel.x_label,
            y_axis_label=panel.y_label,
            x_range=Range1d(start=first, end=first + step * len(panel.x)),
            y_range=FactorRange(factors=list(reversed(panel.rows))),
            tools="hover,save",
            tooltips=[(panel.x_label, "$x{0}"), ("", "@image")],
            outline_line_color=None,
        ),
        panel.title,
    )
    fig.toolbar.logo = None
    palette = PALETTES["diverging" if panel.diverging else "sequential"]
    mapper = LinearColorMapper(palette=palette, low=panel.low, high=panel.high, nan_color="#ffffff")
    values: Any = np.array(panel.values, dtype=np.float64)[::-1]
    glyph = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper)
    size = {"x": [first], "y": [0], "dw": [step * len(panel.x)], "dh": [len(panel.rows)]}
    fig.add_glyph(ColumnDataSource({"image": [values], **size}), glyph)
    fig.grid.grid_line_color = None
    fig.add_layout(ColorBar(color_mapper=mapper, width=10, label_standoff=6), "right")
    return fig


def _dots(panel: Dots) -> figure:
    fig = _titled(
        figure(
            width=WIDTH,
            height=110 + 28 * len(panel.rows),
            x_axis_label=panel.x_label,
            y_range=FactorRange(factors=list(reversed(panel.rows))),
            tools="save",
            outline_line_color=None,
        ),
        panel.title,
    )
    fig.toolbar.logo = None
    fig.ygrid.grid_line_color = None
    fig.xgrid.grid_line_color = "#eceff3"
    for axis in (*fig.xaxis, *fig.yaxis):
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font_size = "12px"
    colour, rows = CELL_COLOURS["lstm"], list(panel.rows)
    fig.segment(x0=list(panel.low), y0=rows, x1=list(panel.high), y1=rows, line_color=colour, line_width=2)
    fig.scatter(x=list(panel.mean), y=rows, size=8, color=colour)
    for text, value in panel.lines:
        fig.add_layout(Span(location=value, dimension="height", line_color="#374151", line_dash=[5, 3]))
        label = Label(x=value, y=0, x_offset=4, y_offset=2, text=PlainText(text=text), text_font=FONT)
        label.text_font_size, label.text_color = "12px", "#374151"
        fig.add_layout(label)
    return fig
