"""Nobody but the page that the printed link opened is let in, and nothing lies outside the folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from served import Browser, Small
from unrolled.viewer.serving.server import Server

ADDRESSES = [("GET", "/"), ("HEAD", "/"), ("GET", "/files/view.js"), ("POST", "/api/double"), ("GET", "/nothing")]
OTHERS = [("PUT", "/"), ("OPTIONS", "/api/double"), ("TRACE", "/"), ("CONNECT", "/"), ("BREW", "/nothing")]


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


@pytest.fixture(scope="module")
def server(small: Small) -> Iterator[Server]:
    with Server(small) as server:
        yield server


@pytest.fixture(scope="module")
def everywhere(small: Small) -> Iterator[Browser]:
    with Server(small, host="0.0.0.0", tell=lambda line: None) as server:
        yield Browser(server).visit()


@pytest.fixture
def browser(server: Server) -> Browser:
    return Browser(server).visit()


def refused(reply: Any) -> bool:
    """A refusal with its words in it, no page and no data, and under the same policy as the page."""
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in reply.headers
    assert b"<!doctype html><title>\xc3\xa9" not in reply.body
    return bool(reply.status == 403)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost",
        "localhost:1",
        "127.0.0.1",
        "127.0.0.1:{port}.evil.example",
        "127.0.0.1.evil.example:{port}",
        "localhost.:{port}",
        "127.0.0.2:{port}",
        "0.0.0.0:{port}",
        "10.1.2.3:{port}",
        "[::]:{port}",
        "2130706433:{port}",
        "127.0.0.1:",
        "127.0.0.1:{port}0",
    ],
)
@pytest.mark.parametrize(("method", "path"), ADDRESSES + OTHERS)
def test_foreign_host_is_refused_before_anything_else(browser: Browser, method: str, path: str, host: str) -> None:
    host = host.format(port=browser.port)
    body = b"{}" if method == "POST" else None
    reply = browser.ask(method, path, body, Host=host, Origin=f"http://{browser.authority}")
    assert refused(reply)


def test_foreign_host_is_refused_with_the_right_token(browser: Browser) -> None:
    assert refused(browser.ask("GET", f"/?token={browser.token}", Host=f"evil.example:{browser.port}"))


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["evil.example"],
        ["evil.example@{own}"],
        ["[::1"],
        ["{own}", "evil.example"],
        ["evil.example", "{own}"],
        ["{own}", "{own}"],
    ],
    ids=str,
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_request_without_one_own_host_is_refused(browser: Browser, hosts: list[str], version: str) -> None:
    lines = "".join(f"Host: {host.format(own=browser.authority)}\r\n" for host in hosts)
    reply = browser.raw(f"GET / HTTP/{version}\r\n{lines}Cookie: {browser.cookie}\r\n\r\n".encode())
    # Tornado closes what is not HTTP; it may do so before its 400 is read.
    assert reply == b"" or reply.split(b" ")[1] in (b"400", b"403")
    assert b"<title>\xc3\xa9" not in reply


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_names_of_the_loopback_are_its_own(browser: Browser, name: str) -> None:
    assert browser.ask("GET", "/", Host=f"{name}:{browser.port}").status == 200


def test_wrong_port_is_explained(browser: Browser) -> None:
    reply = browser.ask("GET", "/", Host="localhost:1")
    assert f"listens on port {browser.port} and was asked for on port 1" in reply.body.decode()


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:{port}",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1:{port}/",
        "null",
        "",
        "file://",
        "127.0.0.1:{port}",
    ],
)
@pytest.mark.parametrize(("method", "path"), ADDRESSES + OTHERS)
def test_foreign_origin_is_refused_on_every_method(browser: Browser, method: str, path: str, origin: str) -> None:
    body = b"{}" if method == "POST" else None
    assert refused(browser.ask(method, path, body, Origin=origin.format(port=browser.port), X_View="a"))


def test_two_origins_are_refused(browser: Browser) -> None:
    own = f"Origin: http://{browser.authority}\r\n"
    text = f"GET / HTTP/1.1\r\nHost: {browser.authority}\r\nCookie: {browser.cookie}\r\n"
    assert b" 200 " in browser.raw(f"{text}{own}\r\n".encode())
    assert b" 403 " in browser.raw(f"{text}{own}{own}\r\n".encode())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X_View": "a"}, 200),
        ({"X_View": "a", "Sec_Fetch_Site": "same-origin"}, 200),
        ({}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 403),
        ({"X_View": "a", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"X_View": "a", "Sec_Fetch_Site": "same-site"}, 403),
        ({"X_View": "a", "Sec_Fetch_Site": "none"}, 403),
    ],
    ids=str,
)
def test_post_without_origin_needs_what_no_form_can_send(
    browser: Browser, headers: dict[str, str], status: int
) -> None:
    assert browser.ask("POST", "/api/double", b'{"values": []}', **headers).status == status


@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        "unrolled-{port}=",
        "unrolled-{port}=wrong",
        "unrolled-{port}={token}x",
        "unrolled-{port}=\xe9",
        "unrolled-1={token}",
        "unrolled={token}",
        "token={token}",
        "; =; a b; unrolled-{port}",
    ],
)
@pytest.mark.parametrize(("method", "path"), ADDRESSES + OTHERS)
def test_request_without_the_cookie_is_refused(browser: Browser, method: str, path: str, cookie: str | None) -> None:
    body = b"{}" if method == "POST" else None
    given = cookie if cookie is None else cookie.format(port=browser.port, token=browser.token)
    reply = browser.ask(method, path, body, Cookie=given, X_View="a")
    assert refused(reply)
    assert method == "HEAD" or b"pen the link that was printed" in reply.body


@pytest.mark.parametrize("query", ["token=", "token=wrong", "token={token}x", "Token={token}", "token=%C3%A9", "token"])
@pytest.mark.parametrize("known", [True, False])
def test_wrong_token_is_refused(browser: Browser, query: str, known: bool) -> None:
    if known and not query.startswith("token"):
        return
    reply = browser.ask("GET", "/?" + query.format(token=browser.token), Cookie=browser.cookie if known else None)
    assert refused(reply) or (known and query == "token")


def test_wrong_token_beside_the_right_one_is_refused(browser: Browser) -> None:
    for query in (f"token={browser.token}&token=a", f"token=a&token={browser.token}"):
        assert refused(browser.ask("GET", f"/?{query}", Cookie=None))


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/double"), ("POST", "/"), ("GET", "/files/view.js")])
def test_token_opens_the_page_only(browser: Browser, method: str, path: str) -> None:
    assert refused(browser.ask(method, f"{path}?token={browser.token}", b"{}", Cookie=None, X_View="a"))


def test_cookie_among_others_is_found(browser: Browser) -> None:
    cookie = f'_xsrf="2|a,b"; username-8888=a=b; {browser.cookie}; theme=dark'
    assert browser.ask("GET", "/", Cookie=cookie).status == 200


def test_first_visit_sets_the_cookie_and_goes_on_without_the_token(server: Server) -> None:
    browser = Browser(server)
    reply = browser.ask("GET", f"/?token={browser.token}&unit=a%26b")
    assert (reply.status, reply.headers["Location"]) == (302, "/?unit=a%26b")
    cookie, *attributes = reply.headers["Set-Cookie"].split("; ")
    assert cookie.startswith(f"unrolled-{browser.port}=")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    assert browser.visit().ask("GET", "/?unit=a%26b").status == 200


def test_visit_from_another_site_goes_on_from_a_page_of_its_own(server: Server) -> None:
    browser = Browser(server)
    reply = browser.ask("GET", f"/?token={browser.token}&a=%22%3E%3Cb%3E", Sec_Fetch_Site="cross-site")
    assert reply.status == 200
    assert reply.headers["Set-Cookie"].startswith(f"unrolled-{browser.port}=")
    assert b'<meta http-equiv="refresh" content="0;url=/?a=%22%3E%3Cb%3E">' in reply.body


@pytest.mark.parametrize(
    "path", ["//evil.example/", "/\\evil.example", "/%0d%0aSet-Cookie:a=b", "http://evil.example/"]
)
def test_onward_address_is_never_anothers(browser: Browser, path: str) -> None:
    reply = browser.ask("GET", f"{path}?token={browser.token}", Cookie=None)
    assert refused(reply)
    assert "Location" not in reply.headers


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%252e%252e%252fetc%252fpasswd",
        "..%c0%af..%c0%afetc%c0%afpasswd",
        "..\\..\\etc\\passwd",
        "..%5c..%5cetc%5cpasswd",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "C:\\secret",
        "C:%5csecret",
        "~root",
        "view.js/",
        "view.js/..",
        "view.js%00",
        "view.js%00.png",
        "view%2ejs",
        "view.js;a",
        ".hidden",
        "a/b",
        "server.py\xe9",
    ],
)
def test_nothing_outside_the_files_can_be_named(browser: Browser, small: Small, name: str) -> None:
    small.calls.clear()
    text = f"GET /files/{name} HTTP/1.1\r\nHost: {browser.authority}\r\nCookie: {browser.cookie}\r\n\r\n"
    reply = browser.raw(text.encode("latin1"))
    assert reply.split(b" ")[1] == b"404"
    assert small.calls == []
    assert b"root:" not in reply


@pytest.mark.parametrize("target", ["/files", "/files/", "/api", "/api/", "/index.html", "/favicon.ico", "*", "//"])
def test_what_is_not_there_is_404(browser: Browser, target: str) -> None:
    reply = browser.ask("GET", target)
    assert (reply.status, reply.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert browser.ask("GET", "/files/absent.js").status == 404


@pytest.mark.parametrize(
    "target", ["http://evil.example/", "http://{own}/files/view.js", "/../../etc/passwd", "etc/passwd"]
)
def test_address_in_another_form_is_404(browser: Browser, target: str) -> None:
    target = target.format(own=browser.authority)
    text = f"GET {target} HTTP/1.1\r\nHost: {browser.authority}\r\nCookie: {browser.cookie}\r\n\r\n"
    assert b" 404 " in browser.raw(text.encode())


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_other_methods_are_405(browser: Browser, method: str, path: str) -> None:
    assert browser.ask(method, path).status == 405


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/api/double", "POST"), ("POST", "/", "GET, HEAD"), ("POST", "/files/view.js", "GET, HEAD")],
)
def test_wrong_method_says_which_is_right(browser: Browser, method: str, path: str, allow: str) -> None:
    reply = browser.ask(method, path, X_View="a")
    assert (reply.status, reply.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/", "/files/view.js", "/nothing"])
def test_every_answer_has_the_policy(browser: Browser, path: str) -> None:
    headers = browser.ask("GET", path).headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Server" not in headers


def test_body_over_a_mebibyte_is_refused(browser: Browser) -> None:
    start = f"POST /api/double HTTP/1.1\r\nHost: {browser.authority}\r\nCookie: {browser.cookie}\r\nX-View: a\r\n"
    for length in (2**20 + 1, 10**30):
        assert b" 400 " in browser.raw(f"{start}Content-Length: {length}\r\n\r\n".encode())
    chunk = b"%x\r\n%s\r\n" % (2**19, b" " * 2**19)
    reply = browser.raw(f"{start}Transfer-Encoding: chunked\r\n\r\n".encode() + 3 * chunk + b"0\r\n\r\n")
    assert reply == b"" or b" 400 " in reply
    largest = b'{"values": [1]}'.ljust(2**20)
    assert browser.post("double", largest).value["twice"] == [2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"values": NaN}', "NaN is no number"),
        (b"[" * 2**19, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 900_000 + b"}", "not JSON"),
        (b"[1]", "not an object"),
        (b"null", "not an object"),
        (b"3", "not an object"),
    ],
    ids=["empty", "broken", "not-utf8", "nan", "deep-list", "deep-object", "long-number", "list", "null", "number"],
)
@pytest.mark.parametrize("name", ["double", "count", "progress"])
def test_body_that_is_no_json_object_is_refused(browser: Browser, name: str, body: bytes, words: str) -> None:
    reply = browser.post(name, body)
    assert reply.status == 400
    assert words in reply.error
    assert len(reply.error) < 300


@pytest.mark.parametrize(
    "text", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100_000]
)
def test_what_is_not_http_does_no_harm_and_says_nothing(
    browser: Browser, capfd: pytest.CaptureFixture[str], text: bytes
) -> None:
    reply = browser.raw(text)
    assert reply == b"" or b" 400 " in reply
    assert browser.ask("GET", "/").status == 200
    assert capfd.readouterr() == ("", "")


class TestFramed:
    """Inside a notebook's page the token is in the path, and there is no cookie."""

    @pytest.fixture
    def framed(self, small: Small) -> Iterator[Browser]:
        with Server(small, framed=True) as server:
            yield Browser(server)

    def test_page_files_and_api_lie_below_the_token(self, framed: Browser, small: Small) -> None:
        base = urlsplit(framed.link).path
        assert base == f"/{framed.token}/"
        assert len(framed.token) >= 40
        page = framed.ask("GET", base)
        assert (page.status, small.base) == (200, base)
        assert "Set-Cookie" not in page.headers
        assert framed.ask("GET", f"{base}files/view.js").body == b"1;"
        origin = f"http://{framed.authority}"
        assert framed.ask("POST", f"{base}api/double", b'{"values": [1]}', Origin=origin).value["twice"] == [2]
        assert framed.ask("GET", f"{base}files/../server.py").status == 404

    def test_notebooks_of_this_machine_may_frame_it(self, framed: Browser) -> None:
        policy = framed.ask("GET", urlsplit(framed.link).path).headers["Content-Security-Policy"]
        assert policy.endswith("frame-ancestors 'self' http://localhost:* http://127.0.0.1:*")

    @pytest.mark.parametrize(
        "path", ["/", "/{token}", "/?token={token}", "/{token}x/", "/files/view.js", "//{token}/", "/\xe9/"]
    )
    def test_other_addresses_are_refused(self, framed: Browser, path: str) -> None:
        text = (
            f"GET {path} HTTP/1.1\r\nHost: {framed.authority}\r\nCookie: unrolled-{framed.port}={framed.token}\r\n\r\n"
        )
        assert b" 403 " in framed.raw(text.format(token=framed.token).encode("latin1"))

    def test_foreign_host_and_origin_are_refused(self, framed: Browser) -> None:
        path = urlsplit(framed.link).path
        assert refused(framed.ask("GET", path, Host=f"evil.example:{framed.port}"))
        assert refused(framed.ask("GET", path, Origin="http://localhost:8888"))
        assert refused(framed.ask("POST", f"{path}api/double", b"{}"))


class TestOtherHosts:
    """What other machines can reach needs a long token, warns, and knows its own names."""

    def test_link_is_one_that_this_machine_can_open(self, everywhere: Browser) -> None:
        assert everywhere.host == "127.0.0.1"
        assert len(everywhere.token) >= 40

    @pytest.mark.parametrize("name", ["10.1.2.3", "[fe80::1]", "localhost", socket.gethostname().upper()])
    def test_addresses_and_the_machines_name_are_its_own(self, everywhere: Browser, name: str) -> None:
        assert everywhere.ask("GET", "/", Host=f"{name}:{everywhere.port}").status == 200

    @pytest.mark.parametrize("name", ["evil.example", "1.2.3.4.evil.example", "1.2.3", "999.1.1.1", "0x7f000001"])
    def test_foreign_names_are_refused(self, everywhere: Browser, name: str) -> None:
        assert refused(everywhere.ask("GET", "/", Host=f"{name}:{everywhere.port}"))

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.0.2.1", "example.org"])
    def test_short_token_is_refused(self, host: str) -> None:
        with pytest.raises(ValueError, match=r"the token has 15 characters; .* needs 16 or more"):
            Server(Small(), host=host, token="a" * 15)
        Server(Small(), host=host, token="a" * 16)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "LocalHost", "::1", "[::1]"])
    def test_loopback_takes_a_short_token_and_warns_of_nothing(self, host: str) -> None:
        told: list[str] = []
        with Server(Small(), host=host, token="abc", tell=told.append) as server:
            browser = Browser(server)
            assert browser.token == "abc"
            browser.host = browser.host if ":" not in browser.host else f"[{browser.host}]"
            authority = browser.authority
            browser.host = browser.host.strip("[]")
            assert browser.ask("GET", "/?token=abc", Host=authority).status == 302
        assert told == []

    def test_warning_is_told(self) -> None:
        told: list[str] = []
        with Server(Small(), host="0.0.0.0", tell=told.append):
            pass
        [line] = told
        assert line.startswith("Warning: 0.0.0.0 can be reached from other machines. The traffic is not encrypted")

    @pytest.mark.parametrize("token", ["", "a b", "é" * 20, "a/b", "..", "a;b", "a\r\nb", "a&b=c"], ids=ascii)
    def test_token_that_no_address_can_hold_is_refused(self, token: str) -> None:
        with pytest.raises(ValueError, match="letters, digits"):
            Server(Small(), token=token)

    def test_empty_host_is_refused(self) -> None:
        with pytest.raises(ValueError, match="host is empty"):
            Server(Small(), host="")
