"""Errors that are the user's to mend: one clear line and exit code 2, no traceback."""

import contextlib
import errno
import sys
from collections.abc import Iterator


class ConfigError(ValueError):
    """An option, or a combination of options, that makes no sense; the message names the flag and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


class BadVideosError(RuntimeError):
    """More undecodable videos than `--max_bad_fraction` allows; the message names some and the list of all."""


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not finite; raised on all ranks before the weights were touched."""


USER_ERRORS: tuple[type[Exception], ...] = (ConfigError, CheckpointError, BadVideosError, NonFiniteError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # what writing runs into on a disk without room


@contextlib.contextmanager
def as_config_error(flag: str = "") -> Iterator[None]:
    """Turn what a constructor says of an option, handed to it as it was typed, into a ConfigError.

    Args:
        flag: put before the message where that does not name the flag.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{flag}: {error}" if flag else str(error)) from error


@contextlib.contextmanager
def user_errors(*types: type[Exception]) -> Iterator[None]:
    """Turn errors of `USER_ERRORS` and of the given types into one line on stderr and exit code 2; Ctrl-C into 130."""
    try:
        yield
    except (*USER_ERRORS, *types) as error:
        text = " ".join(line.strip() for line in str(error).splitlines())
        sys.stderr.write(f"error: {text}\n")
        sys.stderr.flush()
        sys.exit(2)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        sys.stderr.write(f"error: {error.filename or 'a file'} could not be written: {error.strerror}. Make room\n")
        sys.stderr.flush()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        sys.stderr.flush()
        sys.exit(130)
