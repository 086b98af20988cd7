"""The viewer's server: it listens, and stops. What it answers is `exchange`'s, and to whom `admission`'s."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from unrolled.extras import lacking
from unrolled.viewer.serving.admission import Door

try:
    from tornado.httpserver import HTTPServer
    from tornado.httputil import HTTPServerRequest

    from unrolled.viewer.serving.exchange import Exchanges, Viewing
except ModuleNotFoundError:
    raise lacking("tornado", "the viewer", "view") from None

__all__ = ["Server", "Viewing", "serve"]

# Without a handler Python prints what anybody's malformed request makes Tornado say.
logging.getLogger("tornado").addHandler(logging.NullHandler())

_LARGEST_BODY = 2**20
_BODY_SECONDS = 30.0


class Server:
    """Serves a viewing from a thread with a loop of its own, so that a notebook's loop is left alone.

    Args:
        host: the address or name to listen on. One that other machines can reach is told about.
        port: 0 takes any that is free.
        token: the secret in the link; None makes one. See `admission.Door`.
        framed: the page is shown inside a notebook's page; the token is then part of every address.
        tell: is given the line that warns where the host can be reached from other machines.

    Raises:
        ValueError: a host, port or token that cannot be; a method of the viewing named `progress`, `result` or
            `cancel`, or both quick and slow.
    """

    def __init__(
        self,
        viewing: Viewing,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        framed: bool = False,
        tell: Callable[[str], object] = print,
    ) -> None:
        if not 0 <= port < 2**16:
            raise ValueError(f"port is {port}; ports go from 1 to 65535, and 0 takes any that is free")
        self._host, self._port = host, port
        self._door = Door(host, token, framed=framed)
        self._exchanges = Exchanges(viewing, self._door)
        self._tell = tell
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The link that opens the page, with the token in it.

        Raises:
            RuntimeError: the server does not run, so that its port is not known.
        """
        if self._thread is None:
            raise RuntimeError("the server does not run; start() it")
        return self._door.url

    def start(self) -> None:
        """Listen. Returns once requests are answered.

        Raises:
            OSError: the port is taken, or the host is none of this machine's; the message names it.
            RuntimeError: it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("the server runs already")
        sockets = _listening(self._host, self._port)
        self._door.port = sockets[0].getsockname()[1]
        self._exchanges.open()
        ready: Future[None] = Future()
        # A daemon, so that a program that forgets stop() can end.
        thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(sockets, ready)), name="unrolled-viewer", daemon=True
        )
        thread.start()
        ready.result()
        self._thread = thread
        if self._door.open_to_others:
            self._tell(
                f"Warning: {self._host} can be reached from other machines. The traffic is not encrypted: "
                "whoever can read it can read the recording and the token."
            )

    def stop(self) -> None:
        """Close the port and every connection, and cancel what runs. Does nothing where the server does not run."""
        if self._thread is None:
            return
        self._exchanges.close()
        with suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._ending.set)
        # What holds the server may be collected in the server's own thread, which cannot wait for itself.
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def wait(self) -> None:
        """Wait until the server is stopped from another thread."""
        while (thread := self._thread) is not None and thread.is_alive():
            thread.join(1.0)  # on Windows Ctrl-C does not end a wait without a limit

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, sockets: list[socket.socket], ready: Future[None]) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        running: set[asyncio.Task[None]] = set()

        def begin(request: HTTPServerRequest) -> None:
            exchange = self._loop.create_task(self._exchanges.exchange(request))
            running.add(exchange)  # the loop itself holds its tasks weakly
            exchange.add_done_callback(running.discard)

        try:
            server = HTTPServer(begin, max_body_size=_LARGEST_BODY, body_timeout=_BODY_SECONDS)
            server.add_sockets(sockets)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._ending.wait()
        server.stop()
        await server.close_all_connections()


def serve(
    viewing: Viewing,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    open_browser: bool = True,
    tell: Callable[[str], object] = print,
) -> None:
    """Serve a viewing until Ctrl-C.

    Prints the link, which has the token in it, and opens it in the browser where there is a screen.

    Raises:
        ValueError, OSError: as `Server` and its `start`.
    """
    with Server(viewing, host=host, port=port, token=token, tell=tell) as server, suppress(KeyboardInterrupt):
        tell(f"The viewer is at {server.url}")
        tell("Press Ctrl-C to end it.")
        sys.stdout.flush()  # whoever reads this through a pipe waits for the link
        if open_browser and _has_screen():
            webbrowser.open(server.url)
        server.wait()


def _has_screen() -> bool:
    """Whether a browser would be a window; without a screen it would be one of text, over this very terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of a host, all on one port."""
    bare = host.removeprefix("[").removesuffix("]")
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            at = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
            try:
                sockets.append(socket.create_server(at, family=family))
            except OSError as error:
                # localhost has an IPv6 address by name where IPv6 is switched off.
                if not (sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
                    raise
    except OSError as error:
        for one in sockets:
            one.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} of {host} is taken; give another, or 0 for any that is free"
        else:
            # Python adds the address to the system's words for what a socket cannot do.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            why = f"cannot listen on port {port} of {host}: {reason}"
        raise OSError(error.errno, why) from None
    except UnicodeError:
        raise ValueError(f"host is {host!r}, which is neither an address nor a name") from None
    for one in sockets:
        one.setblocking(False)
    return sockets
