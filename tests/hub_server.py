"""A Hugging Face Hub of a folder: `ORG/NAME/...` below it are repositories, of one revision each."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHA = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    """The parts of the Hub's HTTP API that downloads use."""

    root = Path()

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        """Of /api/models/ORG/NAME/..., its files; of /ORG/NAME/resolve/REVISION/FILE, the file."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repository = self.root.joinpath(*(parts[2:4] if is_api else parts[:2]))
        revision = parts[5 if is_api else 3] if len(parts) > 4 else "main"
        if not repository.is_dir():
            self.reply(401, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", SHA):
            self.reply(404, headers={"X-Error-Code": "RevisionNotFound"})
        elif is_api:
            self.reply(200, self.api(repository, tree="tree" in parts[4:5]), {"Content-Type": "application/json"})
        elif (file := repository.joinpath(*parts[4:])).is_file():
            body = file.read_bytes()
            self.reply(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": SHA})
        else:
            self.reply(404, headers={"X-Error-Code": "EntryNotFound"})

    def api(self, repository, *, tree):
        """The repository, or its tree."""
        files = [file for file in sorted(repository.rglob("*")) if file.is_file()]
        names = [file.relative_to(repository).as_posix() for file in files]
        if tree:
            entries = zip(names, files, strict=True)
            found = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": "0" * 40} for n, f in entries]
            return json.dumps(found).encode()
        siblings = [{"rfilename": name} for name in names]
        model = "/".join(repository.parts[-2:])
        return json.dumps({"id": model, "modelId": model, "sha": SHA, "private": False, "siblings": siblings}).encode()

    def reply(self, code, body=b"", headers=None):
        """An answer; of a HEAD request without the body."""
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        """Quiet."""


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Its address."""
    handler = type("Served", (Handler,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
