"""Errors that the user can fix: one line and exit code 2, no traceback."""

import contextlib
import errno
import sys
from collections.abc import Iterator

from sigma_video.options import OptionError


class ConfigError(OptionError):
    """An option that does not work on this machine, or with these files; the message names the flag and the remedy."""


class CheckpointError(ValueError):
    """An unusable checkpoint; the message names the file and the reason."""


class BadVideosError(RuntimeError):
    """More undecodable videos than `--max_bad_fraction` allows; the message names some, and the file with all."""


class NonFiniteError(RuntimeError):
    """A NaN or Inf loss or gradient; raised on all ranks, with the weights unchanged."""


USER_ERRORS: tuple[type[Exception], ...] = (OptionError, CheckpointError, BadVideosError, NonFiniteError)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # full disk, quota, read-only, file size limit


@contextlib.contextmanager
def as_config_error(flag: str = "") -> Iterator[None]:
    """Turn a ValueError or ImportError about an option's value into a ConfigError.

    Args:
        flag: prefix for messages that do not name the flag.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{flag}: {error}" if flag else str(error)) from error


@contextlib.contextmanager
def user_errors(*types: type[Exception]) -> Iterator[None]:
    """Turn `USER_ERRORS` and the given types into one line on stderr and exit code 2; Ctrl-C into exit code 130."""
    try:
        yield
    except (*USER_ERRORS, *types) as error:
        text = " ".join(line.strip() for line in str(error).splitlines())
        sys.stderr.write(f"error: {text}\n")
        sys.stderr.flush()
        sys.exit(2)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        sys.stderr.write(
            f"error: {error.filename or 'a file'} could not be written: {error.strerror}. Free some space\n"
        )
        sys.stderr.flush()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command resumes from the last checkpoint\n")
        sys.stderr.flush()
        sys.exit(130)
