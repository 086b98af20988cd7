"""The plots that views are made of: one axis of steps, every model that scripts fill, and colours from the page."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

pytest.importorskip("bokeh")

from bokeh.core.validation import check_integrity
from bokeh.models import ColumnDataSource, LinearColorMapper, Plot, Range1d, SaveTool

from unrolled.drawing.colours import PALETTES
from unrolled.views.embedding import bokeh_script, item, script_json
from unrolled.views.figures import CURVES, LEFT, MAPS, RIGHT, views
from unrolled.views.resources import EXCERPT_SCRIPTS, SCRIPTS, VIEWS, resource, template

NAMES = ["track", *MAPS, *(lines.name for lines in CURVES)]


def plots() -> dict[str, Plot]:
    return {plot.name: plot for plot in views().select({"type": Plot})}


def test_every_plot_is_there_once() -> None:
    assert sorted(plots()) == sorted(NAMES)


def test_all_plots_share_one_axis_of_steps_and_one_width() -> None:
    found = plots().values()
    assert len({id(plot.x_range) for plot in found}) == 1
    assert {(plot.min_border_left, plot.min_border_right) for plot in found} == {(LEFT, RIGHT)}
    assert {plot.sizing_mode for plot in found} == {"stretch_width"}


def test_maps_share_one_axis_of_units_and_no_other_plot_does() -> None:
    found = plots()
    assert len({id(found[name].y_range) for name in MAPS}) == 1
    assert len({id(plot.y_range) for plot in found.values()}) == len(found) - len(MAPS) + 1


def test_every_model_that_a_script_asks_for_by_name_is_there() -> None:
    named = {model.name for model in views().references() if model.name}
    scripts = "".join(resource(name, VIEWS) for name in SCRIPTS)
    asked = set(re.findall(r"model\(\s*[\"']([a-z-]+)[\"']", scripts))
    assert asked
    assert asked <= named
    for place, suffix in {(p, s) for p, s in re.findall(r"model\(`\$\{(\w+)\}-([a-z]+)`", scripts) if p == "map"}:
        assert place
        assert {f"{name}-{suffix}" for name in MAPS} <= named


def test_names_of_models_are_single() -> None:
    named = [model.name for model in views().references() if model.name]
    assert sorted(named) == sorted(set(named))


def test_views_are_two_documents_apart() -> None:
    # A page may be made twice in one process.
    first, second = views(), views()
    assert not {id(one) for one in first.references()} & {id(one) for one in second.references()}
    assert json.dumps(item(first), allow_nan=False)


def test_plots_are_empty_and_valid() -> None:
    shown = views()
    check_integrity(shown.references())
    for source in shown.select({"type": ColumnDataSource}):
        lengths = {len(column) for column in source.data.values()}
        assert len(lengths) == 1
    assert all(not plots()[lines.name].visible for lines in CURVES)


def test_curves_over_many_sizes_have_a_logarithmic_axis() -> None:
    for lines in CURVES:
        axis = type(plots()[lines.name].yaxis[0]).__name__
        assert (axis == "LogAxis") == lines.logarithmic
    (rows,) = [model for model in views().references() if isinstance(model, Range1d) and model.name == "gradient-rows"]
    assert rows.start > 0


def test_maps_begin_with_colours_that_are_even_about_zero() -> None:
    for mapper in views().select({"type": LinearColorMapper}):
        assert (mapper.low, mapper.high) == (-1, 1)
        assert mapper.palette == PALETTES["diverging"]
        assert mapper.nan_color not in mapper.palette


def test_plots_can_be_saved_and_zoomed_by_buttons() -> None:
    tools = plots()["track"].toolbar.tools
    assert any(isinstance(tool, SaveTool) for tool in tools)
    names = {type(tool).__name__ for tool in tools}
    assert {"ZoomInTool", "ZoomOutTool", "ResetTool", "BoxSelectTool"} <= names


@pytest.mark.parametrize(
    "text", ["</script>", "<!--<script>", "&amp;", "\u2028\u2029", "\ud800", "\\u003c", "é😀", "]]>"], ids=ascii
)
def test_no_text_can_end_the_script_that_holds_it(text: str) -> None:
    written = script_json({text: [text]})
    assert not set(written) & set("<>&\u2028\u2029")
    assert written.isascii()
    assert json.loads(written) == {text: [text]}


def test_data_with_nan_are_refused_where_json_knows_none() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


def test_scripts_of_pages_are_installed_and_each_is_listed() -> None:
    there = {path.name for path in files(VIEWS).iterdir() if path.name.endswith(".js")}
    assert there == set(EXCERPT_SCRIPTS)
    assert len(set(EXCERPT_SCRIPTS)) == len(EXCERPT_SCRIPTS)
    assert set(SCRIPTS) < set(EXCERPT_SCRIPTS)


@pytest.mark.parametrize("name", EXCERPT_SCRIPTS)
def test_script_can_stand_inside_a_page(name: str) -> None:
    script = resource(name, VIEWS)
    assert "</script" not in script.lower()
    assert "<!--" not in script
    # What a recording holds is put into the page as text alone.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)
    assert not re.search(r"https?://(?!www\.w3\.org/)", script)


def test_bokeh_script_can_stand_inside_a_page() -> None:
    script = str(bokeh_script())
    assert "</script" not in script
    assert not re.search(r"""\.(?:src|href)=["'`]https?:""", script)


def test_templates_escape_and_refuse_what_is_not_given() -> None:
    text = template(VIEWS, "text.jinja").render(fallback="<b>&")
    assert "&lt;b&gt;&amp;" in text
    with pytest.raises(Exception, match="fallback"):
        template(VIEWS, "text.jinja").render()
