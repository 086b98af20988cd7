"""The viewer in a notebook: a frame with its page, served from the notebook's own process."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from html import escape

from torch import Tensor, nn

from unrolled.extras import extra
from unrolled.trace import Trace
from unrolled.viewer.opening.of_trace import of_trace

HEIGHT = 1000


class View:
    """A trace that is looked at. In a notebook it shows itself; its server ends with it, or with `close`.

    Args: as `Trace.view`.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        text: str | Sequence[str] | None = None,
        inputs: Tensor | None = None,
        labels: Mapping[str, Tensor] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        for package in ("bokeh", "tornado"):
            extra(package, "Trace.view", "view")
        from unrolled.viewer.service import Service
        from unrolled.viewer.serving.server import Server

        recorded = of_trace(trace, text=text, inputs=inputs, labels=labels, model=model)
        self._server = Server(Service(recorded), framed=True)
        self._server.start()
        self._end = weakref.finalize(self, self._server.stop)

    @property
    def url(self) -> str:
        """The page's address, with the token that lets its reader in."""
        return self._server.url

    def close(self) -> None:
        """End the server."""
        self._end()

    def _repr_html_(self) -> str:
        if not self._end.alive:
            return "<p>This view is closed.</p>"
        return (
            f'<iframe src="{escape(self.url)}" width="100%" height="{HEIGHT}" style="border: 0" '
            'title="unrolled: the states of a recorded network"></iframe>'
        )

    def __repr__(self) -> str:
        return f"View at {self.url}" if self._end.alive else "View that is closed"
