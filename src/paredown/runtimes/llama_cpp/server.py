"""Serves a GGUF behind OpenAI's API; needs xllamacpp and nothing else, paredown included.

    python server.py FOLDER [--settings serving.json] [--host H] [--port P] ...

This file travels with a package (as `server.py`), so that what is measured here is what is served
there. It asks for the key in PAREDOWN_API_KEY, where there is one.

llama.cpp lets requests wait without end: who asks an overloaded server learns nothing for minutes.
So it listens on a port of loopback that nobody is told, and a front in this file passes requests
on, byte for byte: as many as there are slots, and a few that wait. Further ones are refused (429).
On SIGTERM new ones are refused (503), those taken before are answered, and it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY_VARIABLE = "PAREDOWN_API_KEY"
DRAIN_S = 50.0
"""Longest wait for answers at the end: an orchestrator kills after a minute or so."""
_WAITING = 2
"""Requests that may wait, for every slot, unless something else is said; `_LEAST_WAITING` do."""
_LEAST_WAITING = 8
_RETRY_S = 2
"""After which a refused client may try again."""
_CHUNK = 1 << 16
_LONGEST_HEAD = 1 << 16
_LONGEST_BODY = 1 << 26
_HEAD_S = 60.0
"""For a client to say what it wants."""
_LIGHT = ("/tokenize", "/detokenize", "/apply-template")
"""What is posted, and generates nothing."""
_PER_HOP = (b"connection", b"keep-alive", b"proxy-connection", b"expect")
"""Headers that are between two neighbours alone."""
_SPARE_THREADS = 64
"""HTTP threads beyond the slots. Each waiting request holds one; when none is left, /health waits
as well, and a probe kills a server that is merely busy."""
_READ_S = 600


def main(words: list[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit code."""
    options = _parse(words)
    try:
        import xllamacpp
    except ImportError as error:
        return _complain(f"xllamacpp cannot be imported: {error}")
    if not _is_loopback(options.host) and not os.environ.get(KEY_VARIABLE):
        return _complain(f"{options.host}: beyond this machine a key is needed; set {KEY_VARIABLE}")
    model = _gguf(options.folder)
    if model is None:
        return _complain(f"{options.folder} holds no .gguf file, or several")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        inner = int(probe.getsockname()[1])
    # Its threads would hold up the interpreter's end, so the process is left by `os._exit`.
    server = xllamacpp.Server(_params(xllamacpp, model, options, inner))
    front = _Front(inner, options.slots + options.queue)
    try:
        code = asyncio.run(front.serve(options.host, options.port))
    except OSError as error:
        code = _complain(f"{options.host}:{options.port}: {error.strerror or error}")
    del server
    sys.stderr.flush()
    os._exit(code)


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve a GGUF behind OpenAI's API.")
    parser.add_argument("folder", type=Path, help="holds one .gguf file")
    parser.add_argument("--settings", type=Path, help="serving.json; options win over it")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", help="under which the model is listed")
    parser.add_argument("--context", type=int, help="tokens of one request")
    parser.add_argument("--slots", type=int, help="requests at once")
    parser.add_argument("--queue", type=int, help="requests that may wait")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--cache", help="type of keys and values: f16, q8_0, ...")
    given = parser.parse_args(words)
    usual: dict[str, Any] = {
        "host": "127.0.0.1", "port": 8080, "name": None, "context": None, "slots": 1,
        "queue": None, "threads": None, "cache": None,
    }  # fmt: skip
    if given.settings is not None:
        told = json.loads(given.settings.read_text())
        usual |= {name: told[name] for name in usual if told.get(name) is not None}
    for name, value in usual.items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if given.queue is None:
        given.queue = max(_LEAST_WAITING, _WAITING * given.slots)
    return given


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


def _gguf(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.gguf"))
    return found[0] if len(found) == 1 else None


def _params(xllamacpp: Any, model: Path, options: argparse.Namespace, port: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {options.name or model.stem}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel = options.slots
    # It divides what it is given among the slots; 0 is the model's own, which each slot gets.
    params.n_ctx = (options.context or 0) * options.slots
    params.kv_unified = False
    threads = options.threads or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = options.slots + options.queue + _SPARE_THREADS
    params.timeout_read = params.timeout_write = _READ_S
    params.endpoint_metrics = True
    params.endpoint_slots = params.endpoint_props = params.ui = False
    # By default it keeps up to 8 GiB of former prompts, whatever the machine has.
    params.cache_ram_mib = 0
    # Nothing is to be made smaller without a word: what does not fit fails.
    params.fit_params = False
    if options.cache is not None:
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache.upper()}", None)
        if kind is None:
            sys.exit(_complain(f"--cache {options.cache}: no type of llama.cpp"))
        params.cache_type_k = params.cache_type_v = kind
    if key := os.environ.get(KEY_VARIABLE):
        params.api_keys = [key]
    return params


# --- The front ------------------------------------------------------------------------------------


class _Front:
    """Passes requests on to the engine, at most `room` at once of those that generate."""

    def __init__(self, port: int, room: int) -> None:
        """`port`: of loopback, where the engine listens."""
        self.port, self.room = port, room
        self.busy = self.refused = 0
        self.is_ending = False

    async def serve(self, host: str, port: int) -> int:
        """Serve until SIGTERM and the last answer; returns the exit code."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        listener = await asyncio.start_server(self._connection, host, port, limit=_LONGEST_HEAD)
        name = f"[{host}]" if ":" in host else host
        _say(f"listening on http://{name}:{listener.sockets[0].getsockname()[1]}")
        await ended.wait()
        _say("told to end: waiting for answers")
        self.is_ending = True
        deadline = loop.time() + DRAIN_S
        while self.busy and loop.time() < deadline:
            await asyncio.sleep(0.05)
        _say("ended")
        return 0

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer: connections are not kept, so a slow one keeps nobody waiting."""
        writer.transport.set_write_buffer_limits(high=0)  # what is drained has left this process
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
            await self._answer(head, reader, writer)
        except asyncio.LimitOverrunError:
            await _reply(writer, 431, "the head of the request is too long")
        except (OSError, EOFError, TimeoutError):
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line, headers = _split(head)
        method, path = (*line.split(b" "), b"", b"")[:2]
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit():
            return await _reply(writer, 411, "a request needs its Content-Length")
        if int(length) > _LONGEST_BODY:
            return await _reply(writer, 413, f"at most {_LONGEST_BODY} bytes are taken")
        if headers.get(b"expect", b"").lower() == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await asyncio.wait_for(reader.readexactly(int(length)), _READ_S)
        works = method == b"POST" and path.partition(b"?")[0].decode(errors="replace") not in _LIGHT
        if self.is_ending:
            return await self._refuse(writer, 503, "the server is about to end")
        if works and self.busy >= self.room:
            return await self._refuse(writer, 429, f"{self.busy} requests are at work or wait")
        request = _joined(line, headers) + body
        extra = self._metrics() if (method, path) == (b"GET", b"/metrics") else b""
        self.busy += works
        try:
            return await self._relay(request, extra, reader, writer)
        finally:
            self.busy -= works

    async def _refuse(self, writer: asyncio.StreamWriter, status: int, why: str) -> None:
        self.refused += 1
        await _reply(writer, status, f"{why}; try again in {_RETRY_S} s")

    def _metrics(self) -> bytes:
        name = "paredown:requests_refused_total"
        return f"# TYPE {name} counter\n{name} {self.refused}\n".encode()

    async def _relay(
        self, request: bytes, extra: bytes, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        """Send a request on and its answer back, with `extra` behind it."""
        inner, outer = await asyncio.open_connection("127.0.0.1", self.port, limit=_LONGEST_HEAD)
        copying = asyncio.ensure_future(_copy(request, extra, inner, outer, writer))
        # A client that goes away while the engine computes is seen here alone; closing the
        # engine's end then stops the work.
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({copying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and leaving.result():
                await copying  # it has only begun another request, which gets no answer here
            if copying.done():
                copying.result()
        finally:
            copying.cancel()
            leaving.cancel()
            outer.close()


async def _copy(
    request: bytes, extra: bytes, inner: asyncio.StreamReader, outer: asyncio.StreamWriter,
    writer: asyncio.StreamWriter,
) -> None:  # fmt: skip
    outer.write(request)
    await outer.drain()
    line, headers = _split(await inner.readuntil(b"\r\n\r\n"))
    if extra and b"content-length" in headers:
        headers = {
            **headers,
            b"content-length": b"%d" % (int(headers[b"content-length"]) + len(extra)),
        }
    else:
        extra = b""
    writer.write(_joined(line, headers))
    while part := await inner.read(_CHUNK):
        writer.write(part)
        await writer.drain()
    writer.write(extra)
    await writer.drain()


def _split(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The first line, and the headers by their names in lower case."""
    line, *rest = head.rstrip(b"\r\n").split(b"\r\n")
    pairs = (header.partition(b":") for header in rest)
    return line, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _joined(line: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """A head whose connection ends with the answer."""
    kept = [b"%s: %s" % pair for pair in headers.items() if pair[0] not in _PER_HOP]
    return b"\r\n".join((line, *kept, b"connection: close", b"", b""))


async def _reply(writer: asyncio.StreamWriter, status: int, message: str) -> None:
    """An error as OpenAI's API tells it."""
    kind = "rate_limit_error" if status == 429 else "server_error"
    error = {"message": message, "type": kind, "code": status}
    body = json.dumps({"error": error}).encode()
    retry = f"retry-after: {_RETRY_S}\r\n" if status in {429, 503} else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n{retry}"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


_REASONS = {
    411: "Length Required", 413: "Content Too Large", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 503: "Service Unavailable",
}  # fmt: skip


def _complain(message: str) -> int:
    _say(f"error: {message}")
    return 2


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
