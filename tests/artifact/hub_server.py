"""A hub on this machine: the few addresses that its library asks, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves the folders of models.

    Attributes:
        models: by `owner/name`.
        tags: revisions besides `main`, which all mean the one commit.
        gated: names that only those may read who accepted terms.
        claims: bytes that files are said to have in listings, where that is not the truth.
        sent: bytes of each file's content that went out, by name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Path] = {}
        self.tags = ("v1.0",)
        self.gated: set[str] = set()
        self.claims: dict[str, int] = {}
        self.sent: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        if path.startswith("api/models/"):
            path = path.removeprefix("api/models/")
            kind = "tree" if "/tree/" in path else "revision"
            repo, _, rest = path.partition(f"/{kind}/")
            self._listing(repo, rest or "main", kind, body=body)
            return
        repo, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        self._file(repo, revision, name, body=body)

    def _refused(self, repo: str, revision: str) -> bool:
        if repo not in self.server.models:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body=True)
        elif repo in self.server.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body=True)
        elif revision not in {"main", COMMIT, *self.server.tags}:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=True)
        else:
            return False
        return True

    def _listing(self, repo: str, revision: str, kind: str, *, body: bool) -> None:
        if self._refused(repo, revision):
            return
        files = sorted(p for p in self.server.models[repo].iterdir() if p.is_file())
        tree = [
            {"type": "file", "path": p.name, "oid": _digest(p), "size": self._size(p)}
            for p in files
        ]  # fmt: skip
        document = {
            "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [],
            "downloads": 0, "likes": 0,
            "siblings": [
                {"rfilename": p.name, "blobId": _digest(p), "size": self._size(p)} for p in files
            ],
        }  # fmt: skip
        text = json.dumps(tree if kind == "tree" else document)
        self._send(200, text.encode(), {"Content-Type": "application/json"}, body=body)

    def _size(self, path: Path) -> int:
        return self.server.claims.get(path.name, path.stat().st_size)

    def _file(self, repo: str, revision: str, name: str, *, body: bool) -> None:
        if self._refused(repo, revision):
            return
        path = self.server.models[repo] / name
        if not path.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self._send(404, b"", headers, body=body)
            return
        data, status = path.read_bytes(), 200
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        if body:
            self.server.sent[name] = self.server.sent.get(name, 0) + len(data)
        self._send(status, data, headers, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def running() -> Iterator[HubServer]:
    """A hub that ends with the block."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
