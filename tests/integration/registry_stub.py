"""A web server with given answers, and a registry made of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers:
    """An HTTP server whose answers are given by path."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: dict[str, tuple[str, bytes]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append(self.path)
                kind, body = outer.bodies.get(re.sub(r"^/v1\.\d+", "", self.path), ("", b""))
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
                if kind.endswith(("manifest.v2+json", "list.v2+json")):
                    self.send_header("Docker-Content-Digest", digest(body))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # the name that http.server looks for

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put_image(registry: Answers, name: str, content: bytes) -> str:
    """Let a registry serve an image with one file as `name:latest`; its digest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    layer = gzip.compress(buffer.getvalue(), mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(buffer.getvalue())]},
    }
    blobs = [json.dumps(config).encode(), layer]
    kinds = ["application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"]
    parts = [{"mediaType": k, "size": len(b), "digest": digest(b)} for k, b in zip(kinds, blobs, strict=True)]
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": parts[0], "layers": parts[1:]}
    body = json.dumps(manifest).encode()
    registry.bodies["/v2/"] = ("application/json", b"{}")
    for blob in blobs:
        registry.bodies[f"/v2/{name}/blobs/{digest(blob)}"] = ("application/octet-stream", blob)
    for reference in ("latest", digest(body)):
        registry.bodies[f"/v2/{name}/manifests/{reference}"] = (kind, body)
    return digest(body)


def put_list(registry: Answers, name: str, content: bytes) -> str:
    """Let a registry serve such an image for one of two architectures as `name:latest`; the digest of both."""
    own = put_image(registry, name, content)
    kind, body = registry.bodies[f"/v2/{name}/manifests/{own}"]
    manifests = [
        {"mediaType": kind, "size": len(body), "digest": found, "platform": {"os": "linux", "architecture": machine}}
        for machine, found in (("arm64", digest(b"another")), ("amd64", own))
    ]
    both = "application/vnd.docker.distribution.manifest.list.v2+json"
    content = json.dumps({"schemaVersion": 2, "mediaType": both, "manifests": manifests}).encode()
    for reference in ("latest", digest(content)):
        registry.bodies[f"/v2/{name}/manifests/{reference}"] = (both, content)
    return digest(content)
