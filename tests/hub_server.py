"""A stand-in for the Hugging Face hub on the loopback: as much of its protocol as a download needs.

`HubServer.faults` maps a file name to what goes wrong when it is fetched; `requests` counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "acme/tiny-llama"
REVISIONS = ("main", "v1.0", COMMIT)


class HubServer(ThreadingHTTPServer):
    """Serves the files of one folder as the repository REPO."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, str] = {}
        self.extra_names: list[str] = []
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def describe(self, name: str, data: bytes) -> dict[str, Any]:
        stated = data + b"?" if self.faults.get(name) == "other content" else data
        large = name.endswith(".safetensors")
        blob = hashlib.sha1(b"blob %d\0" % len(stated) + stated).hexdigest()
        sha256 = hashlib.sha256(stated).hexdigest()
        lfs = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 134}
        return {
            "rfilename": name, "type": "file", "path": name, "size": len(data), "blobId": blob,
            "oid": blob, **({"lfs": lfs} if large else {}),
        }  # fmt: skip

    def listing(self) -> list[dict[str, Any]]:
        extra = [self.describe(name, b"x") for name in self.extra_names]
        return [self.describe(name, data) for name, data in self.files().items()] + extra


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        fault = self.server.faults.get("*")
        if fault in ("500", "429", "503"):
            self._send(int(fault), b"in trouble", {})
        elif path.startswith(f"/api/models/{REPO}"):
            self._api(path.removeprefix(f"/api/models/{REPO}"))
        elif path.startswith(f"/{REPO}/resolve/"):
            revision, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/")
            self._file(revision, name, body)
        else:
            self._error(404, "RepoNotFound")

    def _api(self, rest: str) -> None:
        parts = rest.strip("/").split("/")
        if self.server.faults.get("*") == "gated":
            return self._error(403, "GatedRepo")
        if parts != [""] and (len(parts) < 2 or parts[1] not in REVISIONS):
            return self._error(404, "RevisionNotFound")
        listing = self.server.listing()
        if parts[0] == "tree":
            return self._json(listing)
        return self._json({"id": REPO, "sha": COMMIT, "siblings": listing})

    def _file(self, revision: str, name: str, body: bool) -> None:
        data = self.server.files().get(name)
        if revision not in REVISIONS or data is None:
            return self._error(404, "EntryNotFound")
        fault = self.server.faults.get(name, "")
        if fault == "html":
            data = b"<html>Sign in</html>"
        stated = self.server.describe(name, self.server.files()[name])
        etag = stated["lfs"]["sha256"] if "lfs" in stated else stated["blobId"]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if fault in ("500", "503", "429") and body:
            return self._send(int(fault), b"in trouble", headers)
        start = 0
        if (ranged := self.headers.get("Range")) and body:
            start = int(ranged.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault == "cut" and body:
            self.server.faults[name] = "cut once"
            return self._send(200, data[: len(data) // 2], headers, len(data))
        return self._send(206 if start else 200, data[start:] if body else b"", headers,
                          len(data) - start)  # fmt: skip

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        if length is not None and self.command == "GET" and len(data) < length:
            self.close_connection = True


@contextmanager
def serving(folder: Path) -> Iterator[HubServer]:
    """The folder as a hub, for as long as the block lasts."""
    server = HubServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(url: str, home: Path) -> dict[str, str]:
    """Environment of a process that takes `url` for the hub and `home` for its cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
