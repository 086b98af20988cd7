"""One request to the viewer's server, and its answer.

    GET  /              the page
    GET  /files/NAME    a script or a style of it
    POST /api/NAME      a method's answer to a JSON object: packed (see `packing`), or JSON {"error": why not}

A quick method's answer comes at once. Its request may have the headers X-View (which view asks: a part of a page, named
anew when the page is loaded) and X-Serial (a number that grows). A newer request of the same view for the same method
overtakes those that have not begun; they are answered 409. A slow method's answer is {"job": its name}; the methods
`progress`, `result` and `cancel` take {"job": name}. Who is let in is `admission`'s.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from typing import Any, Protocol, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.iostream import StreamClosedError

from unrolled.viewer.serving.admission import Door, Entry, Refused
from unrolled.viewer.serving.calls import Failed, Quick, QuickCalls, Slow, SlowCalls
from unrolled.viewer.serving.packing import pack

_FILE = re.compile(r"/files/([A-Za-z0-9_-][A-Za-z0-9._-]*)")
_METHOD = re.compile(r"/api/([A-Za-z0-9_]+)")
_OF_JOBS = ("progress", "result", "cancel")


class Viewing(Protocol):
    """What is served."""

    def page(self, *, path: str = "/") -> str:
        """The HTML page; its files and API lie below `path`, which ends with "/"."""

    def resource(self, name: str) -> tuple[bytes, str] | None:
        """A script or style by its name: content and media type. None: there is none of this name."""

    @property
    def quick(self) -> Mapping[str, Quick]:
        """The methods that answer at once."""

    @property
    def slow(self) -> Mapping[str, Slow]:
        """The methods that take long; they call their second argument with (done, of) as they go."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    media: str
    more: dict[str, str] = field(default_factory=dict)


class Exchanges:
    """Answers requests about a viewing that a door lets in.

    Raises:
        ValueError: a method of the viewing is named `progress`, `result` or `cancel`, or is both quick and slow.
    """

    def __init__(self, viewing: Viewing, door: Door) -> None:
        self._viewing, self._door = viewing, door
        self._quick, self._slow = viewing.quick, viewing.slow
        twice = (self._quick.keys() & self._slow.keys()) | ((self._quick.keys() | self._slow.keys()) & set(_OF_JOBS))
        if twice:
            raise ValueError(f"these methods have names that are taken: {', '.join(sorted(twice))}")

    def open(self) -> None:
        """Make the threads that the methods run in."""
        self._quick_calls, self._slow_calls = QuickCalls(), SlowCalls()

    def close(self) -> None:
        """Cancel what runs and what waits."""
        self._slow_calls.close()
        self._quick_calls.close()

    async def exchange(self, request: HTTPServerRequest) -> None:
        """Answer a request, whatever happens."""
        try:
            answer = await self._answer(request)
        except Refused as refused:
            answer = _refusal(request, 403, str(refused))
        except Failed as failed:
            answer = _refusal(request, failed.status, failed.message)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            answer = _refusal(
                request, 500, "Something went wrong in the viewer. Where it was started, more is printed."
            )
        connection = cast(HTTP1Connection, request.connection)
        headers = HTTPHeaders({"Content-Type": answer.media, "Content-Length": str(len(answer.body))})
        for name, value in {**self._door.headers, **answer.more}.items():
            headers.add(name, value)
        line = ResponseStartLine("HTTP/1.1", answer.status, HTTPStatus(answer.status).phrase)
        with suppress(StreamClosedError):  # the page went away
            connection.write_headers(line, headers, None if request.method == "HEAD" else answer.body)
            connection.finish()

    async def _answer(self, request: HTTPServerRequest) -> _Answer:
        entry = self._door.enter(request)
        if entry.onward is not None:
            return self._onward(request, entry.onward)
        if request.method not in ("GET", "HEAD", "POST"):
            raise Failed(405, "The viewer answers GET, HEAD and POST only.")
        if request.method == "POST":
            return await self._api(request, entry)
        if entry.path == "/":
            page = await asyncio.to_thread(self._viewing.page, path=self._door.base)
            return _Answer(200, page.encode("utf-8", "replace"), "text/html; charset=utf-8")
        if match := _FILE.fullmatch(entry.path):
            found = await asyncio.to_thread(self._viewing.resource, match[1])
            if found is not None:
                return _Answer(200, *found)
        if _METHOD.fullmatch(entry.path):
            raise Failed(405, "The API answers POST only.")
        raise Failed(404, "The viewer has nothing at this address.")

    def _onward(self, request: HTTPServerRequest, address: str) -> _Answer:
        more = {"Set-Cookie": self._door.cookie}
        if request.headers.get("Sec-Fetch-Site") != "cross-site":
            return _Answer(302, b"", "text/plain", more | {"Location": address})
        # The link was followed from another site's page (a terminal in the browser). A redirect of that visit would
        # still be that site's, and the browser would keep the cookie back. What this page asks for is its own.
        body = f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(address)}"><title>unrolled</title>'
        return _Answer(200, body.encode(), "text/html; charset=utf-8", more)

    async def _api(self, request: HTTPServerRequest, entry: Entry) -> _Answer:
        match = _METHOD.fullmatch(entry.path)
        if match is None:
            known = entry.path == "/" or _FILE.fullmatch(entry.path)
            raise Failed(
                *((405, "Only the API answers POST.") if known else (404, "There is nothing at this address."))
            )
        name = match[1]
        if name not in (*self._quick, *self._slow, *_OF_JOBS):
            raise Failed(404, f"there is no method {name}")
        arguments = _arguments(request.body)
        if name in self._quick:
            packed = await self._quick_answer(request, name, arguments)
        elif name in self._slow:
            packed = pack({"job": self._slow_calls.begin(self._slow[name], arguments)})
        elif name == "result":
            packed = self._slow_calls.result(arguments.get("job"))
        else:
            if name == "cancel":
                self._slow_calls.cancel(arguments.get("job"))
            packed = pack(self._slow_calls.progress(arguments.get("job")))
        return _Answer(200, packed, "application/octet-stream")

    async def _quick_answer(self, request: HTTPServerRequest, name: str, arguments: dict[str, Any]) -> bytes:
        future = self._quick_calls.begin(name, self._quick[name], arguments, _asked(request))

        # A page that no longer waits (it aborted its fetch, or was closed) need not be answered.
        def give_up() -> None:
            future.cancel()

        cast(HTTP1Connection, request.connection).set_close_callback(give_up)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
            raise Failed(409, "a newer request has come") from None


def _refusal(request: HTTPServerRequest, status: int, message: str) -> _Answer:
    more = {"Allow": "POST" if "/api/" in request.path else "GET, HEAD"} if status == 405 else {}
    # A script wants JSON, a reader a page. What was asked for may have markup in it.
    if request.method == "POST":
        return _Answer(status, json.dumps({"error": message}).encode(), "application/json", more)
    body = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>unrolled</title><p>{escape(message)}</p></html>'
    )
    return _Answer(status, body.encode("utf-8", "replace"), "text/html; charset=utf-8", more)


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Failed(400, f"the body is not JSON that can be read: {reason}") from None
    if not isinstance(arguments, dict):
        raise Failed(400, "the body is JSON, but not an object")
    return arguments


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def _asked(request: HTTPServerRequest) -> tuple[str, int] | None:
    view, serial = request.headers.get("X-View"), request.headers.get("X-Serial")
    if view is None or serial is None:
        return None
    if not re.fullmatch(r"[!-~]{1,64}", view):
        raise Failed(400, "X-View must have 1 to 64 printable characters")
    if not re.fullmatch(r"[0-9]{1,15}", serial):
        raise Failed(400, f"X-Serial must be a whole number; it is {serial!r}")
    return view, int(serial)
