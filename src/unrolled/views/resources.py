"""The files that pages are made of, as installed: scripts, style sheets, templates."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

VIEWS = "unrolled.views"
# In the order in which they need each other.
SCRIPTS = (
    "scheme.js",
    "words.js",
    "painting.js",
    "views.js",
    "text.js",
    "following.js",
    "hover.js",
    "keys.js",
    "opening.js",
)
EXCERPT_SCRIPTS = (*SCRIPTS, "embedded.js", "excerpts.js")


def resource(name: str, package: str) -> str:
    """A file that stands in a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def template(package: str, name: str) -> Template:
    """A template of a package, which may include those of the views; what is put in is escaped."""

    def source(asked: str) -> str:
        return resource(asked, package if asked == name else VIEWS)

    return Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)
