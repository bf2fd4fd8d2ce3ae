"""Fetch weights from an address into a cache, once, and verify the file by its hash at every later use."""

import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..results import hash_of
from .hub import fetch_from_hub, is_on_hub

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_HASH_IN_NAME = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.[^.]*$")  # torch.hub's: name-DIGITS.pth; no dates


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


def fetch(address: str, *, size: int | None = None, folder: Path | None = None) -> Path:
    """The file of an address, from the cache or downloaded into it; of `hf:ORG/NAME` see `fetch_from_hub`.

    The cache is torch.hub's folder, with a folder for each address: many files are called `checkpoint.pth`. The
    SHA-256 of the file is stored beside it, said in the log, and compared at every use. It is also compared with the
    fragment `#sha256=...` of the address, and with the digits in a name such as `name-1a2b3c4d.pth`.

    Args:
        size: in bytes, if it is known: a file of another one is refused before it is downloaded.
        folder: in the cache, for files that belong together; default: one of its own.

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
            digest = _download(address, file, size)
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


def _download(address: str, file: Path, size: int | None) -> str:
    """Write the file whole or not at all; returns its SHA-256."""
    logger.info("%s: downloading to %s", address, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    request = urllib.request.Request(address, headers={"User-Agent": "sigma-video"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response, part.open("wb") as stream:
            _check_kind(address, response)
            announced = response.headers.get("Content-Length")
            _check_size(address, announced, size)
            digest, got = hashlib.sha256(), 0
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                digest.update(chunk)
                got += len(chunk)
        if announced is not None and got != int(announced):
            raise CheckpointError(f"{address}: cut off after {got} of {announced} bytes; try again")
        _check_size(address, got, size)
        os.replace(part, file)
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{address}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"{address}: cannot be fetched ({reason}). Get the file on a machine with a network and give its path"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest()


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
