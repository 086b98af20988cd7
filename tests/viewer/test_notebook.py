"""A trace shows itself in a notebook: its page is served for as long as somebody holds it."""

from __future__ import annotations

import gc
import html
import http.client
import re
import socket
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

pytest.importorskip("bokeh")
pytest.importorskip("tornado")

import unrolled
from unrolled.viewer.notebook import View


def fetched(url: str, host: str | None = None) -> tuple[int, str, str]:
    """Status, policy and page."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("GET", parts.path, headers={} if host is None else {"Host": host})
        reply = connection.getresponse()
        return reply.status, reply.headers["Content-Security-Policy"], reply.read().decode()
    finally:
        connection.close()


def served(url: str) -> bool:
    """Whether anything listens where the page was."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def model() -> torch.nn.Module:
    return unrolled.LSTM(2, 3, batch_first=True)


@pytest.fixture
def live(model: torch.nn.Module) -> unrolled.Trace:
    """A trace in its graph."""
    with unrolled.record(model) as trace:
        model(torch.randn(1, 5, 2))
    return trace


def check_served_until_closed(view: View) -> None:
    url = view.url
    status, policy, page = fetched(url)
    assert status == 200
    assert "1 x 5 steps" in page
    # A frame of the notebook's own may show it.
    assert "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*" in policy
    script = re.search(r'<script src="(files/[a-z]+\.js)">', page)
    assert script is not None
    assert fetched(url + script[1])[0] == 200
    assert fetched(url, host="evil.example")[0] == 403
    # Without the token in its path there is nothing.
    assert fetched(url.rsplit("/", 2)[0] + "/")[0] == 403
    view.close()
    assert not served(url)
    view.close()


def test_live_trace_is_served_until_it_is_closed(live: unrolled.Trace) -> None:
    check_served_until_closed(live.view())


def test_loaded_trace_is_served_until_it_is_closed(live: unrolled.Trace, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    live.save(tmp_path / "t.zarr")
    check_served_until_closed(unrolled.Trace.load(tmp_path / "t.zarr").view())


def test_two_views_of_one_trace_do_not_hinder_each_other(live: unrolled.Trace) -> None:
    first, second = live.view(), live.view()
    other = second.url
    assert first.url != other
    first.close()
    assert fetched(other)[0] == 200
    second.close()


class Frame(HTMLParser):
    """The tags of a fragment."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(fragment)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_frame_has_the_address_escaped(live: unrolled.Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    view = live.view()
    ((tag, attributes),) = Frame(view._repr_html_()).tags
    assert (tag, attributes["src"]) == ("iframe", view.url)
    assert attributes["title"]
    evil = 'http://127.0.0.1/"><script>alert(1)</script>&'
    with monkeypatch.context() as patch:
        patch.setattr(View, "url", evil)
        ((tag, attributes),) = Frame(view._repr_html_()).tags
        assert (tag, attributes["src"]) == ("iframe", evil)
        assert html.escape(evil) in view._repr_html_()
    view.close()


def test_view_says_where_it_is_and_when_it_is_closed(live: unrolled.Trace) -> None:
    view = live.view()
    assert repr(view) == f"View at {view.url}"
    view.close()
    assert "closed" in repr(view)
    assert Frame(view._repr_html_()).tags == [("p", {})]
    assert "closed" in view._repr_html_()
    with pytest.raises(RuntimeError, match="does not run"):
        view.url


def test_view_that_nobody_holds_ends_its_server(live: unrolled.Trace) -> None:
    view = live.view()
    url = view.url
    fetched(url)
    assert served(url)
    del view
    gc.collect()
    assert not served(url)


def test_view_in_a_cycle_ends_its_server_too(live: unrolled.Trace) -> None:
    view = live.view()
    url = view.url
    holder = [view]
    holder.append(holder)  # type: ignore[arg-type]
    del view, holder
    gc.collect()
    assert not served(url)


def test_view_that_is_collected_in_the_servers_own_thread_ends_it(
    live: unrolled.Trace, caplog: pytest.LogCaptureFixture
) -> None:
    view = live.view()
    url, thread = view.url, view._server._thread
    assert thread is not None
    view._server._loop.call_soon_threadsafe(view.close)
    thread.join(20)
    assert not served(url)
    assert "closed" in repr(view)
    assert caplog.records == []


def test_no_thread_of_the_server_is_left(live: unrolled.Trace) -> None:
    before = set(threading.enumerate())
    view = live.view()
    fetched(view.url)
    view.close()
    left = [one for one in set(threading.enumerate()) - before if one.name.startswith("unrolled-viewer")]
    assert left == []


def test_trace_outlives_its_view(live: unrolled.Trace) -> None:
    live.view().close()
    assert live["l0.cell"].requires_grad


def test_model_is_looked_at_as_it_was(live: unrolled.Trace, model: torch.nn.Module) -> None:
    assert model.training
    view = live.view(model=model, inputs=torch.randn(1, 5, 2), text="a<b>c", labels={"x": torch.arange(5)})
    assert model.training
    assert fetched(view.url)[0] == 200
    view.close()


def test_what_does_not_fit_the_trace_starts_no_server(live: unrolled.Trace) -> None:
    before = {thread.name for thread in threading.enumerate()}
    for given, blamed in (({"text": "abc"}, "read"), ({"inputs": torch.zeros(2, 5, 2)}, "inputs")):
        with pytest.raises(ValueError, match=f"^{blamed}: "):
            live.view(**given)
    with pytest.raises(ValueError, match="label 'x': expected values"):
        live.view(labels={"x": torch.arange(4)})
    assert {thread.name for thread in threading.enumerate()} == before


PROGRAM = """
import torch
import unrolled
model = unrolled.GRU(2, 3, batch_first=True)
with unrolled.record(model) as trace:
    model(torch.randn(1, 5, 2))
view = trace.view()
print(view)
"""


def test_program_that_forgets_a_view_ends() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("View at http://127.0.0.1:")


@pytest.mark.parametrize("package", ["bokeh", "tornado"])
def test_missing_package_is_named_with_the_way_to_install_it(live: unrolled.Trace, package: str) -> None:
    program = PROGRAM.replace("import torch\n", f"import sys\nimport torch\nsys.modules[{package!r}] = None\n", 1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    said = done.stderr.splitlines()[-1]
    assert f"Trace.view needs {package}, which is not installed: pip install 'unrolled[view]'" in said
