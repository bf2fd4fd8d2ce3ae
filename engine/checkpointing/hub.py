"""Fetch weights from the Hugging Face Hub into its library's cache: `hf:ORG/NAME`, or a file in it."""

import logging
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

FORM = "hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME/FOLDER/FILE"
_NAME = re.compile(r"hf:/*(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
_FACTS = (".json", "README.md")  # sizes, class names, normalisation; the licence
_WEIGHTS = (
    r".+\.safetensors",
    r"pytorch_model.*\.bin",
)  # where both are there, the first
_SHOWN = 8


def is_on_hub(path: object) -> bool:
    """Whether this names a repository of the Hub, and no file or folder here."""
    return str(path).startswith("hf:") and not Path(str(path)).exists()


def fetch_from_hub(name: str) -> Path:
    """The folder of a repository, with what is read of it, or a file in it, from the cache or downloaded into it.

    The library's own settings hold: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Without a network it takes what is
    in the cache.

    Raises:
        CheckpointError: no such repository, revision or file; private or gated; not reachable and not in the cache.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise CheckpointError(f"{name}: write {FORM}")
    try:
        import huggingface_hub as hub  # comes with timm
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(f"{name}: needs a package: pip install huggingface-hub") from error
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)  # a line for each request
    where: Any = {"repo_id": parts["repository"], "revision": parts["revision"]}
    try:
        if parts["file"]:
            found = Path(hub.hf_hub_download(filename=parts["file"], **where))
        else:
            found = _fetch_folder(name, hub, where)
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name}: not reachable, and not in the cache. Get it on a machine with a network: `hf download "
            f"{where['repo_id']} --local-dir FOLDER`, and give the path"
        ) from error
    except (errors.HTTPError, OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name}: {_reason(error, errors)}") from error
    logger.info("%s: %s", name, found)  # the folder is called like the commit
    return found


def _fetch_folder(name: str, hub: Any, where: Any) -> Path:
    """Of a repository what lies at its top and is read."""
    try:
        info = hub.HfApi().model_info(**where)
    except hub.errors.HfHubHTTPError:
        raise
    except (hub.errors.HTTPError, OSError):  # no network
        return Path(hub.snapshot_download(**where, local_files_only=True))
    files = [sibling.rfilename for sibling in info.siblings]
    weights: list[str] = []
    for pattern in _WEIGHTS:
        weights = weights or [file for file in files if "/" not in file and re.fullmatch(pattern, file)]
    if not weights:
        others = [file for file in files if file.endswith((".pth", ".pt", ".ckpt", ".bin", ".safetensors"))]
        shown = ", ".join(f"hf:{where['repo_id']}/{file}" for file in others[:_SHOWN])
        raise CheckpointError(f"{name}: no weights at its top{f'; give one of its files: {shown}' if shown else ''}")
    wanted = [file for file in files if "/" not in file and file.endswith(_FACTS)] + weights
    return [Path(hub.hf_hub_download(filename=file, **where)) for file in wanted][-1].parent


def _reason(error: Exception, errors: Any) -> str:
    """In one line."""
    if isinstance(error, errors.GatedRepoError):
        return "gated: accept its terms on its page, and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one: check the name, or log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision of it"
    if isinstance(error, errors.EntryNotFoundError):
        return "no such file in it"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
