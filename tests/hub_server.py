"""A stand-in for the Hugging Face hub on loopback: serves folders as repositories.

The requests huggingface_hub makes: HEAD and GET /{repo}/resolve/{rev}/{file}, GET
/api/models/{repo}/revision/{rev}, GET /api/models/{repo}/tree/{rev}.
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


class HubServer:
    """Repositories `root`/org/name; `requests` counts what was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point huggingface_hub at this server and an own cache."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
        }

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        """Serve inside the block."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def clean_environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment without its hub settings, plus `extra`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
    return kept | extra


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file(self.hub.root / parts[0] / parts[1], "/".join(parts[4:]))
        else:
            self._missing("RepoNotFound")

    def _api(self, repo: str, rest: list[str]) -> None:
        folder = self.hub.root / repo
        if not folder.is_dir():
            return self._missing("RepoNotFound")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _digest(path)}
                for name, path in zip(names, files, strict=True)
            ]
            return self._json(tree)
        siblings = [{"rfilename": name} for name in names]
        return self._json({"id": repo, "sha": COMMIT, "siblings": siblings})

    def _file(self, folder: Path, name: str) -> None:
        path = folder / name
        if not path.is_file():
            return self._missing("EntryNotFound" if folder.is_dir() else "RepoNotFound")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(path)}"', "Accept-Ranges": "bytes"}
        return self._send(200, path.read_bytes(), headers)

    def _missing(self, code: str) -> None:
        self._send(404, b"not here", {"X-Error-Code": code})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
