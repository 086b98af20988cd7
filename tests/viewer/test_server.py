"""A running server answers its page: the page, its files, quick methods, slow ones; and it ends cleanly."""

from __future__ import annotations

import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unrolled.viewer.serving.server as module
from served import Browser, Reply, Small
from unrolled.viewer.serving.server import Server, serve


@pytest.fixture
def small() -> Iterator[Small]:
    small = Small()
    yield small
    small.gate.set()


@pytest.fixture
def browser(small: Small) -> Iterator[Browser]:
    with Server(small) as server:
        yield Browser(server).visit()
        small.gate.set()


def until(happens: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)


def later(pool: ThreadPoolExecutor, browser: Browser, n: int, view: str | None, serial: int) -> Any:
    return pool.submit(browser.post, "wait", {"n": n}, X_View=view, X_Serial=str(serial))


class TestPage:
    def test_page_and_files_are_served_as_the_viewing_gives_them(self, browser: Browser, small: Small) -> None:
        page = browser.ask("GET", "/")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert page.body.decode() == small.page()
        assert small.base == "/"
        script = browser.ask("GET", "/files/view.js?v=1")
        assert (script.status, script.headers["Content-Type"], script.body) == (200, "text/javascript", b"1;")

    def test_head_has_the_headers_and_no_body(self, browser: Browser) -> None:
        for path in ("/", "/files/view.js", "/nothing"):
            get, head = browser.ask("GET", path), browser.ask("HEAD", path)
            assert (head.status, head.body) == (get.status, b"")
            assert head.headers["Content-Length"] == str(len(get.body))

    def test_connection_serves_many_requests(self, browser: Browser) -> None:
        connection = http.client.HTTPConnection(browser.host, browser.port, timeout=20)
        for method in ("GET", "HEAD", "GET", "PUT", "GET"):
            connection.request(method, "/", headers={"Cookie": browser.cookie})
            assert connection.getresponse().read() is not None
        connection.close()

    def test_page_that_fails_is_500_with_the_traceback_on_stderr_only(
        self, browser: Browser, small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*, path: str) -> str:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(small, "page", broken)
        reply = browser.ask("GET", "/")
        assert reply.status == 500
        assert b"secret" not in reply.body
        assert "ZeroDivisionError: secret" in capsys.readouterr().err


class TestQuickMethods:
    def test_answer_is_packed(self, browser: Browser) -> None:
        answer = browser.post("double", {"values": [1, 2.5]}).value
        np.testing.assert_array_equal(answer["twice"], np.array([2, 5], dtype="float32"))

    @pytest.mark.parametrize(
        "error", ["ValueError", "TypeError", "IndexError", "KeyError", "OSError", "RuntimeError", "ImportError"]
    )
    def test_error_text_of_a_method_reaches_the_page_as_json(
        self, browser: Browser, error: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        reply = browser.post("fail", {"error": error})
        assert reply.status == 400
        assert reply.error == "no unit <b>9</b>"
        assert browser.post("fail", {"error": error, "words": []}).error == error
        assert capfd.readouterr() == ("", "")

    def test_wrong_argument_is_the_methods_own_error(self, browser: Browser) -> None:
        reply = browser.post("double", {"values": ["x"]})
        assert (reply.status, "could not convert string to float" in reply.error) == (400, True)

    @pytest.mark.parametrize("error", ["ZeroDivisionError", "SystemExit"])
    def test_unforeseen_error_is_500_with_the_traceback_on_stderr_only(
        self, browser: Browser, error: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        reply = browser.post("fail", {"error": error, "words": ["secret"]})
        assert reply.status == 500
        assert "secret" not in reply.error
        assert "Traceback" not in reply.error
        assert f"{error}: secret" in capsys.readouterr().err

    def test_answer_that_cannot_be_packed_is_500(self, browser: Browser, capsys: pytest.CaptureFixture[str]) -> None:
        assert browser.post("odd").status == 500
        assert "answer is a set" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["absent", "__init__", "page", "double/", "double.js", "%64ouble", "../page", ""])
    def test_method_that_is_not_there_is_404(self, browser: Browser, name: str) -> None:
        assert browser.post(name).status == 404

    def test_newer_request_overtakes_those_that_have_not_begun(self, browser: Browser, small: Small) -> None:
        with ThreadPoolExecutor(8) as pool:
            running = [later(pool, browser, n, "a", n) for n in (1,)]
            until(lambda: small.calls == [1])
            running.append(later(pool, browser, 2, "a", 2))
            until(lambda: len(small.calls) == 2)
            waiting = later(pool, browser, 3, "a", 3)
            time.sleep(0.1)
            newest = later(pool, browser, 4, "a", 4)
            overtaken = waiting.result(20)
            assert (overtaken.status, overtaken.error) == (409, "a newer request has come")
            assert browser.post("wait", {"n": 0}, X_View="a", X_Serial="3").status == 409
            small.gate.set()
            assert [one.result(20).value for one in [*running, newest]] == [1, 2, 4]
        assert small.calls == [1, 2, 4]

    def test_other_views_and_methods_and_requests_without_a_number_are_not_overtaken(
        self, browser: Browser, small: Small
    ) -> None:
        with ThreadPoolExecutor(8) as pool:
            running = [later(pool, browser, n, f"r{n}", 1) for n in (1, 2)]
            until(lambda: len(small.calls) == 2)
            waiting = [
                later(pool, browser, 3, "a", 3),
                later(pool, browser, 4, None, 1),
                later(pool, browser, 5, "b", 9),
            ]
            waiting.append(pool.submit(browser.post, "double", {"values": []}, X_View="a", X_Serial="99"))
            waiting.append(later(pool, browser, 6, "a", 3))
            time.sleep(0.2)
            small.gate.set()
            assert [one.result(20).status for one in running + waiting] == [200] * 7

    def test_request_whose_page_went_away_is_not_begun(self, browser: Browser, small: Small) -> None:
        with ThreadPoolExecutor(2) as pool:
            running = [later(pool, browser, n, None, 1) for n in (1, 2)]
            until(lambda: len(small.calls) == 2)
            lost = socket.create_connection((browser.host, browser.port))
            head = f"POST /api/wait HTTP/1.1\r\nHost: {browser.authority}\r\nCookie: {browser.cookie}\r\nX-View: a\r\n"
            lost.sendall(f'{head}Content-Length: 8\r\n\r\n{{"n": 3}}'.encode())
            time.sleep(0.1)
            lost.close()
            time.sleep(0.1)
            small.gate.set()
            assert [one.result(20).value for one in running] == [1, 2]
            assert browser.post("wait", {"n": 4}).value == 4
        assert 3 not in small.calls

    @pytest.mark.parametrize(
        ("view", "serial"),
        [("a", "x"), ("a", "-1"), ("a", "1.5"), ("a", ""), ("a", "9" * 16), ("", "1"), ("a" * 65, "1")],
    )
    def test_view_or_number_that_is_none_is_refused(self, browser: Browser, view: str, serial: str) -> None:
        reply = browser.post("double", {"values": []}, X_View=view, X_Serial=serial)
        assert reply.status == 400
        assert reply.error.startswith("X-")


class TestSlowMethods:
    def begin(self, browser: Browser, name: str = "count", **arguments: Any) -> str:
        return str(browser.post(name, arguments).value["job"])

    def state(self, browser: Browser, job: str) -> str:
        return str(browser.post("progress", {"job": job}).value["state"])

    def test_call_is_followed_from_start_to_result(self, browser: Browser, small: Small) -> None:
        job = self.begin(browser)
        until(lambda: browser.post("progress", {"job": job}).value["done"] == 1)
        progress = browser.post("progress", {"job": job}).value
        assert (progress["state"], progress["done"], progress["of"]) == ("running", 1, 3)
        assert progress["seconds"] >= 0
        reply = browser.post("result", {"job": job})
        assert (reply.status, reply.error) == (400, "the call has no result yet; it is running")
        small.gate.set()
        until(lambda: self.state(browser, job) == "done")
        for _ in range(2):
            np.testing.assert_array_equal(browser.post("result", {"job": job}).value["counted"], [0, 1, 2])
        seconds = browser.post("progress", {"job": job}).value["seconds"]
        assert browser.post("progress", {"job": job}).value["seconds"] == seconds

    def test_one_runs_at_a_time(self, browser: Browser, small: Small) -> None:
        first, second = self.begin(browser, n=1), self.begin(browser, n=2)
        until(lambda: small.calls == [1])
        waiting = {"state": "waiting", "done": 0, "of": 0, "seconds": 0.0}
        assert browser.post("progress", {"job": second}).value == waiting
        small.gate.set()
        until(lambda: self.state(browser, second) == "done")
        assert self.state(browser, first) == "done"

    def test_quick_methods_answer_meanwhile(self, browser: Browser) -> None:
        job = self.begin(browser)
        until(lambda: self.state(browser, job) == "running")
        assert browser.post("double", {"values": [1]}).value["twice"] == [2]

    def test_cancelled_while_waiting_never_runs(self, browser: Browser, small: Small) -> None:
        first, second = self.begin(browser, n=1), self.begin(browser, n=2)
        until(lambda: small.calls == [1])
        told = browser.post("cancel", {"job": second}).value
        assert (told["state"], told["error"], told["seconds"]) == ("failed", "cancelled", 0.0)
        small.gate.set()
        until(lambda: self.state(browser, first) == "done")
        third = self.begin(browser, n=3)
        until(lambda: self.state(browser, third) == "done")
        assert small.calls == [1, 3]
        assert self.state(browser, second) == "failed"

    def test_cancelled_while_running_ends_when_it_next_tells(self, browser: Browser, small: Small) -> None:
        job = self.begin(browser)
        until(lambda: self.state(browser, job) == "running")
        assert browser.post("cancel", {"job": job}).value["state"] == "running"
        small.gate.set()
        until(lambda: self.state(browser, job) == "failed")
        told = browser.post("progress", {"job": job}).value
        assert (told["done"], told["error"]) == (1, "cancelled")
        reply = browser.post("result", {"job": job})
        assert (reply.status, reply.error) == (400, "cancelled")

    def test_cancelling_what_is_done_leaves_its_result(self, browser: Browser, small: Small) -> None:
        small.gate.set()
        job = self.begin(browser)
        until(lambda: self.state(browser, job) == "done")
        assert browser.post("cancel", {"job": job}).value["state"] == "done"
        assert browser.post("result", {"job": job}).status == 200

    def test_failing_one_says_why(self, browser: Browser, capsys: pytest.CaptureFixture[str]) -> None:
        job = self.begin(browser, "break", error="ours")
        until(lambda: self.state(browser, job) == "failed")
        assert browser.post("progress", {"job": job}).value["error"] == "no such span"
        reply = browser.post("result", {"job": job})
        assert (reply.status, reply.error) == (400, "no such span")
        assert capsys.readouterr().err == ""

    def test_unforeseen_error_is_told_on_stderr_only(
        self, browser: Browser, capsys: pytest.CaptureFixture[str]
    ) -> None:
        job = self.begin(browser, "break", error="theirs")
        until(lambda: self.state(browser, job) == "failed")
        reply = browser.post("result", {"job": job})
        assert reply.status == 500
        assert "secret" not in reply.error
        assert "ZeroDivisionError: secret" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["progress", "result", "cancel"])
    @pytest.mark.parametrize("job", ["absent", None, 3, ["a"], {}], ids=str)
    def test_call_that_is_not_there_is_404(self, browser: Browser, name: str, job: Any) -> None:
        reply = browser.post(name, {"job": job})
        assert reply.status == 404
        assert reply.error.startswith(f"there is no call {job!r}")


class TestLife:
    def test_stop_frees_the_port_and_start_takes_it_again(self, small: Small) -> None:
        first = Server(small)
        first.start()
        port = Browser(first).port
        first.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        with Server(small, port=port) as second:
            assert Browser(second).visit().ask("GET", "/").status == 200
        second.start()
        assert Browser(second).visit().ask("GET", "/").status == 200
        second.stop()
        second.stop()

    def test_stop_waits_for_no_method(self, small: Small) -> None:
        server = Server(small)
        server.start()
        browser = Browser(server).visit()

        def ask() -> Reply | None:
            with suppress(http.client.HTTPException, OSError):
                return browser.post("wait", {"n": 1})
            return None

        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask)
            job = browser.post("count", {"n": 2}).value["job"]
            until(lambda: sorted(small.calls) == [1, 2])
            assert job
            server.stop()
            assert answer.result(20) is None
        assert not small.gate.is_set()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((browser.host, browser.port), timeout=5)

    def test_stop_closes_idle_connections(self, small: Small) -> None:
        with Server(small) as server:
            browser = Browser(server)
            idle = socket.create_connection((browser.host, browser.port), timeout=20)
        assert idle.recv(1) == b""
        idle.close()

    def test_two_servers_do_not_take_each_others_cookies(self) -> None:
        with Server(Small()) as one, Server(Small()) as other:
            first, second = Browser(one).visit(), Browser(other).visit()
            assert first.token != second.token
            first.cookie = second.cookie = f"{first.cookie}; {second.cookie}"
            assert first.ask("GET", "/").status == second.ask("GET", "/").status == 200
            first.cookie = f"unrolled-{first.port}={second.token}"
            assert first.ask("GET", "/").status == 403

    def test_url_is_known_while_it_runs(self, small: Small) -> None:
        server = Server(small, token="abc")
        with pytest.raises(RuntimeError, match="does not run"):
            server.url
        with server:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=abc", server.url)
            with pytest.raises(RuntimeError, match="runs already"):
                server.start()
        with pytest.raises(RuntimeError, match="does not run"):
            server.url

    def test_taken_port_is_named(self, small: Small) -> None:
        with Server(small) as server:
            port = Browser(server).port
            with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is taken") as raised:
                Server(small, port=port).start()
        assert raised.value.errno == errno.EADDRINUSE

    def test_host_of_another_machine_is_named(self, small: Small) -> None:
        with pytest.raises(OSError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
            Server(small, host="192.0.2.1").start()

    @pytest.mark.parametrize(("host", "error"), [("absent.invalid", OSError), ("a..b", ValueError)])
    def test_host_that_is_none_is_named(self, small: Small, host: str, error: type[Exception]) -> None:
        with pytest.raises(error, match=re.escape(host)):
            Server(small, host=host).start()

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_port_that_is_none_is_refused(self, small: Small, port: int) -> None:
        with pytest.raises(ValueError, match=f"port is {port}"):
            Server(small, port=port)

    @pytest.mark.parametrize(("quick", "slow"), [("result", "a"), ("a", "cancel"), ("a", "a"), ("progress", "b")])
    def test_method_with_a_name_that_is_taken_is_refused(self, quick: str, slow: str) -> None:
        methods = type("Taken", (Small,), {"quick": {quick: None}, "slow": {slow: None}})
        with pytest.raises(ValueError, match=f"taken: {quick if quick != 'a' else slow}"):
            Server(methods())

    def test_server_leaves_no_thread_of_its_own_behind(self, small: Small) -> None:
        with Server(small):
            assert "unrolled-viewer" in {thread.name for thread in threading.enumerate()}
        assert "unrolled-viewer" not in {thread.name for thread in threading.enumerate()}


# What Tornado warns of depends on its version, and on sockets; so the program warns in its name.
PROGRAM = """
import logging
import sys
sys.path.insert(0, sys.argv[1])
from served import Small
from unrolled.viewer.serving.server import serve
serve(Small(), open_browser=False)
logging.getLogger("tornado.general").warning("noise")
print("after")
"""


class TestServe:
    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
    def test_serves_until_ctrl_c_and_leaves_nothing_on_stderr(self) -> None:
        program = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"The viewer is at http://127\.0\.0\.1:(\d+)/\?token=[\w-]{40,}\n", line)
        assert match, line
        socket.create_connection(("127.0.0.1", int(match[1])), timeout=20).close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out.splitlines()[-1], err) == (0, "after", "")

    @pytest.mark.parametrize(
        ("platform", "environment", "wanted", "opened"),
        [
            ("linux", {"DISPLAY": ":0"}, True, True),
            ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True, True),
            ("linux", {"BROWSER": "firefox"}, True, True),
            ("linux", {}, True, False),
            ("linux", {"DISPLAY": ""}, True, False),
            ("darwin", {}, True, True),
            ("win32", {}, True, True),
            ("darwin", {}, False, False),
            ("linux", {"DISPLAY": ":0"}, False, False),
        ],
        ids=str,
    )
    def test_browser_is_opened_where_there_is_a_screen(
        self,
        small: Small,
        monkeypatch: pytest.MonkeyPatch,
        platform: str,
        environment: dict[str, str],
        wanted: bool,
        opened: bool,
    ) -> None:
        links: list[str] = []
        told: list[str] = []

        def interrupted(server: Server) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(webbrowser, "open", links.append)
        monkeypatch.setattr(Server, "wait", interrupted)
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as patch:
            patch.setattr(module, "sys", type("sys", (), {"platform": platform, "stdout": sys.stdout}))
            serve(small, token="abc", open_browser=wanted, tell=told.append)
        assert links == ([told[0].removeprefix("The viewer is at ")] if opened else [])
        assert told[0].endswith("/?token=abc")

    def test_wait_ends_when_the_server_is_stopped(self, small: Small) -> None:
        server = Server(small)
        server.start()
        waiter = threading.Thread(target=server.wait)
        waiter.start()
        server.stop()
        waiter.join(20)
        assert not waiter.is_alive()


def test_without_tornado_the_error_names_the_extra() -> None:
    program = "import sys; sys.modules['tornado'] = None; import unrolled.viewer.serving.server"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert "the viewer needs tornado, which is not installed: pip install 'unrolled[view]'" in done.stderr
