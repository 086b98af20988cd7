"""A small viewing to serve, and requests as a browser or an attacker makes them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from unrolled.viewer.serving.packing import unpack
from unrolled.viewer.serving.server import Server


class Small:
    """Every kind of method. `gate` holds up those that wait for it; `calls` says what ran."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[Any] = []
        self.base = ""

    def page(self, *, path: str = "/") -> str:
        self.base = path
        return "<!doctype html><title>é</title>"

    def resource(self, name: str) -> tuple[bytes, str] | None:
        self.calls.append(name)
        return (b"1;", "text/javascript") if name == "view.js" else None

    @property
    def quick(self) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        return {"double": self.double, "wait": self.wait, "fail": self.fail, "odd": lambda asked: {1, 2}}

    @property
    def slow(self) -> Mapping[str, Callable[[dict[str, Any], Callable[[int, int], None]], Any]]:
        return {"count": self.count, "break": self.break_down}

    def double(self, asked: dict[str, Any]) -> Any:
        return {"twice": 2 * np.array(asked["values"], dtype="float32")}

    def wait(self, asked: dict[str, Any]) -> Any:
        self.calls.append(asked["n"])
        assert self.gate.wait(20)
        return asked["n"]

    def fail(self, asked: dict[str, Any]) -> Any:
        kind = {"ZeroDivisionError": ZeroDivisionError, "SystemExit": SystemExit, "ImportError": ImportError}
        kind |= {one.__name__: one for one in (ValueError, TypeError, IndexError, KeyError, OSError, RuntimeError)}
        raise kind[asked["error"]](*asked.get("words", ["no unit <b>9</b>"]))

    def count(self, asked: dict[str, Any], tell: Callable[[int, int], None]) -> Any:
        self.calls.append(asked.get("n"))
        tell(1, 3)
        assert self.gate.wait(20)
        tell(2, 3)
        return {"counted": np.arange(3)}

    def break_down(self, asked: dict[str, Any], tell: Callable[[int, int], None]) -> Any:
        raise {"ours": ValueError("no such span"), "theirs": ZeroDivisionError("secret")}[asked["error"]]


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> str:
        assert self.headers["Content-Type"] == "application/json"
        return str(json.loads(self.body)["error"])

    @property
    def value(self) -> Any:
        assert (self.status, self.headers["Content-Type"]) == (200, "application/octet-stream"), self.body
        return unpack(self.body)


class Browser:
    """Talks to a server; `visit` opens the link and keeps the cookie."""

    def __init__(self, server: Server) -> None:
        self.link = server.url
        address = urlsplit(self.link)
        self.host, self.port = address.hostname or "", address.port or 0
        self.token = address.query.removeprefix("token=") or address.path.strip("/")
        self.cookie = ""

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def visit(self) -> Browser:
        reply = self.ask("GET", f"/?token={self.token}")
        self.cookie = reply.headers["Set-Cookie"].split(";")[0]
        return self

    def ask(self, method: str, path: str, body: bytes | None = None, **changed: str | None) -> Reply:
        """A request as the page makes it, but for the headers in `changed` (`_` for "-"); None leaves one out."""
        headers: dict[str, str | None] = {"Host": self.authority, "Cookie": self.cookie or None}
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def post(self, name: str, arguments: Any = None, **changed: str | None) -> Reply:
        body = arguments if isinstance(arguments, bytes) else json.dumps(arguments or {}).encode()
        changed = {"Origin": f"http://{self.authority}", "Sec_Fetch_Site": "same-origin"} | changed
        return self.ask("POST", f"/api/{name}", body, **changed)

    def raw(self, text: bytes) -> bytes:
        """Everything that comes back for these bytes; none where the server closes the connection without an answer."""
        text = text.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        parts = []
        connection = socket.create_connection((self.host, self.port), timeout=20)
        with connection, suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(text)
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)
