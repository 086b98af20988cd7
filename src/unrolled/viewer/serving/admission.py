"""Who may talk to the viewer's server: the browser that opened the printed link, and nobody else.

A server on this machine's loopback is within reach of every page that the browser shows and of every user of the
machine. Three things keep them out, in this order:

- the Host header must be an address of the server's own, or a foreign name could be pointed at this machine and its
  page then read ours as its own (DNS rebinding);
- the Origin header, where there is one, must be the server's own; a POST without one must carry what no form can send;
- a secret token. The link has it once: the first visit puts it into a cookie that scripts cannot read and other sites
  cannot make the browser send, and goes on to the address without it.

A page inside a notebook's page (`framed`) is different. To the browser, localhost and 127.0.0.1 are two sites, and a
frame of another site is given no SameSite cookie, or none at all. There the token is the first part of every address's
path instead: no cookie, so nothing that another page could make the browser send along.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_WILDCARDS = ("0.0.0.0", "[::]")
_SHORTEST = 16
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_NOTEBOOKS = " http://localhost:* http://127.0.0.1:*"


class Refused(Exception):
    """The request is answered 403, with this message."""


@dataclass(frozen=True)
class Entry:
    """A request that is let in: the path it asks for, "/" first, without the token; or where it is sent on to."""

    path: str
    onward: str | None = None


class Door:
    """Lets requests in, or says why not.

    Args:
        host: the host that is listened on. A name or an address.
        token: the secret; None makes one of 256 bits.
        framed: whether the page is shown inside a notebook's page.

    Raises:
        ValueError: no host; a token with other characters than letters, digits, "-" and "_"; one of fewer than 16
            characters although the host can be reached from other machines.
    """

    def __init__(self, host: str, token: str | None = None, *, framed: bool = False) -> None:
        if not host:
            raise ValueError("host is empty; give 127.0.0.1, or 0.0.0.0 for every address of this machine")
        self.open_to_others = not _is_loopback(host)
        if token is None:
            token = secrets.token_urlsafe(32)
        elif not re.fullmatch(r"[A-Za-z0-9_-]+", token):
            raise ValueError('a token has letters, digits, "-" and "_" only')
        elif self.open_to_others and len(token) < _SHORTEST:
            raise ValueError(
                f"the token has {len(token)} characters; {host} can be reached from other machines and needs "
                f"{_SHORTEST} or more. Without a token one is made"
            )
        self._token = token
        self._framed = framed
        self._host = _bracketed(host)
        self.port = 0  # known when the server listens

    @property
    def url(self) -> str:
        """The link that opens the page."""
        # Nobody can go to "every address"; this machine's browser finds it at the loopback.
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(self._host, self._host)
        return f"http://{host}:{self.port}/" + (f"{self._token}/" if self._framed else f"?token={self._token}")

    @property
    def base(self) -> str:
        """The path below which the page, its files and its API lie; with a "/" at its end."""
        return f"/{self._token}/" if self._framed else "/"

    @property
    def cookie(self) -> str:
        """The Set-Cookie header's value."""
        return f"{self._cookie_name}={self._token}; Path=/; HttpOnly; SameSite=Strict"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every answer has, a refusal too."""
        return {
            "Content-Security-Policy": _POLICY + (_NOTEBOOKS if self._framed else ""),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            # The files' too: another program may have this port tomorrow.
            "Cache-Control": "no-store",
        }

    def enter(self, request: HTTPServerRequest) -> Entry:
        """Let a request in.

        Raises:
            Refused: it is none of the page's own.
        """
        own = self._check_host(request.headers.get_list("Host"))
        self._check_origin(request, own)
        return self._path_with_token(request.path) if self._framed else self._check_cookie(request)

    @property
    def _cookie_name(self) -> str:
        # Cookies know hosts, not ports: two viewers would take each other's.
        return f"unrolled-{self.port}"

    def _check_host(self, given: list[str]) -> tuple[str, int]:
        authority = _authority(given[0]) if len(given) == 1 else None
        if authority is None or not self._is_ours(authority[0]):
            raise Refused(
                "This address does not belong to the viewer. Open the link that was printed where it was started."
            )
        if authority[1] != self.port:
            raise Refused(
                f"The viewer listens on port {self.port} and was asked for on port {authority[1]}. "
                "If you forward the port from another machine, give it the same number at both ends."
            )
        return authority

    def _is_ours(self, name: str) -> bool:
        if name in _LOOPBACK or name == self._host:
            return True
        # A rebinding attack needs a name, so that an address is safe whichever of this machine's it is.
        return self._host in _WILDCARDS and (_is_address(name) or name in _names_of_this_machine())

    def _check_origin(self, request: HTTPServerRequest, own: tuple[str, int]) -> None:
        origins = request.headers.get_list("Origin")
        if origins:
            scheme, _, authority = origins[0].lower().partition("://")
            if len(origins) > 1 or scheme != "http" or _authority(authority) != own:
                raise Refused("Another site's page asked for this. Only the viewer's own page may.")
        elif request.method == "POST" and (
            request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or "X-View" not in request.headers
        ):
            raise Refused("Only the viewer's own page may ask for this. A program must send the header X-View.")

    def _check_cookie(self, request: HTTPServerRequest) -> Entry:
        query = parse_qsl(request.query, keep_blank_values=True)
        tokens = [value for key, value in query if key == "token"]
        if request.path == "/" and tokens and request.method in ("GET", "HEAD"):
            if not all(map(self._is_token, tokens)):
                raise Refused(
                    "The token in this address is not the viewer's. Each start of the viewer makes a new one: "
                    "open the link that was printed last."
                )
            rest = [pair for pair in query if pair[0] != "token"]
            return Entry("/", onward="/" + (f"?{urlencode(rest)}" if rest else ""))
        cookie = request.cookies.get(self._cookie_name)
        if cookie is None or not self._is_token(cookie.value):
            raise Refused("The viewer does not know this browser. Open the link that was printed where it was started.")
        return Entry(request.path)

    def _path_with_token(self, path: str) -> Entry:
        _, token, *rest = path.split("/", 2)
        if not rest or not self._is_token(token):
            raise Refused("The viewer does not know this address. Run the notebook's cell again.")
        return Entry(f"/{rest[0]}")

    def _is_token(self, given: str) -> bool:
        # As bytes: compare_digest refuses a str that is not ASCII.
        return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self._token.encode())


def _authority(text: str) -> tuple[str, int] | None:
    """The host and the port in "host:port"; None for anything else."""
    match = _AUTHORITY.fullmatch(text.lower())
    return (match[1], int(match[2] or 80)) if match else None


def _bracketed(host: str) -> str:
    """A host as it stands in a browser's address: an IPv6 address in its short form, in brackets."""
    bare = host.lower().removeprefix("[").removesuffix("]")
    return f"[{ipaddress.ip_address(bare)}]" if ":" in bare and _is_address(bare) else bare


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    bare = host.lower().removeprefix("[").removesuffix("]")
    return bare == "localhost" or (_is_address(bare) and ipaddress.ip_address(bare).is_loopback)


def _names_of_this_machine() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0]}
