"""Fetch weights from an address into a cache, once, and verify the file by its hash at every later use."""

import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..results import hash_of
from .hub import fetch_from_hub, is_on_hub
from .partial import Partial, open_partial

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_NO_SUCH_RANGE, _LATER = 416, 429  # status; from _LATER on: too many requests, an error of the server
_HASH_IN_NAME = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.[^.]*$")  # torch.hub's: name-DIGITS.pth; no dates


Show = Callable[[int, int | None], None]


def _silent(done: int, total: int | None) -> None:
    """Shows nothing."""


def is_address(path: object) -> bool:
    """Whether this is an address, not a path. Raises CheckpointError for addresses that cannot be fetched."""
    if is_on_hub(path):
        return True
    found = re.match(r"([a-z][a-z0-9+.-]+):/", str(path))
    if found and found[1] not in ("http", "https") and not Path(str(path)).exists():
        raise CheckpointError(
            f"{path}: only https:// and hf: are fetched, not {found[1]}://; download the file and give its path"
        )
    return found is not None and found[1] in ("http", "https")


def fetch(address: str, *, size: int | None = None, folder: Path | None = None, show: Show = _silent) -> Path:
    """The file of an address, from the cache or downloaded into it; of `hf:ORG/NAME` see `fetch_from_hub`.

    The cache is torch.hub's folder, with a folder for each address: many files are called `checkpoint.pth`. The
    SHA-256 of the file is stored beside it, said in the log, and compared at every use. It is also compared with the
    fragment `#sha256=...` of the address, and with the digits in a name such as `name-1a2b3c4d.pth`.

    Args:
        size: in bytes, if it is known: a file of another one is refused before it is downloaded.
        folder: in the cache, for files that belong together; default: one of its own.
        show: called with the bytes that are there and those of the whole file (None: not known), at first with what
            an earlier try left: a download that was cut off or interrupted goes on from there.

    Raises:
        CheckpointError: not reachable, no file but a page, cut off, or of another size or hash.
    """
    if is_on_hub(address):
        return fetch_from_hub(address)
    address, _, fragment = address.partition("#")
    address = re.sub(r"^(https?):/+", r"\1://", address)  # a path object merges the slashes
    try:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or "weights"
    except ValueError as error:
        raise CheckpointError(f"{address}: no address ({error})") from error
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    file = (folder or Path(torch.hub.get_dir()) / "checkpoints" / "sigma" / key) / name
    record = file.with_name(f"{name}.sha256")
    try:
        if file.is_file() and record.is_file():
            digest = hash_of(file)
            if digest != record.read_text(encoding="ascii", errors="replace").strip():
                raise CheckpointError(f"{file}: differs from what was downloaded from {address}: remove it")
        else:
            digest = _download(address, file, size, show)
            record.write_text(digest + "\n", encoding="ascii")
    except OSError as error:
        raise CheckpointError(f"{address}: cannot be kept in {file.parent} ({error.strerror or error})") from error
    _check_digest(address, fragment, name, digest, file)
    logger.info("%s: %s, SHA-256 %s", address, file, digest)
    return file


def hash_of_weights(path: str) -> str:
    """SHA-256 of a file, or of a folder; of an address, that of the file that it was fetched into. "" of ""."""
    if not path:
        return ""
    return hash_of(fetch(path) if is_address(path) else Path(path))


def _check_digest(address: str, fragment: str, name: str, digest: str, file: Path) -> None:
    in_name = _HASH_IN_NAME.search(name)
    wanted = fragment.removeprefix("sha256=").lower() if fragment else in_name[1] if in_name else ""
    if not digest.startswith(wanted):
        for written in (file, file.with_name(f"{name}.sha256")):
            written.unlink(missing_ok=True)
        raise CheckpointError(f"{address}: the file's SHA-256 is {digest}, not {wanted}: another file; removed")


def _download(address: str, file: Path, size: int | None, show: Show) -> str:
    """Write the file whole or not at all, from where an earlier try was cut off; returns its SHA-256."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_partial(file, str(os.getpid())) as part:
        if part.done:
            logger.info("%s: going on with %s after %d bytes", address, part.path, part.done)
        else:
            logger.info("%s: downloading to %s", address, file)
        try:
            total = _receive(address, part, size, show)
        except urllib.error.HTTPError as error:
            if error.code >= _LATER:
                part.keep()
            raise CheckpointError(f"{address}: the server answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            reason = getattr(error, "reason", error)
            kept = f"{part.done} bytes are kept: try again, or get" if part.keep() else "Get"
            raise CheckpointError(
                f"{address}: cannot be fetched ({reason}). {kept} the file on a machine "
                "with a network and give its path"
            ) from error
        except KeyboardInterrupt:
            part.keep()
            raise
        if total is not None and part.done < total:
            again = "try again: it goes on from there" if part.keep() else "try again"
            raise CheckpointError(f"{address}: cut off after {part.done} of {total} bytes; {again}")
        _check_size(address, part.done, size)
        part.stream.flush()
        os.replace(part.path, file)
    return part.digest.hexdigest()


def _receive(address: str, part: Partial, size: int | None, show: Show) -> int | None:
    """Append to the part what the server sends; returns how many bytes the file has, as the server says."""
    request = urllib.request.Request(address, headers={"User-Agent": "sigma-video", **part.request()})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != _NO_SUCH_RANGE or not part.done:
            raise
        part.restart()  # longer than the file on the server
        return _receive(address, part, size, show)
    with response:
        _check_kind(address, response)
        found = re.fullmatch(rf"bytes {part.done}-\d+/(\d+)", response.headers.get("Content-Range") or "")
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and not (part.done and found):
            raise CheckpointError(f"{address}: the server sends another part of the file than the one asked for")
        if found is None or response.status != http.HTTPStatus.PARTIAL_CONTENT:
            part.restart()  # another version of the file, or a server that knows no parts
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced else None
        else:
            total = int(found[1])
        _check_size(address, total, size)
        part.note(response.headers)
        show(part.done, total)
        while chunk := response.read1(_CHUNK):
            part.write(chunk)
            show(part.done, total)
    return total


def _check_size(address: str, found: object, wanted: int | None) -> None:
    if wanted is not None and found is not None and int(str(found)) != wanted:
        raise CheckpointError(f"{address}: has {found} bytes, not {wanted}: another file; nothing was kept")


def _check_kind(address: str, response: Any) -> None:
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise CheckpointError(
            f"{address}: is a page, no file of weights: give the address of the download itself (on huggingface.co and "
            "github.com /resolve/ or /raw/ in the place of /blob/)"
        )
