"""Whatever stands in a recording is shown and never run, and nobody but the page reaches the viewer."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

import unrolled
from driving import Driver, expect
from processes import Viewing, viewing
from unrolled.drawing.panels import Curve, Panel
from unrolled.intervals import Interval
from unrolled.page import write_page
from unrolled.verdicts import Claim, Finding
from unrolled.viewer.export import cut, export
from unrolled.viewer.recorded import Characters, Label, Recorded, Values
from unrolled.viewer.service import Service
from unrolled.viewer.serving.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Response

RUN = "window.pwned=1;alert(1)"
EVIL = (
    f"</script><script>{RUN}</script><img src=x onerror='{RUN}'><svg onload={RUN}>"
    "<iframe src=http://evil.example></iframe><link rel=stylesheet href=//evil.example/a.css>"
    f"</textarea></title></pre>javascript:{RUN}//{{{{7*7}}}}${{{RUN}}}`<!--<script>"
    "$$\\href{javascript:alert(1)}{x}$$ \\[x^2\\] \\(y\\) \\\\\"'&amp;&#60;"
    "\u202eright to left\u202c\u200f\x00\x07\x1b[31m\ud800 \udfff\ufeff\u2028\u2029 \U0001f600 e\u0301 "
)
STEPS = len(EVIL)
UNITS = 6


@pytest.fixture(scope="module")
def trace() -> unrolled.Trace:
    torch.manual_seed(0)
    lstm = unrolled.LSTM(3, UNITS, batch_first=True)
    with torch.no_grad(), unrolled.record(lstm, detach=True) as trace:
        lstm(torch.randn(1, STEPS, 3))
    return trace


def evil(trace: unrolled.Trace, read: Characters | Values) -> Recorded:
    """A recording in which everything that can be named is named to do harm."""
    values = np.arange(STEPS)[None] // 5 % 3
    return Recorded(
        title=EVIL,
        trace=trace,
        lengths=(STEPS,),
        read=read,
        labels=(Label(EVIL, values, (EVIL, f"<b>{EVIL}", f"$${EVIL}$$")), Label(f"$${EVIL[:40]}", values % 2)),
        outputs=(EVIL, "b"),
        loss="classes",
    )


def characters(trace: unrolled.Trace) -> Recorded:
    return evil(trace, Characters((EVIL,)))


def channels(trace: unrolled.Trace) -> Recorded:
    values = torch.randn(1, STEPS, 2).numpy()
    return evil(trace, Values(values, (EVIL, f"$${EVIL}$$"), (tuple(EVIL for _ in range(STEPS)),)))


def unharmed(page: Driver) -> None:
    """Nothing that was shown was run, became markup, or loaded anything. `opened` sees dialogs, errors and requests."""
    assert page.page.evaluate("typeof window.pwned") == "undefined"
    for tag in ("iframe", "object", "embed", "img", "link[href*='evil']"):
        assert page.page.locator(tag).count() == 0, tag
    handlers = "Array.from(document.querySelectorAll('*')).filter((one) => one.onerror || one.onload).length"
    assert page.page.evaluate(handlers) == 0
    assert (
        page.page.evaluate("Array.from(document.scripts).filter((one) => one.text.startsWith('window.pwned')).length")
        == 0
    )
    assert page.page.evaluate("typeof MathJax") == "undefined"


@pytest.mark.parametrize("kind", [characters, channels])
def test_whatever_is_named_in_a_recording_is_shown_and_not_run(
    opened: Callable[..., Driver], trace: unrolled.Trace, kind: Callable[[unrolled.Trace], Recorded]
) -> None:
    with Server(Service(kind(trace))) as server:
        page = opened(server.url)
        page.page.wait_for_timeout(200)
        # Of markup a browser leaves out the sign that nothing may hold; half a pair is no character.
        title = EVIL.encode(errors="replace").decode().replace("\x00", "")
        assert page.page.locator("h1").text_content() == title
        for step in (2.5, 40.5, STEPS - 1.5):
            assert len(page.point("track", step, 0.5)) > 1
            page.point("upper", step, 2.5)
        for name in ("finding", "replaying", "measuring", "reading"):
            page.tab(name)
        page.tab("finding")
        page["span-start"].fill("10")
        page["span-stop"].fill("16")
        page["span-stop"].press("Enter")
        page["find-threshold"].fill("-5")
        page["find-around"].fill("0")
        page["find-units"].click()
        page.said("units-count")
        page["find-matches"].click()
        page.said("matches-count")
        for label in (EVIL, f"$${EVIL[:40]}"):
            page["check-name"].select_option(index=0 if label == EVIL else 1)
            page["check-label"].click()
            page.said("agreement-said", "precision")
            page["find-followers"].click()
            page.said("followers-said")
        unharmed(page)
        if kind is characters:
            shown = page["text"].evaluate("(text) => Array.from(text.children, (one) => one.textContent).join('')")
            for part in (
                "<script>window.pwned=1",
                "onerror='window.pwned",
                "$$\\href{javascript:",
                "\u2400",
                "\u241b[31m",
            ):
                assert part in shown
            assert "\u202e" not in shown
            assert page["text"].locator("span").count() == len(EVIL)


@pytest.mark.parametrize("kind", [characters, channels])
def test_export_shows_and_does_not_run_it(
    opened: Callable[..., Driver],
    trace: unrolled.Trace,
    kind: Callable[[unrolled.Trace], Recorded],
    tmp_path: Path,
) -> None:
    found = kind(trace)
    page = opened(export(found, tmp_path / "page.html").as_uri())
    page.page.wait_for_timeout(200)
    for step in (2.5, 40.5):
        page.point("track", step, 0.5)
        page.point("upper", step, 2.5)
    unharmed(page)
    assert urlsplit(page.watch.asked[0]).scheme == "file"
    assert len(page.watch.asked) == len([url for url in page.watch.asked if url.startswith(("file:", "data:"))])


def test_report_shows_and_does_not_run_it(opened: Callable[..., Driver], trace: unrolled.Trace, tmp_path: Path) -> None:
    finding = Finding(EVIL, EVIL, Interval(1.0, 0.9, 1.1, 3), 0.5, EVIL)
    curve = Curve(EVIL, "lstm", "cell", (0.0, 1.0, 2.0), (1.0, 0.5, 0.1), (0.9, 0.4, 0.1), (1.1, 0.6, 0.3))
    panel = Panel(EVIL, EVIL, EVIL, (curve,), ((EVIL, 0.25),))
    path = write_page(
        tmp_path / "report.html",
        title=EVIL,
        answer=EVIL,
        claims=[Claim("contents", EVIL, EVIL, (finding,), (panel,), (EVIL,))],
        table=[{EVIL: EVIL, "cell": EVIL}],
        excerpts=[cut(characters(trace)), cut(channels(trace))],
        setup=[EVIL],
    )
    page = opened(path.as_uri())
    page["pick-excerpt"].select_option("1")
    page.page.wait_for_timeout(500)
    page.settled()
    page.point("upper", 40.5, 2.5)
    unharmed(page)


# Who may ask


@pytest.fixture(scope="module")
def process(trace: unrolled.Trace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewing]:
    """The viewer of a recording on disk; a secret lies beside it."""
    folder = tmp_path_factory.mktemp("malice")
    trace.save(folder / "run.zarr")
    (folder / "secret.txt").write_text("a secret")
    (folder / "run.zarr" / "secret.txt").write_text("a secret")
    with viewing(folder / "run.zarr") as found:
        yield found


def ask(process: Viewing, path: str, host: str | None = None, cookie: str = "") -> tuple[int, bytes, dict[str, str]]:
    link = urlsplit(process.url)
    connection = http.client.HTTPConnection(link.hostname or "", link.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or link.netloc)
    if cookie:
        connection.putheader("Cookie", cookie)
    connection.endheaders()
    reply = connection.getresponse()
    found = reply.status, reply.read(), dict(reply.headers)
    connection.close()
    return found


def admitted(process: Viewing) -> str:
    """The cookie of who has the link."""
    status, _, headers = ask(process, f"/?{urlsplit(process.url).query}")
    assert status in (302, 303)
    return headers["Set-Cookie"].split(";")[0]


def test_process_answers_its_own_page_and_no_foreign_host(process: Viewing) -> None:
    cookie = admitted(process)
    status, body, _ = ask(process, "/", cookie=cookie)
    assert (status, b"<title>run.zarr" in body) == (200, True)
    port = urlsplit(process.url).port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        "127.0.0.1",
        f"0.0.0.0:{port}",
    ):
        for path in ("/", f"/?{urlsplit(process.url).query}", "/files/views.js"):
            status, body, headers = ask(process, path, host, cookie)
            assert status == 403
            assert b"<title>run.zarr" not in body
            assert "Set-Cookie" not in headers
    # Without the token nobody is let in, whatever the host.
    assert ask(process, "/")[0] == 403


@pytest.mark.parametrize("prefix", ["/", "/files/", "/api/"])
def test_process_gives_out_no_file_but_the_pages_own(process: Viewing, prefix: str) -> None:
    cookie = admitted(process)
    assert ask(process, "/files/views.js", cookie=cookie)[0] == 200
    outside = ("secret.txt", "zarr.json", "__init__.py", "viewer.jinja", "../run.zarr/zarr.json", "/etc/passwd")
    for name in ("etc/passwd", "secret.txt", "run.zarr/secret.txt", "viewer/looking.py", "looking.py"):
        for up in (
            "../",
            "..%2f",
            "%2e%2e/",
            "%2e%2e%2f",
            "%252e%252e%252f",
            "..\\",
            "..%5c",
            "%c0%ae%c0%ae/",
            "....//",
        ):
            outside += tuple(up * depth + name for depth in (1, 2, 8))
    outside += (
        "views.js%00.txt",
        "views.js/",
        "views.js/../views.py",
        "./views.js%00",
        "file:///etc/passwd",
        "%2Fetc%2Fpasswd",
    )
    for path in outside:
        status, body, _ = ask(process, prefix + path, cookie=cookie)
        assert status in (400, 403, 404, 405), (path, status)
        for secret in (b"root:", b"a secret", b"zarr_format", b"import "):
            assert secret not in body, path


class Attacker(http.server.BaseHTTPRequestHandler):
    """A page on another port of this machine, which the browser sends the viewer's cookie along with."""

    page = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page.encode())

    def log_message(self, *_: Any) -> None:
        pass


ATTACK = """<!doctype html><title>attack</title><iframe name=hole></iframe>
<form id=plain method=post enctype=text/plain target=hole action="{viewer}/api/overview">
<input name='{{"a":"' value='"}}'></form>
<form id=usual method=post target=hole action="{viewer}/api/overview"><input name=a value=b></form>
<form id=get method=get target=hole action="{viewer}/"></form>
<script>
const api = "{viewer}/api/overview";
const body = "{{}}";
const headers = {{ "Content-Type": "application/json", "X-View": "a", "X-Serial": "1" }};
const tries = [
  () => fetch(api, {{ method: "POST", body, credentials: "include" }}),
  () => fetch(api, {{ method: "POST", body, credentials: "include", mode: "no-cors" }}),
  () => fetch(api, {{ method: "POST", body, credentials: "include", headers }}),
  () => fetch("{viewer}/", {{ credentials: "include" }}),
  () => fetch("{viewer}/", {{ credentials: "include", mode: "no-cors" }}),
  () => fetch("{viewer}/files/views.js", {{ credentials: "include" }}),
];
(async () => {{
  const found = [];
  for (const one of tries) {{
    try {{
      const answer = await one();
      found.push(answer.type === "opaque" ? "opaque" : (await answer.text()).slice(0, 40));
    }} catch (error) {{ found.push("refused"); }}
  }}
  for (const id of ["plain", "usual", "get"]) {{
    document.getElementById(id).submit();
    await new Promise((go) => setTimeout(go, 300));
  }}
  document.title = found.join();
}})();
</script>"""


def test_page_of_another_port_reads_and_starts_nothing(process: Viewing, browser: Browser) -> None:
    link = urlsplit(process.url)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Attacker)
    Attacker.page = ATTACK.format(viewer=f"http://{link.netloc}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    try:
        own = context.new_page()
        own.goto(process.url)
        expect(own.locator("#maps[data-drawn]")).to_be_visible()
        assert context.cookies()
        page = context.new_page()
        answers: list[tuple[str, str, int]] = []

        def answered(response: Response) -> None:
            if urlsplit(response.url).netloc == link.netloc:
                answers.append((response.request.method, urlsplit(response.url).path, response.status))

        page.on("response", answered)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        expect(page).to_have_title(",".join(["refused"] * 6))
        page.wait_for_timeout(300)
        posts = [status for method, _, status in answers if method == "POST"]
        assert posts
        assert set(posts) == {403}
        assert all(status == 403 for _, path, status in answers if path.startswith("/api/"))
        # Nor is the page shown inside another's.
        assert all("run.zarr" not in frame.content() for frame in page.frames[1:])
    finally:
        context.close()
        server.shutdown()
        server.server_close()
