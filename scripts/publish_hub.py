"""The way to huggingface.co: what has to be there before anything is written, and the upload. Used by publish.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from engine.errors import ConfigError

FAILURES = (OSError, HTTPError, ValueError)  # without a network, refused by the server, a name that it does not take


RULE = "of at most 96 letters, digits, dots, - and _, without -- and .., that begin and end with a letter or a digit"


def is_repository(name: str, *, needs_owner: bool = True) -> bool:
    """Whether the hub takes this as the name of a repository."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.isascii() and ("/" in name or not needs_owner)


def connect(name: str) -> HfApi:
    """The hub, with a token, where a repository of this name can be made.

    Raises:
        ConfigError: no token, no network, or the repository exists.
    """
    if not get_token():
        raise ConfigError("--push: no token: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with _failures(f"--push: {constants.ENDPOINT} cannot be reached", "leave --push out to write the folder alone"):
        exists = api.repo_exists(name)
    if exists:
        raise ConfigError(f"--name {name}: a repository of this name exists, and is left as it is; choose another")
    return api


def upload(api: HfApi, folder: Path, name: str) -> str:
    """Make the repository and upload a folder; returns its address.

    Raises:
        ConfigError: refused, or cut off.
    """
    with _failures(f"--push: not uploaded; {folder} is written", f"`hf upload {name} {folder}` sends it later"):
        made = api.create_repo(name)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Weights, configuration and card")
    return str(made)


@contextmanager
def _failures(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{what} ({reason}): {remedy}") from error
