"""Bokeh's models and our own data inside a page, so that no text among them can end the script that holds it."""

from __future__ import annotations

import json
import re
from typing import Any

from bokeh.embed import json_item
from bokeh.model import Model
from bokeh.resources import Resources
from markupsafe import Markup

# Only these can be taken for markup in a script; in JSON they stand in strings alone, where escapes are allowed.
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def script_json(value: Any) -> Markup:
    """A value as JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return Markup(text)


def item(model: Model) -> dict[str, Any]:
    """A Bokeh model as the JSON its script embeds."""
    found: dict[str, Any] = dict(json_item(model))
    return found


def bokeh_script() -> Markup:
    """Bokeh's own script, core only: the page brings its own controls, and needs no typesetter."""
    scripts = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
    lines = "\n".join(scripts).splitlines()
    # The map stands in a file that is not sent along.
    kept = [line for line in lines if not line.startswith("//# sourceMappingURL")]
    script = "\n".join(kept).replace("</script", "<\\/script")
    # Bokeh fetches a typesetter for text that looks like TeX, and maps; the page stays offline whatever it is given.
    return Markup(re.sub(r'(\.(?:src|href)=)(["`])https?://.*?\2', r'\1"data:,"', script))
