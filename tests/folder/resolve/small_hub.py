# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A small hub on the loopback address that speaks the paths of the real one, with faults to order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["Repository", "SmallHub", "serving"]


@dataclass
class Repository:
    """One repository.

    Attributes:
        revisions: Files by name, for each branch.
        gated: The token that opens it, None if it is open.
        missing: Files that are listed and cannot be downloaded.
        breaks: How many times the download of a file still breaks off halfway, by name.
    """

    revisions: dict[str, dict[str, bytes]]
    gated: str | None = None
    missing: set[str] = field(default_factory=set)
    breaks: dict[str, int] = field(default_factory=dict)

    def commit(self, revision: str) -> str | None:
        if revision in self.revisions:
            return hashlib.sha1(revision.encode()).hexdigest()
        return revision if revision in map(self.commit, self.revisions) else None

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class SmallHub:
    """What it serves, and what it was asked.

    Attributes:
        repositories: By id.
        requests: Method, path and range of each request so far.
        is_down: It answers with 503 to everything.
    """

    repositories: Mapping[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    is_down: bool = False
    url: str = ""

    def downloaded(self) -> list[str]:
        """Names of the files whose content was asked for."""
        parts = (path.split("/resolve/", 1) for method, path, _ in self.requests if method == "GET")
        return [part[1].split("/", 1)[1] for part in parts if len(part) == 2]


@contextmanager
def serving(repositories: Mapping[str, Repository]) -> Iterator[SmallHub]:
    """Runs it in a thread."""
    hub = SmallHub(repositories)

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append((self.command, path, self.headers.get("Range")))
        if self.served.is_down:
            self._error(503, None, "down")
            return
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repository = self.served.repositories.get("/".join(parts[:2]))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository is None:
            # As the real one: who may not know whether a repository exists is told nothing.
            self._error(401, "RepoNotFound", "Repository not found")
        elif is_api:
            self._describe(repository, "/".join(parts[:2]), parts[2:])
        elif repository.gated is not None and token != repository.gated:
            self._error(403 if token else 401, "GatedRepo", "Access to this repository is restricted")
        else:
            self._send_file(repository, parts[3], "/".join(parts[4:]))

    def _describe(self, repository: Repository, name: str, rest: list[str]) -> None:
        revision = rest[1] if rest else "main"
        commit = repository.commit(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repository.files(commit)
        if rest and rest[0] == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
            self._json(tree)
            return
        self._json(
            {
                "_id": "0",
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "gated": "auto" if repository.gated else False,
                "siblings": [{"rfilename": path} for path in files],
            }
        )

    def _send_file(self, repository: Repository, revision: str, name: str) -> None:
        commit = repository.commit(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        data = repository.files(commit).get(name)
        if data is None or name in repository.missing:
            self._error(404, "EntryNotFound", "Entry not found", {"x-repo-commit": commit})
            return
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "x-repo-commit": commit,
            "x-linked-size": str(len(data)),
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(data) - begin),
        }
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.send_response(206 if begin else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if repository.breaks.get(name, 0) > 0:
            repository.breaks[name] -= 1
            self.wfile.write(data[begin : begin + (len(data) - begin) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[begin:])

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if code is not None:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
