"""Requests to an OpenAI-compatible server: bounded in time and bytes, to the named host alone.

No redirect is followed and no proxy is asked, so that nothing goes to a host that the user did not
name. A deadline holds for a whole exchange: a server that sends a byte now and then keeps nobody.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlsplit

from paredown.errors import ConfigError, ServerError
from paredown.spec.redact import shown

LONGEST = 8 << 20
"""Bytes of an answer that are read; a longer one is none that was asked for."""
_SHOWN = 120


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        seconds: from the request to the last byte.
    """

    status: int
    body: bytes
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether the status says that the request was carried out."""
        return self.status == 200

    @property
    def excerpt(self) -> str:
        """The beginning of the body, as it may be shown."""
        return shown(self.body[: 4 * _SHOWN].decode(errors="replace"), _SHOWN)

    def document(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            ServerError: the status is no success, or the body is something else.
        """
        if not self.is_ok:
            raise ServerError(f"status {self.status}: {self.excerpt}")
        try:
            found = json.loads(self.body)
        except ValueError:
            raise ServerError(f"status 200 with a body that is no JSON: {self.excerpt}") from None
        if not isinstance(found, dict):
            raise ServerError(f"status 200 with JSON that is no object: {self.excerpt}")
        return found


@final
class Client:
    """Talks to one server. Several threads may use it: every request has its own connection."""

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 60.0) -> None:
        """Nothing is sent yet.

        Args:
            url: of the server, with or without `/v1`.
            key: sent as a bearer token.
            timeout_s: for a whole exchange.

        Raises:
            ConfigError: `url` is no address of a server.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"{shown(url)!r} is no address: give http://HOST:PORT")
        if parts.username or parts.password or parts.query or parts.fragment:
            # Not shown: it may hold the key.
            raise ConfigError("an address without user, password or query: the key goes elsewhere")
        try:
            self._port = parts.port
        except ValueError:
            raise ConfigError(f"{shown(url)!r}: the port is no number up to 65535") from None
        self._host, self._is_tls = parts.hostname, parts.scheme == "https"
        self._root = parts.path.rstrip("/").removesuffix("/v1")
        self.url = f"{parts.scheme}://{parts.netloc}{self._root}"
        self.key, self.timeout_s = key, timeout_s

    def get(self, path: str, *, timeout_s: float | None = None) -> Reply:
        """GET a path such as `/health`.

        Raises:
            ServerError: no whole answer in time.
        """
        return self._exchange("GET", path, None, timeout_s)

    def post(
        self, path: str, document: Mapping[str, Any] | bytes, *, timeout_s: float | None = None
    ) -> Reply:
        """POST JSON, or bytes as they are.

        Raises:
            ServerError: no whole answer in time.
        """
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self._exchange("POST", path, body, timeout_s)

    def stream(
        self, path: str, document: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer (server-sent events), the final `[DONE]` left out.

        Raises:
            ServerError: no stream of JSON objects that ends with `[DONE]`, in time.
        """
        body = json.dumps({**document, "stream": True}).encode()
        with self._answer("POST", path, body, timeout_s) as answer:
            if answer.status != 200:
                raise ServerError(f"status {answer.status}: {shown(_read(answer).decode(), 120)}")
            read = 0
            while line := answer.readline(LONGEST):
                read += len(line)
                if read > LONGEST:
                    raise ServerError(f"a stream of more than {LONGEST >> 20} MiB")
                event = line.strip()
                if event == b"data: [DONE]":
                    return
                if event.startswith(b"data:"):
                    yield _event(event.removeprefix(b"data:"))
        raise ServerError("the stream ended without [DONE]")

    def _exchange(
        self, method: str, path: str, body: bytes | None, timeout_s: float | None
    ) -> Reply:
        start = time.monotonic()
        with self._answer(method, path, body, timeout_s) as answer:
            content = _read(answer)
            return Reply(status=answer.status, body=content, seconds=time.monotonic() - start)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None, timeout_s: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        limit = self.timeout_s if timeout_s is None else timeout_s
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=limit)
        late = threading.Event()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        watchdog = threading.Timer(limit, _cut, (connection, late))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request(method, self._root + path, body, headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise ServerError(f"{path}: no whole answer within {limit:g} s") from None
            reason = error.strerror if isinstance(error, OSError) else None
            why = reason or shown(str(error)) or type(error).__name__
            raise ServerError(f"{path}: {why}") from None
        finally:
            watchdog.cancel()
            connection.close()


def _cut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    """End an exchange from outside: a timeout of the socket begins anew with every byte."""
    late.set()
    if (sock := connection.sock) is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed meanwhile


def _read(answer: http.client.HTTPResponse) -> bytes:
    content = answer.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ServerError(f"an answer of more than {LONGEST >> 20} MiB")
    # With a length announced, http.client hands out a cut body of `read(n)` without a word.
    if answer.length:
        raise http.client.IncompleteRead(content, answer.length)
    return content


def _event(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        words = shown(text.decode(errors="replace"), _SHOWN)
        raise ServerError(f"an event that is no JSON: {words}") from None
    if not isinstance(found, dict):
        raise ServerError("an event that is no JSON object")
    return found
