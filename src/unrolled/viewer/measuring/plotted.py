"""What an instrument or a claim plots, as the page embeds it: Bokeh's JSON with the words around it beside it."""

from __future__ import annotations

from typing import Any

from unrolled.drawing.panels import Dots, HeatMap, Panel
from unrolled.drawing.plots import plot
from unrolled.drawing.standalone import draw
from unrolled.page.page import shown_panel
from unrolled.views.embedding import item


def embedded(panel: Panel | HeatMap | Dots, name: str) -> dict[str, Any]:
    """A plot as plain data that JSON can hold, ready for `Bokeh.embed.embed_item`.

    Besides Bokeh's own keys it has

    - name: what the plot is called in the page,
    - title, x_label, y_label: the words around it, which the plot itself leaves to the page, but for the x axis,
    - legend: of each curve its number, label, colour, alpha, width and dash (as SVG writes it); the renderers of curve
      i are named "{name}-{i}-...". Empty for a plot without curves,
    - lines: of each line that the curves are compared with its label, value and dash,
    - left_out: how many points a logarithmic axis cannot show; bottomless: whether an interval includes zero there.
    """
    if isinstance(panel, Panel):
        shown = shown_panel(panel, name)
        return {
            **item(plot(panel, name)),
            "name": name,
            "title": panel.title,
            "x_label": panel.x_label,
            "y_label": panel.y_label,
            "legend": [
                {
                    "index": index,
                    "label": label,
                    "colour": look.colour,
                    "alpha": look.alpha,
                    "width": look.width,
                    "dash": look.svg_dash,
                }
                for index, label, look in shown.legend
            ],
            "lines": [{"label": label, "value": value, "dash": dash} for label, value, dash in shown.lines],
            "left_out": shown.left_out,
            "bottomless": shown.bottomless,
        }
    drawn: Any = draw([panel])
    drawn.title = None
    drawn.sizing_mode = "stretch_width"
    return {
        **item(drawn),
        "name": name,
        "title": panel.title,
        "x_label": panel.x_label,
        "y_label": panel.y_label if isinstance(panel, HeatMap) else "",
        "legend": [],
        "lines": [],
        "left_out": 0,
        "bottomless": False,
    }
