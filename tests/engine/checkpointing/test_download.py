"""Weights from an address: fetched once into a cache, verified, and refused when they are something else."""

import functools
import hashlib
import http.server
import threading
import urllib.request
from pathlib import Path

import pytest
import torch
from runs import same

from engine.checkpointing.download import fetch, hash_of_weights
from engine.checkpointing.partial import open_partial
from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError

STATE = {"blocks.0.a": torch.arange(6.0)}


class Handler(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP; `cut.pth` ends before its announced length, `page` is HTML."""

    requests: list[str] = []  # noqa: RUF012  # of all requests, which are instances
    ranges: list[int] = []  # noqa: RUF012  # first bytes that were sent of `parts.pth`
    most: int | None = None

    def do_GET(self):
        self.requests.append(self.path)
        if self.path.endswith("cut.pth"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif self.path.endswith("parts.pth"):
            self.send_part(Path(self.translate_path(self.path)).read_bytes())
        elif self.path.endswith("page"):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<html>")
        else:
            super().do_GET()

    def send_part(self, content):
        """As of RFC 9110, 14.2: what `Range` asks for, all of it if the tag is another one; at most `most` bytes."""
        tag, wanted = f'"{hashlib.sha256(content).hexdigest()}"', self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0) if self.headers.get("If-Range") == tag else 0
        self.ranges.append(start)
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(content[start:][: type(self).most])

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a folder, and that folder; torch.hub's cache is a new one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    # urllib keeps the proxies of the first address that a process opens, perhaps in a test without a network.
    monkeypatch.setattr(urllib.request, "_opener", None)
    folder = tmp_path / "served"
    (folder / "other").mkdir(parents=True)
    torch.save({"model": STATE}, folder / "checkpoint.pth")
    torch.save({"model": {"blocks.0.a": torch.zeros(6)}}, folder / "other" / "checkpoint.pth")
    Handler.requests.clear()
    Handler.ranges.clear()
    monkeypatch.setattr(Handler, "most", None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()


def test_fetched_once_and_verified(server, caplog):
    caplog.set_level("INFO")
    address, folder = server
    digest = hashlib.sha256((folder / "checkpoint.pth").read_bytes()).hexdigest()
    for _ in range(2):
        assert same(read_weights(f"{address}/checkpoint.pth").tensors, STATE)
    assert Handler.requests == ["/checkpoint.pth"] and f"SHA-256 {digest}" in caplog.text
    # the same name at another place is another file
    assert not same(read_weights(f"{address}/other/checkpoint.pth").tensors, STATE)
    # as a path object would write it
    assert fetch(f"{address}/checkpoint.pth".replace("://", ":/")) == fetch(f"{address}/checkpoint.pth")
    file = fetch(f"{address}/checkpoint.pth")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="differs from what was downloaded"):
        read_weights(f"{address}/checkpoint.pth")


def test_an_evaluation_records_the_hash_of_what_was_fetched(server):
    address, folder = server
    digest = hashlib.sha256((folder / "checkpoint.pth").read_bytes()).hexdigest()
    assert hash_of_weights(f"{address}/checkpoint.pth") == hash_of_weights(str(folder / "checkpoint.pth")) == digest
    assert hash_of_weights("") == ""


def test_known_digests_are_compared(server):
    address, folder = server
    content = (folder / "checkpoint.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    (folder / f"a-{digest[:8]}.pth").write_bytes(content)
    (folder / "a-0123456a.pth").write_bytes(content)
    (folder / "a-20221013.pth").write_bytes(content)
    for name in (f"a-{digest[:8]}.pth", "a-20221013.pth"):  # a date is no digest
        assert same(read_weights(f"{address}/{name}").tensors, STATE)
    assert same(read_weights(f"{address}/checkpoint.pth#sha256={digest}").tensors, STATE)
    for wrong in ("a-0123456a.pth", f"checkpoint.pth#sha256={'0' * 64}"):
        with pytest.raises(CheckpointError, match=f"SHA-256 is {digest}, not 0.*: another file; removed"):
            read_weights(f"{address}/{wrong}")
        assert not fetch_is_cached(folder)


def fetch_is_cached(folder):
    return [file for file in (folder.parent / "cache").rglob("*0123456a.pth") if file.is_file()]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent.pth", "the server answers 404"),
        ("page", "is a page, no file of weights"),
        ("cut.pth", "cut off after 10 of 1000 bytes|cannot be fetched"),
    ],
)
def test_what_is_no_file_is_said_and_not_kept(path, words, server):
    address, folder = server
    with pytest.raises(CheckpointError, match=words):
        read_weights(f"{address}/{path}")
    assert not [file for file in (folder.parent / "cache").rglob("*") if file.is_file()]


@pytest.fixture
def parts(server, monkeypatch):
    """Address of a file that is sent in parts, 1000 bytes at a time at first; the file; and what lies in the cache."""
    address, folder = server
    (folder / "parts.pth").write_bytes(bytes(range(250)) * 10)
    monkeypatch.setattr(Handler, "most", 1000)
    return f"{address}/parts.pth", folder / "parts.pth", lambda: sorted((folder.parent / "cache").rglob("*.p*"))


def test_a_download_that_was_cut_off_goes_on(parts):
    address, file, cached = parts
    shown = []
    for done in (1000, 2000):
        with pytest.raises(CheckpointError, match=f"cut off after {done} of 2500 bytes; try again: it goes on"):
            fetch(address, size=2500, show=lambda *numbers: shown.append(numbers))
        assert [path.name for path in cached()] == ["parts.pth.part", "parts.pth.part.version"]
    fetched = fetch(f"{address}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}")
    assert fetched.read_bytes() == file.read_bytes() and Handler.ranges == [0, 1000, 2000]
    assert [numbers for numbers in shown if numbers[0] in (0, 1000)] == [(0, 2500), (1000, 2500), (1000, 2500)]
    assert [path.name for path in cached()] == ["parts.pth", "parts.pth.sha256"]


def test_another_version_of_the_file_starts_again(parts, monkeypatch):
    """Also one that is shorter than what is there, and what no server named a version of."""
    address, file, _ = parts
    contents = [bytes(range(100)) * 22, b"short" * 20]
    for content in contents:
        with pytest.raises(CheckpointError, match="cut off after 1000"):
            fetch(address)
        file.write_bytes(content)
        monkeypatch.setattr(Handler, "most", None)
        fetched = fetch(address)
        assert fetched.read_bytes() == content
        fetched.unlink()
        file.write_bytes(bytes(range(250)) * 10)
        monkeypatch.setattr(Handler, "most", 1000)
    part = fetched.with_name("parts.pth.part")
    part.write_bytes(b"of unknown origin")
    with pytest.raises(CheckpointError, match="cut off after 1000"):
        fetch(address)
    assert part.read_bytes() == file.read_bytes()[:1000]
    part.write_bytes(file.read_bytes() + b"too long")
    monkeypatch.setattr(Handler, "most", None)
    assert fetch(address).read_bytes() == file.read_bytes() and Handler.ranges[-2:] == [2508, 0]


def test_a_resumed_download_of_wrong_bytes_leaves_nothing(parts, monkeypatch):
    address, file, cached = parts
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match="cut off"):
        fetch(f"{address}#sha256={digest}")
    part = cached()[0]
    part.write_bytes(b"x" + part.read_bytes()[1:])
    monkeypatch.setattr(Handler, "most", None)
    with pytest.raises(CheckpointError, match=f"not {digest}: another file; removed"):
        fetch(f"{address}#sha256={digest}")
    assert not cached()
    assert fetch(f"{address}#sha256={digest}").read_bytes() == file.read_bytes()


def test_interrupted_and_at_the_same_time(parts, monkeypatch):
    address, file, cached = parts
    monkeypatch.setattr(Handler, "most", None)

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(address, show=interrupt)
    (part, _) = cached()
    done = part.stat().st_size
    with open_partial(part.with_name("parts.pth"), "other") as other:
        assert fetch(address).read_bytes() == file.read_bytes() and Handler.ranges == [0, 0]
        assert other.done == done and other.keep()
    assert part.stat().st_size == done


def test_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"http://127\.0\.0\.1:9/x\.pth: cannot be fetched .*give its path"):
        read_weights("http://127.0.0.1:9/x.pth")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be kept in"):
        read_weights("http://127.0.0.1:9/x.pth")


@pytest.mark.parametrize("address", ["s3://bucket/x.pth", "ftp://host/x.pth", "https://[bad/x.pth"])
def test_other_addresses_are_said(address):
    with pytest.raises(
        CheckpointError, match=r"only https:// and hf: are fetched, not (s3|ftp)://|no address \(Invalid IPv6"
    ):
        read_weights(address)
